"""Modes: K-means against scikit-learn, its edges, resuming, and the file of modes."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from mgd3_fast.datasets import Dataset
from mgd3_fast.errors import UserError
from mgd3_fast.latents import LatentStore, encode_dataset
from mgd3_fast.modes import (
    KMEANS_METHOD_NAMES,
    METHOD_NAMES,
    Discovery,
    Modes,
    ModeSet,
    check_ipc,
    classes_without_modes,
    discover_modes,
    method_named,
    modes_key,
)
from mgd3_fast.progress import Progress
from tests.fakes.encoders import PoolingEncoder, array_dataset, put_latents

SHAPE = (4, 2, 2)


def blobs(n: int, dim: int, groups: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = 4 * torch.randn(groups, dim, generator=generator)
    return centers[torch.arange(n) % groups] + torch.randn(n, dim, generator=generator)


def fit(features: Tensor, ipc: int, seed: int = 0) -> Modes:
    return method_named("kmeans").fit(features, ipc, seed)


class TestKMeans:
    @pytest.mark.parametrize(
        ("n", "dim", "ipc"), [(60, 16, 6), (737, 64, 10), (300, 256, 50), (7, 3, 7), (5, 9, 1)]
    )
    def test_is_the_authors_k_means(self, n: int, dim: int, ipc: int) -> None:
        features = blobs(n, dim)
        modes = fit(features, ipc, seed=3)
        authors = KMeans(ipc, random_state=3, n_init="auto").fit(features.numpy())
        # Equal but for the last bits, which depend on scikit-learn's threads.
        np.testing.assert_allclose(modes.centers, authors.cluster_centers_, rtol=0, atol=1e-5)
        np.testing.assert_allclose(modes.weights, np.bincount(authors.labels_, minlength=ipc) / n, rtol=1e-6)
        assert (modes.centers.dtype, modes.weights.dtype) == (torch.float32, torch.float32)

    def test_source_is_the_nearest_sample_in_float64(self) -> None:
        # Far from the origin, where the expanded square has lost the distances.
        features = blobs(200, 32) + 1000
        modes = fit(features, 8)
        distances = (modes.centers[:, None].double() - features[None].double()).square().sum(-1)
        assert modes.source_index.tolist() == distances.argmin(1).tolist()

    def test_weights_add_up_to_one(self) -> None:
        assert fit(blobs(101, 8), 9).weights.sum().item() == pytest.approx(1, abs=1e-6)

    def test_seed_matters_and_repeats(self) -> None:
        features = blobs(300, 16, groups=40)
        first, again, other = fit(features, 10, 1), fit(features, 10, 1), fit(features, 10, 2)
        assert torch.equal(first.centers, again.centers)
        assert not torch.equal(first.centers, other.centers)

    def test_as_many_modes_as_samples_are_the_samples(self) -> None:
        features = blobs(12, 5)
        modes = fit(features, 12)
        assert sorted(modes.source_index.tolist()) == list(range(12))
        assert torch.allclose(modes.centers, features[modes.source_index], atol=1e-5)
        assert torch.allclose(modes.weights, torch.full((12,), 1 / 12))

    def test_too_few_distinct_samples_repeat_in_turn(self, recwarn: pytest.WarningsRecorder) -> None:
        rows = torch.tensor([[1.0, 0], [2, 0], [1, 0], [0, 3], [1, 0], [0.0, 3]])
        modes = fit(rows, 5)
        assert modes.centers.tolist() == [[1, 0], [2, 0], [0, 3], [1, 0], [2, 0]]
        assert modes.weights.tolist() == pytest.approx([3 / 12, 1 / 12, 2 / 6, 3 / 12, 1 / 12])
        assert modes.source_index.tolist() == [0, 1, 3, 0, 1]
        assert not recwarn.list

    def test_negative_zero_is_zero(self) -> None:
        modes = fit(torch.tensor([[0.0, 1], [-0.0, 1]]), 2)
        assert modes.source_index.tolist() == [0, 0]
        assert modes.weights.tolist() == [0.5, 0.5]

    def test_one_distinct_sample(self) -> None:
        modes = fit(torch.full((4, 3), 7.0), 3)
        assert torch.equal(modes.centers, torch.full((3, 3), 7.0))
        assert modes.weights.tolist() == pytest.approx([1 / 3] * 3)

    def test_exactly_as_many_distinct_samples_as_modes(self) -> None:
        modes = fit(torch.tensor([[0.0, 0], [5, 0], [5, 0], [0, 5]]), 3)
        assert sorted(modes.weights.tolist()) == [0.25, 0.25, 0.5]
        assert modes.centers.isfinite().all()

    def test_more_modes_than_samples_are_refused(self) -> None:
        with pytest.raises(ValueError, match="ipc must be at most the 3 samples, got 4"):
            fit(blobs(3, 2), 4)


@pytest.fixture
def encoded(tmp_path: Path) -> tuple[Dataset, LatentStore]:
    dataset = array_dataset(30, 12, 25)
    store = LatentStore(tmp_path / "cache", "d1gest", 8)
    encode_dataset(dataset, PoolingEncoder(), store)
    return dataset, store


def discover(encoded: tuple[Dataset, LatentStore], **settings: object) -> ModeSet:
    dataset, store = encoded
    asked = {name: settings.pop(name) for name in ("method", "ipc", "seed") if name in settings}
    wanted = Discovery(**{"ipc": 5, **asked})  # type: ignore[arg-type]
    return discover_modes(dataset, store, SHAPE, wanted, **settings)  # type: ignore[arg-type]


def equal(first: ModeSet, second: ModeSet) -> bool:
    pairs = [(getattr(first, name), getattr(second, name)) for name in ("modes", "weights", "source_index")]
    return all(torch.equal(a, b) for a, b in pairs) and first.class_names == second.class_names


class TestDiscover:
    def test_each_class_has_the_modes_of_its_latents(self, encoded: tuple[Dataset, LatentStore]) -> None:
        dataset, store = encoded
        found = discover(encoded)
        assert found.modes.shape == (3, 5, *SHAPE)
        assert (found.class_names, found.ipc, found.method) == (("0", "1", "2"), 5, "kmeans")
        for position, cls in enumerate(dataset.classes):
            latents = store.get(cls)
            assert latents is not None
            alone = fit(latents.flatten(1), 5)
            assert torch.equal(found.modes[position], alone.centers.reshape(5, *SHAPE))
            assert torch.equal(found.weights[position], alone.weights)
            assert torch.equal(found.source_index[position], alone.source_index)

    def test_source_index_counts_skipped_images(self, encoded: tuple[Dataset, LatentStore]) -> None:
        dataset, store = encoded
        cls = dataset.classes[1]
        latents = store.get(cls)
        assert latents is not None
        put_latents(store, cls, latents[::2].clone(), torch.arange(0, 12, 2))
        assert set(discover(encoded).source_index[1].tolist()) <= set(range(0, 12, 2))

    @pytest.mark.parametrize("workers", [1, 2, 5])
    def test_result_does_not_depend_on_workers(
        self, encoded: tuple[Dataset, LatentStore], workers: int
    ) -> None:
        assert equal(discover(encoded, num_workers=workers), discover(encoded))

    def test_result_does_not_depend_on_threads(self) -> None:
        features = blobs(1300, 256)
        results = []
        for threads in (1, 2, 4):
            with threadpool_limits(limits=threads):
                results.append(fit(features, 10))
        assert all(torch.equal(modes.centers, results[0].centers) for modes in results)
        assert all(torch.equal(modes.source_index, results[0].source_index) for modes in results)

    def test_resumes_class_by_class(
        self, encoded: tuple[Dataset, LatentStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset, store = encoded
        workdir = tmp_path / "work" / "modes"
        part = discover_modes(dataset.subset([0, 2]), store, SHAPE, Discovery(ipc=5), workdir)
        assert len(list(workdir.iterdir())) == 2
        assert classes_without_modes(dataset, store, Discovery(ipc=5), workdir) == [1]
        assert classes_without_modes(dataset, store, Discovery(ipc=5, seed=1), workdir) == [0, 1, 2]
        lines = io.StringIO()
        whole = discover(encoded, workdir=workdir, progress=Progress(stream=lines))
        assert equal(whole, discover(encoded))
        assert torch.equal(whole.modes[[0, 2]], part.modes)
        assert lines.getvalue().startswith("discover: ")
        monkeypatch.setattr("mgd3_fast.modes.discovering.method_named", None)
        assert equal(discover(encoded, workdir=workdir), whole)

    def test_kept_results_need_no_latents(self, encoded: tuple[Dataset, LatentStore], tmp_path: Path) -> None:
        dataset, store = encoded
        whole = discover(encoded, workdir=tmp_path / "work")
        for cls in dataset.classes:
            store.path(cls).unlink()
        assert equal(discover(encoded, workdir=tmp_path / "work"), whole)

    def test_damaged_result_is_found_again(
        self, encoded: tuple[Dataset, LatentStore], tmp_path: Path
    ) -> None:
        whole = discover(encoded, workdir=tmp_path / "work")
        damaged = sorted((tmp_path / "work").iterdir())
        damaged[0].write_bytes(b"")
        content = bytearray(damaged[1].read_bytes())
        content[-1] ^= 1
        damaged[1].write_bytes(content)
        assert equal(discover(encoded, workdir=tmp_path / "work"), whole)

    def test_failing_class_ends_the_run_and_keeps_the_others(
        self, encoded: tuple[Dataset, LatentStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class FailsOnTwelve:
            def fit(self, features: Tensor, ipc: int, seed: int) -> Modes:
                if len(features) == 12:
                    raise MemoryError("too large")
                return fit(features, ipc, seed)

        monkeypatch.setattr("mgd3_fast.modes.discovering.method_named", lambda name, **_: FailsOnTwelve())
        with pytest.raises(MemoryError):
            discover(encoded, workdir=tmp_path / "work", num_workers=1)
        assert 1 <= len(list((tmp_path / "work").iterdir())) <= 2

    def test_key_covers_settings_and_classes(self, encoded: tuple[Dataset, LatentStore]) -> None:
        dataset, store = encoded
        wanted = Discovery(ipc=5)
        key = modes_key(dataset, store, wanted)
        assert key == discover(encoded).key
        others = {
            modes_key(dataset, store, Discovery(ipc=6)),
            modes_key(dataset, store, Discovery(ipc=5, seed=1)),
            modes_key(dataset, store, Discovery(ipc=5, method="other")),
            modes_key(dataset.subset([0, 1]), store, wanted),
            modes_key(dataset, LatentStore(None, "other", 8), wanted),
        }
        assert len(others | {key}) == 6

    def test_missing_latents_are_told_before_work(self, encoded: tuple[Dataset, LatentStore]) -> None:
        dataset, store = encoded
        store.path(dataset.classes[2]).unlink()
        with pytest.raises(UserError, match="latents of class 2 must be encoded first"):
            discover(encoded)

    def test_other_latent_shape_is_told(self, encoded: tuple[Dataset, LatentStore]) -> None:
        with pytest.raises(UserError, match=r"latents of class 0 must be \(4, 8, 8\), got \(4, 2, 2\)"):
            discover_modes(*encoded, (4, 8, 8), Discovery())

    def test_class_with_too_few_images_is_named_before_work(
        self, encoded: tuple[Dataset, LatentStore], tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match="at most 12, the number of images of class 1, got 13"):
            discover(encoded, ipc=13, workdir=tmp_path / "work")
        assert not (tmp_path / "work").exists()

    def test_unknown_method_lists_the_known(self, encoded: tuple[Dataset, LatentStore]) -> None:
        with pytest.raises(UserError, match=r"discovery must be one of kmeans.*, got 'k-means'"):
            discover(encoded, method="k-means")

    @pytest.mark.parametrize(
        ("counts", "ipc", "message"),
        [({"a": 3}, 0, "at least 1, got 0"), ({"a": 9, "b": 2}, 3, "class b, got 3")],
    )
    def test_check_ipc(self, counts: dict[str, int], ipc: int, message: str) -> None:
        with pytest.raises(UserError, match=message):
            check_ipc(counts, ipc)


def test_every_named_method_can_be_made() -> None:
    for name in METHOD_NAMES:
        assert callable(method_named(name, latent_shape=SHAPE).fit)


class TestModeSet:
    def test_file_brings_everything_back(self, encoded: tuple[Dataset, LatentStore], tmp_path: Path) -> None:
        found = discover(encoded, seed=4)
        found.save(tmp_path / "modes.safetensors")
        loaded = ModeSet.load(tmp_path / "modes.safetensors")
        assert equal(loaded, found)
        assert (loaded.key, loaded.method, loaded.seed, loaded.ipc) == (found.key, "kmeans", 4, 5)
        assert torch.equal(loaded.of_class("1"), found.modes[1])
        assert (loaded.kmeans, loaded.source_images) == ("sklearn", found.source_images)

    def test_source_images_are_named(self, encoded: tuple[Dataset, LatentStore]) -> None:
        dataset, _ = encoded
        found = discover(encoded)
        for position, cls in enumerate(dataset.classes):
            named = [cls.images.name(image) for image in found.source_index[position].tolist()]
            assert list(found.source_images[position]) == named

    def test_names_that_are_no_unicode_survive(
        self, encoded: tuple[Dataset, LatentStore], tmp_path: Path
    ) -> None:
        named = replace(discover(encoded), source_images=(("caf\udce9.png", 'a"b'), (), ()))
        named.save(tmp_path / "modes.safetensors")
        assert ModeSet.load(tmp_path / "modes.safetensors").source_images == named.source_images

    @pytest.mark.parametrize("method", METHOD_NAMES)
    def test_every_method_fills_a_set(
        self, encoded: tuple[Dataset, LatentStore], tmp_path: Path, method: str
    ) -> None:
        found = discover(encoded, method=method, workdir=tmp_path)
        assert equal(discover(encoded, method=method, num_workers=1), found)
        assert bool(found.modes.isfinite().all())
        torch.testing.assert_close(found.weights.sum(1), torch.ones(3))
        assert found.kmeans == ("sklearn" if method in KMEANS_METHOD_NAMES else "none")

    def test_bytes_are_repeatable(self, encoded: tuple[Dataset, LatentStore], tmp_path: Path) -> None:
        for name in "ab":
            discover(encoded).save(tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_unknown_class(self, encoded: tuple[Dataset, LatentStore]) -> None:
        with pytest.raises(UserError, match="modes must cover class cat, got only 3 others"):
            discover(encoded).of_class("cat")

    @pytest.mark.parametrize("damage", ["truncated", "flipped", "other-kind", "text", "missing", "folder"])
    def test_unusable_file_is_told_in_one_line(
        self, encoded: tuple[Dataset, LatentStore], tmp_path: Path, damage: str
    ) -> None:
        dataset, store = encoded
        path = tmp_path / "modes.safetensors"
        discover(encoded).save(path)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        if damage == "truncated":
            path.write_bytes(content[:200])
        elif damage == "flipped":
            path.write_bytes(content)
        elif damage == "other-kind":
            path = store.path(dataset.classes[0])
        elif damage == "text":
            path.write_text("modes")
        elif damage == "missing":
            path = tmp_path / "none.safetensors"
        else:
            path = tmp_path
        with pytest.raises(UserError, match=r"^modes (must be|cannot be read)") as told:
            ModeSet.load(path)
        assert "\n" not in str(told.value)
        assert str(path) in str(told.value)

    @pytest.mark.parametrize(
        ("modes", "weights"),
        [((3, 5, 4, 2, 2), (2, 5)), ((2, 5, 4, 2), (2, 5)), ((2, 5, 4, 2, 2), (2, 4))],
        ids=["classes", "dimensions", "weights"],
    )
    def test_shapes_that_disagree_are_refused(self, modes: tuple[int, ...], weights: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="must be"):
            ModeSet(
                ("a", "b"), torch.zeros(modes), torch.zeros(weights), torch.zeros(2, 5).long(), "k", "m", 0
            )
