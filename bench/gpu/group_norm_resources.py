"""What the group-norm kernels compile to, for each capability, without a GPU; as `kernel_resources.py`.

python -m bench.gpu.group_norm_resources --cc 90 100
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

import triton

from bench.gpu.kernel_resources import CAPABILITIES, compile_ahead, resources_of, show
from mgd3_kernels import triton_group_norm as kernels


@dataclass(frozen=True)
class Variant:
    """One specialisation; the defaults are KL-f8's most expensive norm: 128 channels of 256 x 256 pixels."""

    kernel: str = "normalise"
    channels: int = 128
    groups: int = 32
    side: int = 256
    dtype: str = "bf16"
    shift: bool = True
    residual: bool = False


COVERING = {
    "normalise": Variant(),
    "normalise-no-shift": Variant(shift=False),
    "normalise-fp32": Variant(dtype="fp32"),
    "normalise-fp16": Variant(dtype="fp16"),
    "normalise-512": Variant(channels=512, side=64),
    "normalise-demo": Variant(channels=16, groups=8, side=32),
    "normalise-widest": Variant(channels=8192),
    "normalise-odd": Variant(channels=36, groups=3),
    "statistics": Variant("statistics"),
    "statistics-residual": Variant("statistics", residual=True),
    "statistics-fp32": Variant("statistics", dtype="fp32"),
    "statistics-fp16": Variant("statistics", dtype="fp16", residual=True),
    "statistics-512": Variant("statistics", channels=512, side=64),
    "statistics-demo": Variant("statistics", channels=16, groups=8, side=32),
    "statistics-widest": Variant("statistics", channels=8192),
    "statistics-odd": Variant("statistics", channels=36, groups=3),
}
MAIN = ("normalise", "statistics", "statistics-residual")


def compile_variant(variant: Variant, capability: int) -> Any:
    """Compile a variant of a kernel."""
    tile = kernels.tile_of(variant.channels, variant.groups)
    parts, _ = kernels.parts_of(variant.side**2, tile)
    sizes = {name: value for name, value in tile._asdict().items() if name != "num_warps"}
    constants: dict[str, Any] = {"C": variant.channels, "G": variant.groups, **sizes}
    constants |= {} if variant.shift else {"shift_ptr": None}
    if variant.kernel == "statistics":
        kernel = kernels._statistics_kernel
        constants |= {} if variant.residual else {"residual_ptr": None}
    else:
        kernel = kernels._normalise_kernel
        constants |= {"PARTS": triton.next_power_of_2(parts), "SILU": True}
    own = ("x_ptr", "shift_ptr", "residual_ptr", "weight_ptr", "bias_ptr", "normed_ptr")
    types = dict.fromkeys(own, f"*{variant.dtype}") | {"eps": "fp32"}
    return compile_ahead(kernel, types, constants, ("S", "part_pixels"), capability, num_warps=tile.num_warps)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cc", type=int, nargs="+", default=CAPABILITIES, help="capabilities, 90 for 9.0")
    parser.add_argument("--variants", nargs="+", choices=COVERING, default=list(COVERING))
    parser.add_argument("--main-cc", type=int, nargs="+", default=[], help="only the main variants for these")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    args = parser.parse_args()
    pairs = [(name, capability) for name in args.variants for capability in args.cc]
    for name, capability in [*pairs, *((name, capability) for name in MAIN for capability in args.main_cc)]:
        variant = COVERING[name]
        found = resources_of(compile_variant(variant, capability), capability)
        tile = kernels.tile_of(variant.channels, variant.groups)._asdict()
        show({"variant": name, **tile, **found}, asdict(variant) if args.json else None)


if __name__ == "__main__":
    main()
