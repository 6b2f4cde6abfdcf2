"""Every discovery method: what each promises, and what all of them do with awkward classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

from mgd3_fast.modes import METHOD_NAMES, Modes, method_named
from mgd3_fast.modes.clusters import (
    distinct_samples,
    few_distinct,
    member_means,
    nearest_centers,
    nearest_samples,
    shares,
    split_clusters,
)
from mgd3_fast.modes.spectral import _neighbour_graph

SHAPE = (4, 4, 4)
DIM = 64
every_method = pytest.mark.parametrize("name", METHOD_NAMES)


def blobs(n: int, groups: int = 6, dim: int = DIM, seed: int = 0, apart: float = 4) -> Tensor:
    """Row i is of group i % groups."""
    generator = torch.Generator().manual_seed(seed)
    centers = apart * torch.randn(groups, dim, generator=generator)
    return centers[torch.arange(n) % groups] + torch.randn(n, dim, generator=generator)


def fit(name: str, features: Tensor, ipc: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Modes:
    return method_named(name, latent_shape=shape).fit(features, ipc, seed)


def check_modes(modes: Modes, n: int, ipc: int, dim: int) -> None:
    assert modes.centers.shape == (ipc, dim)
    assert (modes.centers.dtype, modes.weights.dtype) == (torch.float32, torch.float32)
    assert bool(modes.centers.isfinite().all())
    assert modes.weights.sum().item() == pytest.approx(1, abs=1e-6)
    assert float(modes.weights.min()) >= 0
    assert modes.source_index.dtype == torch.int64
    assert set(modes.source_index.tolist()) <= set(range(n))


def inertia(features: Tensor, centers: Tensor) -> float:
    return float(torch.cdist(features.double(), centers.double()).min(1).values.square().sum())


def same(first: Modes, second: Modes) -> bool:
    names = ("centers", "weights", "source_index")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


class TestEveryMethod:
    @every_method
    def test_gives_as_many_modes_as_asked_for(self, name: str) -> None:
        features = blobs(150)
        for ipc in (1, 2, 6, 40):
            check_modes(fit(name, features, ipc), 150, ipc, DIM)

    @pytest.mark.parametrize("name", [name for name in METHOD_NAMES if name != "random"])
    def test_finds_well_separated_groups(self, name: str) -> None:
        features = blobs(240)
        modes = fit(name, features, 6)
        assert sorted((modes.source_index % 6).tolist()) == list(range(6))
        torch.testing.assert_close(modes.weights, torch.full((6,), 1 / 6))
        means = torch.stack([features[group::6].mean(0) for group in range(6)])
        # A mean of 40 is 0.16 a number from the group's centre; the nearest sample is about 1 from it.
        bound = 9 if name == "kmeans-closest" else 1
        assert float(torch.cdist(modes.centers, means).min(1).values.max()) < bound

    @every_method
    def test_source_is_the_nearest_sample(self, name: str) -> None:
        features = blobs(90, groups=20) + 1000
        modes = fit(name, features, 7)
        distances = torch.cdist(
            modes.centers.double(), features.double(), compute_mode="donot_use_mm_for_euclid_dist"
        )
        assert modes.source_index.tolist() == distances.argmin(1).tolist()

    @every_method
    def test_bytes_do_not_depend_on_threads(self, name: str) -> None:
        features = blobs(700, groups=40, dim=256, apart=0.4)
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                with threadpool_limits(limits=threads):
                    results.append(fit(name, features, 8, seed=5, shape=(4, 8, 8)))
        finally:
            torch.set_num_threads(before)
        assert same(results[0], results[1])
        assert same(results[0], results[2])

    @every_method
    def test_does_not_change_its_input(self, name: str) -> None:
        features = blobs(60)
        kept = features.clone()
        fit(name, features, 5)
        assert torch.equal(features, kept)

    @every_method
    def test_as_many_modes_as_samples_are_the_samples(self, name: str) -> None:
        features = blobs(12, dim=16)
        modes = fit(name, features, 12, shape=(4, 2, 2))
        assert sorted(modes.source_index.tolist()) == list(range(12))
        torch.testing.assert_close(modes.centers, features[modes.source_index], rtol=0, atol=1e-5)
        torch.testing.assert_close(modes.weights, torch.full((12,), 1 / 12))

    @every_method
    def test_too_few_distinct_samples_repeat_in_turn(
        self, name: str, recwarn: pytest.WarningsRecorder
    ) -> None:
        rows = torch.tensor([[1.0, 0], [2, 0], [1, 0], [0, 3], [1, 0], [0.0, 3]])
        modes = fit(name, rows, 5, shape=(2, 1, 1))
        assert modes.centers.tolist() == [[1, 0], [2, 0], [0, 3], [1, 0], [2, 0]]
        assert modes.weights.tolist() == pytest.approx([3 / 12, 1 / 12, 2 / 6, 3 / 12, 1 / 12])
        assert modes.source_index.tolist() == [0, 1, 3, 0, 1]
        assert not recwarn.list

    @every_method
    def test_one_image(self, name: str) -> None:
        modes = fit(name, torch.full((1, 4), 7.0), 1, shape=(1, 2, 2))
        assert modes.centers.tolist() == [[7.0] * 4]
        assert (modes.weights.tolist(), modes.source_index.tolist()) == ([1.0], [0])

    @every_method
    def test_more_modes_than_samples_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="ipc must be at most the 3 samples, got 4"):
            fit(name, blobs(3, dim=4), 4, shape=(1, 2, 2))

    @every_method
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
    @given(data=st.data())
    def test_any_small_class(self, name: str, data: st.DataObject) -> None:
        n = data.draw(st.integers(1, 12))
        ipc = data.draw(st.integers(1, n))
        values = data.draw(
            st.sampled_from(["normal", "copies", "zeros and ones", "far away", "tiny", "huge", "on a line"])
        )
        generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
        features = torch.randn(n, 4, generator=generator)
        if values == "copies":
            features = features[torch.randint(0, 1 + n // 3, (n,), generator=generator)]
        elif values == "zeros and ones":
            features = (features > 0).float()
        elif values == "on a line":
            features = torch.arange(n)[:, None] * torch.tensor([1.0, 0, 0, 2])
        else:
            features = {"far away": 1e4, "normal": 0}.get(values, 0) + features
            features = features * {"tiny": 1e-12, "huge": 1e12}.get(values, 1)
        check_modes(fit(name, features, ipc, shape=(1, 2, 2)), n, ipc, 4)


class TestClosest:
    def test_modes_are_samples_nearest_to_the_centres(self) -> None:
        features = blobs(200, groups=30)
        modes, centers = fit("kmeans-closest", features, 10), fit("kmeans", features, 10)
        assert torch.equal(modes.centers, features[modes.source_index])
        assert torch.equal(modes.source_index, centers.source_index)
        assert torch.equal(modes.weights, centers.weights)

    def test_no_image_is_taken_twice(self) -> None:
        # Two clusters whose means share their nearest sample, the one in the middle, which has a copy.
        ring = torch.tensor([[0.0, 3], [0, -3], [3.1, 3], [3.1, -3], [1.4, 0], [1.4, 0]])
        modes = method_named("kmeans-closest", runner=FixedLabels([0, 0, 1, 1, 0, 1])).fit(ring, 2, 0)
        assert modes.source_index.tolist()[0] == 4
        assert modes.source_index.tolist()[1] in (2, 3)
        assert len(torch.unique(modes.centers, dim=0)) == 2


class TestPooled:
    def test_clusters_composition_not_texture(self) -> None:
        # Two compositions; the texture, which averages out over a pooled cell, is three times as strong.
        generator = torch.Generator().manual_seed(0)
        texture = 6.0 * torch.randint(0, 2, (80, 1, 8, 8), generator=generator).mul(2).sub(1)
        texture[:, :, 1::2] = -texture[:, :, ::2]
        composition = torch.zeros(80, 1, 8, 8)
        composition[::2, :, :4] = 2
        features = (texture + composition).flatten(1)
        pooled = fit("kmeans-pooled", features, 2, shape=(1, 8, 8))
        whole = fit("kmeans", features, 2)
        assert pooled.weights.tolist() == [0.5, 0.5]
        tops = pooled.centers.reshape(2, 8, 8)[:, :4].mean((1, 2))
        assert sorted(tops.round().tolist()) == [0, 2]
        assert whole.weights.tolist() != [0.5, 0.5]

    def test_modes_are_member_means_at_full_resolution(self) -> None:
        features = blobs(120, dim=1024)
        modes = fit("kmeans-pooled", features, 6, shape=(1, 32, 32))
        pooled = torch.nn.functional.avg_pool2d(features.reshape(-1, 1, 32, 32), 4).flatten(1)
        labels = KMeans(6, random_state=0, n_init="auto").fit(pooled.numpy()).labels_
        for mode in range(6):
            want = features[torch.from_numpy(labels) == mode].mean(0)
            torch.testing.assert_close(modes.centers[mode], want, rtol=0, atol=1e-5)

    def test_latents_that_differ_in_texture_alone_are_clustered_as_they_are(self) -> None:
        stripes = torch.tensor([[1.0, -1], [-1, 1]]).repeat(4, 4)
        features = torch.stack([stripes * scale for scale in (1.0, 2, 3, 1, 2, 3)]).flatten(1)
        modes = fit("kmeans-pooled", features, 3, shape=(1, 8, 8))
        assert sorted(modes.centers.abs().amax(1).tolist()) == [1, 2, 3]

    def test_empty_cluster_repeats_the_largest(self) -> None:
        features = blobs(6, dim=4)
        method = method_named("kmeans-pooled", latent_shape=(1, 2, 2), runner=FixedLabels([0, 0, 0, 0, 2, 2]))
        modes = method.fit(features, 3, 0)
        assert torch.equal(modes.centers[1], modes.centers[0])
        torch.testing.assert_close(modes.weights, torch.tensor([4 / 6, 0, 2 / 6]))

    def test_needs_the_latent_shape(self) -> None:
        with pytest.raises(ValueError, match=r"latent_shape must be \(C, h, w\) for kmeans-pooled, got None"):
            method_named("kmeans-pooled")


class TestMixture:
    @pytest.mark.parametrize(("n", "covariance"), [(120, "diag"), (520, "full")])
    def test_is_scikit_learns_mixture(self, n: int, covariance: str) -> None:
        features = blobs(n, groups=4, dim=64 if covariance == "diag" else 32)
        modes = fit("gmm", features, 4, seed=3)
        centered = (features.double() - features.double().mean(0)).numpy()
        mixture = GaussianMixture(
            4,
            covariance_type=covariance,
            reg_covar=1e-6 * centered.var(0).mean(),
            max_iter=300,
            random_state=3,
        ).fit(centered)
        means = mixture.means_ + features.double().mean(0).numpy()
        np.testing.assert_allclose(modes.centers, means, rtol=0, atol=1e-4)
        np.testing.assert_allclose(modes.weights, mixture.weights_, rtol=0, atol=1e-4)

    def test_projected_mixture_weighs_whole_latents(self) -> None:
        features = blobs(120, groups=4, apart=0.5)
        modes = fit("gmm-pca", features, 4, seed=3)
        centered = (features.double() - features.double().mean(0)).numpy()
        # 120 samples for 4 components: 15 dimensions, two samples each.
        points = PCA(15, svd_solver="randomized", random_state=3).fit_transform(centered)
        mixture = GaussianMixture(
            4, covariance_type="full", reg_covar=1e-6 * points.var(0).mean(), max_iter=300, random_state=3
        ).fit(points)
        answers = mixture.predict_proba(points)
        means = answers.T @ features.double().numpy() / answers.sum(0)[:, None]
        np.testing.assert_allclose(modes.centers, means, rtol=0, atol=1e-4)
        np.testing.assert_allclose(modes.weights, answers.mean(0), rtol=0, atol=1e-6)

    def test_dead_component_gives_its_place_to_a_split(self, monkeypatch: pytest.MonkeyPatch) -> None:
        features = blobs(40, groups=2)
        method = method_named("gmm")
        answers = np.zeros((40, 3))
        answers[::2, 0] = answers[1::2, 1] = 1
        monkeypatch.setattr(type(method), "_fit_mixture", lambda *_: answers)
        modes = method.fit(features, 3, 0)
        check_modes(modes, 40, 3, DIM)
        assert sorted(modes.weights.tolist())[2] == 0.5
        assert len(torch.unique(modes.centers, dim=0)) == 3


class TestDbscan:
    def test_more_clusters_than_modes_keep_the_largest(self) -> None:
        features = torch.cat([blobs(n, groups=1, seed=seed) for seed, n in enumerate((30, 10, 20, 5))])
        modes = fit("dbscan", features, 2)
        assert modes.source_index[0] < 30
        assert 40 <= modes.source_index[1] < 60

    def test_modes_are_means_of_scikit_learns_clusters(self) -> None:
        features = torch.cat([blobs(120), 300 * torch.eye(DIM)[:5]])  # five samples far from everything
        modes = fit("dbscan", features, 6)
        labels = DBSCAN(eps=20, min_samples=3).fit(features.numpy()).labels_
        assert labels.max() == 5
        assert (labels == -1).sum() == 5
        means = torch.stack([features[torch.from_numpy(labels) == one].mean(0) for one in range(6)])
        assert float(torch.cdist(modes.centers, means).min(1).values.max()) < 1e-4

    def test_fewer_clusters_are_completed_by_splits_of_what_is_left(self) -> None:
        generator = torch.Generator().manual_seed(0)
        dense = [0.01 * torch.randn(30, 8, generator=generator) + 50 * place for place in (1, -1)]
        features = torch.cat([*dense, 20 * torch.randn(12, 8, generator=generator)])
        modes = fit("dbscan", features, 6)
        check_modes(modes, 72, 6, 8)
        assert modes.centers[:2].mean(1).round().tolist() == [50, -50]
        assert set(modes.source_index[2:].tolist()) <= set(range(60, 72))

    def test_mostly_copies(self) -> None:
        features = torch.cat([torch.zeros(50, 4), blobs(5, dim=4)])
        check_modes(fit("dbscan", features, 3), 55, 3, 4)


class TestSpectral:
    def test_follows_a_shape_that_k_means_cuts(self) -> None:
        angle = torch.arange(200) * (2 * torch.pi / 200)
        ring = 10 * torch.stack([angle.cos(), angle.sin()], 1)
        core = 0.5 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        features = torch.cat([ring, core])
        modes, cut = fit("spectral", features, 2), fit("kmeans", features, 2)
        assert modes.weights.tolist() == [0.5, 0.5]
        assert float(modes.centers.norm(dim=1).max()) < 0.5  # both means are near the middle
        assert float(cut.centers.norm(dim=1).max()) > 3

    def test_graph_is_connected_and_symmetric(self) -> None:
        from scipy.sparse.csgraph import connected_components

        features = torch.cat([blobs(60, groups=3, apart=100), torch.zeros(20, DIM)])
        graph = _neighbour_graph(torch.cdist(features, features).numpy())
        assert connected_components(graph)[0] == 1
        assert abs(graph - graph.T).max() == 0
        assert graph.max() == 1

    def test_warns_of_nothing_where_classes_fall_apart(self, recwarn: pytest.WarningsRecorder) -> None:
        fit("spectral", blobs(90, groups=9, apart=100), 3)
        assert not recwarn.list


class TestRandom:
    def test_modes_are_different_samples_of_equal_chance(self) -> None:
        features = blobs(20, dim=4)
        method = method_named("random")
        drawn = torch.cat([method.fit(features, 5, seed).source_index for seed in range(400)])
        counts = torch.bincount(drawn, minlength=20)
        # Each is drawn 400 / 4 times, give or take four standard deviations of 8.7.
        assert int(counts.min()) >= 65
        assert int(counts.max()) <= 135
        modes = method.fit(features, 5, 1)
        assert torch.equal(modes.centers, features[modes.source_index])
        assert len(set(modes.source_index.tolist())) == 5

    def test_copies_are_drawn_once(self) -> None:
        features = torch.cat([torch.zeros(95, 3), torch.eye(3), 2 * torch.eye(3)[:2]])
        for seed in range(5):
            assert len(torch.unique(fit("random", features, 6, seed).centers, dim=0)) == 6

    def test_weight_is_the_share_that_is_nearest(self) -> None:
        features = torch.tensor([[0.0], [1], [2], [10], [11], [12], [13]])
        modes = next(
            found
            for found in (fit("random", features, 2, seed) for seed in range(50))
            if found.centers.tolist() == [[1], [12]]
        )
        assert modes.weights.tolist() == pytest.approx([3 / 7, 4 / 7])


class FixedLabels:
    """A K-means runner that gives set labels and the means of them."""

    on_device = False

    def __init__(self, labels: list[int]) -> None:
        self._labels = torch.tensor(labels)

    def cluster(self, features: Tensor, offsets: list[int], k: int, seed: int) -> object:
        from mgd3_fast.modes.kmeans_runners import Clusters

        return Clusters(member_means(features, self._labels, k).nan_to_num()[None], self._labels)


class TestSharedRules:
    def test_first_of_equally_near_samples(self) -> None:
        samples = torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0]])
        assert nearest_samples(samples, torch.tensor([[0.0, 2], [2, 0], [0.5, 0.5]])).tolist() == [1, 0, 0]
        assert nearest_centers(samples, torch.tensor([[0.0, 0], [5, 5]])).tolist() == [0, 0, 0, 0]

    def test_nearest_of_many_candidates(self) -> None:
        # All rows are within the slack: every one of them is compared exactly, over several pieces.
        samples = 1e6 + torch.linspace(0, 1, 3000)[:, None].repeat(1, 2)
        centers = torch.stack([samples[2711], samples[5]])
        first = [int((samples == center).all(1).nonzero()[0]) for center in centers]
        assert nearest_samples(samples, centers).tolist() == first

    def test_distinct_samples_know_no_negative_zero(self) -> None:
        first, sizes = distinct_samples(torch.tensor([[0.0, 1], [-0.0, 1], [2, 2]]))
        assert (first.tolist(), sizes.tolist()) == ([0, 2], [2, 1])

    def test_few_distinct_looks_beyond_one_column(self) -> None:
        samples = torch.tensor([[0.0, 7, 0], [1, 7, 0], [2, 7, 0]])
        assert few_distinct(samples, 3, enough=3) is None
        found = few_distinct(samples, 3, enough=4)
        assert found is not None
        assert torch.equal(found.centers, samples)

    def test_means_and_shares(self) -> None:
        samples, labels = torch.tensor([[1.0], [3], [10]]), torch.tensor([2, 2, 0])
        means = member_means(samples, labels, 3)
        assert (means[0].item(), means[2].item()) == (10, 2)
        assert bool(means[1].isnan())
        assert shares(labels, 3).tolist() == pytest.approx([1 / 3, 0, 2 / 3])

    def test_splits_the_widest_first_and_keeps_the_others(self) -> None:
        samples = torch.tensor([[0.0], [1], [50], [90], [7], [7]])
        labels = split_clusters(samples, torch.tensor([4, 4, 9, 9, 6, 6]), 4, seed=0)
        groups = {int(one): sorted(samples[labels == one, 0].tolist()) for one in labels.unique()}
        assert groups[0] == [0, 1]
        assert groups[1] == [7, 7]
        assert sorted([groups[2], groups[3]]) == [[50], [90]]

    def test_split_never_divides_copies(self) -> None:
        samples = torch.tensor([[5.0], [5], [5], [5], [1], [2]])
        labels = split_clusters(samples, torch.tensor([0, 0, 0, 0, 1, 1]), 3, seed=0)
        assert len(set(labels[:4].tolist())) == 1
        assert len(set(labels.tolist())) == 3


def test_k_means_has_the_least_inertia_of_the_paper_s_methods() -> None:
    features = blobs(400, groups=40, apart=0.7)
    found = {name: inertia(features, fit(name, features, 10).centers) for name in METHOD_NAMES}
    assert found["kmeans"] < found["dbscan"]
    assert found["kmeans"] < found["kmeans-closest"] < 1.6 * found["kmeans"]
    assert found["kmeans-closest"] < 1.1 * found["random"]
    assert found["gmm"] < 1.02 * found["kmeans"]
