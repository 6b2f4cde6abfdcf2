"""Batched K-means by number of problems and clusters, beside scikit-learn's and cuML's loops and a copy.

    pytest bench/speed/bench_kmeans.py --benchmark-only

Problems have from 732 to 1,300 rows of 4096 features, as ImageNet's classes, but in smoke runs. On a CPU ours
is the plain torch reference, in float64. Inertia within 1% of scikit-learn's is asserted before timing.
`bandwidth` counts each reading of the features as if no cluster were skipped, so it is an upper bound.
`bench_discovery.py` compares the engines, flash-kmeans too, as discovery calls them.

Shape letters: P problems, N rows of all problems, D features, K clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.cluster import KMeans
from torch import Tensor

from bench.gpu.checking import Setting
from bench.gpu.kmeans_checks import make_rows, offsets_of, ragged_sizes
from bench.measuring import DEVICE, ON_GPU, OURS, Figures, Subject, copy_roof, ratios, sized, time_rounds
from mgd3_kernels import KMeansResult, batched_kmeans

INERTIA_BOUND = 1.01


@dataclass(frozen=True)
class Case:
    P: int
    D: int
    K: int
    dtype: str = "fp32"


SMOKE = {"2 x ~1300 x 256, k = 10": Case(2, 256, 10)}
FULL_CASES = {f"2 x ~1300 x 4096, k = {K}": Case(2, 4096, K) for K in (10, 50)}
GPU_CASES = {
    f"{P} x ~1300 x 4096, k = {K}, {dtype}": Case(P, 4096, K, dtype)
    for P, K, dtype in (
        (10, 50, "fp32"),
        (100, 50, "fp32"),
        (1000, 10, "fp32"),
        (1000, 50, "fp32"),
        (1000, 50, "fp16"),
        (1000, 256, "fp32"),
    )
}
CASES: dict[str, Case] = sized(SMOKE, FULL_CASES, gpu=GPU_CASES)
# scikit-learn takes about a second for a class: on a GPU it runs on a few, and counts for all.
SKLEARN_PROBLEMS = 4


def sklearn_inertia(features: Tensor, offsets: Tensor, K: int) -> Tensor:
    """Inertia of the first problems, one after the other."""
    few = min(len(offsets) - 1, SKLEARN_PROBLEMS)
    parts = features[: offsets[few]].float().cpu().split(offsets.diff()[:few].tolist())
    return torch.tensor([KMeans(K, n_init=1, random_state=0).fit(x.numpy()).inertia_ for x in parts])


def cuml_loop(features: Tensor, offsets: Tensor, K: int) -> Callable[[], object]:
    """cuML's KMeans on one problem after the other, features handed over without a copy."""
    import cupy  # type: ignore[import-not-found]
    from cuml.cluster import KMeans as CumlKMeans  # type: ignore[import-not-found]

    parts = [cupy.from_dlpack(x.float()) for x in features.split(offsets.diff().tolist())]
    return lambda: [CumlKMeans(n_clusters=K, n_init=1, random_state=0).fit(x) for x in parts]


def bytes_read(features: Tensor, offsets: Tensor, found: KMeansResult, K: int) -> float:
    """Of features: once each for means, K starts and the two final passes, twice for an iteration."""
    passes = K + 3 + 2 * found.iterations.cpu().double()
    row_bytes = features.shape[1] * features.element_size()
    return float((passes * offsets.diff()).sum() * row_bytes)


@pytest.mark.parametrize("size", CASES)
def test_batched_kmeans(benchmark: BenchmarkFixture, size: str) -> None:
    case = CASES[size]
    sizes = ragged_sizes(case.P)
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[case.dtype]
    features, offsets = make_rows(sizes, case.D, Setting(DEVICE), dtype), offsets_of(sizes)

    def run() -> KMeansResult:
        return batched_kmeans(features, offsets, case.K, seed=0)

    found = run()
    few = min(case.P, SKLEARN_PROBLEMS)
    theirs = sklearn_inertia(features, offsets, case.K)
    worse = (found.inertia[:few].cpu().mean() / theirs.mean()).item()
    assert worse < INERTIA_BOUND

    beside: dict[str, Callable[[], Any]] = {"sklearn": lambda: sklearn_inertia(features, offsets, case.K)}
    if ON_GPU:
        beside = {"copy": copy_roof(features.numel() * features.element_size())}
        if find_spec("cuml") is not None:
            beside["cuml"] = cuml_loop(features, offsets, case.K)
    seconds = time_rounds(benchmark, run, rounds=5 if ON_GPU else 3, beside=beside, warm_up=False)
    if seconds is None:
        return
    figures = Figures(benchmark, Subject("batched_kmeans", size, case.dtype, case.P))
    read = bytes_read(features, offsets, found, case.K)
    figures.add_time(OURS, seconds[OURS])
    figures.add(OURS, "iterations", "1", found.iterations.float().mean().item())
    figures.add(OURS, "inertia_over_sklearn", "1", worse)
    figures.add_rate(OURS, "bandwidth", "GB/s", read * 1e-9, seconds[OURS])
    figures.add_peak_memory(OURS, run)
    for rival in beside.keys() - {"copy"}:
        figures.add_time(rival, seconds[rival])
        figures.add(OURS, f"times_as_fast_as_{rival}", "1", ratios(seconds[rival], seconds[OURS]))
    if ON_GPU:
        once = features.numel() * features.element_size()
        shares = [
            read / own / (once / copy) for own, copy in zip(seconds[OURS], seconds["copy"], strict=True)
        ]
        figures.add(OURS, "share_of_copy", "1", float(np.median(shares)))
