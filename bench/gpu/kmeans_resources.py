"""What the K-means kernels compile to, for each compute capability, without a GPU; as `kernel_resources.py`.

python -m bench.gpu.kmeans_resources --cc 90 100 --clusters 50
"""

from __future__ import annotations

import argparse
from typing import Any

import triton

from bench.gpu.kernel_resources import CAPABILITIES, compile_ahead, resources_of, show
from mgd3_kernels import triton_kmeans as launches
from mgd3_kernels import triton_kmeans_lloyd as lloyd
from mgd3_kernels import triton_kmeans_members as members
from mgd3_kernels import triton_kmeans_start as start
from mgd3_kernels.kmeans import trial_uniforms

TYPES = {"offsets_ptr": "*i64", "uniforms_ptr": "*fp64"}
FLOATS = (
    "mean",
    "variance",
    "closest",
    "left",
    "centers",
    "norms",
    "shifts",
    "threshold",
    "distances",
    "inertia",
)


def kernels_of(clusters: int, D: int) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Every kernel of a call with so many clusters, and the constants and options it is launched with."""
    trials = trial_uniforms(clusters, 0).shape[1]
    T = triton.next_power_of_2(trials)
    width = {"WIDTH": triton.next_power_of_2(clusters)}
    one_hot = launches.members_tile(width["WIDTH"])
    return {
        "center": (start._center_kernel, start.CENTER_TILE),
        "trial": (start._trial_kernel, start.TRIAL_TILE | {"T": T}),
        "choose": (start._choose_kernel, start.CHOOSE_TILE | {"T": T, "TRIALS": trials}),
        "assign": (lloyd.assign_kernel, launches.assign_tile(clusters, D)),
        "count": (members.count_kernel, one_hot),
        "distance-where-empty": (
            lloyd.distance_kernel,
            launches.DISTANCE_TILE | width | {"WHERE_EMPTY": True},
        ),
        "distance": (lloyd.distance_kernel, launches.DISTANCE_TILE | width | {"WHERE_EMPTY": False}),
        "refill": (members.refill_kernel, one_hot),
        "group": (members.group_kernel, one_hot),
        "update": (lloyd.update_kernel, launches.UPDATE_TILE | width),
        "settle": (lloyd.settle_kernel, launches.SETTLE_TILE | width),
        "inertia": (lloyd.inertia_kernel, launches.INERTIA_TILE),
    }


def compile_kernel(kernel: Any, arguments: dict[str, Any], capability: int, dtype: str, aligned: bool) -> Any:
    """Compile one of them."""
    types = {name: "*i32" for name in kernel.arg_names if name.endswith("_ptr")} | TYPES
    types |= {f"{name}_ptr": "*fp32" for name in FLOATS} | {"features_ptr": f"*{dtype}"}
    constants = {name: value for name, value in arguments.items() if name in kernel.arg_names}
    options = {name: value for name, value in arguments.items() if name not in kernel.arg_names}
    return compile_ahead(kernel, types, constants, ("D",) if aligned else (), capability, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cc", type=int, nargs="+", default=CAPABILITIES, help="capabilities, 90 for 9.0")
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--dtype", choices=("fp32", "fp16"), default="fp32", help="of the features")
    parser.add_argument("--odd", action="store_true", help="D is no multiple of 16")
    parser.add_argument(
        "--kernels", nargs="+", choices=kernels_of(1, 4096), default=list(kernels_of(1, 4096))
    )
    parser.add_argument("--assign-cc", type=int, nargs="+", default=[], help="only the assignment for these")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    args = parser.parse_args()
    pairs = [(name, capability) for capability in args.cc for name in args.kernels]
    for name, capability in [*pairs, *(("assign", capability) for capability in args.assign_cc)]:
        kernel, arguments = kernels_of(args.clusters, 4097 if args.odd else 4096)[name]
        compiled = compile_kernel(kernel, arguments, capability, args.dtype, not args.odd)
        found = {"variant": name, "clusters": args.clusters, "dtype": args.dtype, **arguments}
        found |= resources_of(compiled, capability)
        show(found, {} if args.json else None)


if __name__ == "__main__":
    main()
