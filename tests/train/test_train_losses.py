"""Losses of training against independent formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mgd3_engine import NoiseSchedule
from mgd3_engine.autoencoder import AutoencoderKL, KLConfig
from mgd3_fast.fit import step_generator
from mgd3_fast.train.autoencoder import group_count, latent_scale, vae_loss
from mgd3_fast.train.diffusion_loss import DiffusionLoss

CPU = torch.device("cpu")


@pytest.mark.parametrize("learned", [True, False], ids=["learned-variance", "fixed-variance"])
def test_diffusion_loss_is_that_of_the_formulas_in_float64(learned):
    schedule = NoiseSchedule.linear()
    random = np.random.default_rng(0)
    B, C = 40, 2
    x0, noise, eps, v = random.standard_normal((4, B, C, 3, 3))
    timestep = np.concatenate([[0, 0, 1, 2, 998, 999], random.integers(0, 1000, B - 6)])
    betas = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - betas)
    before = np.concatenate([[1.0], abar[:-1]])
    spread = betas * (1 - before) / (1 - abar)
    spread[0] = spread[1]
    at = (timestep, None, None, None)
    seen = {}

    def network(x, t, class_ids):
        seen["x"] = x
        return torch.from_numpy(np.concatenate([eps, v], 1) if learned else eps).float()

    losses = DiffusionLoss(schedule, CPU)(
        network,
        torch.from_numpy(x0).float(),
        torch.zeros(B, dtype=torch.int64),
        torch.from_numpy(timestep),
        torch.from_numpy(noise).float(),
    )
    xt = np.sqrt(abar[at]) * x0 + np.sqrt(1 - abar[at]) * noise
    simple = ((eps - noise) ** 2).mean()
    assert np.allclose(seen["x"].numpy(), xt, atol=1e-5)
    assert losses["simple"].item() == pytest.approx(simple, rel=1e-5)
    if not learned:
        assert losses["loss"].item() == pytest.approx(simple, rel=1e-5)
        return
    x0_hat = (xt - np.sqrt(1 - abar[at]) * eps) / np.sqrt(abar[at])
    to_x0 = betas * np.sqrt(before) / (1 - abar)
    to_xt = (1 - before) * np.sqrt(1 - betas) / (1 - abar)
    true_mean = to_x0[at] * x0 + to_xt[at] * xt
    mean = to_x0[at] * x0_hat + to_xt[at] * xt
    share = (v + 1) / 2
    log_variance = share * np.log(betas[at]) + (1 - share) * np.log(spread[at])
    gap = (true_mean - mean) ** 2 / np.exp(log_variance)
    divergence = 0.5 * (log_variance - np.log(spread[at]) - 1 + spread[at] / np.exp(log_variance) + gap)
    likelihood = 0.5 * (np.log(2 * np.pi) + log_variance + (x0 - mean) ** 2 / np.exp(log_variance))
    vlb = np.where((timestep == 0)[:, None, None, None], likelihood, divergence).mean() / np.log(2)
    assert losses["vlb"].item() == pytest.approx(vlb, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(simple + vlb, rel=1e-4)


def test_the_bound_moves_the_variance_channels_alone():
    out = torch.randn(4, 4, 2, 2, requires_grad=True)
    losses = DiffusionLoss(NoiseSchedule.linear(), CPU)(
        lambda x, t, y: out,
        torch.randn(4, 2, 2, 2),
        torch.zeros(4, dtype=torch.int64),
        torch.tensor([0, 1, 500, 999]),
        torch.randn(4, 2, 2, 2),
    )
    losses["vlb"].backward()
    assert not out.grad[:, :2].any()
    assert out.grad[:, 2:].abs().min() > 0


def test_network_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="2 or 4 channels, got 3"):
        DiffusionLoss(NoiseSchedule.linear(), CPU)(
            lambda x, t, y: torch.zeros(1, 3, 2, 2),
            torch.zeros(1, 2, 2, 2),
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, 2, 2, 2),
        )


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    settings = {"latent_channels": 3, "norm_num_groups": 4, "mid_block_add_attention": False}
    return AutoencoderKL(KLConfig(block_out_channels=(8, 16), **settings)).eval()


@pytest.mark.parametrize("kind", ["l1", "mse"])
def test_vae_loss_is_error_plus_weighted_divergence(vae, kind):
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        losses = vae_loss(vae, images, step_generator(0), kind=kind, kl_weight=0.3)
        pixels = images.double() / 127.5 - 1
        mean, log_variance = vae.encode(pixels.float())
        noise = torch.randn(mean.shape, generator=step_generator(0))
        decoded = vae.decode(mean + (0.5 * log_variance).exp() * noise).double()
    gap = (decoded - pixels).abs() if kind == "l1" else (decoded - pixels) ** 2
    unit = torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()), unit
    ).mean()
    assert losses["reconstruction"].item() == pytest.approx(gap.mean().item(), rel=1e-5)
    assert losses["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    assert losses["loss"].item() == pytest.approx((gap.mean() + 0.3 * kl).item(), rel=1e-4)


def test_scaled_latents_have_unit_variance(vae):
    batches = [torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8) for n in (5, 3)]
    scale = latent_scale(vae, batches)
    with torch.no_grad():
        means = vae.encode(torch.cat(batches).float() / 127.5 - 1)[0]
    assert (means * scale).std(correction=0).item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("channels", "groups"), [((128, 256, 512, 512), 32), ((16, 32, 64), 8), ((12, 24), 4), ((2, 4), 1)]
)
def test_every_block_has_at_least_two_channels_a_group(channels, groups):
    assert group_count(channels) == groups
