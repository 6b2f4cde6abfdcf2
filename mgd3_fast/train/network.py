"""Train a DiT on latents.

Shape letters: B images, C channels, H W latent size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mgd3_engine.dit import PRESET_NAMES, DiT, DiTConfig, dit_config
from mgd3_fast.config.train import CUSTOM_MODEL, TrainConfig
from mgd3_fast.errors import UserError
from mgd3_fast.fit import EpochOrder, step_generator
from mgd3_fast.generators import Generator
from mgd3_fast.train.diffusion_loss import DiffusionLoss
from mgd3_fast.train.fitting import fit_network
from mgd3_fast.train.held_out import HeldOutLoss
from mgd3_fast.train.latents import TrainingLatents
from mgd3_fast.train.log import FitLog
from mgd3_fast.train.run import TrainingRun
from mgd3_fast.train.sheets import SampleSheets


def train_network(
    run: TrainingRun,
    network: DiT,
    latents: TrainingLatents,
    held_out: TrainingLatents | None = None,
    sheets: SampleSheets | None = None,
) -> tuple[DiT, FitLog]:
    """Fit a DiT to latents, or go on doing so.

    Args:
        run: The run.
        network: Starting weights.
        latents: What it learns to generate.
        held_out: Latents whose loss is measured beside that of the others.
        sheets: Draws samples on the way.

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
    loss_of = _LatentLoss(run, DiffusionLoss(run.schedule.build(), run.device), network.null_class)
    order = EpochOrder(len(latents), config.batch_size, config.seed, "dit", straddling=True)

    def step_loss(model: nn.Module, step: int) -> dict[str, Tensor]:
        return loss_of(model, latents, order.indices(step), step_generator(config.seed, "dit", step))

    averaged, log = fit_network(
        run,
        "dit",
        network.to(run.device),
        step_loss,
        count=len(latents),
        held_out=None if held_out is None else loss_of.held_out(held_out),
        sheets=sheets,
    )
    assert isinstance(averaged, DiT)
    return averaged.cpu(), log


@dataclass(frozen=True)
class _LatentLoss:
    """The loss of some latents, with copies, dropped labels, timesteps and noise drawn from a generator."""

    run: TrainingRun
    loss: DiffusionLoss
    null_class: int

    def __call__(
        self,
        model: nn.Module,
        latents: TrainingLatents,
        indices: Tensor,
        generator: torch.Generator,
        timestep: Tensor | None = None,
    ) -> dict[str, Tensor]:
        B, device = len(indices), self.run.device
        copies = torch.randint(latents.num_copies, (B,), generator=generator)
        x0, class_ids = latents.batch(indices, copies)  # [B, C, H, W], [B]
        dropped = torch.rand(B, generator=generator) < self.run.config.label_dropout
        class_ids = torch.where(dropped, self.null_class, class_ids)
        if timestep is None:
            timestep = torch.randint(self.loss.num_timesteps, (B,), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        return self.loss(model, *(each.to(device) for each in (x0, class_ids, timestep, noise)))

    def held_out(self, latents: TrainingLatents) -> HeldOutLoss:
        N, B, seed = len(latents), self.run.config.batch_size, self.run.config.seed
        # Evenly spread and shuffled, not drawn: the loss differs more between timesteps than between images.
        timesteps = torch.randperm(N, generator=step_generator(seed, "dit", "held out"))
        timesteps = timesteps * self.loss.num_timesteps // N
        batches = torch.split(torch.arange(N), B)

        def batch_loss(model: nn.Module, batch: int) -> dict[str, Tensor]:
            images, generator = batches[batch], step_generator(seed, "dit", "held out", batch)
            return self(model, latents, images, generator, timesteps[images])

        return HeldOutLoss(batch_loss, len(batches), N)


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
