"""Counter noise: published vectors, an independent integer implementation, statistics, and the Triton twin.

The Triton functions run on the GPU where there is one and in Triton's interpreter otherwise.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from mgd3_kernels import philox4x32, philox_normal

# Random123 1.14, tests/kat_vectors, rows "philox4x32": rounds, counter, key, expected.
KNOWN_ANSWERS = """\
7  00000000 00000000 00000000 00000000 00000000 00000000 5f6fb709 0d893f64 4f121f81 4f730a48
7  ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 5207ddc2 45165e59 4d8ee751 8c52f662
7  243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 4dfccaba 190a87f0 c47362ba b6b5242a
10 00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8
10 ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd
10 243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1
""".splitlines()
WORD = st.integers(0, 2**32 - 1)

# Largest |error| of the kernels' float32 Box-Muller against float64, in units of the radius' last place and
# absolute; measured in the interpreter, both ends of the radius included: 3.1 and 8.3e-7.
BOX_MULLER_ULP = 4.0
BOX_MULLER_ABS = 1e-6


def known_answer(row: str) -> tuple[int, list[int], list[int], list[int]]:
    rounds, *words = row.split()
    numbers = [int(word, 16) for word in words]
    return int(rounds), numbers[:4], numbers[4:6], numbers[6:]


def philox_by_hand(counter: list[int], key: list[int], rounds: int) -> list[int]:
    """Philox4x32 over Python integers, from the paper's definition."""
    a, b, c, d = counter
    k, m = key
    for _ in range(rounds):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k, q % 2**32, (p >> 32) ^ d ^ m, p % 2**32
        k, m = (k + 0x9E3779B9) % 2**32, (m + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def normals_by_hand(seed: int, step: int, stream: int, count: int) -> list[float]:
    normals: list[float] = []
    for block in range((count + 3) // 4):
        words = philox_by_hand([block, step, stream, 0], [seed % 2**32, seed >> 32], 10)
        for word_r, word_a in (words[:2], words[2:]):
            radius = math.sqrt(-2 * math.log((word_r + 0.5) / 2**32))
            angle = 2 * math.pi * (word_a + 0.5) / 2**32
            normals += [radius * math.cos(angle), radius * math.sin(angle)]
    return normals[:count]


def box_muller_float64(words: Tensor) -> Tensor:
    u = (words.double() + 0.5) / 2**32
    radius = torch.sqrt(-2 * torch.log(u[:, 0]))
    angle = 2 * math.pi * u[:, 1]
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


@pytest.fixture
def kernel_device(monkeypatch: pytest.MonkeyPatch) -> str:
    if torch.cuda.is_available():
        return "cuda"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return "cpu"


@pytest.mark.parametrize("row", KNOWN_ANSWERS, ids=lambda row: "-".join(row.split()[:2]))
def test_known_answers(row: str) -> None:
    rounds, counter, key, expected = known_answer(row)
    assert philox4x32(torch.tensor(counter), torch.tensor(key), rounds).tolist() == expected


@settings(deadline=None, max_examples=200, derandomize=True)
@given(counter=st.lists(WORD, min_size=4, max_size=4), key=st.lists(WORD, min_size=2, max_size=2))
def test_integers_against_python(counter: list[int], key: list[int]) -> None:
    assert philox4x32(torch.tensor(counter), torch.tensor(key)).tolist() == philox_by_hand(counter, key, 10)


def test_leading_dimensions_broadcast() -> None:
    counter = torch.arange(24).reshape(1, 6, 4)
    key = torch.tensor([[7, 8], [9, 10]]).reshape(2, 1, 2)
    words = philox4x32(counter, key)
    assert words.shape == (2, 6, 4)
    for i in range(2):
        for j in range(6):
            assert words[i, j].tolist() == philox_by_hand(counter[0, j].tolist(), key[i, 0].tolist(), 10)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize(
    ("shape", "step", "stream"),
    [((4, 8, 8), 0, 0), ((3, 5, 7), 49, 1), ((1, 1, 1), 2**32 - 1, 2**32 - 1)],
    ids=["4x8x8", "3x5x7", "1x1x1"],
)
def test_normals_against_python(seed: int, shape: tuple[int, int, int], step: int, stream: int) -> None:
    noise = philox_normal(torch.tensor([seed], dtype=torch.uint64), step, shape, stream)
    assert noise.shape == (1, *shape)
    assert noise.dtype == torch.float32
    want = torch.tensor(normals_by_hand(seed, step, stream, math.prod(shape)), dtype=torch.float64)
    torch.testing.assert_close(noise.flatten().double(), want, rtol=2.0**-23, atol=1e-9)


def test_signed_and_unsigned_seeds_are_one_pattern() -> None:
    signed = torch.tensor([-1, -(2**63), 5])
    assert torch.equal(
        philox_normal(signed, 3, (4, 8, 8)), philox_normal(signed.view(torch.uint64), 3, (4, 8, 8))
    )


def test_step_may_be_a_tensor() -> None:
    seeds = torch.arange(3)
    for dtype in (torch.int32, torch.int64):
        by_tensor = philox_normal(seeds, torch.tensor([17], dtype=dtype), (4, 8, 8))
        assert torch.equal(by_tensor, philox_normal(seeds, 17, (4, 8, 8)))


def test_image_does_not_depend_on_its_batch() -> None:
    seeds = torch.tensor([11, 2**40, -3, 8, 0, 99, 1234567])
    batch = philox_normal(seeds, 5, (3, 5, 7))
    order = torch.tensor([6, 2, 0, 5, 1, 4, 3])
    assert torch.equal(philox_normal(seeds[order], 5, (3, 5, 7)), batch[order])
    for i, seed in enumerate(seeds):
        assert torch.equal(philox_normal(seed[None], 5, (3, 5, 7))[0], batch[i])
    # A smaller image is the beginning of a larger one.
    assert torch.equal(philox_normal(seeds, 5, (4, 8, 8)).flatten(1)[:, :105], batch.flatten(1))
    assert philox_normal(seeds[:0], 5, (3, 5, 7)).shape == (0, 3, 5, 7)


def test_moments_and_distribution() -> None:
    z = philox_normal(torch.arange(64), step=7, shape=(4, 32, 32)).double().flatten()
    n = z.numel()
    # Standard errors of the first four moments of n normals; 4 of them leave a chance of 2.5e-4 altogether.
    for power, want, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean().item() - want) < 4 * math.sqrt(variance / n), f"moment {power}"
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3
    assert 4.4 < z.abs().max() < 6.8


@pytest.mark.parametrize("vary", ["seed", "seed high word", "step", "stream", "lane"])
def test_neighbouring_counters_are_uncorrelated(vary: str) -> None:
    shape = (4, 128, 128)
    base, other = torch.tensor([3]), torch.tensor([4 if vary == "seed" else 3])
    if vary == "seed high word":
        other = other + 2**32
    a = philox_normal(base, 9, shape).double().flatten()
    b = philox_normal(other, 10 if vary == "step" else 9, shape, int(vary == "stream")).double().flatten()
    if vary == "lane":
        a, b = a[0::2], a[1::2]
    n = len(a)
    for name, left, right in (("value", a, b), ("square", a**2, b**2)):
        correlation = torch.corrcoef(torch.stack([left, right]))[0, 1].item()
        assert abs(correlation) < 4 / math.sqrt(n), f"{name}: {correlation}"


@pytest.mark.parametrize(
    ("counter", "key", "rounds", "message"),
    [
        (torch.zeros(3).long(), torch.zeros(2).long(), 10, r"counter must be int64 \[..., 4\], got .* \[3\]"),
        (torch.zeros(4), torch.zeros(2).long(), 10, "counter must be int64 .*, got torch.float32"),
        (torch.zeros(4).long(), torch.zeros(4).long(), 10, r"key must be int64 \[..., 2\], got"),
        (torch.zeros(4).long(), torch.zeros(2).long(), 0, "rounds must be at least 1, got 0"),
    ],
    ids=["counter-size", "counter-dtype", "key-size", "rounds"],
)
def test_wrong_words(counter: Tensor, key: Tensor, rounds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        philox4x32(counter, key, rounds)


@pytest.mark.parametrize(
    ("seeds", "step", "stream", "message"),
    [
        (torch.zeros(2), 0, 0, "seeds must be int64 or uint64"),
        (torch.tensor(1), 0, 0, "seeds must be int64 or uint64"),
        (torch.tensor([1]), -1, 0, r"step must be from 0 to 2\*\*32-1, got -1"),
        (torch.tensor([1]), 0, 2**32, r"stream must be from 0 to 2\*\*32-1, got 4294967296"),
    ],
    ids=["seeds-dtype", "seeds-shape", "step", "stream"],
)
def test_wrong_noise_arguments(seeds: Tensor, step: int, stream: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        philox_normal(seeds, step, (1, 1, 1), stream)


def test_kernel_draws_the_same_integers(kernel_device: str) -> None:
    from mgd3_kernels.triton_philox import philox4x32_on_device

    generator = torch.Generator().manual_seed(0)
    counter = torch.randint(0, 2**32, (1000, 4), generator=generator)
    key = torch.randint(0, 2**32, (1000, 2), generator=generator)
    published = [known_answer(row) for row in KNOWN_ANSWERS[3:]]  # the kernels do ten rounds only
    for i, (_, known_counter, known_key, _) in enumerate(published):
        counter[i], key[i] = torch.tensor(known_counter), torch.tensor(known_key)
    words = philox4x32_on_device(counter.to(kernel_device), key.to(kernel_device)).cpu()
    assert torch.equal(words, philox4x32(counter, key))
    assert words[: len(published)].tolist() == [expected for *_, expected in published]


def test_kernel_transform_near_float64(kernel_device: str) -> None:
    from mgd3_kernels.triton_philox import box_muller_on_device

    # Both ends of the radius, where float32 loses 1 - u, both sides of its branch at 1/2, and all octants.
    eighths = [i * 2**29 + d for i in range(9) for d in (-1, 0, 1) if 0 <= i * 2**29 + d < 2**32]
    near_half = [2**31 + d for d in (-(2**8), 2**8, 2**24)]
    ends = [0, 1, 2, 2**8, 2**24, 2**32 - 1, 2**32 - 2, 2**32 - 2**8, 2**32 - 2**24]
    special = torch.tensor(sorted({*eighths, *near_half, *ends}))
    words = torch.randint(0, 2**32, (200_000, 2), generator=torch.Generator().manual_seed(1))
    words = torch.cat([torch.cartesian_prod(special, special), words])
    got = box_muller_on_device(words.to(kernel_device)).cpu().double()
    want = box_muller_float64(words)
    error = (got - want).abs()
    radius = want.norm(dim=1).float()
    last_place = (torch.nextafter(radius, torch.full_like(radius, torch.inf)) - radius).double()[:, None]
    assert error.max() < BOX_MULLER_ABS
    assert (error / last_place).max() < BOX_MULLER_ULP
