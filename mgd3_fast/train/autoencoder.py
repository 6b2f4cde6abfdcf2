"""Train the autoencoder of a generator and write it as a diffusers folder.

Shape letters: B images, R resolution in pixels, c latent channels, h w latent size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mgd3_engine.autoencoder import AutoencoderKL, KLConfig
from mgd3_fast.config.train import DESCENT, TrainConfig, identity
from mgd3_fast.errors import UserError
from mgd3_fast.fit import EpochOrder, step_generator
from mgd3_fast.generators import KLAutoencoder
from mgd3_fast.generators.autoencoder_weights import save_autoencoder
from mgd3_fast.train.augment import augment
from mgd3_fast.train.batches import TrainingImages, training_images
from mgd3_fast.train.fitting import fit_network
from mgd3_fast.train.held_out import HeldOutLoss
from mgd3_fast.train.preset import steps_of
from mgd3_fast.train.run import TrainingRun
from mgd3_fast.train.sheets import show_reconstructions

STORED_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def train_autoencoder(run: TrainingRun, network: AutoencoderKL) -> Path:
    """Fit an autoencoder to the images of a run, or go on doing so.

    Args:
        run: The run.
        network: Starting weights.

    Returns:
        Folder `vae` in `out`, as diffusers' `save_pretrained` writes it; `scaling_factor` brings the
        posterior means of the dataset's images to unit variance.

    Raises:
        UserError: The images cannot be read, or another length is asked for of an autoencoder that a DiT
            was begun on.
    """
    config, images = run.config, training_images(run)
    steps = steps_of(config, "vae", len(images))
    run.log.begin("vae", _binding(run, steps))
    if _is_settled(run, steps):
        return run.out / "vae"
    order = EpochOrder(len(images), config.vae_batch_size, config.seed, "vae", straddling=True)

    def step_loss(vae: nn.Module, step: int) -> dict[str, Tensor]:
        generator = step_generator(config.seed, "vae", step)
        return _loss_of(run, vae, images.load(order.indices(step)), generator)

    averaged, fit_log = fit_network(
        run, "vae", network.to(run.device), step_loss, count=len(images), held_out=_held_out_loss(run)
    )
    dtype = STORED_DTYPES[config.stored_precision]
    # The scale is that of the weights as they are stored.
    averaged.load_state_dict({name: value.to(dtype) for name, value in averaged.state_dict().items()})
    scale = latent_scale(averaged, images.in_order(config.vae_batch_size))
    assert isinstance(averaged, AutoencoderKL)
    save_autoencoder(run.out / "vae", averaged, scale, dtype)
    run.log.finish("vae", fit_log, scaling_factor=scale)
    show_reconstructions(run)
    return run.out / "vae"


def new_autoencoder(config: TrainConfig) -> AutoencoderKL:
    """Make the autoencoder that a configuration describes with random weights, seeded by `config.seed`.

    Each of its blocks but the last halves the size.

    Raises:
        UserError: `resolution` cannot be halved as often as that.
    """
    blocks, side = len(config.vae_channels), config.resolution
    downsample = 2 ** (blocks - 1)
    if side % downsample:
        raise UserError(
            f"resolution must be a multiple of {downsample} for {blocks} blocks of vae_channels, such as"
            f" {side - side % downsample + downsample}, got {side}"
        )
    described = KLConfig(
        block_out_channels=config.vae_channels,
        layers_per_block=config.vae_layers,
        latent_channels=config.latent_channels,
        norm_num_groups=group_count(config.vae_channels),
        mid_block_add_attention=config.vae_attention == "middle",
        sample_size=side,
        scaling_factor=1.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return AutoencoderKL(described)


def start_autoencoder(source: str) -> AutoencoderKL:
    """Load the network of an autoencoder, as `KLAutoencoder` finds it, to train it further.

    Returns:
        float32 `AutoencoderKL` on the CPU, trainable.

    Raises:
        UserError: It cannot be fetched or is damaged.
    """
    network = KLAutoencoder(source).load_network().requires_grad_(True)
    assert isinstance(network, AutoencoderKL)
    return network


def group_count(channels: tuple[int, ...]) -> int:
    """Largest number of normalisation groups, at most 32, that leaves every block two channels a group."""
    return max(
        n for n in (1, 2, 4, 8, 16, 32) if all(width % n == 0 and width >= 2 * n for width in channels)
    )


def vae_loss(
    vae: Any, images: Tensor, generator: torch.Generator, *, kind: str, kl_weight: float
) -> dict[str, Tensor]:
    """Reconstruction error plus weighted divergence of the posterior from N(0, 1).

    loss = error + kl_weight * KL / (c h w), with the error per pixel value and the latent drawn from the
    posterior (Kingma & Welling 2014, Eq. 10; Rombach et al. 2022, appendix G, without the adversarial term).

    Args:
        vae: `AutoencoderKL`.
        images: uint8 `[B, 3, R, R]` on the network's device.
        generator: Source of the posterior's noise, on the CPU.
        kind: "l1" or "mse", on pixel values from -1 to 1.
        kl_weight: Weight of the divergence, in nats per latent value.

    Returns:
        Scalars "loss", "reconstruction" and "kl" (nats per latent value).
    """
    targets = images.float() / 127.5 - 1.0
    mean, log_variance = (moment.float() for moment in vae.encode(targets))
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    decoded = vae.decode(mean + (0.5 * log_variance).exp() * noise).float()
    difference = decoded - targets
    error = difference.abs().mean() if kind == "l1" else difference.square().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    return {"loss": error + kl_weight * kl, "reconstruction": error, "kl": kl}


def latent_scale(vae: Any, batches: Iterable[Tensor]) -> float:
    """1 / standard deviation of all posterior means: brings the latents to unit variance.

    Args:
        vae: `AutoencoderKL` in evaluation mode.
        batches: Iterable of uint8 `[B, 3, R, R]`.

    Returns:
        The scaling factor (Rombach et al. 2022, appendix G).
    """
    device = next(vae.parameters()).device
    total = squares = 0.0
    count = 0
    with torch.inference_mode():
        for images in batches:
            mean = vae.encode(images.to(device).float() / 127.5 - 1.0)[0].double()
            total += mean.sum().item()
            squares += mean.square().sum().item()
            count += mean.numel()
    return 1.0 / math.sqrt(squares / count - (total / count) ** 2)


def _loss_of(
    run: TrainingRun, vae: nn.Module, images: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """`vae_loss` of uint8 `[B, 3, R, R]` on the CPU, changed at random as the configuration says."""
    config = run.config
    changed = augment(images, config.augment, generator).to(run.device)
    return vae_loss(vae, changed, generator, kind=config.vae_loss, kl_weight=config.kl_weight)


def _held_out_loss(run: TrainingRun) -> HeldOutLoss | None:
    if run.held_out is None:
        return None
    images = TrainingImages(run.held_out, run.resolution, run.config.on_bad_image)
    batches = torch.split(torch.arange(len(images)), run.config.vae_batch_size)

    def batch_loss(vae: nn.Module, batch: int) -> dict[str, Tensor]:
        generator = step_generator(run.config.seed, "vae", "held out", batch)
        return _loss_of(run, vae, images.load(batches[batch]), generator)

    return HeldOutLoss(batch_loss, len(batches), len(images))


def _binding(run: TrainingRun, asked: int) -> dict[str, Any]:
    """The settings that bind the folder: not those of descent where the DiT is all that is left to train."""
    settings = {**identity(run.config, "vae"), **run.images}
    finished = run.log.finished("vae")
    if run.config.part != "both" or finished is None or asked > finished["curve"][-1]["step"]:
        return settings
    return {name: value for name, value in settings.items() if name not in DESCENT}


def _is_settled(run: TrainingRun, asked: int) -> bool:
    """Whether a DiT has begun to learn the latents of the finished autoencoder, which stays as it is then."""
    finished = run.log.finished("vae")
    if finished is None or not run.log.is_held("dit") or not (run.out / "vae/config.json").is_file():
        return False
    done = finished["curve"][-1]["step"]
    if asked != done and run.config.vae_steps is not None:
        raise UserError(
            f"vae_steps must be {done} in {run.out}, whose DiT was begun on this autoencoder, got {asked};"
            " choose another folder to train the autoencoder longer"
        )
    if asked != done:
        run.progress.note(f"the autoencoder in {run.out} stays at {done:,} steps: its DiT was begun on it")
    return True
