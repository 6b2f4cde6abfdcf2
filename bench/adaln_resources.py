"""What the adaLN kernel compiles to, for each compute capability, without a GPU; as `kernel_resources.py`.

python bench/adaln_resources.py --cc 90 100
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from kernel_resources import CAPABILITIES, compile_ahead, resources_of, show

from mgd3_kernels import triton_adaln as kernels


@dataclass(frozen=True)
class Variant:
    """One specialisation; the defaults are the main job's: DiT-XL/2 in bfloat16, with the residual."""

    hidden: int = 1152
    dtype: str = "bf16"
    residual: bool = True


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
}


def compile_variant(variant: Variant, capability: int) -> Any:
    """Compile a variant of the kernel."""
    tile = kernels.tile_of(variant.hidden)
    constants: dict[str, Any] = {"RESIDUAL": variant.residual, "TOKENS": tile.TOKENS, "BLOCK": tile.BLOCK}
    if not variant.residual:
        constants |= {"gate_ptr": None, "branch_ptr": None}
    names = kernels._adaln_kernel.arg_names
    types = {name: f"*{variant.dtype}" for name in names if name.endswith("_ptr")} | {"eps": "fp32"}
    # A modulation of the DiT starts at a multiple of d in a row of 6 depth + 2 times d numbers.
    sizes, odd = ("d", "stride_gate", "stride_shift", "stride_scale"), ()
    if variant.hidden % 16:
        sizes, odd = (), ("gate_ptr", "shift_ptr", "scale_ptr")
    return compile_ahead(
        kernels._adaln_kernel, types, constants, sizes, capability, odd=odd, num_warps=tile.num_warps
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cc", type=int, nargs="+", default=CAPABILITIES, help="capabilities, 90 for 9.0")
    parser.add_argument("--variants", nargs="+", choices=COVERING, default=list(COVERING))
    parser.add_argument("--main-cc", type=int, nargs="+", default=[], help="only the main variant for these")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    args = parser.parse_args()
    pairs = [(name, capability) for name in args.variants for capability in args.cc]
    for name, capability in [*pairs, *(("main", capability) for capability in args.main_cc)]:
        variant = COVERING[name]
        found = resources_of(compile_variant(variant, capability), capability)
        found = {"variant": name, **kernels.tile_of(variant.hidden)._asdict(), **found}
        show(found, asdict(variant) if args.json else None)


if __name__ == "__main__":
    main()
