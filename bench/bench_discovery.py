"""Mode discovery and encoding on a CPU: K-means of a class, and decode + crop of an image stream.

    pytest bench/bench_discovery.py --benchmark-only

Correctness is asserted before timing. Seconds are per class or per stream; `images_per_s` and the sizes
are in the extra information.

Shape letters: n images of a class, D = C*h*w.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from mgd3_fast.datasets import ArrayImages, Dataset, ImageClass, open_dataset, stream_images
from mgd3_fast.latents import LatentStore, encode_dataset
from mgd3_fast.modes import discover_modes, discovery

# Classes of ImageNet have 732 to 1,300 images; a quarter of their 4,096 latent values keeps this short.
RAGGED_SIZES = (732, 1300, 981)
SHAPE = (4, 16, 16)
IPC = 10


def class_latents(n: int, seed: int) -> Tensor:
    """Latents [n, C, h, w] in 24 overlapping groups."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randn(24, *SHAPE, generator=generator)
    return groups[torch.randint(24, (n,), generator=generator)] + torch.randn(n, *SHAPE, generator=generator)


@pytest.mark.parametrize("provider", ["ours", "sklearn-1-thread", "sklearn-all-threads"])
@pytest.mark.parametrize("n", [737])
def test_kmeans_of_a_class(benchmark: BenchmarkFixture, n: int, provider: str) -> None:
    features = class_latents(n, seed=n).flatten(1)  # [n, D]
    ours = discovery("kmeans")
    reference = KMeans(IPC, random_state=0, n_init="auto").fit(features.numpy())
    centers = ours.fit(features, IPC, 0).centers.numpy()
    np.testing.assert_allclose(centers, reference.cluster_centers_, rtol=0, atol=1e-5)

    def by_sklearn() -> object:
        with threadpool_limits(1 if provider == "sklearn-1-thread" else os.cpu_count()):
            return KMeans(IPC, random_state=0, n_init="auto").fit(features.numpy())

    run = (lambda: ours.fit(features, IPC, 0)) if provider == "ours" else by_sklearn
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    benchmark.extra_info.update(n=n, dim=features.shape[1], ipc=IPC, iterations=int(reference.n_iter_))


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, LatentStore]:
    """Three classes of unequal size whose latents are stored."""
    classes = tuple(
        ImageClass(str(label), label, ArrayImages(np.full((n, 1, 1), label, np.uint8)))
        for label, n in enumerate(RAGGED_SIZES)
    )
    dataset = Dataset("ragged", classes, tuple(cls.name for cls in classes))
    store = LatentStore(tmp_path_factory.mktemp("store"), "synthetic", 128)
    store.prepare()
    for cls in classes:
        store.put(cls, class_latents(len(cls), cls.label), torch.arange(len(cls)))
    return dataset, store


@pytest.mark.parametrize("workers", [1, 2])
def test_discovery_of_ragged_classes(
    benchmark: BenchmarkFixture, ragged: tuple[Dataset, LatentStore], workers: int
) -> None:
    def run() -> Tensor:
        return discover_modes(*ragged, SHAPE, ipc=IPC, num_workers=workers).modes

    alone = discovery("kmeans").fit(ragged[1].get(ragged[0].classes[0]).flatten(1), IPC, 0)
    assert torch.equal(run()[0].flatten(1), alone.centers)
    benchmark.pedantic(run, rounds=2)
    benchmark.extra_info.update(classes=len(RAGGED_SIZES), images=sum(RAGGED_SIZES), ipc=IPC)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One class of 32 JPEG files of ImageNet's usual 500x375 pixels."""
    folder = tmp_path_factory.mktemp("photos") / "class"
    folder.mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (32, 45, 60, 3), dtype=np.uint8)
    for number, pixels in enumerate(colours):
        image = Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.jpg", quality=90)
    return folder.parent


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_decode_and_crop(benchmark: BenchmarkFixture, photos: Path, workers: int) -> None:
    dataset = open_dataset(str(photos))

    def run() -> int:
        return sum(1 for _ in stream_images(dataset, [0], 256, num_workers=workers))

    assert run() == len(dataset)
    benchmark.pedantic(run, rounds=3)
    benchmark.extra_info["images_per_s"] = len(dataset) / benchmark.stats["median"]


class _TinyEncoder:
    """The demo's shape of work: two convolutions down to latents of a quarter of the side."""

    latent_channels, downsample = 4, 4

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.SiLU(), torch.nn.Conv2d(16, 4, 3, 2, 1)
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> object:
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self._layers(images.float() / 127.5 - 1)


@pytest.fixture
def fresh_stores(tmp_path: Path) -> Iterator[LatentStore]:
    return (LatentStore(tmp_path / str(number), "tiny", 256) for number in range(100))


def test_encode_files(benchmark: BenchmarkFixture, photos: Path, fresh_stores: Iterator[LatentStore]) -> None:
    dataset, encoder = open_dataset(str(photos)), _TinyEncoder()

    def run() -> LatentStore:
        store = next(fresh_stores)
        encode_dataset(dataset, encoder, store)
        return store

    first, second = run().get(dataset.classes[0]), run().get(dataset.classes[0])
    assert torch.equal(first, second)
    benchmark.pedantic(run, rounds=3)
    benchmark.extra_info["images_per_s"] = len(dataset) / benchmark.stats["median"]
