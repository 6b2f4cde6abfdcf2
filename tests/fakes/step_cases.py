"""Variants of one reverse step, with the papers' formulas in float64 to judge them by.

Shape letters: B images, C channels, H W latent size, S steps.

`textbook_step` is written from the formulas (Ho et al. 2020, Song et al. 2021, MGD3), not from the table of
coefficients; `table_row` is the table's row for the same step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mgd3_kernels import Coefficient, philox_normal

STEPS = 50
CFG_SCALE = 4.0
MODE_SCALE = 0.1


@dataclass(frozen=True)
class Case:
    """One variant of the step; the defaults are the method's main setting."""

    shape: tuple[int, int, int, int] = (2, 4, 8, 8)  # B, C, H, W
    i: int = 30
    method: str = "ddpm"
    prediction: str = "epsilon"
    form: str | None = "posterior"
    eta: float = 0.0
    cfg_channels: int | None = 3  # None: no CFG
    learned_variance: bool = True
    noise: str | None = "counter"
    input_halves: int = 2
    dtype: torch.dtype = torch.float32
    layout: str = "dense"
    stream: int = 0


CASES = {
    "main": Case(),
    "main-last-step": Case(i=0, form=None),
    "main-first-step": Case(i=49),
    "main-bf16": Case(dtype=torch.bfloat16, shape=(2, 4, 32, 32)),
    "main-fp16-batch-64": Case(dtype=torch.float16, shape=(64, 4, 8, 8), i=26),
    "batch-1-unguided": Case(form=None, shape=(1, 4, 8, 8), i=25),
    "cfg-all-channels": Case(cfg_channels=4),
    "cfg-no-channel": Case(cfg_channels=0, input_halves=1),
    "no-cfg": Case(cfg_channels=None, input_halves=1, dtype=torch.bfloat16),
    "no-cfg-both-halves": Case(cfg_channels=None, input_halves=2, shape=(7, 3, 5, 7)),
    "fixed-variance": Case(learned_variance=False, noise="given"),
    "no-input": Case(input_halves=0, noise="given", shape=(7, 3, 5, 7), cfg_channels=2),
    "odd-size": Case(shape=(7, 3, 5, 7), cfg_channels=2, dtype=torch.float16, stream=2**32 - 1),
    "odd-size-two-tiles": Case(shape=(2, 5, 11, 13), cfg_channels=4, dtype=torch.bfloat16),
    "one-pixel": Case(shape=(64, 1, 1, 1), cfg_channels=1, stream=1),
    "ddpm-v": Case(prediction="v", learned_variance=False),
    "ddpm-epsilon-form": Case(form="epsilon"),
    "ddim-epsilon": Case(method="ddim", form="epsilon", noise=None, cfg_channels=4),
    "ddim-epsilon-first": Case(method="ddim", form="epsilon", noise=None, i=49, dtype=torch.bfloat16),
    "ddim-x0-v": Case(method="ddim", form="x0", noise=None, prediction="v", learned_variance=False),
    "ddim-posterior": Case(method="ddim", form="posterior", noise=None),
    "ddim-last-step": Case(method="ddim", form=None, noise=None, i=0),
    "ddim-eta": Case(method="ddim", form="epsilon", eta=0.7, learned_variance=False),
    "ddim-eta-unguided": Case(method="ddim", form=None, eta=1.0, noise="given", i=7),
    "dpmpp-epsilon": Case(method="dpmpp", form="epsilon", noise=None, cfg_channels=4),
    "dpmpp-x0-v": Case(method="dpmpp", form="x0", noise=None, prediction="v", learned_variance=False),
    "dpmpp-posterior": Case(method="dpmpp", form="posterior", noise=None, dtype=torch.bfloat16),
    "dpmpp-unguided": Case(method="dpmpp", form=None, noise=None, shape=(7, 3, 5, 7), cfg_channels=2),
    "dpmpp-first-step": Case(method="dpmpp", form="epsilon", noise=None, i=49),
    "dpmpp-last-step": Case(method="dpmpp", form=None, noise=None, i=0, cfg_channels=None, input_halves=1),
    "dpmpp-sde": Case(method="dpmpp-sde", form="epsilon"),
    "dpmpp-sde-given": Case(method="dpmpp-sde", form=None, noise="given", shape=(2, 5, 11, 13), i=7),
    "dpmpp-sde-patches": Case(method="dpmpp-sde", layout="patches-2", shape=(2, 4, 32, 32)),
    "channel-slice": Case(layout="channel-slice", dtype=torch.bfloat16),
    "row-slice": Case(layout="row-slice"),
    "patches": Case(layout="patches-2", dtype=torch.bfloat16, shape=(2, 4, 32, 32)),
    "patches-fixed-variance": Case(layout="patches-4", learned_variance=False, shape=(1, 4, 8, 8)),
    "patches-odd-size": Case(layout="patches-3", shape=(7, 3, 6, 15), cfg_channels=2, dtype=torch.float16),
    "patches-of-one": Case(layout="patches-1", shape=(2, 5, 11, 13), cfg_channels=None, input_halves=1),
    "channels-last": Case(layout="channels-last", shape=(7, 3, 5, 7), cfg_channels=2, dtype=torch.float16),
    "every-other-pixel": Case(layout="every-other-pixel", cfg_channels=None, input_halves=1),
}


def schedule() -> dict[str, Tensor]:
    """Linear betas over 1000 timesteps, respaced to 50, float64 `[50]`."""
    all_abar = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), 0)
    abar = all_abar[[round(i * 999 / 49) for i in range(STEPS)]]
    abar_prev = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    beta = 1 - abar / abar_prev
    variance = beta * (1 - abar_prev) / (1 - abar)
    variance[0] = variance[1]
    return {"beta": beta, "abar": abar, "abar_prev": abar_prev, "variance": variance}


def ddim_std(i: int, eta: float) -> Tensor:
    s = {name: values[i] for name, values in schedule().items()}
    return eta * torch.sqrt((1 - s["abar_prev"]) / (1 - s["abar"]) * (1 - s["abar"] / s["abar_prev"]))


def log_snr(i: int) -> Tensor:
    abar = schedule()["abar"][i]
    return 0.5 * torch.log(abar / (1 - abar))


def solver_weights(i: int, stochastic: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of x, of D, 1/(2r) and of the noise (Lu et al. 2022, Algorithm 2 and section 5)."""
    if i == 0:
        return torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.0), torch.tensor(0.0)
    abar, abar_prev = schedule()["abar"][i], schedule()["abar_prev"][i]
    h = log_snr(i - 1) - log_snr(i)
    half_slope = torch.tensor(0.0) if i == STEPS - 1 else h / (log_snr(i) - log_snr(i + 1)) / 2
    of_x = ((1 - abar_prev) / (1 - abar)).sqrt()
    if not stochastic:
        return of_x, -abar_prev.sqrt() * torch.expm1(-h), half_slope, torch.tensor(0.0)
    loss = -torch.expm1(-2 * h)
    return of_x * torch.exp(-h), abar_prev.sqrt() * loss, half_slope, ((1 - abar_prev) * loss).sqrt()


def textbook_step(
    case: Case,
    x: Tensor,
    out: Tensor,
    modes: Tensor | None,
    z: Tensor | None,
    previous: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The step in float64, in the papers' own terms: x_{i-1}, and the x0 that it was made of."""
    B, C = x.shape[:2]
    s = {name: values[case.i] for name, values in schedule().items()}
    abar, abar_prev, beta = s["abar"], s["abar_prev"], s["beta"]
    x, out = x.double(), out.double()
    pred = out[:B, :C].clone()
    if case.cfg_channels is not None:
        k = case.cfg_channels
        pred[:, :k] = out[B:, :k] + CFG_SCALE * (pred[:, :k] - out[B:, :k])
    eps = pred if case.prediction == "epsilon" else abar.sqrt() * pred + (1 - abar).sqrt() * x
    x0 = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
    log_var = s["variance"].log()
    if case.learned_variance:
        f = (out[:B, C:] + 1) / 2
        log_var = f * beta.log() + (1 - f) * log_var
    sigma = (0.5 * log_var).exp()

    push = torch.zeros(())
    if modes is not None:
        gap = modes.double() - x0
        if case.form == "posterior":
            push = MODE_SCALE * sigma * gap
        if case.form == "epsilon":
            eps = eps - (1 - abar).sqrt() * MODE_SCALE * gap
            x0 = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
        if case.form == "x0":
            x0 = x0 + MODE_SCALE * gap
            eps = (x - abar.sqrt() * x0) / (1 - abar).sqrt()

    if case.method == "ddpm":
        next_x = abar_prev.sqrt() * beta / (1 - abar) * x0
        next_x = next_x + (1 - beta).sqrt() * (1 - abar_prev) / (1 - abar) * x
        std = sigma if case.i > 0 else torch.zeros(())
    elif previous is not None:
        of_x, of_d, half_slope, std = solver_weights(case.i, case.method == "dpmpp-sde")
        next_x = of_x * x + of_d * (x0 + half_slope * (x0 - previous.double()))
    else:
        std = ddim_std(case.i, case.eta)
        next_x = abar_prev.sqrt() * x0 + (1 - abar_prev - std**2).sqrt() * eps
    next_x = next_x + push
    return next_x if z is None else next_x + std * z.double(), x0


def table_row(case: Case) -> Tensor:
    """The coefficients of the same step; NaN wherever the variant must not look."""
    s = {name: values[case.i] for name, values in schedule().items()}
    abar, abar_prev, beta = s["abar"], s["abar_prev"], s["beta"]
    k = Coefficient
    row = torch.full((len(k),), torch.nan, dtype=torch.float64)
    by_epsilon = case.prediction == "epsilon"
    row[k.X0_FROM_X] = 1 / abar.sqrt() if by_epsilon else abar.sqrt()
    row[k.X0_FROM_OUT] = -(1 / abar - 1).sqrt() if by_epsilon else -(1 - abar).sqrt()
    row[k.LOG_VAR_MIN] = s["variance"].log()
    if case.learned_variance:
        row[k.LOG_VAR_MAX] = beta.log()
    if case.method == "ddpm":
        row[k.NEXT_FROM_X0] = abar_prev.sqrt() * beta / (1 - abar)
        row[k.NEXT_FROM_X] = (1 - beta).sqrt() * (1 - abar_prev) / (1 - abar)
    elif case.method != "ddim":
        of_x, of_d, half_slope, std = solver_weights(case.i, case.method == "dpmpp-sde")
        row[k.NEXT_FROM_X], row[k.NEXT_FROM_X0] = of_x, of_d * (1 + half_slope)
        row[k.NEXT_FROM_PREVIOUS] = -of_d * half_slope
    else:
        row[k.NEXT_FROM_X] = ((1 - abar_prev - ddim_std(case.i, case.eta) ** 2) / (1 - abar)).sqrt()
        row[k.NEXT_FROM_X0] = abar_prev.sqrt() - row[k.NEXT_FROM_X] * abar.sqrt()
    if case.form is not None:
        row[k.PUSH] = MODE_SCALE if case.form == "posterior" else 0
        shift = {"posterior": 0, "epsilon": (1 - abar) / abar.sqrt(), "x0": 1}[case.form]
        row[k.X0_SHIFT] = MODE_SCALE * shift
    if case.noise is not None:
        ddpm = case.method == "ddpm"
        row[k.NOISE_SIGMA] = float(ddpm and case.i > 0)
        row[k.NOISE_STD] = 0 if ddpm else ddim_std(case.i, case.eta)
        if case.method == "dpmpp-sde":
            row[k.NOISE_STD] = std
    return row


def lay_out(out: Tensor, layout: str) -> Tensor:
    """The same values under other strides, NaN between them."""
    N, C, H, W = out.shape
    if layout.startswith("patches"):  # as DiT writes them: row, column, then the pixels of a patch by channel
        P = int(layout.removeprefix("patches-"))
        split = out.view(N, C, H // P, P, W // P, P)
        return split.permute(0, 2, 4, 3, 5, 1).contiguous().permute(0, 5, 1, 3, 2, 4)
    if layout == "dense":
        return out
    if layout == "channels-last":
        return out.contiguous(memory_format=torch.channels_last)
    sizes = {
        "channel-slice": (N, C + 5, H, W),
        "row-slice": (2 * N, C, H, W),
        "every-other-pixel": (N, C, H, 2 * W),
    }
    wide = torch.full(sizes[layout], torch.nan, dtype=out.dtype, device=out.device)
    view = {"channel-slice": wide[:, 3 : 3 + C], "row-slice": wide[::2], "every-other-pixel": wide[..., ::2]}[
        layout
    ]
    return view.copy_(out)


@dataclass
class Problem:
    """The arguments of one case on a device, and the float64 answer."""

    x: Tensor
    out: Tensor
    table: Tensor
    step: Tensor
    options: dict[str, Any]
    want: Tensor
    want_x0: Tensor


def make_problem(case: Case, device: str) -> Problem:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    B, C, H, W = case.shape
    cfg = case.cfg_channels is not None
    x = draw(B, C, H, W)
    # Real conditional and null predictions nearly agree with each other and with the noise in x.
    pred = x + 0.3 * draw(B, C, H, W)
    pred = torch.cat([pred, pred + 0.1 * draw(B, C, H, W)]) if cfg else pred
    variance = 2 * torch.rand(pred.shape, generator=generator) - 1
    out = torch.cat([pred, variance], dim=1) if case.learned_variance else pred
    out = out.to(case.dtype)
    modes = draw(B, C, H, W) if case.form is not None else None
    seeds = torch.randint(-(2**63), 2**63 - 1, (B,), generator=generator) if case.noise == "counter" else None
    given = draw(B, C, H, W) if case.noise == "given" else None
    z = given if seeds is None else philox_normal(seeds, case.i, case.shape[1:], case.stream)
    history = draw(B, C, H, W) if case.method.startswith("dpmpp") else None
    want, want_x0 = textbook_step(case, x, out, modes, z, history)

    table = torch.full((STEPS, len(Coefficient)), torch.nan)
    table[case.i] = table_row(case).float()
    options: dict[str, Any] = {
        "cfg_scale": CFG_SCALE,
        "cfg_channels": case.cfg_channels or 0,
        "stream": case.stream,
    }
    tensors = {"modes": modes, "seeds": seeds, "noise": given, "history": history}
    options |= {name: t.to(device) for name, t in tensors.items() if t is not None}
    if case.input_halves:
        shape = (case.input_halves * B, C, H, W)
        options["net_input"] = torch.full(shape, torch.nan, dtype=case.dtype, device=device)
    out = lay_out(out.to(device), case.layout)
    return Problem(
        x.to(device), out, table.to(device), torch.tensor(case.i, device=device), options, want, want_x0
    )
