"""What the adaLN kernel compiles to, for each compute capability, without a GPU; as `kernel_resources.py`.

python -m bench.gpu.adaln_resources --cc 90 100
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from bench.gpu.kernel_resources import CAPABILITIES, compile_ahead, resources_of, show
from mgd3_kernels import triton_adaln as kernels
from mgd3_kernels.tiles import Tile, tile_of

TOKENS = 256  # of a row, a square of 16 by 16 as DiT-XL/2's at 256 px
FLOAT8_CAPABILITIES = tuple(capability for capability in CAPABILITIES if capability >= 89)


@dataclass(frozen=True)
class Variant:
    """One specialisation; the defaults are the main job's: DiT-XL/2 in bfloat16, with the residual."""

    hidden: int = 1152
    dtype: str = "bf16"
    residual: bool = True
    float8: bool = False


COVERING = {
    "main": Variant(),
    "main-first-norm": Variant(residual=False),
    "fp32": Variant(dtype="fp32"),
    "fp16": Variant(dtype="fp16"),
    "S2": Variant(hidden=384),
    "demo": Variant(hidden=160),
    "one-token-fills-a-warp": Variant(hidden=256),
    "widest": Variant(hidden=8192),
    "widest-fp32": Variant(hidden=8192, dtype="fp32"),
    "odd": Variant(hidden=37),
    "float8": Variant(float8=True),
    "float8-first-norm": Variant(residual=False, float8=True),
    "float8-S2": Variant(hidden=384, float8=True),
    "float8-widest": Variant(hidden=8192, float8=True),
    "float8-odd": Variant(hidden=37, float8=True),
}


def compile_variant(variant: Variant, capability: int, tile: Tile | None = None) -> Any:
    """Compile a variant of the kernel."""
    constants: dict[str, Any] = {"RESIDUAL": variant.residual, "QUANTISE": variant.float8}
    tile = tile or tile_of(TOKENS, variant.hidden)
    constants |= {"TOKENS": tile.TOKENS, "BLOCK": tile.BLOCK}
    if not variant.residual:
        constants |= {"gate_ptr": None, "branch_ptr": None}
    names = kernels._adaln_kernel.arg_names
    types = {name: f"*{variant.dtype}" for name in names if name.endswith("_ptr")} | {"eps": "fp32"}
    if variant.float8:
        types |= {"normed_ptr": "*fp8e4nv", "row_scale_ptr": "*fp32"}
    else:
        constants["row_scale_ptr"] = None
    # A modulation of the DiT starts at a multiple of d in a row of 6 depth + 2 times d numbers.
    sizes, odd = ("d", "stride_gate", "stride_shift", "stride_scale"), ()
    if variant.hidden % 16:
        sizes, odd = (), ("gate_ptr", "shift_ptr", "scale_ptr")
    kernel = kernels._adaln_kernel
    return compile_ahead(kernel, types, constants, sizes, capability, odd=odd, num_warps=tile.num_warps)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cc", type=int, nargs="+", default=CAPABILITIES, help="capabilities, 90 for 9.0")
    parser.add_argument("--variants", nargs="+", choices=COVERING, default=list(COVERING))
    parser.add_argument("--main-cc", type=int, nargs="+", default=[], help="only main and float8 for these")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    args = parser.parse_args()
    pairs = [(name, capability) for name in args.variants for capability in args.cc]
    main_pairs = [(name, capability) for name in ("main", "float8") for capability in args.main_cc]
    for name, capability in [*pairs, *main_pairs]:
        variant = COVERING[name]
        if variant.float8 and capability not in FLOAT8_CAPABILITIES:
            continue
        found = resources_of(compile_variant(variant, capability), capability)
        found = {"variant": name, **tile_of(TOKENS, variant.hidden)._asdict(), **found}
        show(found, asdict(variant) if args.json else None)


if __name__ == "__main__":
    main()
