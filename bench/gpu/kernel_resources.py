"""What every variant of the fused step compiles to, for each compute capability, without a GPU.

    python -m bench.gpu.kernel_resources --cc 90 100

One line per variant: registers, stack and shared bytes from the cubin, and the width of each global access
from the PTX. Triton's wheel brings ptxas and cuobjdump; no driver is needed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mgd3_kernels import triton_guided_step as kernels

CAPABILITIES = (80, 86, 89, 90, 100, 120)

# Arguments that are multiples of 16 when the latents' planes are.
SIZES = ("cfg_end", "D", "HW", "variance_start", "stride_row", "stride_channel")
# The same of patches of 2x2 pixels and 8 channels, written pixel by pixel; W and `stride_pixel` are not.
PATCH_SIZES = ("cfg_end", "D", "HW", "stride_row", "stride_patch_row", "stride_patch_column", "stride_line")


@dataclass(frozen=True)
class Variant:
    """One specialisation; the defaults are the main job's (DDPM, CFG, learned variance, guided, bf16)."""

    dtype: str = "bf16"
    dense: bool = True
    aligned: bool = True  # D and the strides are multiples of 16
    cfg: bool = True
    learned_variance: bool = True
    guided: bool = True
    noise: int = kernels.COUNTER_NOISE
    input_halves: int = 2
    history: bool = False  # the multistep solver's
    patch: int = 0  # size of the patches that the output lies in; 0: pixels are evenly spaced
    ones: tuple[str, ...] = ()  # arguments equal to 1, which Triton makes constants


COVERING = {
    "main": Variant(),
    "main-unguided": Variant(guided=False),
    "fp32": Variant(dtype="fp32"),
    "fp16-strided": Variant(dtype="fp16", dense=False),
    "odd-size": Variant(aligned=False),
    "odd-size-strided": Variant(aligned=False, dense=False, noise=kernels.GIVEN_NOISE),
    "ddim": Variant(learned_variance=False, noise=kernels.NO_NOISE),
    "batch-1": Variant(ones=("B",)),
    "one-pixel": Variant(aligned=False, ones=("B", "cfg_end", "D", "HW", "variance_start", "stride_channel")),
    "patches": Variant(dense=False, patch=2, ones=("stride_channel",)),
    "patches-unguided": Variant(dense=False, patch=2, ones=("stride_channel",), guided=False),
    "patches-odd-size": Variant(aligned=False, dense=False, patch=2, ones=("stride_channel",)),
    "solver": Variant(history=True, learned_variance=False, noise=kernels.NO_NOISE),
    "solver-noise": Variant(history=True),
    "solver-patches": Variant(history=True, dense=False, patch=2, ones=("stride_channel",)),
    "no-cfg-no-input": Variant(cfg=False, noise=kernels.GIVEN_NOISE, input_halves=0),
}


def every_variant() -> dict[str, Variant]:
    """All combinations of the flags, in bf16."""
    flags = (False, True)
    variants = [
        Variant("bf16", dense, True, cfg, learned, guided, noise, 2 if cfg else 1)
        for dense, cfg, learned, guided, noise in product(flags, flags, flags, flags, (0, 1, 2))
    ]
    return {"-".join(str(field) for field in asdict(variant).values()): variant for variant in variants}


def compile_variant(variant: Variant, capability: int) -> Any:
    """Compile a variant of the fused step."""
    constants: dict[str, Any] = {
        "DENSE": variant.dense,
        "CFG": variant.cfg,
        "LEARNED_VARIANCE": variant.learned_variance,
        "GUIDED": variant.guided,
        "NOISE": variant.noise,
        "INPUT_HALVES": variant.input_halves,
        "PATCH": variant.patch,
        "HISTORY": variant.history,
        "BLOCK": kernels.BLOCK,
    }
    if not variant.patch:
        constants |= {"stride_pixel": 1}
    absent = {
        "modes_ptr": not variant.guided,
        "noise_ptr": variant.noise != kernels.GIVEN_NOISE,
        "seeds_ptr": variant.noise != kernels.COUNTER_NOISE,
        "net_input_ptr": variant.input_halves == 0,
        "history_ptr": not variant.history,
    }
    constants |= {name: None for name, is_absent in absent.items() if is_absent}
    constants |= dict.fromkeys(variant.ones, 1)
    types = {"out_ptr": f"*{variant.dtype}", "net_input_ptr": f"*{variant.dtype}", "cfg_scale": "fp32"}
    types |= {"step_ptr": "*i64", "seeds_ptr": "*i64"}
    sizes = PATCH_SIZES if variant.patch else SIZES
    kernel, sizes = kernels._guided_step_kernel, sizes if variant.aligned else ()
    return compile_ahead(kernel, types, constants, sizes, capability, num_warps=kernels.NUM_WARPS)


def compile_ahead(
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    sizes: Collection[str],
    capability: int,
    *,
    odd: Collection[str] = (),
    **options: Any,
) -> Any:
    """Compile with the types and divisibilities that a launch would specialise on.

    Args:
        kernel: The jitted function.
        types: Of arguments; other pointers are to float32, other numbers int32.
        constants: Arguments that are constants.
        sizes: Numbers that are multiples of 16.
        capability: 90 for 9.0.
        odd: Pointers that are not.
        options: Of the compiler.
    """
    signature: dict[str, str] = {}
    divisible = {}
    for index, name in enumerate(kernel.arg_names):
        default = "*fp32" if name.endswith("_ptr") else "i32"
        signature[name] = "constexpr" if name in constants else types.get(name, default)
        if name in sizes or (signature[name].startswith("*") and name not in odd):
            divisible[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=dict(constants), attrs=divisible)
    options = {"enable_fp_fusion": True, **options}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources_of(kernel: Any, capability: int) -> dict[str, Any]:
    """Registers, stack and shared bytes, and a count of global accesses by instruction."""
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        command = [str(cuobjdump), "-res-usage", str(cubin)]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    fields = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    ptx = kernel.asm["ptx"]
    return {
        "capability": capability,
        "registers": fields["REG"],
        "stack_bytes": fields["STACK"] + fields["LOCAL"],
        "shared_bytes": kernel.metadata.shared,
        "barriers": len(re.findall(r"\bbar\.sync", ptx)),
        "cubin_bytes": len(kernel.asm["cubin"]),
        "rounds_to_nearest": len(re.findall(r"\bcvt\.rn\.(?:bf16|f16)", ptx)),
        "accesses": dict(sorted(Counter(re.findall(r"\b(?:ld|st)\.global[.\w]*", ptx)).items())),
        "async_copies": dict(sorted(Counter(re.findall(r"\bcp\.async\.c[ag]\S* .*?, (\w+)", ptx)).items())),
    }


def show(found: dict[str, Any], of_json: dict[str, Any] | None) -> None:
    """Print what was found in a line; as JSON, together with the variant, where that is given."""
    line = "  ".join(f"{key} {value}" for key, value in found.items())
    print(line if of_json is None else json.dumps(of_json | found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cc", type=int, nargs="+", default=CAPABILITIES, help="capabilities, 90 for 9.0")
    parser.add_argument("--variants", nargs="+", choices=[*COVERING, "covering", "all"], default=["covering"])
    parser.add_argument("--main-cc", type=int, nargs="+", default=[], help="only the main variant for these")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    args = parser.parse_args()
    named = {name: {name: variant} for name, variant in COVERING.items()}
    named |= {"covering": COVERING, "all": every_variant()}
    pairs = [(choice, capability) for choice in args.variants for capability in args.cc]
    for choice, capability in [*pairs, *(("main", capability) for capability in args.main_cc)]:
        for name, variant in named[choice].items():
            found = resources_of(compile_variant(variant, capability), capability)
            show({"variant": name, **found}, asdict(variant) if args.json else None)


if __name__ == "__main__":
    main()
