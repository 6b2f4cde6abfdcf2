"""adaLN, reference and kernel, against its formula in float64.

The kernel runs on the GPU where there is one and in Triton's interpreter otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mgd3_kernels import (
    gated_residual_norm,
    gated_residual_norm_reference,
    modulated_norm,
    modulated_norm_reference,
)
from tests.fakes.fresh_python import run_without_triton

EPS = 1e-6
# (rows, tokens, hidden size): demo model, S/2, XL/2, and what fills no tile
SHAPES = {
    "demo": (2, 3, 160),
    "S2": (1, 2, 384),
    "XL2": (1, 2, 1152),
    "one": (1, 1, 1),
    "odd": (2, 5, 37),
    "widest": (1, 1, 8192),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# max |error| / max |expected|. Measured: reference 2.0e-7, 6.9e-3, 8.1e-4; interpreter, which adds up a token
# one number after the other and cuts bfloat16 off where GPUs round, 2.0e-6, 6.1e-3, 3.9e-4. Rounding once is
# 2^-9 or 2^-12 at most, cutting off 2^-8.
BOUND = {
    "reference": {"fp32": 4e-7, "bf16": 1e-2, "fp16": 1.2e-3},
    "interpreter": {"fp32": 4e-6, "bf16": 8e-3, "fp16": 5e-4},
    "gpu": {"fp32": 1e-6, "bf16": 4e-3, "fp16": 5e-4},
}


@dataclass
class Problem:
    """Arguments of both operations, the modulation being columns of a wider table as the DiT's is."""

    tokens: Tensor
    branch: Tensor
    gate: Tensor
    shift: Tensor
    scale: Tensor

    def norm(self, run: Callable[..., Tensor], **changes: Any) -> Tensor:
        arguments = {name: getattr(self, name) for name in ("tokens", "shift", "scale")} | changes
        return run(**arguments, eps=EPS)

    def residual(self, run: Callable[..., Tensor], **changes: Any) -> tuple[Tensor, Tensor]:
        """Run on a copy of tokens; returns the new tokens and their norm."""
        names = ("gate", "branch", "shift", "scale")
        arguments = {name: getattr(self, name) for name in names} | {"tokens": self.tokens.clone()} | changes
        normed = run(**arguments, eps=EPS)
        return arguments["tokens"], normed


@dataclass(frozen=True)
class Provider:
    name: str
    norm: Callable[..., Tensor]
    residual: Callable[..., Tensor]
    device: str


@pytest.fixture(params=["reference", "kernel"])
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Provider:
    if request.param == "reference":
        return Provider("reference", modulated_norm_reference, gated_residual_norm_reference, "cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    name, device = ("gpu", "cuda") if torch.cuda.is_available() else ("interpreter", "cpu")
    empty_like = torch.empty_like
    # An output that the kernel does not write must not look like one that it does.
    monkeypatch.setattr(torch, "empty_like", lambda tensor: empty_like(tensor).fill_(torch.nan))
    return Provider(name, modulated_norm, gated_residual_norm, device)


def make_problem(shape: tuple[int, int, int], dtype: str, device: str = "cpu") -> Problem:
    N, _, d = shape
    generator = torch.Generator().manual_seed(0)
    tokens = 3 + 2 * torch.randn(shape, generator=generator)  # a mean that must be taken off
    branch = torch.randn(shape, generator=generator)
    table = torch.randn((N, 5 * d), generator=generator).to(DTYPES[dtype]).to(device)
    on_device = (tensor.to(DTYPES[dtype]).to(device) for tensor in (tokens, branch))
    return Problem(*on_device, table[:, d : 2 * d], table[:, 2 * d : 3 * d], table[:, 3 * d : 4 * d])


def expected_norm(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    tokens, shift, scale = (tensor.cpu().double() for tensor in (tokens, shift, scale))
    centred = tokens - tokens.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + EPS).sqrt()
    return centred / deviation * (1 + scale[:, None]) + shift[:, None]


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got.cpu().double() - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_modulated_norm_against_float64(shape: tuple[int, int, int], dtype: str, provider: Provider) -> None:
    problem = make_problem(shape, dtype, provider.device)
    normed = problem.norm(provider.norm)
    assert normed.dtype == DTYPES[dtype]
    want = expected_norm(problem.tokens, problem.shift, problem.scale)
    assert relative_error(normed, want) < BOUND[provider.name][dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gated_residual_norm_against_float64(
    shape: tuple[int, int, int], dtype: str, provider: Provider
) -> None:
    problem = make_problem(shape, dtype, provider.device)
    tokens, normed = problem.residual(provider.residual)
    exact = (tensor.cpu().double() for tensor in (problem.tokens, problem.gate, problem.branch))
    before, gate, branch = exact
    want = before + gate[:, None] * branch
    bound = BOUND[provider.name][dtype]
    assert relative_error(tokens, want) < bound
    # of the sum as it was stored, so that both operations agree on what a norm is
    assert relative_error(normed, expected_norm(tokens, problem.shift, problem.scale)) < bound
    if provider.name != "reference":
        assert torch.equal(normed, problem.norm(provider.norm, tokens=tokens))


def test_a_row_does_not_depend_on_the_others(provider: Provider) -> None:
    problem = make_problem((5, 3, 48), "fp32", provider.device)
    together = problem.residual(provider.residual)
    one = {name: getattr(problem, name)[3:4] for name in ("gate", "branch", "shift", "scale")}
    alone = problem.residual(provider.residual, tokens=problem.tokens[3:4].clone(), **one)
    assert torch.equal(alone[0][0], together[0][3])
    assert torch.equal(alone[1][0], together[1][3])


def test_modulation_of_one_table_for_all_rows(provider: Provider) -> None:
    """Row stride 0: a whole batch under the same modulation."""
    problem = make_problem((3, 4, 48), "fp32", provider.device)
    same = {name: getattr(problem, name)[:1].expand(3, -1) for name in ("shift", "scale")}
    copied = {name: tensor.contiguous() for name, tensor in same.items()}
    assert torch.equal(problem.norm(provider.norm, **same), problem.norm(provider.norm, **copied))


@pytest.mark.parametrize("shape", [(0, 4, 8), (2, 0, 8)], ids=["no-row", "no-token"])
def test_empty(shape: tuple[int, int, int], provider: Provider) -> None:
    problem = make_problem(shape, "fp32", provider.device)
    assert problem.norm(provider.norm).shape == shape
    assert problem.residual(provider.residual)[1].shape == shape


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


WRONG: dict[str, tuple[str, Any, str]] = {
    "tokens-rank": ("tokens", zeros(3, 8), r"must be \[N, T, d\], got \[3, 8\]"),
    "tokens-dtype": ("tokens", zeros(2, 3, 8).double(), "must be .* got torch.float64"),
    "tokens-layout": ("tokens", zeros(2, 8, 3).mT, "must be contiguous, got strides"),
    "tokens-width": ("tokens", zeros(1).expand(2, 3, 8193), "must have a hidden size from 1 to 8192, got"),
    "branch-shape": ("branch", zeros(2, 4, 8), r"must be torch.float32 \[2, 3, 8\] on cpu, got"),
    "branch-layout": ("branch", zeros(2, 8, 3).mT, "must be contiguous, got strides"),
    "gate-dtype": ("gate", zeros(2, 8).half(), r"must be torch.float32 \[2, 8\] on cpu, got torch.float16"),
    "shift-rank": ("shift", zeros(2, 1, 8), r"must be torch.float32 \[2, 8\] on cpu, got"),
    "scale-device": ("scale", zeros(2, 8).to("meta"), "must be .* on cpu, got .* on meta"),
    "scale-layout": ("scale", zeros(8, 2).mT, "must have contiguous rows, got strides"),
}


@pytest.mark.parametrize(
    "run", [gated_residual_norm, gated_residual_norm_reference], ids=["gated_residual_norm", "reference"]
)
@pytest.mark.parametrize(("name", "value", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(run: Callable[..., Tensor], name: str, value: Any, message: str) -> None:
    problem = make_problem((2, 3, 8), "fp32")
    with pytest.raises(ValueError, match=f"^{name} {message}") as caught:
        problem.residual(run, **{name: value})
    assert "\n" not in str(caught.value)


def test_cpu_runs_the_reference_and_needs_no_triton() -> None:
    code = """
import torch
from mgd3_kernels import modulated_norm, modulated_norm_reference
arguments = torch.randn(2, 3, 8), torch.randn(2, 8), torch.randn(2, 8)
assert torch.equal(modulated_norm(*arguments), modulated_norm_reference(*arguments))
"""
    run_without_triton(code)


@pytest.mark.usefixtures("without_triton")
def test_missing_triton_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"pip install 'triton>=3\.2'"):
        make_problem((1, 2, 8), "fp32").norm(modulated_norm)
