"""Train the autoencoder of a generator and write it as a diffusers folder.

Shape letters: B images, R resolution in pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mgd3_engine.autoencoder import AutoencoderKL
from mgd3_fast.config.train import TrainConfig, identity
from mgd3_fast.datasets import Dataset
from mgd3_fast.errors import UserError
from mgd3_fast.fit import EpochOrder, step_generator
from mgd3_fast.generators.autoencoder_weights import load_vae
from mgd3_fast.generators.hub import fetch_model, model_folder
from mgd3_fast.progress import Progress
from mgd3_fast.storage.tensor_files import save_tensors
from mgd3_fast.train.augment import augment
from mgd3_fast.train.batches import TrainingImages
from mgd3_fast.train.fitting import fit_network, fit_settings
from mgd3_fast.train.log import CHECKPOINTS, TrainingLog
from mgd3_fast.train.vae import build_vae, latent_scale, vae_loss

STORED_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def train_autoencoder(
    config: TrainConfig,
    dataset: Dataset,
    resolution: int,
    *,
    start: AutoencoderKL | None,
    device: torch.device,
    bf16: bool,
    log: TrainingLog,
    progress: Progress,
) -> Path:
    """Fit an autoencoder to the images of a dataset, or go on doing so.

    Args:
        config: What is trained and how.
        dataset: The images.
        resolution: Side R in pixels.
        start: Network to fine-tune, or None for a new one.
        device: Where it is trained.
        bf16: Use bfloat16 autocast.
        log: Receives settings and losses.
        progress: Where bars and losses go.

    Returns:
        Folder `vae` in `config.out`, as diffusers' `save_pretrained` writes it; `scaling_factor` brings the
        posterior means of the dataset's images to unit variance.

    Raises:
        UserError: The images do not fit the architecture, or cannot be read.
    """
    if start is None:
        new_latent_shape(config, resolution)
    log.begin("vae", {**identity(config, "vae"), "images": dataset.fingerprint})
    folder = Path(config.out) / "vae"
    images = TrainingImages(dataset, resolution, config.on_bad_image)
    settings = fit_settings(config, "vae", count=len(images), device=device, bf16=bf16)
    vae = (start if start is not None else _new_vae(config, resolution)).to(device)
    order = EpochOrder(len(images), config.vae_batch_size, config.seed, "vae", straddling=True)

    def step_loss(network: nn.Module, step: int) -> dict[str, Tensor]:
        generator = step_generator(config.seed, "vae", step)
        batch = augment(images.load(order.indices(step)), config.augment, generator).to(device)
        return vae_loss(network, batch, generator, kind=config.vae_loss, kl_weight=config.kl_weight)

    checkpoint = Path(config.out) / CHECKPOINTS / "vae.pt"
    averaged, fit_log = fit_network(vae, step_loss, settings, checkpoint, progress)
    dtype = STORED_DTYPES[config.stored_precision]
    # The scale is that of the weights as they are stored.
    averaged.load_state_dict({name: value.to(dtype) for name, value in averaged.state_dict().items()})
    scale = latent_scale(averaged, images.in_order(config.vae_batch_size))
    _save_autoencoder(averaged, folder, scale, dtype)
    log.finish("vae", fit_log, scaling_factor=scale)
    return folder


def new_latent_shape(config: TrainConfig, resolution: int) -> tuple[int, int, int]:
    """Shape of one image's latents in the autoencoder that a configuration describes.

    Args:
        config: Its blocks, each but the last of which halves the size, and channels.
        resolution: Side R in pixels.

    Returns:
        (C, h, w).

    Raises:
        UserError: `resolution` cannot be halved so often.
    """
    blocks = len(config.vae_channels)
    downsample = 2 ** (blocks - 1)
    if resolution % downsample:
        raise UserError(
            f"resolution must be a multiple of {downsample} for {blocks} blocks, got {resolution}"
        )
    return config.latent_channels, resolution // downsample, resolution // downsample


def start_autoencoder(source: str) -> AutoencoderKL:
    """Load the network of an autoencoder to train it further.

    Args:
        source: Folder, file or hub id, as of `KLAutoencoder`.

    Returns:
        float32 `AutoencoderKL` on the CPU, trainable.

    Raises:
        UserError: It cannot be fetched or is damaged.
    """
    path = Path(source)
    if not path.exists():
        path = fetch_model(source, "vae", option="--vae", licence="see its source")
    elif path.is_dir():
        path = model_folder(path, "vae")
    return load_vae(path).requires_grad_(True)


def _new_vae(config: TrainConfig, resolution: int) -> AutoencoderKL:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_vae(
            channels=config.vae_channels,
            layers=config.vae_layers,
            latent_channels=config.latent_channels,
            attention=config.vae_attention == "middle",
            resolution=resolution,
        )


def _save_autoencoder(vae: Any, folder: Path, scaling_factor: float, dtype: torch.dtype) -> None:
    """Write what diffusers' `from_pretrained` reads; the configuration comes last."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    weights = {name: value.to("cpu", dtype).contiguous() for name, value in vae.state_dict().items()}
    save_tensors(folder / "diffusion_pytorch_model.safetensors", weights, {"format": "pt"})
    settings = vae.config.settings() | {"scaling_factor": scaling_factor}
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
