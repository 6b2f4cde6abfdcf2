"""What a GPU must show of 8-bit rows; `checks.py` runs these and writes what they return.

Shape letters: N rows of a batch, T tokens, h heads, d hidden size.

On the CPU they run in Triton's interpreter, lent a GPU's rounding, and judge no speed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from bench.gpu.adaln_arguments import AdaLN, make_adaln
from bench.gpu.checking import Setting, make_replay, median_seconds, require
from bench.gpu.interpreter_casts import rounding_as_a_gpu
from mgd3_engine.dit.float8 import missing_float8
from mgd3_kernels import (
    QuantisedRows,
    gated_residual_norm,
    gated_residual_norm_float8,
    gelu_quantise,
    gelu_quantise_reference,
    modulated_norm,
    modulated_norm_float8,
    quantise_heads,
    quantise_rows,
)
from mgd3_kernels.quantise import empty_rows
from mgd3_kernels.tiles import Tile, tile_of

# Of the GELU's 8-bit numbers, those that another last place of its sigmoid rounds otherwise.
GELU_FLIPS, GELU_SCALE = 2e-4, 1e-6
TILE_GOAL = 0.95
# Around the tiles in use: tokens a program, and threads a token.
ADALN_TILES = (
    Tile(1, 2048, 4),
    Tile(1, 2048, 8),
    Tile(2, 2048, 4),
    Tile(2, 2048, 8),
    Tile(4, 2048, 4),
    Tile(4, 2048, 8),
    Tile(4, 2048, 16),
    Tile(8, 2048, 8),
)
GELU_TILES = (
    Tile(1, 4096, 1, 512),
    Tile(1, 4096, 2, 512),
    Tile(1, 4096, 4, 512),
    Tile(1, 4096, 8, 512),
    Tile(1, 8192, 8),
    Tile(1, 8192, 16),
)
HEADS_TILES = (*ADALN_TILES, Tile(1, 1024, 1, 128), Tile(2, 1024, 1, 128), Tile(4, 1024, 4, 128))


def different(got: QuantisedRows, want: QuantisedRows) -> int:
    """Bytes and scales that differ; a NaN is equal to a NaN."""
    pairs = zip(got, want, strict=True)
    return sum(int((~torch.isclose(a.double(), b.double(), 0, 0, equal_nan=True)).sum()) for a, b in pairs)


def check_float8_kernels(setting: Setting) -> dict[str, Any]:
    """Kernels write the bits of `quantise_rows`, NaN and infinity included; GELU but for ties."""
    reason = missing_float8(setting.device)
    if reason:
        return {"skipped": f"{setting.device} {reason}"}
    shapes = [(16, 256, 1152), (7, 16, 160), (3, 5, 37), (2, 3, 8192)] if setting.on_gpu else [(3, 5, 48)]
    figures: dict[str, float] = {"different": 0, "gelu_flips": 0.0, "gelu_scale_error": 0.0}
    with nullcontext() if setting.on_gpu else rounding_as_a_gpu():
        for shape in shapes:
            for dtype in ("fp32", "bf16", "fp16"):
                case, again = (make_adaln(setting.device, shape, dtype) for _ in range(2))
                case.tokens[-1, -1, 0] = again.tokens[-1, -1, 0] = torch.inf
                figures["different"] += different_adaln(case, again)
                figures["different"] += different_heads(case.branch)
                got, want = gelu_quantise(case.branch), gelu_quantise_reference(case.branch)
                flips = (got.rows.float() != want.rows.float()).float().mean().item()
                error = (got.scale / want.scale - 1).abs().max().item()
                figures["gelu_flips"] = max(figures["gelu_flips"], flips)
                figures["gelu_scale_error"] = max(figures["gelu_scale_error"], error)
    holds = figures["gelu_flips"] < GELU_FLIPS and figures["gelu_scale_error"] < GELU_SCALE
    return require(holds and not figures["different"], f"bits differ, or beyond {GELU_FLIPS}", figures)


def different_adaln(case: AdaLN, again: AdaLN) -> int:
    count = different(case.norm(modulated_norm_float8), quantise_rows(case.norm(modulated_norm)))
    want = quantise_rows(case.residual(gated_residual_norm))
    count += different(again.residual(gated_residual_norm_float8), want)
    return count + int((case.tokens.nan_to_num() != again.tokens.nan_to_num()).sum())


def different_heads(tokens: Tensor) -> int:
    """Heads side by side, as attention leaves them, and apart."""
    heads = next(h for h in (16, 5, 1) if tokens.shape[2] % h == 0)
    beside = tokens.unflatten(2, (heads, -1)).transpose(1, 2)  # [N, h, T, d/h]
    want = quantise_rows(tokens)
    return sum(different(quantise_heads(mixed), want) for mixed in (beside, beside.contiguous()))


def check_token_tiles(setting: Setting) -> dict[str, Any]:
    """At 256 rows of DiT-XL/2, bf16, the tiles in use are within 5% of the best; share of a copy of each."""
    from mgd3_kernels import triton_adaln, triton_quantise

    rows, tokens = setting.size(256, 1), setting.size(256, 1)
    case = make_adaln(setting.device, (rows, tokens, 1152))
    inner = torch.randn(rows, tokens, 1, 4608, device=setting.device).bfloat16()
    eight, wide = (empty_rows((rows, tokens, d), setting.device) for d in (1152, 4608))
    normed = torch.empty_like(case.tokens)
    given = (case.tokens, case.gate, case.branch, case.shift, case.scale)
    number = case.tokens.numel()

    def adaln(*out: Tensor | None) -> Callable[[Tile], None]:
        return lambda tile: triton_adaln.launch(*given, *out, 1e-6, tile=tile)

    def quantise(values: Tensor, out: QuantisedRows, gelu: bool) -> Callable[[Tile], None]:
        return lambda tile: triton_quantise.launch(values, out, gelu, tile=tile)

    kernels: dict[str, tuple[Callable[[Tile], None], tuple[Tile, ...], Tile, int]] = {
        "adaln": (adaln(normed, None), ADALN_TILES, tile_of(256, 1152), 8 * number),
        "heads": (
            quantise(normed[:, :, None], eight, False),
            HEADS_TILES,
            tile_of(256, 1152, tail=True),
            3 * number,
        ),
        "adaln_float8": (adaln(*eight), ADALN_TILES, tile_of(256, 1152), 7 * number),
        "gelu": (quantise(inner, wide, True), GELU_TILES, tile_of(256, 4608, tail=True), 12 * number),
    }
    if missing_float8(setting.device):
        kernels = {"adaln": kernels["adaln"]}
    figures: dict[str, Any] = {}
    with nullcontext() if setting.on_gpu else rounding_as_a_gpu():
        for name, (launch, tiles, in_use, traffic) in kernels.items():
            figures[name] = time_tiles(
                setting, launch, tiles if setting.on_gpu else tiles[:2], in_use, traffic
            )
    holds = not setting.on_gpu or all(figures[name]["share_of_best"] >= TILE_GOAL for name in figures)
    return require(holds, f"a tile in use is below {TILE_GOAL} of the best", figures)


def time_tiles(
    setting: Setting, launch: Callable[[Tile], None], tiles: tuple[Tile, ...], in_use: Tile, traffic: int
) -> dict[str, Any]:
    """Microseconds with each tile, and of a copy that moves as many bytes."""
    source = torch.zeros(traffic // 2, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    copy_s = median_seconds(setting, make_replay(setting, lambda: target.copy_(source)), setting.size(30, 1))
    seconds: dict[Tile, float] = {}
    for tile in dict.fromkeys((in_use, *tiles)):
        replay = make_replay(setting, lambda tile=tile: launch(tile))
        seconds[tile] = median_seconds(setting, replay, setting.size(30, 1))
    best = min(seconds, key=lambda tile: seconds[tile])
    return {
        "us": {" ".join(str(part) for part in tile): round(1e6 * s, 1) for tile, s in seconds.items()},
        "in_use": list(in_use),
        "best": list(best),
        "share_of_best": round(seconds[best] / seconds[in_use], 3),
        "copy_us": round(1e6 * copy_s, 1),
        "share_of_copy": round(copy_s / seconds[in_use], 3),
    }


CHECKS = {"float8-kernels": check_float8_kernels, "token-tiles": check_token_tiles}
