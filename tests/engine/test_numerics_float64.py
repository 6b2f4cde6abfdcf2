"""The float32 engine against the papers' formulas in float64, one image at a time, same noise.

The reference below shares no code with the engine: it walks the trained schedule, recomputes eps' and x0'
where a paper does, and runs two rows (class, null class) per image. `pytest -rP` prints the measured errors.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule

pytestmark = pytest.mark.usefixtures("one_thread")
C, H, W = 4, 4, 4
CLASSES, NULL, IMAGES, STEPS = 5, 5, 2, 50
CFG_SCALE, MODE_SCALE = 4.0, 0.1
# Largest |error| of an image over the root mean square of that image. Measured: 1.8e-5 where x0 itself,
# which is 158 (x - eps) at the first step, pushes a state of DDIM or DPM-Solver++ (1.7e-5); 7.2e-6 over all
# other cases.
BOUNDS = {("ddim", "posterior"): 5e-5, ("dpmpp", "posterior"): 5e-5}
BOUND = 2e-5


def trained_schedule() -> Tensor:
    return torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), 0)


class ToyDenoiser(nn.Module):
    """The exact denoiser of N(0, I) latents plus a nonlinear part that depends on x, timestep and class.

    So the prediction is of unit scale at every timestep, as a trained network's is, and the trajectory stays
    of unit scale; a network that ignores x lets x grow by 1 / sqrt(abar) = 158.
    """

    def __init__(self, prediction: str, learned: bool) -> None:
        super().__init__()
        self.prediction = prediction
        generator = torch.Generator().manual_seed(11)
        self.enter = nn.Linear(C * H * W, 64)
        self.middle = nn.Linear(64, 64)
        self.leave = nn.Linear(64, (2 * C if learned else C) * H * W)
        self.classes = nn.Embedding(CLASSES + 1, 64)
        for parameter in self.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 10
            parameter.data = torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in)
        self.classes.weight.data *= 8.0
        self.requires_grad_(False)
        self.abar = trained_schedule()

    def forward(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        abar = self.abar[timestep].to(x.dtype)[:, None, None, None]
        phase = timestep.to(x.dtype)[:, None] * torch.tensor([0.003, 0.01, 0.03, 0.1] * 16, dtype=x.dtype)
        hidden = torch.tanh(self.enter(x.flatten(1)) + self.classes(class_ids) + torch.sin(phase))
        out = self.leave(torch.tanh(self.middle(hidden))).view(len(x), -1, H, W)  # [rows, C or 2C, H, W]
        prediction = 0.3 * out[:, :C] + (torch.sqrt(1 - abar) * x if self.prediction == "epsilon" else 0.0)
        return torch.cat([prediction, torch.tanh(out[:, C:])], dim=1)


class Noise:
    """Float32 normal noise by (step, image), the same for both sides; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __call__(self, step: int, image: int) -> Tensor:
        self.asked.append((step, image))
        return torch.randn(C, H, W, generator=torch.Generator().manual_seed(1000 * step + image))


def p_mean_variance(out, x, t, schedule, cfg_channels, prediction, variance):
    """x0, eps, sigma of one image (DiT's sampler; Nichol & Dhariwal 2021, Eq. 15); the step's numbers."""
    S = [round(i * 999 / 49) for i in range(STEPS)]
    abar, abar_prev = schedule[S[t]], schedule[S[t - 1]] if t else torch.tensor(1.0, dtype=torch.float64)
    beta = 1 - abar / abar_prev
    beta_tilde = (1 - abar_prev) / (1 - abar) * beta
    if t == 0:
        a0, a1 = schedule[S[0]], schedule[S[1]]
        beta_tilde = (1 - a0) / (1 - a1) * (1 - a1 / a0)
    cond, null = out
    guided = null[:cfg_channels] + CFG_SCALE * (cond[:cfg_channels] - null[:cfg_channels])
    model_output = torch.cat([guided, cond[cfg_channels:C]])
    if prediction == "v":
        eps = torch.sqrt(abar) * model_output + torch.sqrt(1 - abar) * x
        x0 = torch.sqrt(abar) * x - torch.sqrt(1 - abar) * model_output
    else:
        eps = model_output
        x0 = x / torch.sqrt(abar) - torch.sqrt(1 / abar - 1) * eps
    if variance == "learned_range":
        frac = (cond[C:] + 1) / 2
        sigma = torch.exp(0.5 * (frac * torch.log(beta) + (1 - frac) * torch.log(beta_tilde)))
    else:
        sigma = torch.sqrt(beta if variance == "fixed_large" and t else beta_tilde)
    return x0, eps, sigma, abar, abar_prev, beta


def dpmpp_step(x, x0, t, abar, abar_prev, previous, stochastic, z):
    """DPM-Solver++(2M) in its own terms (Lu et al. 2022, Algorithm 2; its SDE form in section 5).

    `previous` is x0 and log SNR of the step before, None for the first order.
    """
    if t == 0:
        return x0  # sigma of the end is 0
    alpha, sigma = torch.sqrt(abar), torch.sqrt(1 - abar)
    alpha_next, sigma_next = torch.sqrt(abar_prev), torch.sqrt(1 - abar_prev)
    h = torch.log(alpha_next / sigma_next) - torch.log(alpha / sigma)
    D = x0
    if previous is not None:
        r = (torch.log(alpha / sigma) - previous[1]) / h
        D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * previous[0]
    if not stochastic:
        return sigma_next / sigma * x - alpha_next * torch.expm1(-h) * D
    mean = sigma_next / sigma * torch.exp(-h) * x - alpha_next * torch.expm1(-2 * h) * D
    return mean + sigma_next * torch.sqrt(-torch.expm1(-2 * h)) * z


def guided_step(x, m, t, parts, method, form, eta, on, z, previous):
    """x_{t-1} of one image, and what a multistep solver remembers of this step.

    Ho et al. 2020, Eq. 7; Song et al. 2021, Eq. 12; MGD3, Algorithm 1.
    """
    x0, eps, sigma, abar, abar_prev, beta = parts
    g = m - x0
    if on and form == "epsilon":
        eps = eps - torch.sqrt(1 - abar) * MODE_SCALE * g
        x0 = (x - torch.sqrt(1 - abar) * eps) / torch.sqrt(abar)
    elif on and form == "x0":
        x0 = x0 + MODE_SCALE * g
        eps = (x - torch.sqrt(abar) * x0) / torch.sqrt(1 - abar)
    if method == "ddpm":
        mean = torch.sqrt(abar_prev) * beta / (1 - abar) * x0
        mean = mean + torch.sqrt(1 - beta) * (1 - abar_prev) / (1 - abar) * x
        noise = sigma * z if t else 0.0
    elif method.startswith("dpmpp"):
        mean = dpmpp_step(x, x0, t, abar, abar_prev, previous, method == "dpmpp-sde", z)
        noise = 0.0
    else:
        std = eta * torch.sqrt((1 - abar_prev) / (1 - abar)) * torch.sqrt(1 - abar / abar_prev)
        mean = torch.sqrt(abar_prev) * x0 + torch.sqrt(1 - abar_prev - std**2) * eps
        noise = std * z
    push = MODE_SCALE * sigma * g if on and form == "posterior" else 0.0
    return mean + push + noise, (x0, 0.5 * torch.log(abar / (1 - abar)))


def sample_float64(
    network, class_id, m, image, noise, *, method, form, eta, t_stop, cfg_channels, prediction, variance
):
    schedule = network.abar
    x, previous = noise(STEPS, image).double(), None
    for t in reversed(range(STEPS)):
        timestep = torch.full((2,), round(t * 999 / 49))
        out = network(torch.stack([x, x]), timestep, torch.tensor([class_id, NULL]))
        parts = p_mean_variance(out, x, t, schedule, cfg_channels, prediction, variance)
        z = noise(t, image).double() if t else torch.zeros_like(x)
        if t == t_stop:
            previous = None  # x0 jumps where guidance ends
        x, previous = guided_step(x, m, t, parts, method, form, eta, t > t_stop, z, previous)
    return x


def relative_error(got: Tensor, want: Tensor) -> float:
    scale = want.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return float(((got.double() - want).abs() / scale).max())


CLASS_IDS = torch.tensor([0, 3])
MODES = torch.randn(IMAGES, C, H, W, generator=torch.Generator().manual_seed(5))


def sample_engine(*, method, form, eta, t_stop, cfg_channels, prediction, variance, noise=None):
    sampler = GuidedSampler(
        ToyDenoiser(prediction, variance == "learned_range"),
        schedule=NoiseSchedule.linear(),
        method=method,
        steps=STEPS,
        eta=eta,
        prediction=prediction,
        variance=variance,
        cfg_scale=CFG_SCALE,
        null_class=NULL,
        cfg_channels=cfg_channels,
        guidance=None if t_stop == STEPS else ModeGuidance(MODE_SCALE, t_stop, form),
        batch_size=8,
        backend="eager",
    )
    return sampler.sample(CLASS_IDS, MODES, None, noise=noise or Noise())


def check(method, form, eta, t_stop, prediction, variance, cfg_channels):
    options = {"method": method, "form": form, "eta": eta, "t_stop": t_stop, "cfg_channels": cfg_channels}
    options |= {"prediction": prediction, "variance": variance}
    network = ToyDenoiser(prediction, variance == "learned_range").double()
    images = [
        sample_float64(network, int(c), m.double(), k, Noise(), **options)
        for k, (c, m) in enumerate(zip(CLASS_IDS, MODES, strict=True))
    ]
    want = torch.stack(images)
    assert 0.3 < float(want.square().mean().sqrt()) < 30, "the trajectory must stay of a latent's scale"
    error = relative_error(sample_engine(**options), want)
    print(" | ".join(str(value) for value in options.values()), f"| {error:.1e}")
    assert error < BOUNDS.get((method, form), BOUND)


SAMPLERS = [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("dpmpp", 0.0), ("dpmpp-sde", 0.0)]


@pytest.mark.parametrize(
    ("prediction", "variance", "cfg_channels"), [("epsilon", "learned_range", 3), ("v", "fixed_small", 4)]
)
@pytest.mark.parametrize("t_stop", [0, 25, 50])
@pytest.mark.parametrize("form", ["posterior", "epsilon", "x0"])
@pytest.mark.parametrize(("method", "eta"), SAMPLERS)
def test_engine_equals_float64_formulas(method, eta, form, t_stop, prediction, variance, cfg_channels):
    check(method, form, eta, t_stop, prediction, variance, cfg_channels)


@pytest.mark.parametrize(
    ("method", "form", "prediction", "variance", "cfg_channels"),
    [
        ("ddpm", "posterior", "epsilon", "fixed_small", 4),
        ("ddpm", "posterior", "epsilon", "fixed_large", 3),
        ("ddpm", "posterior", "epsilon", "learned_range", 4),
        ("ddpm", "posterior", "epsilon", "learned_range", 0),
        ("ddpm", "posterior", "v", "learned_range", 1),
        ("ddim", "posterior", "epsilon", "fixed_small", 4),
        ("ddim", "epsilon", "epsilon", "fixed_small", 4),
        ("ddim", "x0", "epsilon", "fixed_small", 4),
    ],
)
def test_other_variances_and_cfg_channels(method, form, prediction, variance, cfg_channels):
    check(method, form, 0.0, 25, prediction, variance, cfg_channels)


OPTIONS = {"method": "ddpm", "eta": 0.0, "form": "x0", "t_stop": 25}
OPTIONS |= {"prediction": "epsilon", "variance": "learned_range", "cfg_channels": 3}


@pytest.mark.parametrize(
    "change",
    [
        {"t_stop": 24},
        {"t_stop": 26},
        {"t_stop": 50},
        {"form": "epsilon"},
        {"cfg_channels": 4},
        {"method": "ddim"},
    ],
    ids=str,
)
def test_the_bound_tells_neighbouring_options_apart(change):
    assert relative_error(sample_engine(**OPTIONS), sample_engine(**OPTIONS | change)) > 10 * BOUND


@pytest.mark.parametrize(("method", "eta"), SAMPLERS)
def test_noise_is_asked_for_where_it_is_added(method, eta):
    noise = Noise()
    sample_engine(**OPTIONS | {"method": method, "eta": eta}, noise=noise)
    noisy = [] if (method, eta) in (("ddim", 0.0), ("dpmpp", 0.0)) else range(STEPS - 1, 0, -1)
    assert noise.asked == [(step, image) for step in (STEPS, *noisy) for image in range(IMAGES)]
