"""Group normalisation with SiLU, reference and kernels, against the formula in float64.

The kernels run on the GPU where there is one and in Triton's interpreter otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mgd3_kernels import group_norm_silu, group_norm_silu_reference

EPS = 1e-6
# (images, channels, height, width, groups): the demo, KL-f8, and what fills no tile
SHAPES = {
    "demo": (2, 16, 8, 8, 8),
    "KL-f8": (1, 128, 9, 8, 32),
    "KL-f8 middle": (1, 512, 3, 5, 32),
    "two numbers": (1, 2, 1, 1, 1),
    "one pixel": (3, 64, 1, 1, 8),
    "odd": (2, 37, 5, 7, 37),
    "odd groups": (2, 36, 7, 5, 3),
    "groups of 5": (2, 35, 3, 3, 7),
    "several tiles a part": (1, 2048, 6, 11, 32),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# max |error| / max |expected|. Measured: reference 4.8e-7, 5.6e-3, 6.6e-4; interpreter 1.9e-7, 6.0e-3,
# 3.8e-4. Rounding once is 2^-9 or 2^-12 at most, cutting off, as the interpreter does, 2^-8.
BOUND = {
    "reference": {"fp32": 1e-6, "bf16": 8e-3, "fp16": 1e-3},
    "interpreter": {"fp32": 1e-6, "bf16": 8e-3, "fp16": 5e-4},
    "gpu": {"fp32": 1e-6, "bf16": 4e-3, "fp16": 5e-4},
}


@dataclass(frozen=True)
class Provider:
    name: str
    run: Callable[..., Tensor]
    device: str


@pytest.fixture(params=["reference", "kernel"])
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Provider:
    if request.param == "reference":
        return Provider("reference", group_norm_silu_reference, "cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    name, device = ("gpu", "cuda") if torch.cuda.is_available() else ("interpreter", "cpu")
    for made in ("empty", "empty_like"):  # a number that no kernel writes must not look like one that it does
        original = getattr(torch, made)
        monkeypatch.setattr(
            torch, made, lambda *a, original=original, **k: original(*a, **k).fill_(torch.nan)
        )
    return Provider(name, group_norm_silu, device)


def problem(shape: tuple[int, ...], dtype: str, device: str = "cpu", mean: float = 3.0) -> dict[str, Any]:
    B, C, H, W, groups = shape
    generator = torch.Generator().manual_seed(0)

    def made(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    image = {"x": mean + 2 * made(B, C, H, W), "residual": made(B, C, H, W)}
    of_channel = {"weight": 1 + 0.2 * made(C), "bias": made(C), "shift": made(C)}
    laid_out = {
        name: tensor.to(DTYPES[dtype]).contiguous(memory_format=torch.channels_last)
        for name, tensor in image.items()
    }
    return {**laid_out, **{k: v.to(DTYPES[dtype]) for k, v in of_channel.items()}, "groups": groups}


def expected(arguments: dict[str, Any], silu: bool) -> Tensor:
    """The formula in float64; of the sum as it was stored where there is a residual."""
    x, weight, bias = (arguments[name].cpu().double() for name in ("x", "weight", "bias"))
    if arguments.get("shift") is not None:
        x = x + arguments["shift"].cpu().double()[:, None, None]
    grouped = x.reshape(x.shape[0], arguments["groups"], -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    normed = (centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()).view(x.shape)
    normed = normed * weight[:, None, None] + bias[:, None, None]
    return normed * normed.sigmoid() if silu else normed


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got.cpu().double() - want).abs().max() / want.abs().max().clamp(min=0.1))


def without(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in names}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_against_float64(shape: tuple[int, ...], dtype: str, provider: Provider) -> None:
    arguments = without(problem(shape, dtype, provider.device), "residual", "shift")
    before = arguments["x"].clone()
    got = provider.run(**arguments)
    assert got.dtype == DTYPES[dtype]
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(got, expected(arguments, silu=True)) < BOUND[provider.name][dtype]
    assert torch.equal(arguments["x"], before)


@pytest.mark.parametrize("silu", [True, False], ids=["silu", "plain"])
@pytest.mark.parametrize("shift", [True, False], ids=["shift", "no shift"])
@pytest.mark.parametrize("shape", [SHAPES["demo"], SHAPES["odd groups"]], ids=str)
def test_a_residual_is_added_and_kept(
    shape: tuple[int, ...], shift: bool, silu: bool, provider: Provider
) -> None:
    arguments = problem(shape, "fp32", provider.device)
    arguments = arguments if shift else without(arguments, "shift")
    want = arguments["x"] + arguments["residual"]
    want = want + arguments["shift"][:, None, None] if shift else want
    got = provider.run(**arguments, silu=silu)
    assert torch.allclose(arguments["x"], want, rtol=1e-6, atol=1e-6)
    stored = without(arguments, "shift", "residual")
    assert relative_error(got, expected(stored, silu)) < BOUND[provider.name]["fp32"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_shift_alone_leaves_x(dtype: str, provider: Provider) -> None:
    arguments = without(problem(SHAPES["demo"], dtype, provider.device), "residual")
    before = arguments["x"].clone()
    got = provider.run(**arguments)
    assert torch.equal(arguments["x"], before)
    assert relative_error(got, expected(arguments, silu=True)) < 2 * BOUND[provider.name][dtype]


def test_a_mean_far_from_zero(provider: Provider) -> None:
    """The variance is of differences: E[x^2] - E[x]^2 of these would have no digit left."""
    arguments = without(problem((1, 8, 17, 13, 4), "fp32", provider.device, mean=1e4), "residual", "shift")
    arguments["x"][:, :, :1] -= 9e3  # and differ from pixel to pixel, and the first tile most
    assert relative_error(provider.run(**arguments), expected(arguments, silu=True)) < 1e-4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_image_and_group(value: float, provider: Provider) -> None:
    arguments = without(problem(SHAPES["demo"], "fp32", provider.device), "residual", "shift")
    clean = provider.run(**arguments)
    arguments["x"][1, 5, 2, 3] = value
    got = provider.run(**arguments)
    assert got[1, 4:6].isnan().all()
    got[1, 4:6] = clean[1, 4:6]
    assert torch.equal(got, clean)


def test_an_image_does_not_depend_on_the_others(provider: Provider) -> None:
    arguments = problem((5, 48, 7, 5, 12), "fp32", provider.device)
    one = {**arguments, **{name: arguments[name][3:4].clone() for name in ("x", "residual")}}
    together = provider.run(**arguments)
    assert torch.equal(provider.run(**one)[0], together[3])
    assert torch.equal(one["x"][0], arguments["x"][3])


@pytest.mark.parametrize("shape", [(0, 8, 2, 2, 4), (2, 8, 0, 3, 4)], ids=["no image", "no pixel"])
def test_empty(shape: tuple[int, ...], provider: Provider) -> None:
    arguments = problem(shape, "fp32", provider.device)
    assert provider.run(**arguments).shape == shape[:4]


WRONG: dict[str, tuple[str, Any, str]] = {
    "rank": ("x", torch.zeros(2, 8, 3), r"x must be \[B, C, H, W\], got \[2, 8, 3\]"),
    "dtype": ("x", torch.zeros(2, 8, 3, 3).double(), "x must be .*, got torch.float64"),
    "width": ("x", torch.zeros(1).expand(1, 8193, 1, 1), "x must have from 1 to 8192 channels, got 8193"),
    "groups": ("groups", 3, "groups must be a divisor of 8 channels, got 3"),
    "weight": ("weight", torch.zeros(4), r"weight must be torch.float32 \[8\] on cpu, got"),
    "bias": ("bias", torch.zeros(8).half(), r"bias must be torch.float32 \[8\] on cpu, got torch.float16"),
    "shift": ("shift", torch.zeros(16)[::2], "shift must be contiguous, got strides"),
    "residual": ("residual", torch.zeros(2, 8, 3, 4), r"residual must be torch.float32 \[2, 8, 3, 3\]"),
}


@pytest.mark.parametrize("run", [group_norm_silu, group_norm_silu_reference], ids=["kernel", "reference"])
@pytest.mark.parametrize(("name", "value", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(run: Callable[..., Tensor], name: str, value: Any, message: str) -> None:
    arguments = problem((2, 8, 3, 3, 4), "fp32") | {name: value}
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        run(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x", "residual"])
def test_the_kernel_wants_channels_last(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    arguments = problem((2, 8, 3, 3, 4), "fp32")
    arguments[name] = arguments[name].contiguous()
    with pytest.raises(ValueError, match=f"^{name} must be channels-last, got strides"):
        group_norm_silu(**arguments)


@pytest.mark.usefixtures("without_triton")
def test_missing_triton_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"pip install 'triton>=3\.2'"):
        group_norm_silu(**problem((1, 8, 2, 2, 4), "fp32"))
