"""What a GPU must show of batched K-means; `checks.py` runs these and writes what they return.

Shape letters: P problems, N rows of all problems, n rows of one, D features, K clusters.

All of them also run in Triton's interpreter, on small sizes and without judging speed. They need torch and
triton alone; scikit-learn for one figure, where it is installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bench.gpu.checking import Check, Setting, make_replay, median_seconds, require
from mgd3_kernels import KMeansResult, batched_kmeans, batched_kmeans_reference

# Squared distance to the centre of a row's label, over that to its nearest centre in float64, less 1; and the
# inertia against float64. The product of a row and a centre is of float32 accuracy.
EXCESS_BOUND, INERTIA_BOUND = 1e-5, 1e-5
# Mean inertia against the reference's and scikit-learn's: where rounding decides a candidate, K-means ends in
# another local minimum.
MINIMUM_BOUND = 0.01
GOAL_SECONDS = 0.35
FEATURES, CLUSTERS = 4096, 50


def ragged_sizes(problems: int) -> list[int]:
    """Like ImageNet's classes: from 732 rows to 1300, which most have."""
    few = [732, 1300, 981, 1054, 1183]
    return [few[p // 10 % 5] if p % 10 == 1 else 1300 for p in range(problems)]


def make_rows(sizes: Sequence[int], dim: int, setting: Setting, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows [N, D] of every problem in 80 overlapping groups of its own, made on the device."""
    generator = torch.Generator(setting.device).manual_seed(0)
    features = torch.empty((sum(sizes), dim), dtype=dtype, device=setting.device)
    for x in features.split(list(sizes)):
        groups = torch.randn(80, dim, generator=generator, device=setting.device)
        chosen = torch.randint(80, (len(x),), generator=generator, device=setting.device)
        noise = torch.randn(len(x), dim, generator=generator, device=setting.device)
        x.copy_(groups[chosen] * 0.3 + noise)
    return features


def offsets_of(sizes: Sequence[int]) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0)


def small_problems(setting: Setting, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, int]:
    """Features, offsets and K for what needs no size."""
    sizes = [732, 1300, 981, 50, 64] if setting.on_gpu else [9, 7]
    dim, K = setting.size(FEATURES, 12), setting.size(CLUSTERS, 2)
    return make_rows(sizes, dim, setting, dtype), offsets_of(sizes), K


def against_float64(features: Tensor, offsets: Tensor, found: KMeansResult) -> dict[str, float]:
    """How far labels and inertia are from what float64 says of the centres."""
    excess, error = 0.0, 0.0
    for p, (first, last) in enumerate(pairwise(offsets.tolist())):
        x, centers = features[first:last].double(), found.centers[p].double()
        middle = x.mean(0)
        gaps = torch.cdist(x - middle, centers - middle).square()  # [n, K]
        own = gaps.gather(1, found.labels[first:last, None].long())[:, 0]
        scale = gaps.mean()
        excess = max(excess, ((own - gaps.min(1).values) / scale).max().item())
        error = max(error, ((found.inertia[p] - own.sum()).abs() / (len(x) * scale)).item())
    return {"excess_distance": excess, "inertia_error": error}


def check_kmeans_against_reference(setting: Setting) -> dict[str, Any]:
    """Labels are the nearest centres', inertia is theirs, and as low as the reference's in float64."""
    figures: dict[str, Any] = {}
    holds = True
    for name, dtype in {"fp32": torch.float32, "fp16": torch.float16}.items():
        features, offsets, K = small_problems(setting, dtype)
        found = batched_kmeans(features, offsets, K, seed=0)
        want = batched_kmeans_reference(features, offsets, K, seed=0)
        labels = (each.labels.split(offsets.diff().tolist()) for each in (found, want))
        one = against_float64(features, offsets, found)
        one["inertia_over_reference"] = (found.inertia.mean() / want.inertia.mean()).item()
        one["problems_with_equal_labels"] = sum(map(torch.equal, *labels))
        figures[name] = one | {"problems": len(found.inertia), "iterations": found.iterations.tolist()}
        holds &= one["excess_distance"] < EXCESS_BOUND and one["inertia_error"] < INERTIA_BOUND
        holds &= abs(one["inertia_over_reference"] - 1) < MINIMUM_BOUND
    return require(holds, "labels or inertia differ from float64, or a worse minimum", figures)


def check_kmeans_repeats(setting: Setting) -> dict[str, Any]:
    """A problem's result is the same bits twice, alone, and in another order."""
    features, offsets, K = small_problems(setting)
    parts = features.split(offsets.diff().tolist())

    def run(order: Sequence[int]) -> dict[int, tuple[Tensor, ...]]:
        bounds = offsets_of([len(parts[p]) for p in order])
        found = batched_kmeans(torch.cat([parts[p] for p in order]), bounds, K, seed=1)
        labels = found.labels.split(bounds.diff().tolist())
        return {
            p: (found.centers[at], labels[at], found.inertia[at], found.iterations[at])
            for at, p in enumerate(order)
        }

    everyone = list(range(len(parts)))
    first = run(everyone)
    others = {"twice": run(everyone), "backwards": run(everyone[::-1])}
    others["alone"] = {p: run([p])[p] for p in everyone}
    different = {
        name: sum(
            not all(torch.equal(a, b) for a, b in zip(first[p], other[p], strict=True)) for p in everyone
        )
        for name, other in others.items()
    }
    return require(not any(different.values()), "bits differ", {"different_problems": different})


def prepare(setting: Setting, features: Tensor, sizes: Sequence[int], K: int) -> tuple[Any, Any]:
    """Problems and a state with centres at the first rows."""
    from mgd3_kernels import triton_kmeans as launches
    from mgd3_kernels.kmeans import empty_result

    offsets = offsets_of(sizes).to(setting.device)
    mean, variance = launches.center(features, offsets)
    problems = launches.Problems(features, offsets, mean, 1e-4 * variance.mean(1), max(sizes), K)
    state = launches.make_state(problems, empty_result(features, len(sizes), K))
    first_rows = torch.arange(K, dtype=torch.int32, device=setting.device).repeat(len(sizes), 1)
    launches.start(problems, state, first_rows)
    return problems, state


def check_kmeans_graph(setting: Setting) -> dict[str, Any]:
    """Two iterations captured in a CUDA graph and replayed equal the same run eagerly, bit for bit."""
    from mgd3_kernels import triton_kmeans as launches

    features, offsets, K = small_problems(setting)
    sizes = offsets.diff().tolist()

    def make() -> tuple[Any, Callable[[], None]]:
        problems, state = prepare(setting, features, sizes, K)

        def iterate_twice() -> None:
            launches.iterate(problems, state, 0)
            launches.iterate(problems, state, 1)

        return state, iterate_twice

    eager, iterate_twice = make()
    for _ in range(3):
        iterate_twice()
    replayed, iterate_twice = make()
    replay = make_replay(setting, iterate_twice)  # on a GPU its warm-up is the first of the three
    for _ in range(setting.size(2, 3)):
        replay()
    names = ("centers", "done", "iterations")
    equal = {name: torch.equal(getattr(eager, name), getattr(replayed, name)) for name in names}
    equal["labels"] = torch.equal(eager.labels[1], replayed.labels[1])
    figures = {"bitwise_equal": equal, "iterations": replayed.iterations.tolist()}
    return require(all(equal.values()), "replay differs from eager", figures)


def make_passes(
    setting: Setting, features: Tensor, sizes: Sequence[int], K: int
) -> dict[str, Callable[[], object]]:
    """Each pass over the features by itself, all problems running and all centres to be averaged."""
    from mgd3_kernels import triton_kmeans as launches
    from mgd3_kernels import triton_kmeans_start as start

    problems, state = prepare(setting, features, sizes, K)
    launches.iterate(problems, state, 0)
    state.stale.fill_(1)
    state.done.zero_()
    uniforms = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)[None]
    return {
        "center": lambda: launches.center(features, problems.offsets),
        # One centre needs the trials' pass once, and its choice.
        "one_start_center": lambda: start.choose_rows(features, problems.offsets, max(sizes), uniforms),
        "assign": lambda: launches.assign(problems, state, state.done, state.labels[0], state.members[0]),
        "update": lambda: launches.average(problems, state),
        "distances": lambda: launches.measure(problems, state, state.done, state.labels[0], False),
    }


def time_passes(setting: Setting, features: Tensor, sizes: Sequence[int], K: int) -> dict[str, Any]:
    """Milliseconds and GB/s of each pass over the features, beside a copy's."""
    size = features.numel() * features.element_size()
    half = features.flatten()[: features.numel() // 2]
    target = torch.empty_like(half)
    copy = median_seconds(setting, lambda: target.copy_(half), setting.size(5, 1))
    figures: dict[str, Any] = {"feature_bytes": size, "copy_gb_per_s": size / copy * 1e-9}
    for name, run in make_passes(setting, features, sizes, K).items():
        run()
        seconds = median_seconds(setting, run, setting.size(5, 1))
        figures[name] = {
            "ms": seconds * 1e3,
            "gb_per_s": size / seconds * 1e-9,
            "share_of_copy": copy / seconds,
        }
    return figures


def sklearn_inertia(features: Tensor, sizes: Sequence[int], K: int, problems: int) -> dict[str, float] | None:
    """Mean inertia and seconds of scikit-learn on the first problems, or None without it."""
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        return None
    parts = [x.float().cpu().numpy() for x in features.split(list(sizes))[:problems]]
    started = time.perf_counter()
    inertia = [KMeans(K, n_init=1, random_state=0).fit(x).inertia_ for x in parts]
    seconds = (time.perf_counter() - started) / problems
    return {"inertia": sum(inertia) / problems, "seconds_a_class": seconds}


def check_kmeans_goal(setting: Setting) -> dict[str, Any]:
    """1000 ragged classes of 4096 features, k = 50: under 0.35 s for all; every pass's share of a copy."""
    sizes = ragged_sizes(1000) if setting.on_gpu else [7, 6]
    dim, K = setting.size(FEATURES, 12), setting.size(CLUSTERS, 2)
    features, offsets = make_rows(sizes, dim, setting), offsets_of(sizes)
    held = torch.cuda.memory_allocated() if setting.on_gpu else 0
    compiled = time.perf_counter()
    batched_kmeans(features[: offsets[2]], offsets[:3], K, seed=0)
    compiled = time.perf_counter() - compiled
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(setting.size(3, 1)):
        started = time.perf_counter()
        found = batched_kmeans(features, offsets, K, seed=0)
        finite = bool(found.centers.isfinite().all())  # waits for the device
        seconds.append(time.perf_counter() - started)
    figures: dict[str, Any] = {
        "problems": len(sizes),
        "rows": len(features),
        "seconds": seconds,
        "finite": finite,
    }
    figures["first_call_s"] = compiled
    figures["iterations"] = {
        "mean": found.iterations.float().mean().item(),
        "max": int(found.iterations.max()),
    }
    if setting.on_gpu:
        figures["gib_features"] = held / 2**30
        figures["gib_beside_features"] = (torch.cuda.max_memory_allocated() - held) / 2**30
    figures["passes"] = time_passes(setting, features, sizes, K)
    few = setting.size(4, 1)
    theirs = sklearn_inertia(features, sizes, K, few)
    holds = finite and (not setting.on_gpu or min(seconds) < GOAL_SECONDS)
    if theirs is not None:
        figures["sklearn"] = theirs
        figures["inertia_over_sklearn"] = found.inertia[:few].mean().item() / theirs["inertia"]
        holds &= not setting.on_gpu or figures["inertia_over_sklearn"] < 1 + MINIMUM_BOUND
    return require(
        holds, f"over {GOAL_SECONDS} s, not finite, or a worse minimum than scikit-learn's", figures
    )


ASSIGN_TILES = (
    {"BLOCK_N": 64, "BLOCK_K": 64, "BLOCK_D": 32, "num_warps": 4, "num_stages": 4},
    {"BLOCK_N": 128, "BLOCK_K": 64, "BLOCK_D": 32, "num_warps": 8, "num_stages": 3},
    {"BLOCK_N": 128, "BLOCK_K": 64, "BLOCK_D": 32, "num_warps": 4, "num_stages": 3},
    {"BLOCK_N": 64, "BLOCK_K": 64, "BLOCK_D": 32, "num_warps": 4, "num_stages": 3},
)
TRIAL_TILES = (
    {"BLOCK_N": 32, "BLOCK_D": 32, "STAGES": 4, "num_warps": 4},
    {"BLOCK_N": 64, "BLOCK_D": 32, "STAGES": 3, "num_warps": 4},
    {"BLOCK_N": 32, "BLOCK_D": 32, "STAGES": 3, "num_warps": 2},
)
UPDATE_TILES = (
    {"BLOCK_N": 8, "BLOCK_D": 512, "num_warps": 4},
    {"BLOCK_N": 16, "BLOCK_D": 512, "num_warps": 8},
    {"BLOCK_N": 8, "BLOCK_D": 1024, "num_warps": 8},
)


def check_kmeans_tiles(setting: Setting) -> dict[str, Any]:
    """Milliseconds of three passes with the tiles in use, the first of each, and others; judges nothing."""
    from mgd3_kernels import triton_kmeans as launches
    from mgd3_kernels import triton_kmeans_start as start

    sizes = ragged_sizes(200) if setting.on_gpu else [7, 6]
    K = setting.size(CLUSTERS, 3)
    features = make_rows(sizes, setting.size(FEATURES, 20), setting)

    def time_tile(name: str) -> float:
        run = make_passes(setting, features, sizes, K)[name]
        run()
        return median_seconds(setting, run, setting.size(10, 1)) * 1e3

    tiles = {"assign": ASSIGN_TILES, "one_start_center": TRIAL_TILES, "update": UPDATE_TILES}
    in_use = {
        "assign": launches.assign_tile(50, 4096),
        "one_start_center": start.TRIAL_TILE,
        "update": launches.UPDATE_TILE,
    }
    for name, options in tiles.items():
        require(options[0].items() <= in_use[name].items(), f"the first {name} tile is not in use", {})
    figures: dict[str, dict[str, float]] = {name: {} for name in tiles}
    for name, options in tiles.items():
        kept = dict(in_use[name])
        assign_tile = launches.assign_tile
        for tile in options:
            in_use[name].update(tile)
            if name == "assign":
                launches.assign_tile = lambda *_, tile=tile: tile | {"enable_fp_fusion": True}
            label = " ".join(f"{key} {size}" for key, size in tile.items())
            figures[name][label] = time_tile(name)
        in_use[name].update(kept)
        launches.assign_tile = assign_tile
    return {"ms": figures}


CHECKS: dict[str, Check] = {
    "kmeans-against-reference": check_kmeans_against_reference,
    "kmeans-repeats": check_kmeans_repeats,
    "kmeans-graph": check_kmeans_graph,
    "kmeans-goal": check_kmeans_goal,
    "kmeans-tiles": check_kmeans_tiles,
}
