"""How kernels that compute whole tokens cut them into programs.

Shape letters: T tokens of a row, d numbers of a token.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_NUMBERS = 8192  # of a token: what one program holds in registers
_PER_WARP = 256  # lanes: 16 bytes of half precision a thread
_MAX_TOKENS = 16


class Tile(NamedTuple):
    """What one program computes: TOKENS whole tokens of one row, as BLOCK and TAIL lanes side by side.

    What the tokens of a row share is read once a program.
    """

    TOKENS: int
    BLOCK: int
    num_warps: int
    TAIL: int = 0


def tile_of(T: int, d: int, *, tail: bool = False) -> Tile:
    """Choose the tile of rows of T tokens of d numbers.

    Lanes are a power of two: 1,152 numbers leave 44% of 2,048 idle. A kernel that waits for memory does not
    mind, and twelve tokens of DiT-XL/2 are on their way to each multiprocessor of an H200, four a program.
    One that computes much does mind: with `tail`, 4,608 numbers are 4,096 and 512 lanes, if both parts can be
    laid out over the same warps, 16 bytes a thread; otherwise they would be exchanged through shared memory.

    Args:
        T: 1 or more.
        d: 1 to 8,192.
        tail: Whether the kernel can compute a second block.
    """
    block = max(16, 1 << (d - 1).bit_length())
    rest = d - block // 2
    if tail and 2 * _PER_WARP <= rest <= block // 4:
        lanes = 1 << (rest - 1).bit_length()
        return Tile(1, block // 2, lanes // _PER_WARP, lanes)
    tokens = max(1, min(_MAX_TOKENS, MAX_NUMBERS // block, 1 << (T - 1).bit_length()))
    return Tile(tokens, block, max(1, tokens * block // (4 * _PER_WARP)))
