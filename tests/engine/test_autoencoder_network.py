"""The autoencoder's networks against diffusers', the layers' two ways, and settings that are refused."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from mgd3_engine.autoencoder import KL_F8, KLConfig, VQConfig
from tests.fakes.random_networks import ours_of, random_vae

# Of the largest value, in float32. Measured: 3.3e-6, and 6.1e-6 for KL-f8.
BOUND = 1e-5
# Of the root mean square, in bfloat16, both against float32. Measured: diffusers' 0.39%, ours 0.38%.
ROUNDED = 0.008
CASES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "attention": ({}, (32, 32)),
    "odd latents": ({}, (52, 20)),
    "bare": (
        {"mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False},
        (20, 36),
    ),
    "layers": ({"layers_per_block": 2, "latent_channels": 3, "in_channels": 1, "out_channels": 1}, (12, 12)),
}


def trained(**settings: Any) -> Any:
    """Diffusers' network whose norms and biases are not those of a new one."""
    vae = random_vae(**settings)
    generator = torch.Generator().manual_seed(5)
    for parameter in vae.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return vae


def pixels_of(vae: Any, size: tuple[int, int], images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand(images, vae.config.in_channels, *size, generator=generator) - 1


def worst(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


def check_equal(vae: Any, size: tuple[int, int]) -> None:
    ours, pixels = ours_of(vae), pixels_of(vae, size)
    posterior = vae.encode(pixels).latent_dist
    for layout in (torch.contiguous_format, torch.channels_last):
        mean, log_variance = ours.encode(pixels.contiguous(memory_format=layout))
        assert worst(mean, posterior.mean) < BOUND
        assert worst(log_variance, posterior.logvar) < BOUND
        decoded = ours.decode(posterior.mean.contiguous(memory_format=layout))
        assert worst(decoded, vae.decode(posterior.mean).sample) < BOUND


@pytest.mark.parametrize(("settings", "size"), CASES.values(), ids=CASES)
def test_equals_diffusers(settings: dict[str, Any], size: tuple[int, int]) -> None:
    check_equal(trained(**settings), size)


def test_kernels_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs: norms that add a convolution's bias and the residual, here by Triton's interpreter."""
    vae = trained()
    ours, pixels = ours_of(vae), pixels_of(vae, (8, 12), images=1)
    mean, _ = ours.encode(pixels)
    decoded = ours.decode(mean)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert worst(ours.encode(pixels)[0], mean) < BOUND
    assert worst(ours.decode(mean), decoded) < BOUND


@pytest.mark.slow
def test_kl_f8_equals_diffusers() -> None:
    check_equal(trained(**{k: v for k, v in KL_F8.settings().items() if k != "_class_name"}), (64, 64))


def test_bfloat16_is_as_close_as_diffusers() -> None:
    vae = trained()
    pixels = pixels_of(vae, (32, 32))
    want = vae.encode(pixels).latent_dist.mean
    rounded = ours_of(vae).to(torch.bfloat16).encode(pixels.bfloat16())[0].float()
    assert 0 < (rounded - want).square().mean().sqrt() < ROUNDED * want.square().mean().sqrt()


def test_gradients_are_those_of_diffusers() -> None:
    vae = trained().requires_grad_(True)
    ours = deepcopy(ours_of(vae)).requires_grad_(True)
    pixels = pixels_of(vae, (32, 32))
    want = vae.encode(pixels).latent_dist
    vae.decode(want.mean).sample.square().mean().add(want.logvar.mean()).backward()
    mean, log_variance = ours.encode(pixels)
    ours.decode(mean).square().mean().add(log_variance.mean()).backward()
    gradients = dict(ours.named_parameters())
    for name, parameter in vae.named_parameters():
        largest = parameter.grad.abs().max().clamp(min=1e-4)
        assert (gradients[name].grad - parameter.grad).abs().max() < 1e-4 * largest, name


def test_packed_weights_follow_the_weights() -> None:
    ours = ours_of(trained())
    pixels = torch.rand(1, 3, 32, 32)
    before = ours.encode(pixels)[0]
    ours.quant_conv.weight.mul_(2.0)
    ours.quant_conv.bias.zero_()
    after = ours.encode(pixels)[0]
    assert not torch.equal(after, before)
    ours.quant_conv.weight.mul_(0.5)
    assert torch.equal(ours.encode(pixels)[0] * 2, after)


def test_settings_are_those_of_diffusers() -> None:
    vae = random_vae(shift_factor=0.5)
    config = KLConfig.of(vae.config)
    assert KLConfig.of(config.settings()) == config
    mine = config.settings()
    theirs = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    assert {**theirs, **mine, "block_out_channels": theirs["block_out_channels"]}.keys() == {
        *theirs,
        "_class_name",
    }
    assert (config.downsample, config.scaling_factor, config.shift_factor) == (4, 1.5, 0.5)


REFUSED: dict[str, tuple[type[KLConfig | VQConfig], dict[str, Any], str]] = {
    "block": (
        KLConfig,
        {"down_block_types": ["AttnDownEncoderBlock2D"]},
        "down_block_types must be DownEncoderBlock2D alone, got AttnDownEncoderBlock2D",
    ),
    "blocks": (KLConfig, {"up_block_types": ["UpDecoderBlock2D"] * 2}, "up_block_types must be 1 blocks"),
    "act_fn": (KLConfig, {"act_fn": "relu"}, "act_fn must be 'silu', got 'relu'"),
    "latents_mean": (KLConfig, {"latents_mean": [0.1]}, r"latents_mean must be None, got \[0.1\]"),
    "norm_type": (VQConfig, {"norm_type": "spatial"}, "norm_type must be 'group', got 'spatial'"),
    "lookup": (VQConfig, {"lookup_from_codebook": True}, "lookup_from_codebook must be False, got True"),
    "unknown": (KLConfig, {"temporal": 4}, "temporal is no setting of an AutoencoderKL here, got 4"),
    "groups": (KLConfig, {"block_out_channels": [48]}, "block_out_channels must be multiples of"),
    "no group": (KLConfig, {"norm_num_groups": 0}, "norm_num_groups must be at least 1, got 0"),
    "no list": (KLConfig, {"down_block_types": None}, "down_block_types must be a list of blocks, got None"),
    "no scale": (KLConfig, {"scaling_factor": 0.0}, "scaling_factor must be a finite number other than 0"),
    "NaN scale": (VQConfig, {"scaling_factor": float("nan")}, "scaling_factor must be a finite number"),
    "shift": (KLConfig, {"shift_factor": float("inf")}, "shift_factor must be a finite number, got inf"),
    "text": (KLConfig, {"layers_per_block": "2"}, "layers_per_block must be a whole number, got '2'"),
    "bool": (KLConfig, {"use_quant_conv": 1}, "use_quant_conv must be true or false, got 1"),
}


@pytest.mark.parametrize(("kind", "settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_implemented_is_refused(
    kind: type[KLConfig | VQConfig], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        kind.of(settings)
    assert "\n" not in str(caught.value)
