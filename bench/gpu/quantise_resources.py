"""What the kernels that only quantise compile to, for each compute capability that has 8-bit numbers.

python -m bench.gpu.quantise_resources --cc 90 100
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from bench.gpu.adaln_resources import FLOAT8_CAPABILITIES, TOKENS
from bench.gpu.kernel_resources import compile_ahead, resources_of, show
from mgd3_kernels import triton_quantise as kernels
from mgd3_kernels.tiles import Tile, tile_of


@dataclass(frozen=True)
class Variant:
    """One specialisation; the defaults are the main job's: the MLP of DiT-XL/2 in bfloat16."""

    numbers: int = 4608
    heads: int = 1
    dtype: str = "bf16"
    gelu: bool = True


COVERING = {
    "main": Variant(),
    "heads": Variant(numbers=1152, gelu=False),
    "heads-apart": Variant(numbers=1152, heads=16, gelu=False),
    "S2": Variant(numbers=1536),
    "S2-heads": Variant(numbers=384, gelu=False),
    "fp32": Variant(dtype="fp32"),
    "widest": Variant(numbers=8192),
    "odd": Variant(numbers=37),
}


def compile_variant(variant: Variant, capability: int, tile: Tile | None = None) -> Any:
    """Compile a variant of the kernel."""
    constants: dict[str, Any] = {"GELU": variant.gelu, "E": variant.numbers // variant.heads}
    tile = tile or tile_of(TOKENS, variant.numbers, tail=True)
    constants |= {"TOKENS": tile.TOKENS, "BLOCK": tile.BLOCK, "TAIL": tile.TAIL}
    types = {"values_ptr": f"*{variant.dtype}", "rows_ptr": "*fp8e4nv"}
    sizes = ("d", "stride_row", "stride_token", "stride_head")
    sizes = () if variant.numbers % 16 else sizes
    kernel = kernels._quantise_kernel
    return compile_ahead(kernel, types, constants, sizes, capability, num_warps=tile.num_warps)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--cc", type=int, nargs="+", default=FLOAT8_CAPABILITIES, help="capabilities, 90 for 9.0"
    )
    parser.add_argument("--variants", nargs="+", choices=COVERING, default=list(COVERING))
    parser.add_argument("--main-cc", type=int, nargs="+", default=[], help="only the main variant for these")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    args = parser.parse_args()
    pairs = [(name, capability) for name in args.variants for capability in args.cc]
    for name, capability in [*pairs, *(("main", capability) for capability in args.main_cc)]:
        variant = COVERING[name]
        found = resources_of(compile_variant(variant, capability), capability)
        found = {"variant": name, **tile_of(TOKENS, variant.numbers, tail=True)._asdict(), **found}
        show(found, asdict(variant) if args.json else None)


if __name__ == "__main__":
    main()
