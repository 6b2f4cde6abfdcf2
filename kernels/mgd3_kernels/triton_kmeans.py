"""K-means of all problems at once in Triton; `batched_kmeans` documents it and checks its arguments.

Shape letters: P problems, N rows of all problems, D features, K clusters, T trials, S slices of D.

An iteration reads the features once to assign the rows, and once more to average the clusters whose rows
changed. Fusing the two would need a whole row and K centres of D numbers in one program, 800 KiB at K = 50,
D = 4096, or partial sums as large as what they save reading. The start reads the features once per centre.

Scratch memory in bytes, beside the features and the result's 4 P K D, with T padded to a power of 2:
4 N (T + 7) + 4 P (2 D + K (2 S + T + 4)), 115 MB for 1,000 problems of 1,281 rows of 4096 features at K = 50.

Imported only by a launch: importing it needs Triton.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from mgd3_kernels import triton_kmeans_lloyd as lloyd
from mgd3_kernels import triton_kmeans_members as membership
from mgd3_kernels.kmeans import KMeansResult, not_finite
from mgd3_kernels.triton_kmeans_start import center, choose_rows

# The host asks whether all problems are done once in so many iterations.
CHECK_EVERY = 8

# Tiles of the kernels; the assignment's depends on K.
DISTANCE_TILE = {"BLOCK_N": 32, "BLOCK_D": 64, "num_warps": 4, "enable_fp_fusion": True}
UPDATE_TILE = {"BLOCK_N": 8, "BLOCK_D": 512, "num_warps": 4, "enable_fp_fusion": True}
INERTIA_TILE = {"BLOCK_N": 512, "num_warps": 4, "enable_fp_fusion": True}
SETTLE_TILE = {"num_warps": 4, "enable_fp_fusion": True}


def assign_tile(num_clusters: int, D: int) -> dict[str, int]:
    """Tile of the assignment: rows, clusters and features; more clusters are walked through in turn."""
    width = min(64, max(16, int(triton.next_power_of_2(num_clusters))))
    # 200 classes, K = 50, on an H200: 2.03 ms with 64 rows and 4 warps, 2.46 with 128 and 8. 128 rows and 4
    # warps take 2.07, but spill 184 to 320 bytes on 8.0, 8.6 and 12.0; 64 rows 192, where D is no multiple of
    # 16. Fewer clusters were not timed.
    rows, warps, stages = (64, 4, 4) if width == 64 and D % 16 == 0 else (128, 4 if width == 16 else 8, 3)
    return {
        "BLOCK_N": rows,
        "BLOCK_K": width,
        "BLOCK_D": 32,
        "num_warps": warps,
        "num_stages": stages,
        "enable_fp_fusion": True,
    }


def members_tile(width: int) -> dict[str, int]:
    """Tile of the kernels that hold one-hot rows in registers: the wider, the fewer rows."""
    return {
        "WIDTH": width,
        "BLOCK_N": max(16, 4096 // max(16, width)),
        "num_warps": 4,
        "enable_fp_fusion": True,
    }


@dataclass(frozen=True)
class Problems:
    """What all launches share: the rows, their problems and the sizes that kernels are made for."""

    features: Tensor  # [N, D]
    offsets: Tensor  # int64 [P + 1]
    mean: Tensor  # float32 [P, D]
    threshold: Tensor  # float32 [P]: the squared shift at which a problem is done
    most_rows: int
    K: int

    @property
    def P(self) -> int:  # noqa: N802
        """Problems."""
        return len(self.offsets) - 1

    @property
    def D(self) -> int:  # noqa: N802
        """Features."""
        return self.features.shape[1]

    @property
    def S(self) -> int:  # noqa: N802
        """Slices of D, one program each."""
        return int(triton.cdiv(self.D, UPDATE_TILE["BLOCK_D"]))

    @property
    def width(self) -> int:
        """Power of 2 that holds the clusters."""
        return int(triton.next_power_of_2(self.K))


@dataclass(frozen=True)
class State:
    """What an iteration reads and writes; nothing of it is read by the host but `done`."""

    centers: Tensor  # float32 [P, K, D], about the problem's mean
    norms: Tensor  # float32 [P, S, K]: squares of the centres
    shifts: Tensor  # float32 [P, S, K]: squares of their last shifts
    labels: tuple[Tensor, Tensor]  # int32 [N] each: nearest centres, even and odd iterations
    members: tuple[Tensor, Tensor]  # int32 [N] each: the same after empty clusters have taken rows
    distances: Tensor  # float32 [N]: to the centres, where a cluster is empty
    order: Tensor  # int32 [N]: rows of a problem by cluster
    starts: Tensor  # int32 [P, K]: where a cluster begins in its problem's order
    sizes: Tensor  # int32 [P, K]
    moved: Tensor  # int32 [P]: rows with another label than before
    stale: Tensor  # int32 [P, K]: whether the centre must be averaged again
    done: Tensor  # int32 [P]
    iterations: Tensor  # int32 [P]


def make_state(problems: Problems, result: KMeansResult) -> State:
    """Buffers for the iterations, with centres and counts in the result itself."""
    P, K, S = problems.P, problems.K, problems.S
    device = problems.features.device

    def ints(*shape: int, value: int = 0) -> Tensor:
        return torch.full(shape, value, dtype=torch.int32, device=device)

    rows = len(problems.features)
    return State(
        centers=result.centers.zero_(),
        norms=torch.empty((P, S, K), dtype=torch.float32, device=device),
        shifts=torch.empty((P, S, K), dtype=torch.float32, device=device),
        labels=(ints(rows, value=-1), ints(rows, value=-1)),
        members=(ints(rows, value=-1), ints(rows, value=-1)),
        distances=torch.empty(rows, dtype=torch.float32, device=device),
        order=ints(rows),
        starts=ints(P, K),
        sizes=ints(P, K, value=1),
        moved=ints(P),
        stale=ints(P, K, value=1),
        done=ints(P),
        iterations=result.iterations.zero_(),
    )


def assign(problems: Problems, state: State, done: Tensor, labels: Tensor, members: Tensor) -> None:
    """Nearest centre of each row, into `labels` and `members`, of the problems that are not done."""
    tile = assign_tile(problems.K, problems.D)
    lloyd.assign_kernel[(triton.cdiv(problems.most_rows, tile["BLOCK_N"]), problems.P)](
        problems.features,
        problems.offsets,
        problems.mean,
        state.centers,
        state.norms,
        done,
        labels,
        members,
        problems.K,
        problems.D,
        problems.S,
        **tile,
    )


def measure(problems: Problems, state: State, done: Tensor, labels: Tensor, where_empty: bool) -> None:
    """Distance of each row to its centre, of the problems that are not done or have an empty cluster."""
    lloyd.distance_kernel[(triton.cdiv(problems.most_rows, DISTANCE_TILE["BLOCK_N"]), problems.P)](
        problems.features,
        problems.offsets,
        problems.mean,
        state.centers,
        labels,
        state.sizes,
        done,
        state.distances,
        problems.K,
        problems.D,
        WIDTH=problems.width,
        WHERE_EMPTY=where_empty,
        **DISTANCE_TILE,
    )


def average(problems: Problems, state: State) -> None:
    """Centres of the clusters whose rows have changed."""
    lloyd.update_kernel[(problems.K * problems.S, problems.P)](
        problems.features,
        problems.offsets,
        problems.mean,
        state.order,
        state.starts,
        state.sizes,
        state.stale,
        state.done,
        state.centers,
        state.norms,
        state.shifts,
        problems.K,
        problems.D,
        problems.S,
        WIDTH=problems.width,
        **UPDATE_TILE,
    )


def start(problems: Problems, state: State, chosen: Tensor) -> None:
    """Centres at the chosen rows, int32 `[P, K]`: averages of one row each."""
    within = torch.arange(problems.K, dtype=torch.int32, device=chosen.device)
    state.starts.copy_(within.expand_as(state.starts))
    state.order[(problems.offsets[:-1, None] + within).flatten()] = chosen.flatten()
    average(problems, state)


def iterate(problems: Problems, state: State, parity: int) -> None:
    """One Lloyd iteration of the problems that are not done; launches only, so a graph may capture it.

    Args:
        problems: What to cluster.
        state: Centres of the last iteration; updated.
        parity: 0 and 1 in turn.
    """
    P, K = problems.P, problems.K
    labels, previous_labels = state.labels[parity], state.labels[1 - parity]
    members, previous_members = state.members[parity], state.members[1 - parity]
    assign(problems, state, state.done, labels, members)
    tile = members_tile(problems.width)
    membership.count_kernel[(P,)](
        problems.offsets, labels, previous_labels, state.done, state.sizes, state.moved, K, **tile
    )
    measure(problems, state, state.done, labels, where_empty=True)
    membership.refill_kernel[(P,)](
        problems.offsets, state.sizes, state.done, state.distances, members, K, **tile
    )
    membership.group_kernel[(P,)](
        problems.offsets,
        members,
        previous_members,
        state.done,
        state.order,
        state.starts,
        state.sizes,
        state.stale,
        K,
        **tile,
    )
    average(problems, state)
    lloyd.settle_kernel[(P,)](
        state.moved,
        state.stale,
        state.shifts,
        problems.threshold,
        state.done,
        state.iterations,
        K,
        problems.S,
        WIDTH=problems.width,
        **SETTLE_TILE,
    )


def finish(problems: Problems, state: State, result: KMeansResult) -> None:
    """Labels and inertia that belong to the last centres, and the centres back where the rows are."""
    running = torch.zeros_like(state.done)
    assign(problems, state, running, result.labels, state.members[0])
    measure(problems, state, running, result.labels, where_empty=False)
    lloyd.inertia_kernel[(problems.P,)](problems.offsets, state.distances, result.inertia, **INERTIA_TILE)
    result.centers.add_(problems.mean[:, None])


def launch(
    features: Tensor,
    offsets: Tensor,
    uniforms: Tensor,
    max_iterations: int,
    tolerance: float,
    result: KMeansResult,
) -> None:
    """Fill in the result from arguments that `batched_kmeans` has checked, on the device of the features."""
    sizes = offsets.diff()
    most_rows = int(sizes.max())
    with torch.cuda.device_of(features) if features.is_cuda else nullcontext():
        on_device = offsets.to(features.device)
        mean, variance = center(features, on_device)
        _check_finite(variance, sizes)
        threshold = tolerance * variance.mean(dim=1)
        problems = Problems(features, on_device, mean, threshold, most_rows, len(uniforms))
        state = make_state(problems, result)
        start(problems, state, choose_rows(features, on_device, most_rows, uniforms))
        for iteration in range(max_iterations):
            iterate(problems, state, iteration % 2)
            if (iteration + 1) % CHECK_EVERY == 0 and bool(state.done.all()):
                break
        finish(problems, state, result)


def _check_finite(variance: Tensor, sizes: Tensor) -> None:
    # No squared distance between two rows exceeds four times the sum of all squares about the mean.
    finite = (4.0 * variance.sum(dim=1).cpu() * sizes).isfinite()
    if not finite.all():
        raise not_finite(int(finite.logical_not().nonzero()[0]))
