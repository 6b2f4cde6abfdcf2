"""The 64-bit seed of an image: a hash of (run seed, class, mode index), and of nothing else.

Shape letters: N images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def image_seed(run_seed: int, class_name: str, mode_index: int) -> int:
    """Derive the key of an image's noise from what identifies the image.

    The 8 bytes, little-endian, of BLAKE2b-64 over four lines in UTF-8: "mgd3-fast image seed 1", the run
    seed, the mode index, the class name (last, so that no name can pass for another image's numbers; a
    folder's name that is not UTF-8 counts with its own bytes).

    Args:
        run_seed: Seed of the run, any whole number.
        class_name: Name of the class (a wnid or folder name), not its position in a list.
        mode_index: k, from 0.

    Returns:
        0 .. 2**64 - 1.

    Raises:
        ValueError: `mode_index` is negative.
    """
    if mode_index < 0:
        raise ValueError(f"mode_index must be at least 0, got {mode_index}")
    identity = f"mgd3-fast image seed 1\n{int(run_seed)}\n{int(mode_index)}\n{class_name}"
    content = identity.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def image_seeds(run_seed: int, images: Iterable[tuple[str, int]]) -> Tensor:
    """Derive the seeds of several images as one tensor.

    Args:
        run_seed: Seed of the run.
        images: (class name, mode index) of each image.

    Returns:
        int64 `[N]`: the 64-bit patterns, so that a seed of 2**63 or more shows as a negative number.

    Raises:
        ValueError: A mode index is negative.
    """
    seeds = [image_seed(run_seed, name, index) for name, index in images]
    return torch.tensor([seed - (seed >> 63 << 64) for seed in seeds], dtype=torch.int64)
