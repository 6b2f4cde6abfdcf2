"""Networks with random weights and no zero layer, so that a wrong map of any tensor changes their output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mgd3_engine.autoencoder import AutoencoderKL, KLConfig, filled_network, first_stage
from mgd3_engine.dit import DiT, DiTConfig
from mgd3_engine.files.weights import read_weights


def randomised(network: nn.Module, *, seed: int = 0) -> Any:
    """Fill every trainable tensor with noise that keeps activations near unit scale."""
    generator = torch.Generator().manual_seed(seed)
    network.eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name != "pos_embed":
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * (0.5 / fan_in**0.5))
    return network


def random_dit(config: DiTConfig, *, seed: int = 0) -> DiT:
    dit: DiT = randomised(DiT(config), seed=seed)
    return dit


def diffusers_dit(config: DiTConfig, norm_eps: float = 1e-6) -> Any:
    """Build diffusers' DiT of the same architecture with its own starting weights."""
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.hidden_size // config.num_heads,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        num_layers=config.depth,
        sample_size=config.input_size,
        patch_size=config.patch_size,
        num_embeds_ada_norm=config.num_classes,
        norm_eps=norm_eps,
    )


def random_diffusers_dit(config: DiTConfig, *, seed: int = 0, norm_eps: float = 1e-6) -> Any:
    """Build diffusers' DiT of the same architecture; the blocks' copies of the embedders agree."""
    network = randomised(diffusers_dit(config, norm_eps), seed=seed)
    first = network.transformer_blocks[0].norm1.emb
    for block in network.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
        # the authors' sinusoids have shift 0; diffusers computes them with 1
        block.norm1.emb.time_proj.downscale_freq_shift = config.frequency_shift
    return network


def dit_inputs(config: DiTConfig, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, timesteps from both ends of the schedule, and class ids with the null label last."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, config.in_channels, config.input_size, config.input_size, generator=generator)
    timestep = torch.linspace(0, 999, rows).round().to(torch.int64)
    class_ids = torch.arange(rows) * 7 % config.num_classes
    class_ids[-1] = config.null_class
    return x, timestep, class_ids


def random_vae(*, seed: int = 0, **settings: Any) -> Any:
    """Build a small `AutoencoderKL`: 32 px to 4x8x8, with attention in the middle."""
    from diffusers import AutoencoderKL

    defaults: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 16, 16),
        "norm_num_groups": 4,
        "sample_size": 32,
        "scaling_factor": 1.5,
    }
    torch.manual_seed(seed)
    return AutoencoderKL(**{**defaults, **settings}).eval().requires_grad_(False)


def ours_of(vae: Any) -> AutoencoderKL:
    """Build our network around the weights of diffusers'."""
    network = filled_network(KLConfig.of(vae.config), vae.state_dict())
    assert isinstance(network, AutoencoderKL)
    return network


def diffusers_vq(path: Path) -> Any:
    """Build diffusers' network of a file in the original names, by its own converter."""
    from diffusers import VQModel
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    from mgd3_fast.generators.autoencoder_weights import vq_config

    settings, weights = vq_config(path).settings(), first_stage(read_weights(path)[0])
    network = VQModel.from_config(settings)
    codebook = "quantize.embedding.weight"
    network.load_state_dict(
        {**convert_ldm_vae_checkpoint(weights, settings), codebook: weights[codebook]}, strict=True
    )
    return network.eval()
