"""What runs K-means: which runner is chosen, cuML's hand-over, and classes clustered chunk by chunk.

cuML and CuPy are stand-ins that record what they are given and cluster with scikit-learn.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from mgd3_engine.installing import install_command
from mgd3_fast.config import DiscoverConfig
from mgd3_fast.datasets import Dataset
from mgd3_fast.errors import UserError
from mgd3_fast.latents import LatentStore, encode_dataset
from mgd3_fast.modes import (
    Discovery,
    ModeSet,
    choose_discovery,
    choose_runner,
    discover_modes,
    kmeans_runner,
    method_named,
    modes_key,
)
from mgd3_fast.modes.class_chunks import Chunk, read_chunks, split_into_chunks
from mgd3_fast.modes.discovering import classes_without_modes
from mgd3_fast.modes.kmeans_runners import MOST_TRITON_CLUSTERS, NO_RUNNER
from mgd3_kernels import batched_kmeans
from tests.fakes.encoders import PoolingEncoder, array_dataset, put_latents

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
SHAPE = (4, 2, 2)
KMEANS = ("kmeans", "kmeans-closest", "kmeans-pooled")


def blobs(n: int, dim: int = 16, groups: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = 4 * torch.randn(groups, dim, generator=generator)
    return centers[torch.arange(n) % groups] + torch.randn(n, dim, generator=generator)


class DeviceArray:
    """A CuPy array: memory that came through DLPack, and says so."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = torch.from_dlpack(tensor)

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


class RecordingKMeans:
    """cuML's estimator: keeps its arguments and what it is fitted on."""

    made: ClassVar[list[RecordingKMeans]] = []

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.made.append(self)

    def fit(self, samples: DeviceArray) -> RecordingKMeans:
        assert isinstance(samples, DeviceArray)
        self.samples = samples.tensor
        fitted = KMeans(self.arguments["n_clusters"], random_state=0, n_init=1).fit(samples.tensor.numpy())
        self.cluster_centers_ = DeviceArray(torch.from_numpy(fitted.cluster_centers_))
        self.labels_ = DeviceArray(torch.from_numpy(fitted.labels_))
        return self


@pytest.fixture
def cuml(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RecordingKMeans]]:
    """Stand-ins for cuML and CuPy; gives the estimators in the order they were made."""
    devices: list[int] = []

    class Device:
        def __init__(self, index: int) -> None:
            devices.append(index)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    modules = {name: ModuleType(name) for name in ("cupy", "cuml", "cuml.cluster")}
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    cupy: Any = modules["cupy"]
    cupy.from_dlpack = DeviceArray
    cupy.cuda = ModuleType("cupy.cuda")
    cupy.cuda.Device = Device
    monkeypatch.setattr(modules["cuml.cluster"], "KMeans", RecordingKMeans, raising=False)
    monkeypatch.setattr(RecordingKMeans, "made", [])
    yield RecordingKMeans.made
    assert set(devices) <= {0}


class TestChoice:
    @pytest.mark.parametrize(
        ("wanted", "method", "ipc", "device", "name", "reason"),
        [
            ("auto", "kmeans", 10, CPU, "sklearn", "no CUDA device"),
            ("auto", "kmeans-pooled", 10, CUDA, "triton", "all classes at once"),
            ("auto", "kmeans", MOST_TRITON_CLUSTERS + 1, CUDA, "sklearn", "at most 256 clusters"),
            ("auto", "gmm", 10, CUDA, NO_RUNNER, "gmm has no choice"),
            ("sklearn", "kmeans", 10, CUDA, "sklearn", "asked for"),
            ("triton", "kmeans-closest", 10, CPU, "triton", "asked for"),
        ],
    )
    def test_of_a_runner(
        self, wanted: str, method: str, ipc: int, device: torch.device, name: str, reason: str
    ) -> None:
        chosen, why = choose_runner(wanted, method, ipc, device)
        assert chosen == name
        assert reason in why

    @pytest.mark.parametrize(
        ("wanted", "method", "ipc", "device", "message"),
        [
            ("faiss", "kmeans", 10, CPU, "must be one of auto, sklearn, cuml, triton, got 'faiss'"),
            ("cuml", "kmeans", 10, CPU, "kmeans must be auto, sklearn or triton on cpu, got 'cuml'"),
            ("cuml", "kmeans", 10, CUDA, r"packages for CUDA 13 .*no module named cuml"),
            ("triton", "random", 10, CUDA, "kmeans must be auto with discovery random"),
            ("triton", "kmeans", 257, CUDA, "ipc must be at most 256 with kmeans triton, got 257"),
        ],
    )
    def test_that_cannot_be(
        self,
        wanted: str,
        method: str,
        ipc: int,
        device: torch.device,
        message: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, "cuml", None)
        with pytest.raises(UserError, match=message):
            choose_runner(wanted, method, ipc, device)

    def test_without_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mgd3_fast.modes.method.find_spec", lambda name: None)
        assert choose_runner("auto", "kmeans", 10, CUDA) == ("sklearn", "Triton is not installed")

    def test_cuml_where_it_is_installed(self, cuml: list[RecordingKMeans]) -> None:
        assert choose_runner("cuml", "kmeans", 300, CUDA)[0] == "cuml"

    @pytest.mark.parametrize(
        ("options", "runner"),
        [
            ({}, "cuml"),
            ({"kmeans": "triton"}, "cuml"),
            ({"discovery": "gmm"}, NO_RUNNER),
        ],
    )
    def test_is_what_made_the_given_modes(self, options: dict[str, str], runner: str) -> None:
        config = DiscoverConfig(dataset="mnist5k", ipc=3, seed=7, out="out", **options)
        found = choose_discovery(config, CPU, {"kmeans": "cuml", "seed": "5"})
        assert (found.runner, found.kmeans) == (runner, runner)
        assert (found.method, found.ipc, found.seed) == (config.discovery, 3, 5)
        own = choose_discovery(config, CPU)
        assert own.seed == 7
        assert own.runner == {"gmm": NO_RUNNER}.get(config.discovery, options.get("kmeans", "sklearn"))
        assert choose_discovery(replace(config, discovery_seed=2), CPU, {"seed": "5"}).seed == 2

    def test_runner_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UserError, match="kmeans must be one of auto, sklearn, cuml, triton, got 'faiss'"):
            kmeans_runner("faiss")
        monkeypatch.setitem(sys.modules, "cupy", None)
        both = f"CUDA 13 ({install_command('cuda13')}) or CUDA 12 ({install_command('cuda12')})"
        with pytest.raises(UserError, match=f"got 'cuml', which needs packages for {re.escape(both)}"):
            kmeans_runner("cuml")

    def test_most_clusters_are_those_of_the_kernels(self) -> None:
        rows = torch.arange(MOST_TRITON_CLUSTERS + 1.0)[:, None]
        with pytest.raises(ValueError, match=f"num_clusters must be from 1 to {MOST_TRITON_CLUSTERS}"):
            batched_kmeans(rows, torch.tensor([0, len(rows)]), len(rows), seed=0)


class TestCuml:
    def test_features_and_results_cross_without_a_copy(self, cuml: list[RecordingKMeans]) -> None:
        features = torch.cat([blobs(40), blobs(25, seed=1)])
        found = kmeans_runner("cuml").cluster(features, [0, 40, 65], 6, seed=4)
        first, second = cuml
        assert first.samples.data_ptr() == features.data_ptr()
        assert second.samples.data_ptr() == features[40:].data_ptr()
        assert [one.samples.shape for one in cuml] == [(40, 16), (25, 16)]
        assert (found.centers.shape, found.centers.dtype) == ((2, 6, 16), torch.float32)
        assert (found.labels.shape, found.labels.dtype) == ((65,), torch.int64)
        assert torch.equal(found.centers[1], second.cluster_centers_.tensor)
        assert torch.equal(found.labels[40:], second.labels_.tensor.long())

    def test_arguments_are_scikit_learns_rules(self, cuml: list[RecordingKMeans]) -> None:
        features = 3 * blobs(50)
        kmeans_runner("cuml").cluster(features, [0, 50], 5, seed=7)
        arguments = cuml[0].arguments
        # scikit-learn scales its tolerance by the mean variance of the features; cuML takes it as it is.
        variance = features.double().var(0, correction=0).mean().item()
        assert arguments.pop("tol") == pytest.approx(1e-4 * variance, rel=1e-5)
        assert arguments == {
            "n_clusters": 5,
            "max_iter": 300,
            "init": "scalable-k-means++",
            "n_init": 1,
            "random_state": 7,
            "output_type": "cupy",
        }

    def test_float16_becomes_float32(self, cuml: list[RecordingKMeans]) -> None:
        features = blobs(30).half()
        kmeans_runner("cuml").cluster(features, [0, 30], 3, seed=0)
        assert torch.equal(cuml[0].samples, features.float())

    @pytest.mark.parametrize("method", KMEANS)
    def test_serves_every_method(self, cuml: list[RecordingKMeans], method: str) -> None:
        features = blobs(60)
        finder = method_named(method, latent_shape=SHAPE, runner=kmeans_runner("cuml"))
        modes = finder.fit(features, 6, 0)
        # The stand-in clusters with scikit-learn, from the same start.
        wanted = method_named(method, latent_shape=SHAPE).fit(features, 6, 0)
        torch.testing.assert_close(modes.centers, wanted.centers, rtol=0, atol=1e-5)
        assert torch.equal(modes.source_index, wanted.source_index)
        assert cuml[0].samples.shape == ((60, 4) if method == "kmeans-pooled" else (60, 16))


class TestBatched:
    @pytest.mark.parametrize("method", KMEANS)
    def test_each_class_as_if_alone(self, method: str) -> None:
        classes = [blobs(40), torch.ones(9, 16), blobs(25, seed=1), blobs(7, seed=2)]
        finder: Any = method_named(method, latent_shape=SHAPE, runner=kmeans_runner("triton"))
        found = finder.fit_many(torch.cat(classes), (0, 40, 49, 74, 81), 6, 3)
        for samples, modes in zip(classes, found, strict=True):
            alone = finder.fit(samples, 6, 3)
            assert torch.equal(modes.centers, alone.centers)
            assert torch.equal(modes.weights, alone.weights)
            assert torch.equal(modes.source_index, alone.source_index)

    def test_inertia_is_scikit_learns(self) -> None:
        features = blobs(200, groups=30)
        inertia = {}
        for name in ("sklearn", "triton"):
            centers = method_named("kmeans", runner=kmeans_runner(name)).fit(features, 10, 0).centers
            inertia[name] = torch.cdist(features, centers).min(1).values.square().sum().item()
        # Their random choices differ, so that one start can be luckier: both are local minima.
        assert inertia["triton"] == pytest.approx(inertia["sklearn"], rel=0.15)

    def test_bytes_do_not_depend_on_threads(self) -> None:
        features = blobs(700, dim=256, groups=40)
        finder = method_named("kmeans", runner=kmeans_runner("triton"))
        before, results = torch.get_num_threads(), []
        try:
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                results.append(finder.fit(features, 8, 5))
        finally:
            torch.set_num_threads(before)
        assert all(torch.equal(modes.centers, results[0].centers) for modes in results)
        assert all(torch.equal(modes.source_index, results[0].source_index) for modes in results)

    def test_a_class_with_too_few_samples(self) -> None:
        finder: Any = method_named("kmeans", runner=kmeans_runner("triton"))
        with pytest.raises(ValueError, match="ipc must be at most the 3 samples, got 4"):
            finder.fit_many(blobs(8), (0, 5, 8), 4, 0)


@pytest.mark.parametrize(
    ("sizes", "most", "chunks"),
    [
        ([], 10, []),
        ([5], 1, [[0]]),
        ([4, 4, 4, 4], 8, [[0, 1], [2, 3]]),
        ([4, 4, 4], 7, [[0], [1], [2]]),
        ([1, 20, 1, 1], 8, [[0], [1], [2, 3]]),
        ([3, 3, 3], 100, [[0, 1, 2]]),
    ],
)
def test_chunks_fill_the_bytes_they_may_have(sizes: list[int], most: int, chunks: list[list[int]]) -> None:
    assert [list(chunk) for chunk in split_into_chunks(sizes, most)] == chunks


def latents_of(rows: int, place: int) -> Tensor:
    return torch.full((rows, 1, 1, 3), float(place))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("device", [CPU, pytest.param(CUDA, marks=pytest.mark.gpu)], ids=str)
def test_chunks_hold_their_classes_end_to_end(dtype: torch.dtype, device: torch.device) -> None:
    rows = [2, 3, 1, 4, 2]
    chunks = read_chunks(
        lambda place: latents_of(rows[place], place),
        rows,
        3,
        dtype,
        device,
        most_bytes=6 * 3 * dtype.itemsize,
    )
    got: list[Chunk] = list(chunks)
    assert [list(chunk.places) for chunk in got] == [[0, 1, 2], [3, 4]]
    assert [chunk.offsets for chunk in got] == [(0, 2, 5, 6), (0, 4, 6)]
    assert [chunk.features[:, 0].tolist() for chunk in got] == [[0, 0, 1, 1, 1, 2], [3, 3, 3, 3, 4, 4]]
    assert {chunk.features.dtype for chunk in got} == {dtype}
    assert {chunk.features.device for chunk in got} == {device}


def test_next_chunk_is_read_while_one_is_used() -> None:
    read = [threading.Event() for _ in range(4)]

    def open_class(place: int) -> Tensor:
        read[place].set()
        return latents_of(1, place)

    chunks = read_chunks(open_class, [1] * 4, 3, torch.float32, CPU, most_bytes=1)
    for number in range(3):
        next(chunks)
        assert read[number + 1].wait(10)
        assert not any(event.is_set() for event in read[number + 2 :])


def test_error_of_the_background_is_told_and_ends_it() -> None:
    def open_class(place: int) -> Tensor:
        if place == 1:
            raise UserError("the latents of class b were deleted")
        return latents_of(1, place)

    chunks = read_chunks(open_class, [1] * 3, 3, torch.float32, CPU, most_bytes=1)
    assert next(chunks).places == range(1)
    with pytest.raises(UserError, match="class b"):
        next(chunks)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("latents")]


@pytest.fixture
def encoded(tmp_path: Path) -> tuple[Dataset, LatentStore]:
    dataset = array_dataset(30, 12, 25, 18)
    store = LatentStore(tmp_path / "cache", "d1gest", 8)
    encode_dataset(dataset, PoolingEncoder(), store)
    return dataset, store


def discover(encoded: tuple[Dataset, LatentStore], **settings: Any) -> ModeSet:
    asked = {name: settings.pop(name) for name in ("method", "runner", "device") if name in settings}
    return discover_modes(*encoded, SHAPE, Discovery(**{"ipc": 5, "runner": "triton", **asked}), **settings)


def equal(first: ModeSet, second: ModeSet) -> bool:
    names = ("modes", "weights", "source_index")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


class TestDiscoverOnDevice:
    @pytest.mark.parametrize("method", KMEANS)
    def test_result_does_not_depend_on_chunks(
        self, encoded: tuple[Dataset, LatentStore], method: str
    ) -> None:
        whole = discover(encoded, method=method)
        assert bool(whole.modes.isfinite().all())
        for chunk_bytes in (1, 45 * 16 * 4, 70 * 16 * 4):
            assert equal(discover(encoded, method=method, chunk_bytes=chunk_bytes), whole)

    def test_each_class_has_the_modes_of_its_latents(self, encoded: tuple[Dataset, LatentStore]) -> None:
        dataset, store = encoded
        found = discover(encoded)
        finder = method_named("kmeans", runner=kmeans_runner("triton"))
        for position, cls in enumerate(dataset.classes):
            latents = store.open(cls)
            assert latents is not None
            alone = finder.fit(latents.latents.flatten(1), 5, 0)
            assert torch.equal(found.modes[position].flatten(1), alone.centers)
            assert torch.equal(found.source_index[position], latents.index[alone.source_index])

    def test_stopped_in_the_second_chunk_keeps_the_first(
        self, encoded: tuple[Dataset, LatentStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset, store = encoded
        finder_class = type(method_named("kmeans"))
        fit_many = finder_class.fit_many  # type: ignore[attr-defined]
        calls: list[int] = []

        def interrupted(self: Any, features: Tensor, offsets: Any, ipc: int, seed: int) -> Any:
            calls.append(len(features))
            if len(calls) == 2:
                raise KeyboardInterrupt
            return fit_many(self, features, offsets, ipc, seed)

        half = 45 * 16 * 4
        with monkeypatch.context() as patched:
            patched.setattr(finder_class, "fit_many", interrupted)
            with pytest.raises(KeyboardInterrupt):
                discover(encoded, workdir=tmp_path / "work", chunk_bytes=half)
        assert calls == [42, 43]
        wanted, work = Discovery(ipc=5, runner="triton"), tmp_path / "work"
        assert classes_without_modes(dataset, store, wanted, work) == [2, 3]
        assert len(classes_without_modes(dataset, store, replace(wanted, runner="sklearn"), work)) == 4
        assert equal(discover(encoded, workdir=tmp_path / "work", chunk_bytes=half), discover(encoded))

    def test_cuml_gets_chunks_too(
        self, encoded: tuple[Dataset, LatentStore], cuml: list[RecordingKMeans]
    ) -> None:
        found = discover(encoded, runner="cuml", chunk_bytes=45 * 16 * 4)
        assert [len(one.samples) for one in cuml] == [30, 12, 25, 18]
        assert found.kmeans == "cuml"

    def test_runner_is_part_of_the_key(self, encoded: tuple[Dataset, LatentStore]) -> None:
        keys = {modes_key(*encoded, Discovery(ipc=5, runner=name)) for name in ("sklearn", "cuml", "triton")}
        assert len(keys) == 3
        assert discover(encoded).key in keys
        # A method without runners has one key.
        found = {modes_key(*encoded, Discovery(method="gmm", runner=name)) for name in ("sklearn", "triton")}
        assert len(found) == 1

    @pytest.mark.parametrize("kmeans", ["sklearn", "triton"])
    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_latents_that_are_not_finite_are_told_by_class(
        self, encoded: tuple[Dataset, LatentStore], kmeans: str, value: float
    ) -> None:
        dataset, store = encoded
        cls = dataset.classes[2]
        found = store.open(cls)
        assert found is not None
        latents = found.latents.clone()
        latents[7, 1, 0, 1] = value
        put_latents(store, cls, latents, found.index)
        with pytest.raises(UserError, match="latents of class 2 hold infinite or undefined numbers"):
            discover(encoded, runner=kmeans)

    @pytest.mark.gpu
    @pytest.mark.parametrize("method", KMEANS)
    def test_gpu_gives_one_result_whatever_the_chunks(
        self, encoded: tuple[Dataset, LatentStore], method: str
    ) -> None:
        whole = discover(encoded, method=method, device=CUDA)
        assert equal(discover(encoded, method=method, device=CUDA, chunk_bytes=1), whole)
