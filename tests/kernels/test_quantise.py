"""8-bit rows: the kernels give the bits of `quantise_rows`, and what no number is stays none.

The kernels run on the GPU where there is one and in Triton's interpreter otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.gpu.interpreter_casts import rounding_as_a_gpu
from mgd3_kernels import (
    FLOAT8_CAPABILITY,
    QuantisedRows,
    gated_residual_norm,
    gated_residual_norm_float8,
    gelu_quantise,
    gelu_quantise_reference,
    modulated_norm,
    modulated_norm_float8,
    quantise_heads,
    quantise_heads_reference,
    quantise_rows,
)
from mgd3_kernels.quantise import FLOAT8, LARGEST, SMALLEST_SCALE, empty_rows

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# (rows, tokens, numbers): more tokens than a tile, S/2, XL/2 and its MLP, and what fills no tile; the
# interpreter takes 0.1 ms a lane
SHAPES = {
    "many-tokens": (2, 18, 16),
    "S2": (1, 2, 384),
    "XL2": (1, 1, 1152),
    "XL2-mlp": (1, 1, 4608),
    "one": (1, 1, 1),
    "odd": (3, 5, 37),
    "widest": (1, 1, 8192),
}
CASES = [
    pytest.param(shape, dtype, id=f"{name}-{dtype}")
    for name, shape in SHAPES.items()
    for dtype in (DTYPES if name in ("many-tokens", "odd", "one") else ["bf16"])
]
# Of GELU: numbers that another last place of the sigmoid rounds otherwise, measured 1.5e-5 at most; they and
# scales differ by one place. On a GPU root and power are approximate.
GELU_FLIPS, GELU_SCALE = 2e-4, 1e-6 if torch.cuda.is_available() else 2.5e-7


@dataclass(frozen=True)
class Provider:
    heads: Callable[[Tensor], QuantisedRows]
    gelu: Callable[[Tensor], QuantisedRows]
    device: str


@pytest.fixture(params=["reference", "kernel"])
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    if request.param == "reference":
        yield Provider(quantise_heads_reference, gelu_quantise_reference, "cpu")
        return
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    on_gpu = torch.cuda.is_available()
    empty = torch.empty
    # What a kernel does not write must not look like what it does.
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(torch.nan))
    with nullcontext() if on_gpu else rounding_as_a_gpu():
        yield Provider(quantise_heads, gelu_quantise, "cuda" if on_gpu else "cpu")


def normal(*shape: int, dtype: str = "fp32", device: str = "cpu", seed: int = 0) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (3 * numbers).to(DTYPES[dtype]).to(device)


def same_bits(got: QuantisedRows, want: QuantisedRows) -> bool:
    """Every byte and scale; a NaN equals a NaN of either sign."""
    if (got.rows.dtype, got.scale.dtype, got.rows.shape) != (FLOAT8, torch.float32, want.rows.shape):
        return False
    bytes_of = [each.rows.view(torch.uint8).cpu() for each in (got, want)]
    none = [each.rows.float().isnan().cpu() for each in (got, want)]
    equal = (bytes_of[0] == bytes_of[1]) | (none[0] & none[1])
    return bool(equal.all()) and torch.allclose(got.scale, want.scale, rtol=0, atol=0, equal_nan=True)


def exact_gelu(values: Tensor) -> Tensor:
    wide = values.cpu().double()
    return 0.5 * wide * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (wide + 0.044715 * wide**3)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [1, 3], ids=["one-head", "three-heads"])
@pytest.mark.parametrize("layout", ["heads-apart", "heads-side-by-side", "padded-tokens"])
def test_heads(layout: str, heads: int, dtype: str, provider: Provider) -> None:
    """Whatever layout an attention leaves, the tokens are those of a copy."""
    if layout == "heads-apart":
        mixed = normal(2, heads, 5, 24, dtype=dtype, device=provider.device)
    elif layout == "heads-side-by-side":
        mixed = normal(2, 5, heads, 24, dtype=dtype, device=provider.device).transpose(1, 2)
    else:
        mixed = normal(2, 5, heads, 32, dtype=dtype, device=provider.device)[..., :24].transpose(1, 2)
    assert same_bits(provider.heads(mixed), quantise_rows(mixed.transpose(1, 2).reshape(2, 5, -1)))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_tokens_of_every_size(shape: tuple[int, int, int], provider: Provider) -> None:
    tokens = normal(*shape, dtype="bf16", device=provider.device)
    assert same_bits(provider.heads(tokens[:, None]), quantise_rows(tokens))


@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_gelu(shape: tuple[int, int, int], dtype: str, provider: Provider) -> None:
    values = normal(*shape, dtype=dtype, device=provider.device)
    rows, scale = provider.gelu(values)
    want = quantise_rows(exact_gelu(values).float())
    assert ((scale.cpu() / want.scale - 1).abs() <= GELU_SCALE).all()
    codes = [each.view(torch.uint8).cpu().to(torch.int16) for each in (rows, want.rows)]
    steps = (codes[0] - codes[1]).abs()
    assert int(steps.max()) <= 1
    assert float(steps.float().mean()) <= GELU_FLIPS


@pytest.mark.parametrize("worst", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_what_is_no_number_makes_its_token_none(worst: float, provider: Provider) -> None:
    """A product of the token is NaN, whatever the weights, so that the sampler's check finds it."""
    tokens = normal(1, 4, 48, dtype="bf16", device=provider.device)
    clean = provider.heads(tokens[:, None])
    tokens[0, 2, 7] = worst
    rows, scale = spoilt = provider.heads(tokens[:, None])
    assert same_bits(spoilt, quantise_rows(tokens))
    assert (rows.double() * scale.double())[0, 2].isnan().all()
    others = torch.tensor([0, 1, 3], device=tokens.device)
    assert same_bits(*(QuantisedRows(r[:, others], s[:, others]) for r, s in (spoilt, clean)))
    rows, scale = provider.gelu(tokens)
    product = (rows.double() * scale.double()).sum(-1)[0]
    assert product.isnan().tolist() == [False, False, True, False]


def test_zeros_and_the_largest_numbers(provider: Provider) -> None:
    tokens = normal(1, 3, 40, device=provider.device)
    tokens[0, 0] = 0
    tokens[0, 1] *= 1e37
    tokens[0, 2] *= 1e-40  # below the smallest scale: zeros, not infinities
    rows, scale = provider.heads(tokens[:, None])
    assert not rows.float()[0, 0].any()
    assert scale[0, 0] == scale[0, 2] == torch.tensor(SMALLEST_SCALE)
    assert not rows.float()[0, 2].any()
    assert rows.float()[0, 1].abs().max() == LARGEST
    assert not provider.gelu(tokens).rows.float()[0, 0].any()


def test_the_largest_of_a_row_is_the_largest_there_is() -> None:
    """No clamp is needed: over many magnitudes, three roundings never carry a quotient into NaN."""
    rows = 1 + torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
    rows *= torch.logspace(-9, 38, 20_000)[:, None]
    assert (quantise_rows(rows).rows.float() == LARGEST).all()


@pytest.mark.parametrize("shape", [(0, 4, 8), (2, 0, 8)], ids=["no-row", "no-token"])
def test_empty(shape: tuple[int, int, int], provider: Provider) -> None:
    tokens = torch.zeros(shape, device=provider.device)
    for rows, scale in (provider.gelu(tokens), provider.heads(tokens[:, None])):
        assert rows.shape == shape
        assert scale.shape == (*shape[:2], 1)


@pytest.mark.parametrize(("shape", "dtype"), [case for case in CASES if case.values[0][2] <= 1152])
def test_adaln_writes_the_bits_of_its_norm(
    shape: tuple[int, int, int], dtype: str, provider: Provider
) -> None:
    """The kernels, and on a CPU without them the same functions, against the norm that is stored."""
    N, _, d = shape
    tokens, branch = (normal(*shape, dtype=dtype, device=provider.device, seed=s) for s in (1, 2))
    gate, shift, scale = normal(N, 3 * d, dtype=dtype, device=provider.device, seed=3).chunk(3, dim=1)
    if shape == SHAPES["odd"]:
        tokens[1, 2, 5], tokens[2, 0, 0] = torch.nan, torch.inf
    want = quantise_rows(modulated_norm(tokens, shift, scale))
    assert same_bits(modulated_norm_float8(tokens, shift, scale), want)
    if shape == SHAPES["odd"]:
        assert want.scale.isnan().flatten().nonzero().flatten().tolist() == [7, 10]
    stored = tokens.clone()
    want = quantise_rows(gated_residual_norm(stored, gate, branch, shift, scale))
    got = gated_residual_norm_float8(tokens, gate, branch, shift, scale)
    assert same_bits(got, want)
    assert torch.equal(tokens.nan_to_num(), stored.nan_to_num())


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


WRONG: dict[str, tuple[Callable[[Tensor], QuantisedRows], Any, str]] = {
    "rank": (quantise_heads, zeros(2, 3, 8), r"mixed must be \[N, h, T, e\], got \[2, 3, 8\]"),
    "gelu-rank": (gelu_quantise, zeros(3, 8), r"values must be \[N, T, d\], got \[3, 8\]"),
    "dtype": (gelu_quantise, zeros(2, 3, 8).double(), "values must be .* got torch.float64"),
    "layout": (gelu_quantise, zeros(2, 8, 3).mT, "values must have stride 1 along its last axis, got"),
    "width": (
        quantise_heads,
        zeros(1, 9, 2, 1024),
        "mixed must have from 1 to 8192 numbers a token, got 9216",
    ),
}


@pytest.mark.parametrize(("run", "value", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(run: Callable[[Tensor], QuantisedRows], value: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        run(value)
    assert "\n" not in str(caught.value)


def test_a_gpu_without_8_bit_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    least = ".".join(str(number) for number in FLOAT8_CAPABILITY)
    with pytest.raises(ValueError, match=rf"^device must have capability {least} or later .* got 8\.6"):
        empty_rows((1, 1, 16), torch.device("cuda:0"))
