"""Mode discovery: every method, every K-means runner, and classes of unequal size from the store.

    pytest bench/speed/bench_discovery.py --benchmark-only

Methods are timed class by class, on made-up latents of ImageNet's size and on those of mnist5k. Runners are
timed on the same ragged classes: scikit-learn one class after the other, this project's batched kernels on
all of them at once (their plain torch form on a CPU), and on a GPU also cuML's loop and flash-kmeans where
they are installed. flash-kmeans takes classes of one size: it gets the first rows of each, as many as the
smallest class has, which is less work. Inertia is asserted before timing for what is ours, and recorded for
the others.

Shape letters: n images of a class, N images of all, P classes, K modes, D = C*h*w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.measuring import DEVICE, ON_GPU, OURS, Figures, Subject, sized, time_rounds
from mgd3_fast.datasets import ArrayImages, Dataset, ImageClass, image_batches, open_dataset
from mgd3_fast.generators import load_generator
from mgd3_fast.latents import LatentStore
from mgd3_fast.modes import METHOD_NAMES, Discovery, discover_modes, kmeans_runner, method_named
from tests.fakes.encoders import put_latents

# Classes of ImageNet have 732 to 1,300 images.
RAGGED_SIZES = (732, 1300, 981)
SHAPE = (4, 32, 32)
IPC = sized(10, 50)
ROUNDS = 5
# Mean inertia over the classes: two K-means of one problem end in different local minima.
INERTIA_BOUND = 0.02


def class_latents(n: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Latents [n, D]: 24 groups that differ in their coarse structure, and as much noise again."""
    generator = torch.Generator(device).manual_seed(seed)
    coarse = torch.randn(24, 4, 8, 8, generator=generator, device=device)
    groups = torch.nn.functional.interpolate(coarse, SHAPE[1:], mode="bilinear").flatten(1)
    chosen = torch.randint(24, (n,), generator=generator, device=device)
    noise = torch.randn(n, groups.shape[1], generator=generator, device=device)
    return groups[chosen] + 0.7 * noise


def inertia(features: Tensor, centers: Tensor) -> float:
    """Sum of squared distances from the nearest centre."""
    return float(torch.cdist(features, centers).min(1).values.double().square().sum())


@dataclass(frozen=True)
class Problem:
    """Latents [n, D] of one class, their shape, and the inertia of K-means."""

    features: Tensor
    shape: tuple[int, int, int]
    kmeans_inertia: float


def problem_of(features: Tensor, shape: tuple[int, int, int]) -> Problem:
    centers = method_named("kmeans").fit(features, 10, 0).centers
    return Problem(features, shape, inertia(features, centers))


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    """One class of made-up latents, and the threes of mnist5k."""
    generator = load_generator("demo-mnist5k")
    digits = open_dataset("mnist5k", classes="3")
    pixels = next(image_batches(digits, 0, 32, 400)).images
    generator.autoencoder.to(torch.device("cpu"), torch.float32)
    threes = torch.cat([generator.autoencoder.encode(part) for part in torch.split(pixels, 64)]).flatten(1)
    return {
        "732 x 4096": problem_of(class_latents(732, seed=0), SHAPE),
        "mnist5k 400 x 256": problem_of(threes, generator.latent_shape),
    }


@pytest.mark.parametrize("problem", ["732 x 4096", "mnist5k 400 x 256"])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_method_of_a_class(
    benchmark: BenchmarkFixture, problems: dict[str, Problem], problem: str, method: str
) -> None:
    features = problems[problem].features
    finder = method_named(method, latent_shape=problems[problem].shape)
    found = finder.fit(features, 10, 0)
    assert bool(found.centers.isfinite().all())
    assert abs(float(found.weights.sum()) - 1) < 1e-6
    seconds = time_rounds(benchmark, lambda: finder.fit(features, 10, 0), rounds=ROUNDS)
    if seconds is None:
        return
    figures = Figures(benchmark, Subject("discovery_of_a_class", problem, "fp32", len(features)))
    figures.add_time(method, seconds[OURS])
    reached = inertia(features, found.centers)
    figures.add(method, "inertia", "1", reached)
    figures.add(method, "inertia_over_kmeans", "1", reached / problems[problem].kmeans_inertia)


@pytest.fixture(scope="module")
def ragged() -> tuple[Tensor, list[int]]:
    """Classes of 732 to 1,300 rows end to end on the device, and where each begins."""
    count = sized(2, 10, gpu=1000)
    sizes = [RAGGED_SIZES[p % 3] for p in range(count)]
    offsets = list(accumulate(sizes, initial=0))
    features = torch.empty(offsets[-1], 4096, device=DEVICE)
    for seed, (begin, end) in enumerate(pairwise(offsets)):
        features[begin:end] = class_latents(end - begin, seed, DEVICE)
    return features, offsets


def cluster(runner: str, features: Tensor, offsets: Sequence[int]) -> Tensor:
    """Centres [P, K, D] of each class by a runner."""
    if runner != "flash-kmeans":
        source = features.cpu() if runner == "sklearn" else features
        return kmeans_runner(runner).cluster(source, offsets, IPC, 0).centers.to(features.device)
    from flash_kmeans import batch_kmeans_Euclid  # type: ignore[import-not-found]

    least = min(end - begin for begin, end in pairwise(offsets))
    torch.manual_seed(0)
    equal = torch.stack([features[begin : begin + least] for begin in offsets[:-1]])
    centers: Tensor = batch_kmeans_Euclid(equal, IPC, max_iters=300, tol=1e-4)[1]
    return centers


def mean_inertia(features: Tensor, offsets: Sequence[int], centers: Tensor) -> float:
    """Over the classes."""
    classes = zip(pairwise(offsets), centers, strict=True)
    found = [inertia(features[begin:end], of_class) for (begin, end), of_class in classes]
    return sum(found) / len(found)


def installed(runner: str) -> bool:
    """Whether a runner is one to compare here."""
    if runner in ("cuml", "flash-kmeans"):
        return ON_GPU and find_spec(runner.replace("-", "_")) is not None
    return True


@pytest.mark.parametrize("runner", ["sklearn", "triton", "cuml", "flash-kmeans"])
def test_kmeans_runner(benchmark: BenchmarkFixture, ragged: tuple[Tensor, list[int]], runner: str) -> None:
    if not installed(runner):
        pytest.skip(f"{runner} needs a GPU and its package")
    features, offsets = ragged
    first = offsets[:4]  # of a thousand classes three are enough to know scikit-learn's time
    wanted = mean_inertia(features, first, cluster("sklearn", features[: first[-1]], first))
    if runner == "sklearn":
        features, offsets = features[: first[-1]], first
    centers = cluster(runner, features, offsets)
    compared = mean_inertia(features, first, centers[: len(first) - 1])
    if runner in ("sklearn", "triton"):
        assert abs(compared / wanted - 1) < INERTIA_BOUND
    seconds = time_rounds(benchmark, lambda: cluster(runner, features, offsets), rounds=ROUNDS)
    if seconds is None:
        return
    classes = len(offsets) - 1
    subject = Subject("kmeans", f"{classes} x 732..1300 x 4096, k {IPC}", "fp32", classes)
    figures = Figures(benchmark, subject)
    figures.add_time(runner, seconds[OURS])
    figures.add_rate(runner, "rate", "classes/s", classes, seconds[OURS])
    figures.add(runner, "inertia_over_sklearn", "1", compared / wanted)
    figures.add_peak_memory(runner, lambda: cluster(runner, features, offsets))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, LatentStore]:
    """Three classes of unequal size whose latents are stored."""
    classes = tuple(
        ImageClass(str(label), label, ArrayImages(np.full((n, 1, 1), label, np.uint8)))
        for label, n in enumerate(RAGGED_SIZES)
    )
    dataset = Dataset("ragged", classes, tuple(cls.name for cls in classes))
    store = LatentStore(tmp_path_factory.mktemp("store"), "synthetic", 256)
    store.prepare()
    for cls in classes:
        latents = class_latents(len(cls), cls.label).reshape(-1, *SHAPE)
        put_latents(store, cls, latents, torch.arange(len(cls)))
    return dataset, store


@pytest.mark.parametrize("workers", [1, 2])
def test_discovery_of_ragged_classes(
    benchmark: BenchmarkFixture, stored: tuple[Dataset, LatentStore], workers: int
) -> None:
    def run() -> Tensor:
        return discover_modes(*stored, SHAPE, Discovery(), num_workers=workers).modes

    alone = method_named("kmeans").fit(stored[1].get(stored[0].classes[0]).flatten(1), 10, 0)
    assert torch.equal(run()[0].flatten(1), alone.centers)
    seconds = time_rounds(benchmark, run, rounds=ROUNDS)
    if seconds is None:
        return
    subject = Subject("discover_from_store", "732, 1300 and 981 x 4096, k 10", "fp32", len(RAGGED_SIZES))
    figures = Figures(benchmark, subject)
    figures.add_time(f"{workers} classes at a time", seconds[OURS])
    figures.add_rate(f"{workers} classes at a time", "rate", "classes/s", len(RAGGED_SIZES), seconds[OURS])
