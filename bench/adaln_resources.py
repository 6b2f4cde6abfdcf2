"""What the adaLN kernel compiles to, for each compute capability, without a GPU; as `kernel_resources.py`.

python bench/adaln_resources.py --cc 90 100
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from typing import Any

import triton
from kernel_resources import CAPABILITIES, resources_of
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

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
    """Ahead-of-time compile with the types and divisibilities that a launch would specialise on."""
    tile = kernels.tile_of(variant.hidden)
    constants: dict[str, Any] = {"RESIDUAL": variant.residual, "TOKENS": tile.TOKENS, "BLOCK": tile.BLOCK}
    if not variant.residual:
        constants |= {"gate_ptr": None, "branch_ptr": None}
    signature: dict[str, str] = {}
    divisible = {}
    for index, name in enumerate(kernels._adaln_kernel.arg_names):
        default = f"*{variant.dtype}" if name.endswith("_ptr") else "i32"
        signature[name] = "constexpr" if name in constants else "fp32" if name == "eps" else default
        # A modulation of the DiT starts at a multiple of d in a row of 6 depth + 2 times d numbers.
        sizes = variant.hidden % 16 == 0 and name in ("d", "stride_gate", "stride_shift", "stride_scale")
        own = name in ("tokens_ptr", "branch_ptr", "normed_ptr")
        if own or sizes or (signature[name].startswith("*") and variant.hidden % 16 == 0):
            divisible[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernels._adaln_kernel, signature, constexprs=constants, attrs=divisible)
    options = {"num_warps": tile.num_warps, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


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
        line = "  ".join(f"{key} {value}" for key, value in found.items())
        print(json.dumps(asdict(variant) | found) if args.json else line, flush=True)


if __name__ == "__main__":
    main()
