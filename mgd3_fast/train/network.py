"""Train a DiT on latents.

Shape letters: B images, C channels, H W latent size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mgd3_engine.dit import PRESET_NAMES, DiT, DiTConfig, dit_config
from mgd3_fast.config.train import CUSTOM_MODEL, TrainConfig
from mgd3_fast.errors import UserError
from mgd3_fast.fit import EpochOrder, step_generator
from mgd3_fast.generators import Generator
from mgd3_fast.train.diffusion_loss import DiffusionLoss
from mgd3_fast.train.fitting import fit_network
from mgd3_fast.train.latents import TrainingLatents
from mgd3_fast.train.log import FitLog
from mgd3_fast.train.run import TrainingRun


def train_network(run: TrainingRun, network: DiT, latents: TrainingLatents) -> tuple[DiT, FitLog]:
    """Fit a DiT to latents, or go on doing so.

    Args:
        run: The run.
        network: Starting weights.
        latents: What it learns to generate.

    Returns:
        The averaged network on the CPU, and the log.

    Raises:
        UserError: The loss is not finite, or the network has no null class for `label_dropout`.
    """
    config = run.config
    if config.label_dropout > 0 and network.config.num_labels == network.config.num_classes:
        raise UserError(
            f"label_dropout must be 0 for a network without null class, got {config.label_dropout}"
        )
    loss = DiffusionLoss(run.schedule.build(), run.device)
    order = EpochOrder(len(latents), config.batch_size, config.seed, "dit", straddling=True)

    def step_loss(model: nn.Module, step: int) -> dict[str, Tensor]:
        generator = step_generator(config.seed, "dit", step)
        B = config.batch_size
        copies = torch.randint(latents.num_copies, (B,), generator=generator)
        x0, class_ids = latents.batch(order.indices(step), copies)  # [B, C, H, W], [B]
        dropped = torch.rand(B, generator=generator) < config.label_dropout
        class_ids = torch.where(dropped, network.null_class, class_ids)
        timestep = torch.randint(loss.num_timesteps, (B,), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        return loss(model, *(each.to(run.device) for each in (x0, class_ids, timestep, noise)))

    averaged, log = fit_network(run, "dit", network.to(run.device), step_loss, count=len(latents))
    assert isinstance(averaged, DiT)
    return averaged.cpu(), log


def new_network(config: TrainConfig, *, num_classes: int, latent_shape: tuple[int, int, int]) -> DiT:
    """Make the DiT of `architecture` with random weights, seeded by `config.seed`."""
    described = architecture(config, num_classes, latent_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return DiT(described)


def architecture(config: TrainConfig, num_classes: int, latent_shape: tuple[int, int, int]) -> DiTConfig:
    """Size of the DiT that a configuration describes, for so many classes and latents of shape (C, H, W).

    Raises:
        UserError: The size is unknown or does not fit the latents.
    """
    channels, side, _ = latent_shape
    width, depth, heads, patch = config.hidden, config.depth, config.heads, config.patch
    if config.model != CUSTOM_MODEL:
        if config.model not in PRESET_NAMES:
            allowed = ", ".join((CUSTOM_MODEL, *PRESET_NAMES))
            raise UserError(f"model must be one of {allowed}, got {config.model!r}")
        published = dit_config(config.model)
        width, depth, heads = published.hidden_size, published.depth, published.num_heads
        patch = published.patch_size
    if side % patch:
        fitting = ", ".join(str(one) for one in range(1, side + 1) if side % one == 0)
        raise UserError(f"patch must divide the {side} latent pixels of a side ({fitting}), got {patch}")
    return DiTConfig(
        input_size=side,
        patch_size=patch,
        in_channels=channels,
        hidden_size=width,
        depth=depth,
        num_heads=heads,
        num_classes=num_classes,
        learn_sigma=config.variance == "learned",
        class_dropout_prob=config.label_dropout,
    )


def copied_network(generator: Generator) -> DiT:
    """Copy the DiT of a generator, so that training leaves the generator's own alone.

    Raises:
        UserError: The generator's network is not a DiT.
    """
    loaded = generator.denoiser("cpu", torch.float32)
    if not isinstance(loaded, DiT):
        raise UserError(f"init must be a generator of the DiT family, got {generator.name}")
    network = DiT(loaded.config)
    network.load_state_dict(loaded.state_dict())
    return network
