"""The fused step, reference and kernel, against the papers' formulas in float64.

The kernel runs on the GPU where there is one and in Triton's interpreter otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mgd3_kernels import Coefficient, guided_step, guided_step_reference, philox_normal
from tests.fakes.fresh_python import run_without_triton
from tests.fakes.step_cases import (
    CASES,
    STEPS,
    Case,
    Problem,
    lay_out,
    make_problem,
    schedule,
    table_row,
    textbook_step,
)

# Bounds on max |error| / max |expected|; measured over all cases: reference 1.9e-7, interpreter 2.3e-7. On a
# GPU exp and sqrt are approximations of about 2 ulp.
BOUND = {"reference": 3e-7, "interpreter": 4e-7, "gpu": 1e-6}


def relative_error(got: Tensor, want: Tensor) -> float:
    return ((got.cpu().double() - want).abs().max() / want.abs().max()).item()


@dataclass(frozen=True)
class Provider:
    name: str
    run: Callable[..., Tensor]
    device: str

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """What storing x as `dtype` gives: Triton's interpreter cuts bfloat16 off where GPUs round."""
        if self.name == "interpreter" and dtype == torch.bfloat16:
            x = (x.contiguous().view(torch.int32) & ~0xFFFF).view(torch.float32)
        return x.to(dtype)

    def __call__(self, problem: Problem, **changes: Any) -> Tensor:
        """Run on a copy of x that lies, unaligned, between guard elements."""
        n = problem.x.numel()
        buffer = torch.full((n + 6,), torch.nan, device=self.device)
        x = buffer[3 : 3 + n].view_as(problem.x)
        x.copy_(problem.x)
        options = problem.options | changes
        result = self.run(x, problem.out, problem.table, problem.step, **options)
        assert result is x
        assert buffer[:3].isnan().all(), "wrote before x"
        assert buffer[3 + n :].isnan().all(), "wrote behind x"
        return x


@pytest.fixture(params=["reference", "kernel"])
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Provider:
    if request.param == "reference":
        return Provider("reference", guided_step_reference, "cpu")
    if torch.cuda.is_available():
        return Provider("gpu", guided_step, "cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return Provider("interpreter", guided_step, "cpu")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_step_against_float64(case: Case, provider: Provider) -> None:
    problem = make_problem(case, provider.device)
    x = provider(problem)
    assert relative_error(x, problem.want) < BOUND[provider.name]
    if "history" in problem.options:
        assert relative_error(problem.options["history"], problem.want_x0) < BOUND[provider.name]
    if case.input_halves:
        stored = provider.cast(x, case.dtype)
        assert torch.equal(problem.options["net_input"], torch.cat([stored] * case.input_halves))


def test_every_column_of_the_table(provider: Provider) -> None:
    """`Coefficient`'s formula with all eleven columns at once, which no published rule uses together."""
    problem = make_problem(Case(input_halves=0), provider.device)
    history = torch.randn(problem.x.shape, generator=torch.Generator().manual_seed(7)).to(provider.device)
    h = history.cpu().double()
    problem.table[30] = torch.linspace(-0.9, 0.8, len(Coefficient))
    k = {column: problem.table[30, column].item() for column in Coefficient}
    x, out, m = (t.cpu().double() for t in (problem.x, problem.out, problem.options["modes"]))
    z = philox_normal(problem.options["seeds"].cpu(), 30, x.shape[1:]).double()
    pred, f = out[:2, :4].clone(), (out[:2, 4:] + 1) / 2
    pred[:, :3] = out[2:, :3] + 4 * (pred[:, :3] - out[2:, :3])
    sigma = torch.exp((f * k[Coefficient.LOG_VAR_MAX] + (1 - f) * k[Coefficient.LOG_VAR_MIN]) / 2)
    x0 = k[Coefficient.X0_FROM_X] * x + k[Coefficient.X0_FROM_OUT] * pred
    shifted = x0 + k[Coefficient.X0_SHIFT] * (m - x0)
    want = k[Coefficient.NEXT_FROM_X] * x + k[Coefficient.NEXT_FROM_X0] * shifted
    want += k[Coefficient.NEXT_FROM_PREVIOUS] * h
    want += k[Coefficient.PUSH] * sigma * (m - x0)
    want += (k[Coefficient.NOISE_SIGMA] * sigma + k[Coefficient.NOISE_STD]) * z
    assert relative_error(provider(problem, history=history), want) < BOUND[provider.name]
    assert relative_error(history, shifted) < BOUND[provider.name]


@pytest.mark.parametrize("layout", ["channel-slice", "row-slice", "channels-last", "every-other-pixel"])
def test_layout_of_out_changes_nothing(layout: str, provider: Provider) -> None:
    dense = make_problem(Case(shape=(2, 3, 5, 7)), provider.device)
    strided = replace(dense, out=lay_out(dense.out, layout))
    assert strided.out.stride() != dense.out.stride()
    assert torch.equal(provider(strided), provider(dense))


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_patches_are_read_where_they_lie(patch: int, dtype: torch.dtype, provider: Provider) -> None:
    dense = make_problem(Case(shape=(2, 3, 8, 12), cfg_channels=2, dtype=dtype), provider.device)
    patches = replace(dense, out=lay_out(dense.out, f"patches-{patch}"))
    assert patches.out.shape == (4, 6, 8 // patch, patch, 12 // patch, patch)
    assert torch.equal(patches.out.reshape(dense.out.shape), dense.out)
    assert torch.equal(provider(patches), provider(dense))


def test_patches_with_gaps(provider: Provider) -> None:
    """Strides of a view that no reshape of whole rows gives: every other row, a slice of the channels."""
    dense = make_problem(Case(), provider.device)
    patches = lay_out(dense.out, "patches-2")
    wide = torch.full((8, 11, *patches.shape[2:]), torch.nan, device=provider.device)
    sliced = wide[::2, 2:10].copy_(patches)
    assert torch.equal(provider(replace(dense, out=sliced)), provider(dense))


def test_image_does_not_depend_on_its_batch(provider: Provider) -> None:
    problem = make_problem(Case(shape=(7, 3, 5, 7), input_halves=0), provider.device)
    together = provider(problem)
    for image in (0, 3, 6):
        options = {name: problem.options[name][image : image + 1] for name in ("modes", "seeds")}
        alone = replace(problem, x=problem.x[image : image + 1], out=problem.out[[image, 7 + image]])
        assert torch.equal(provider(alone, **options)[0], together[image])


def test_noise_varies_with_step_stream_and_seed(provider: Provider) -> None:
    base = make_problem(Case(form=None, input_halves=0), provider.device)
    base.table[:] = base.table[30].clone()
    changed = {
        "step": provider(replace(base, step=base.step + 1)),
        "stream": provider(base, stream=1),
        "seeds": provider(base, seeds=base.options["seeds"] + 1),
    }
    for name, x in changed.items():
        assert not torch.isclose(x, provider(base)).any(dim=(1, 2, 3)).all(), name


@pytest.mark.parametrize("shape", [(), (1,)], ids=["scalar", "one-element"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_step_is_read_from_its_tensor(dtype: torch.dtype, shape: tuple[int, ...], provider: Provider) -> None:
    """Counting the same tensor down drives the whole of a run, as a captured graph needs it."""
    step = torch.full(shape, STEPS - 1, dtype=dtype, device=provider.device)
    problem = make_problem(Case(shape=(1, 1, 1, 1), cfg_channels=None, input_halves=0), provider.device)
    rows = [table_row(replace(Case(), i=i, form="posterior")) for i in range(STEPS)]
    problem.table.copy_(torch.stack(rows))
    state = problem.x.clone()
    for i in reversed(range(STEPS - 3, STEPS)):
        case = Case(i=i, cfg_channels=None)
        z = philox_normal(problem.options["seeds"].cpu(), i, state.shape[1:])
        want, _ = textbook_step(case, state.cpu(), problem.out.cpu(), problem.options["modes"].cpu(), z)
        state = provider(replace(problem, x=state, step=step))
        assert relative_error(state, want) < 2e-6  # one pixel: cancellation is not hidden by a larger one
        step -= 1


@pytest.mark.parametrize("shape", [(0, 4, 8, 8), (2, 4, 0, 8)], ids=["no-image", "no-pixel"])
def test_empty(shape: tuple[int, int, int, int], provider: Provider) -> None:
    B, C, H, W = shape
    x = torch.empty(shape, device=provider.device)
    out = torch.empty((2 * B, 2 * C, H, W), device=provider.device)
    table = torch.zeros((3, len(Coefficient)), device=provider.device)
    step = torch.zeros((), dtype=torch.int64, device=provider.device)
    seeds = torch.zeros(B, dtype=torch.int64, device=provider.device)
    result = provider.run(x, out, table, step, seeds=seeds, modes=x.clone(), net_input=out[:, :C].clone())
    assert result is x


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


WRONG: dict[str, tuple[str, Any, str]] = {
    "x-rank": ("x", zeros(4, 8, 8), r"must be \[B, C, H, W\], got \[4, 8, 8\]"),
    "x-dtype": ("x", zeros(2, 4, 8, 8).half(), "must be torch.float32, got torch.float16"),
    "x-layout": ("x", zeros(2, 4, 8, 16)[..., ::2], "must be contiguous, got strides"),
    "x-size": ("x", zeros(1).expand(2, 4, 2048, 2049), "must have at most 16777216 elements an image, got"),
    "out-rows": ("out", zeros(3, 8, 8, 8), r"must be \[2, 4, 8, 8\] or .*, got \[3, 8, 8, 8\]"),
    "out-channels": ("out", zeros(4, 5, 8, 8), r"must be .*, got \[4, 5, 8, 8\]"),
    "out-dtype": ("out", zeros(4, 8, 8, 8).double(), "must be .*, got torch.float64"),
    "out-row-gaps": ("out", zeros(4, 8, 8, 9)[..., :8], "must have evenly spaced pixels, got strides"),
    "out-transposed": ("out", zeros(4, 8, 8, 8).mT, "must have evenly spaced pixels, got strides"),
    "out-patches-that-do-not-fit": ("out", zeros(4, 8, 2, 3, 2, 3), r"must be \[2, 4, 8, 8\] or"),
    "out-patches-not-square": ("out", zeros(4, 8, 4, 2, 2, 4), r"must be \[2, 4, 4, 2, 4, 2\] or"),
    "out-patches-of-nothing": ("out", zeros(4, 8, 4, 0, 4, 2), r"must be \[2, 4, 8, 8\] or"),
    "out-device": ("out", zeros(4, 8, 8, 8).to("meta"), "must be on the device of x, cpu, got meta"),
    "table-columns": ("table", zeros(50, 9), r"must be \[50, 11\], got \[50, 9\]"),
    "table-rank": ("table", zeros(), r"must be .*, got \[\]"),
    "step-dtype": ("step", zeros(1), "must be torch.int32 or torch.int64, got torch.float32"),
    "step-shape": ("step", zeros(2).long(), r"must be \[\] or \[1\], got \[2\]"),
    "modes-shape": ("modes", zeros(1, 4, 8, 8), r"must be \[2, 4, 8, 8\], got \[1, 4, 8, 8\]"),
    "modes-layout": ("modes", zeros(1, 4, 8, 8).expand(2, 4, 8, 8), "must be contiguous, got strides"),
    "seeds-dtype": ("seeds", zeros(2), "must be torch.int64 or torch.uint64, got torch.float32"),
    "seeds-shape": ("seeds", zeros(3).long(), r"must be \[2\], got \[3\]"),
    "noise-dtype": ("noise", zeros(2, 4, 8, 8).double(), "must be torch.float32, got torch.float64"),
    "history-shape": ("history", zeros(1, 4, 8, 8), r"must be \[2, 4, 8, 8\], got \[1, 4, 8, 8\]"),
    "history-layout": ("history", zeros(2, 4, 8, 16)[..., ::2], "must be contiguous, got strides"),
    "input-dtype": ("net_input", zeros(4, 4, 8, 8).half(), "must be torch.float32, got torch.float16"),
    "input-rows": ("net_input", zeros(3, 4, 8, 8), r"must be \[2, 4, 8, 8\] or \[4, 4, 8, 8\], got"),
    "cfg-channels": ("cfg_channels", 5, "must be from 0 to 4, got 5"),
    "stream": ("stream", -1, r"must be from 0 to 2\*\*32-1, got -1"),
}


@pytest.mark.parametrize("run", [guided_step, guided_step_reference], ids=["guided_step", "reference"])
@pytest.mark.parametrize(("name", "value", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(run: Callable[..., Tensor], name: str, value: Any, message: str) -> None:
    arguments = {"x": zeros(2, 4, 8, 8), "out": zeros(4, 8, 8, 8), "step": torch.tensor(3)}
    arguments["table"] = zeros(50, len(Coefficient))
    with pytest.raises(ValueError, match=f"^{name} {message}") as caught:
        run(**(arguments | {name: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("i", [-1, STEPS])
def test_reference_refuses_a_step_outside_the_table(i: int) -> None:
    problem = make_problem(Case(), "cpu")
    with pytest.raises((IndexError, RuntimeError)):
        Provider("reference", guided_step_reference, "cpu")(replace(problem, step=torch.tensor(i)))


def test_cpu_step_is_the_reference_and_needs_no_triton() -> None:
    code = """
import torch
from mgd3_kernels import Coefficient, guided_step, guided_step_reference
generator = torch.Generator().manual_seed(0)
x, out = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(4, 8, 8, 8, generator=generator)
table = torch.randn(3, len(Coefficient), generator=generator)
both = guided_step, guided_step_reference
assert torch.equal(*(f(x.clone(), out, table, torch.tensor(1), seeds=torch.arange(2)) for f in both))
"""
    run_without_triton(code)


@pytest.mark.usefixtures("without_triton")
def test_missing_triton_is_an_error_that_names_it() -> None:
    problem = make_problem(Case(), "cpu")
    with pytest.raises(ValueError, match=r"pip install 'triton>=3\.2'"):
        guided_step(problem.x, problem.out, problem.table, problem.step, **problem.options)


def test_golden_row_of_the_test_schedule() -> None:
    """The schedule above is the published one (i = 26: beta, abar, sigma, posterior-mean coefficients)."""
    row = table_row(Case(i=26))
    assert schedule()["beta"][26].item() == pytest.approx(0.189797, abs=5e-7)
    assert schedule()["abar"][26].item() == pytest.approx(0.056907, abs=5e-7)
    assert math.exp(0.5 * row[Coefficient.LOG_VAR_MIN]) == pytest.approx(0.43257, abs=5e-6)
    assert row[Coefficient.NEXT_FROM_X0].item() == pytest.approx(0.05334, abs=5e-6)
    assert row[Coefficient.NEXT_FROM_X].item() == pytest.approx(0.88739, abs=5e-6)
