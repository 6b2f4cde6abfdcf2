"""Encoding: JPEG files to cropped pixels on threads and on processes, and all the way to stored latents.

    pytest bench/speed/bench_encode.py --benchmark-only

Files are 500x375 pixels and about 100 kB, as ImageNet's usually are. `ours` is `image_batches` on threads;
`processes` is a pool that is already running, whose pixels come back through a pipe, timed between the
rounds of `ours`. Both give the same pixels, which is asserted first. Latents are the demo autoencoder's at
32 pixels, so that decoding is most of the work, as on a GPU.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

import mgd3_fast.generators
from bench.measuring import DEVICE, OURS, Figures, Subject, ratios, sized, time_rounds
from bench.photos import photo
from mgd3_fast.datasets import Dataset, center_crop, decode_image, image_batches, open_dataset
from mgd3_fast.generators import KLAutoencoder
from mgd3_fast.latents import LatentStore, encode_dataset

DEMO = Path(mgd3_fast.generators.__file__).parent / "demo_mnist5k" / "vae"
IMAGES = sized(32, 256)
ROUNDS = 5
CPUS = len(os.sched_getaffinity(0))
WORKERS = sorted({1, 2, CPUS})
RESOLUTION = 256


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("photos") / "class"
    folder.mkdir()
    for number in range(IMAGES):
        (folder / f"{number:05d}.jpg").write_bytes(photo(number))
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert 80_000 < np.mean(sizes) < 130_000
    return open_dataset(str(folder.parent))


def decode_file(path: str) -> NDArray[np.uint8]:
    pixels = np.asarray(center_crop(decode_image(Path(path).read_bytes()), RESOLUTION))
    return pixels.transpose(2, 0, 1)  # [3, R, R]


@pytest.mark.parametrize("workers", WORKERS)
def test_decode_by_workers(benchmark: BenchmarkFixture, photos: Dataset, workers: int) -> None:
    images = photos.classes[0].images
    paths = [images.location(position) for position in range(len(images))]

    def by_threads() -> list[object]:
        batches = image_batches(photos, 0, RESOLUTION, 1, num_workers=workers)
        return [batch.images[0].numpy() for batch in batches]

    with ProcessPoolExecutor(workers, get_context("forkserver")) as pool:

        def by_processes() -> list[object]:
            return list(pool.map(decode_file, paths, chunksize=4))

        for one, other in zip(by_threads(), by_processes(), strict=True):
            np.testing.assert_array_equal(one, other)
        seconds = time_rounds(benchmark, by_threads, rounds=ROUNDS, beside={"processes": by_processes})
    if seconds is not None:
        subject = Subject(
            "decode and crop", f"{workers} workers, 500x375 to {RESOLUTION}", "uint8", len(paths)
        )
        figures = Figures(benchmark, subject)
        for provider, values in seconds.items():
            figures.add_rate(provider, "throughput", "images/s", len(paths), values)
        figures.add(OURS, "speed-up over processes", "1", ratios(seconds["processes"], seconds[OURS]))


def test_share_of_decoding_under_the_interpreters_lock(benchmark: BenchmarkFixture) -> None:
    """What stays of an image's time when its pixels are few: Python, which one thread runs at a time."""
    large = photo(0)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(large)).resize((8, 6)).save(buffer, "JPEG", quality=90)
    small = buffer.getvalue()

    def decode(content: bytes, resolution: int) -> None:
        for _ in range(20):
            np.asarray(center_crop(decode_image(content), resolution))

    tiny = partial(decode, small, 6)
    seconds = time_rounds(benchmark, partial(decode, large, RESOLUTION), rounds=ROUNDS, beside={"tiny": tiny})
    if seconds is not None:
        figures = Figures(benchmark, Subject("decode and crop", "1 image", "uint8", 1))
        figures.add(OURS, "share under the lock", "1", ratios(seconds["tiny"], seconds[OURS]))


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[LatentStore]:
    return (LatentStore(tmp_path / str(number), "demo", 32) for number in count())


@pytest.mark.parametrize("workers", [0, *WORKERS])
def test_encode_by_workers(
    benchmark: BenchmarkFixture, photos: Dataset, stores: Iterator[LatentStore], workers: int
) -> None:
    autoencoder = KLAutoencoder(DEMO)

    def run() -> LatentStore:
        store = next(stores)
        encode_dataset(photos, autoencoder, store, device=DEVICE, num_workers=workers)
        return store

    one, other = (run().get(photos.classes[0]) for _ in range(2))
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)
    seconds = time_rounds(benchmark, run, rounds=ROUNDS, warm_up=False)
    if seconds is not None:
        subject = Subject("encode", f"{workers} workers, 500x375 to 32, demo VAE", "fp32", len(photos))
        Figures(benchmark, subject).add_rate(OURS, "throughput", "images/s", len(photos), seconds[OURS])
