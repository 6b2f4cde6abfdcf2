"""Batched K-means: kernels against the reference, the reference against scikit-learn, edges and errors.

The kernels run on the GPU where there is one and in Triton's interpreter otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from threadpoolctl import threadpool_limits
from torch import Tensor

from mgd3_kernels import KMeansResult, batched_kmeans, batched_kmeans_reference, philox4x32
from mgd3_kernels.kmeans import trial_uniforms
from mgd3_kernels.kmeans_reference import choose_rows, run_lloyd

# max |kernel - reference| / max |reference|; measured over all cases: centres 2.4e-7, inertia 1.2e-7.
BOUND = 1e-6


@dataclass(frozen=True)
class Case:
    sizes: tuple[int, ...]
    D: int
    K: int
    dtype: torch.dtype = torch.float32
    offset: float = 0.0
    # Rows, clusters and features of every tile in the interpreter: small ones, so that all loops go round,
    # or wide ones, as each step costs the interpreter about a millisecond however wide it is.
    tiles: tuple[int, int, int] | None = None


CASES = {
    "ragged": Case((20, 13, 27), 64, 3),
    "many-iterations": Case((24,), 2, 3),
    "odd-size": Case((21, 15), 7, 3),
    "n-is-k": Case((6,), 5, 6),
    "n-is-k-plus-1": Case((5,), 100, 4),
    "one-image": Case((1, 1), 3, 1),
    "one-cluster": Case((9, 4), 20, 1),
    "one-feature": Case((30,), 1, 4),
    "small-tiles": Case((35, 18), 20, 17, tiles=(16, 16, 16)),
    "4096-features": Case((7,), 4096, 3, tiles=(16, 16, 4096)),
    "fp16": Case((20, 13), 64, 3, torch.float16),
    "fp16-odd": Case((19,), 9, 4, torch.float16),
    "far-from-origin": Case((20, 13), 64, 3, offset=1000.0),
}


def rows(n: int, D: int, seed: int, groups: int = 6) -> Tensor:
    """Overlapping groups, so that Lloyd's iterations have work to do."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(groups, D, generator=generator)
    return centers[torch.randint(groups, (n,), generator=generator)] + torch.randn(n, D, generator=generator)


def batch(problems: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat(problems), torch.tensor([0, *np.cumsum([len(x) for x in problems])])


def split(result: KMeansResult, offsets: Tensor) -> list[tuple[Tensor, ...]]:
    """Centres, labels, inertia and iterations of each problem."""
    return [
        (result.centers[p], result.labels[first:last], result.inertia[p], result.iterations[p])
        for p, (first, last) in enumerate(pairwise(offsets.tolist()))
    ]


def equal(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def relative_error(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want.double()).abs().max() / want.abs().max()).item()


@dataclass(frozen=True)
class Provider:
    run: Callable[..., KMeansResult]
    device: str

    def __call__(self, features: Tensor, offsets: Tensor, num_clusters: int, **options: Any) -> KMeansResult:
        found = self.run(features.to(self.device), offsets, num_clusters, **({"seed": 0} | options))
        return KMeansResult(
            found.centers.cpu(), found.labels.cpu(), found.inertia.cpu(), found.iterations.cpu()
        )


def make_provider(name: str, monkeypatch: pytest.MonkeyPatch) -> Provider:
    if name == "reference":
        return Provider(batched_kmeans_reference, "cpu")
    if torch.cuda.is_available():
        return Provider(batched_kmeans, "cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr("mgd3_kernels.triton_kmeans.CHECK_EVERY", 1)
    return Provider(batched_kmeans, "cpu")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Provider:
    return make_provider("kernel", monkeypatch)


@pytest.fixture(params=["reference", "kernel"])
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Provider:
    return make_provider(request.param, monkeypatch)


def set_tiles(monkeypatch: pytest.MonkeyPatch, N: int, K: int, D: int) -> None:
    from mgd3_kernels import triton_kmeans as lloyd
    from mgd3_kernels import triton_kmeans_start as start

    for tile in (
        start.CENTER_TILE,
        start.TRIAL_TILE,
        start.CHOOSE_TILE,
        lloyd.DISTANCE_TILE,
        lloyd.UPDATE_TILE,
        lloyd.INERTIA_TILE,
    ):
        for name, size in {"BLOCK_N": N, "BLOCK_D": D}.items():
            if name in tile:
                monkeypatch.setitem(tile, name, size)
    assign_tile, members_tile = lloyd.assign_tile, lloyd.members_tile
    sizes = {"BLOCK_N": N, "BLOCK_K": K, "BLOCK_D": D}
    monkeypatch.setattr(lloyd, "assign_tile", lambda clusters, D: assign_tile(clusters, D) | sizes)
    monkeypatch.setattr(lloyd, "members_tile", lambda width: members_tile(width) | {"BLOCK_N": N})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernel_against_reference(case: Case, kernel: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.tiles is not None and kernel.device == "cpu":
        set_tiles(monkeypatch, *case.tiles)
    features, offsets = batch([rows(n, case.D, seed) + case.offset for seed, n in enumerate(case.sizes)])
    features = features.to(case.dtype)
    got = kernel(features, offsets, case.K)
    want = batched_kmeans_reference(features, offsets, case.K, seed=0)
    assert got.labels.tolist() == want.labels.tolist()
    assert got.iterations.tolist() == want.iterations.tolist()
    assert relative_error(got.centers, want.centers) < BOUND
    assert got.inertia.tolist() == pytest.approx(want.inertia.tolist(), rel=BOUND, abs=1e-9)


def test_cases_iterate_and_differ() -> None:
    """What the cases above compare is not over after one iteration."""
    counts = []
    for case in CASES.values():
        features, offsets = batch([rows(n, case.D, seed) for seed, n in enumerate(case.sizes)])
        counts += batched_kmeans_reference(features, offsets, case.K, seed=0).iterations.tolist()
    assert max(counts) == 8
    assert len(set(counts)) >= 4


@pytest.mark.parametrize("D", [1, 16, 256])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_lloyd_is_scikit_learns(D: int, seed: int) -> None:
    """From the same start: the same labels, centres, inertia and number of iterations."""
    x = rows(200, D, seed=D).double()
    x -= x.mean(0)
    start = x[choose_rows(x, trial_uniforms(9, seed))]
    centers, labels, inertia, iterations = run_lloyd(x, start, 300, 1e-4)
    theirs = KMeans(9, init=start.numpy(), n_init=1).fit(x.numpy())
    assert labels.tolist() == theirs.labels_.tolist()
    assert iterations == theirs.n_iter_
    np.testing.assert_allclose(centers, theirs.cluster_centers_, rtol=0, atol=1e-12)
    assert inertia.item() == pytest.approx(theirs.inertia_, rel=1e-12)


@pytest.mark.parametrize("far", [1, 3])
def test_empty_clusters_are_filled_as_scikit_learn_does(far: int) -> None:
    x = rows(60, 8, seed=4).double()
    x -= x.mean(0)
    start = x[:6].clone()
    start[1 : 1 + far] += 1e3
    centers, labels, _, iterations = run_lloyd(x, start, 300, 1e-4)
    theirs = KMeans(6, init=start.numpy(), n_init=1).fit(x.numpy())
    assert sorted(set(labels.tolist())) == list(range(6))
    assert iterations == theirs.n_iter_
    # With several, which cluster takes which row is scikit-learn's accident.
    mine, others = (sorted(c.tolist()) for c in (centers, torch.from_numpy(theirs.cluster_centers_)))
    np.testing.assert_allclose(mine, others, rtol=0, atol=1e-12)


def test_start_is_as_good_as_scikit_learns() -> None:
    """Mean potential: measured 0.9% apart over these seeds, 0.2% over 600; without greedy trials 11% more."""
    x = rows(300, 16, seed=0, groups=40).double()

    def potential(chosen: Any) -> float:
        return float(torch.cdist(x, x[torch.as_tensor(chosen)]).square().min(1).values.sum())

    ours = [potential(choose_rows(x, trial_uniforms(20, seed))) for seed in range(40)]
    theirs = [potential(kmeans_plusplus(x.numpy(), 20, random_state=seed)[1]) for seed in range(40)]
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.02)


@pytest.mark.parametrize(("n", "D", "K"), [(400, 32, 10), (737, 256, 20)])
def test_inertia_is_within_a_percent_of_scikit_learns(n: int, D: int, K: int) -> None:
    x = rows(n, D, seed=n, groups=2 * K)
    offsets = torch.tensor([0, n])
    ours = [batched_kmeans_reference(x, offsets, K, seed=seed).inertia.item() for seed in range(10)]
    with threadpool_limits(1):
        theirs = [KMeans(K, n_init=1, random_state=seed).fit(x.numpy()).inertia_ for seed in range(10)]
    assert np.mean(ours) < 1.01 * np.mean(theirs)


def test_result_does_not_depend_on_neighbours(provider: Provider) -> None:
    """Nor on their order, nor on a split of the call; problems end after different iterations."""
    problems = [rows(n, 16, seed=n, groups=1) for n in (30, 9, 3)]
    features, offsets = batch(problems)
    together = split(provider(features, offsets, 3), offsets)
    assert len({int(found[3]) for found in together}) > 1
    order = [2, 0, 1]
    features, offsets = batch([problems[p] for p in order])
    shuffled = split(provider(features, offsets, 3), offsets)
    assert all(equal(shuffled[at], together[p]) for at, p in enumerate(order))
    offsets = torch.tensor([0, 30])
    assert equal(split(provider(problems[0], offsets, 3), offsets)[0], together[0])


def test_seed_decides(provider: Provider) -> None:
    features, offsets = batch([rows(20, 8, seed=1, groups=1)])
    first, again, other = (provider(features, offsets, 3, seed=seed) for seed in (3, 3, 2**32 + 3))
    assert equal(split(first, offsets)[0], split(again, offsets)[0])
    assert not torch.equal(first.labels, other.labels)


def test_asking_rarely_changes_nothing(kernel: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    features, offsets = batch([rows(30, 3, seed=3), rows(12, 3, seed=4)])
    often = kernel(features, offsets, 3)
    monkeypatch.setattr("mgd3_kernels.triton_kmeans.CHECK_EVERY", 8)
    rarely = kernel(features, offsets, 3)
    assert equal(tuple(vars(often).values()), tuple(vars(rarely).values()))


@pytest.mark.parametrize(
    "limits",
    [{"max_iterations": 1}, {"max_iterations": 2}, {"tolerance": 1e9}],
    ids=["one-iteration", "two-iterations", "tolerance"],
)
def test_labels_and_inertia_belong_to_the_centers(provider: Provider, limits: dict[str, Any]) -> None:
    features, offsets = batch([rows(60, 5, seed=2, groups=1), rows(23, 5, seed=3, groups=1)])
    found = provider(features, offsets, 4, **limits)
    assert set(found.iterations.tolist()) == {limits.get("max_iterations", 1)}
    for x, (centers, labels, inertia, _) in zip(
        features.split(offsets.diff().tolist()), split(found, offsets), strict=True
    ):
        squares = torch.cdist(x.double(), centers.double()).square()
        assert labels.tolist() == squares.argmin(1).tolist()
        assert inertia.item() == pytest.approx(squares.min(1).values.sum().item(), rel=1e-6)


@pytest.mark.parametrize("distinct", [1, 3])
def test_fewer_distinct_rows_than_clusters(provider: Provider, distinct: int) -> None:
    some = rows(distinct, 7, seed=5)
    features, offsets = batch([some[torch.arange(11) % distinct], rows(9, 7, seed=6)])
    found = provider(features, offsets, 5)
    assert all(tensor.isfinite().all() for tensor in vars(found).values())
    centers, labels = found.centers[0], found.labels[:11].long()
    assert found.inertia[0].item() < 1e-9
    torch.testing.assert_close(centers[labels], features[:11], rtol=0, atol=1e-6)
    # Surplus centres repeat rows.
    assert torch.cdist(centers, some).min(1).values.max() < 1e-5


@pytest.mark.parametrize("far", [1, 3])
def test_kernel_fills_empty_clusters(far: int, kernel: Provider) -> None:
    """One iteration from centres of which some are nearest to no row."""
    from mgd3_kernels import triton_kmeans
    from mgd3_kernels.kmeans import empty_result

    features, offsets = batch([rows(50, 40, seed=8), rows(31, 40, seed=9)])
    K = 6
    mean = torch.stack([x.mean(0) for x in features.split(offsets.diff().tolist())])
    on_device = [tensor.to(kernel.device) for tensor in (features, offsets, mean, torch.zeros(2))]
    problems = triton_kmeans.Problems(*on_device, most_rows=50, K=K)
    state = triton_kmeans.make_state(problems, empty_result(on_device[0], 2, K))
    chosen = torch.arange(K, dtype=torch.int32, device=kernel.device).repeat(2, 1)
    triton_kmeans.start(problems, state, chosen)
    state.centers[0, 1 : 1 + far] += 1e3  # the second problem keeps its own
    state.norms.copy_(state.centers.square().sum(2)[:, None])
    start = state.centers.cpu().double()
    triton_kmeans.iterate(problems, state, 0)
    for p, (first, last) in enumerate(pairwise(offsets.tolist())):
        x = features[first:last].double() - mean[p].double()
        want, *_ = run_lloyd(x, start[p], 1, 0.0)
        assert relative_error(state.centers[p].cpu(), want) < BOUND
    assert state.sizes.cpu().min() == 1
    assert state.done.tolist() == [0, 0]


def test_uniforms_are_philox() -> None:
    uniforms = trial_uniforms(50, 2**63 + 5)
    assert uniforms.shape == (50, 5)
    counter = torch.tensor([4, 49, 0, 1])
    word = philox4x32(counter, torch.tensor([5, 2**31]))[0].item()
    assert uniforms[49, 4].item() == (word + 0.5) / 2**32
    assert [trial_uniforms(K, 0).shape[1] for K in (1, 2, 3, 7, 8, 256)] == [2, 2, 3, 3, 4, 7]
    assert len(uniforms.unique()) == 250


def test_no_problems(provider: Provider) -> None:
    found = provider(torch.empty(0, 4), torch.tensor([0]), 3)
    assert [list(tensor.shape) for tensor in vars(found).values()] == [[0, 3, 4], [0], [0], [0]]


GOOD = {
    "features": torch.randn(9, 4, generator=torch.Generator().manual_seed(0)),
    "offsets": torch.tensor([0, 5, 9]),
    "num_clusters": 3,
    "seed": 0,
}
BAD = {
    "few-rows": ({"num_clusters": 5}, "num_clusters must be at most the 4 rows of problem 1, got 5"),
    "empty-problem": ({"offsets": torch.tensor([0, 9, 9])}, "at most the 0 rows of problem 1, got 3"),
    "no-clusters": ({"num_clusters": 0}, "num_clusters must be from 1 to 256, got 0"),
    "many-clusters": ({"num_clusters": 257}, "num_clusters must be from 1 to 256, got 257"),
    "features-dtype": ({"features": torch.zeros(9, 4).double()}, "features must be float32 or float16"),
    "features-shape": (
        {"features": torch.zeros(9)},
        r"features must be .* got torch.float32 \[9\]",
    ),
    "no-features": ({"features": torch.zeros(9, 0)}, r"got torch.float32 \[9, 0\]"),
    "features-layout": ({"features": torch.zeros(4, 9).T}, r"contiguous, got strides \[1, 9\]"),
    "offsets-dtype": ({"offsets": torch.tensor([0, 9]).int()}, "offsets must be int64 .*, got torch.int32"),
    "offsets-shape": ({"offsets": torch.tensor(9)}, r"offsets must be int64 \[P \+ 1\]"),
    "offsets-start": ({"offsets": torch.tensor([1, 9])}, "offsets must go from 0 to the 9 rows, got 1 to 9"),
    "offsets-end": ({"offsets": torch.tensor([0, 8])}, "offsets must go from 0 to the 9 rows, got 0 to 8"),
    "offsets-order": ({"offsets": torch.tensor([0, 7, 4, 9])}, "offsets must not decrease, got 7 before 4"),
    "many-problems": ({"offsets": torch.zeros(65537).long()}, "at most 65535 problems, got 65536"),
    "seed": ({"seed": -1}, r"seed must be from 0 to 2\*\*64-1, got -1"),
    "seed-wide": ({"seed": 2**64}, r"seed must be from 0 to 2\*\*64-1, got"),
    "iterations": ({"max_iterations": 0}, "max_iterations must be at least 1, got 0"),
    "tolerance": ({"tolerance": -1e-4}, "tolerance must be at least 0 and finite, got -0.0001"),
    "tolerance-nan": ({"tolerance": math.nan}, "tolerance must be at least 0 and finite, got nan"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_wrong_arguments(changes: dict[str, Any], message: str, provider: Provider) -> None:
    with pytest.raises(ValueError, match=message):
        provider(**(GOOD | changes))


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")  # the interpreter's
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e19])
def test_rows_that_are_not_finite_are_told(provider: Provider, value: float) -> None:
    features = GOOD["features"].clone()
    features[6, 2] = value
    with pytest.raises(ValueError, match=r"features must be finite, .* got others in problem 1"):
        provider(**(GOOD | {"features": features}))


@pytest.mark.usefixtures("without_triton")
def test_missing_triton_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"pip install 'triton>=3\.2'"):
        batched_kmeans(**GOOD)
