"""The seam between a model family and everything else: a network, its autoencoder and how to sample them.

Shape letters: B images, R rows of the network's input, C channels, h w latent size, P resolution in pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from mgd3_engine import Denoiser, NoiseSchedule
from mgd3_fast.config import SamplingDefaults
from mgd3_fast.datasets import DEFAULT_FRAMING, Framing
from mgd3_fast.devices import dtype_of
from mgd3_fast.errors import UserError
from mgd3_fast.generators.batched_autoencoder import Autoencoder
from mgd3_fast.generators.classes import find_ids
from mgd3_fast.generators.prompts import ClassPrompts


class Network(ABC):
    """A network that is loaded on first use and placed where it is asked for; the last placing is kept."""

    _placed: tuple[torch.device, torch.dtype, Denoiser] | None = None

    def denoiser(self, device: torch.device, dtype: torch.dtype) -> Denoiser:
        """Return the network on `device`, its weights and input in `dtype`.

        Raises:
            UserError: The weights cannot be had or are damaged.
        """
        if self._placed is None or self._placed[:2] != (device, dtype):
            self._placed = (device, dtype, self._place(device, dtype))
        return self._placed[2]

    @abstractmethod
    def _place(self, device: torch.device, dtype: torch.dtype) -> Denoiser:
        """Put a network on `device` in `dtype`; weights that are there already are not copied."""

    @abstractmethod
    def digest(self) -> str:
        """sha256 of the weights and of what else decides the output, whatever file layout they came in."""


@dataclass(frozen=True, kw_only=True)
class Generator:
    """One trained class-conditional diffusion model, of any family.

    Conditioning is the denoiser's affair: it receives class ids, the null class among them. A network that
    is conditioned on text looks up the embedding of each class's prompt, the null prompt's being the last.

    Args:
        name: Short name for reports.
        source: Where the weights come from: a hub id or a path.
        resolution: P, side of the square images in pixels.
        latent_shape: (C, h, w) of one latent.
        num_classes: Classes without the null class.
        null_class: Id of the null class; None if the network has none, so that guidance must be off.
        cfg_channels: Classifier-free guidance acts on the first so many channels; None is all.
        schedule: Noise schedule of the training.
        prediction: "epsilon" or "v".
        learned_variance: The network's output has 2C channels, the second C being the variance.
        defaults: Sampling settings unless told otherwise.
        class_names: Names of the classes in the order of their ids, where they are known.
        licence: Of the network's weights.
        autoencoder: Between images and latents.
        network: Its weights load on first use.
        prompts: What a text-conditioned network makes of the classes of a run; None for every other.
        notes: What a user should know of its files.
        presets: Options of `distill` that its presets set: "paper" as the paper's own code does, "fast".
        quality: What `judge` found of it, or None.
        framing: How the images that it was trained on became RGB and square.
    """

    name: str
    source: str
    resolution: int
    latent_shape: tuple[int, int, int]
    num_classes: int
    null_class: int | None
    cfg_channels: int | None
    schedule: NoiseSchedule
    prediction: str = "epsilon"
    learned_variance: bool = False
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    class_names: tuple[str, ...] | None = None
    licence: str
    autoencoder: Autoencoder
    network: Network
    prompts: ClassPrompts | None = None
    notes: tuple[str, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    quality: Mapping[str, Any] | None = None
    framing: Framing = DEFAULT_FRAMING

    @property
    def conditioning(self) -> str:
        """What it is conditioned on, for messages."""
        return f"{self.num_classes} classes"

    @property
    def judged(self) -> str | None:
        """Its quality in one line, or None."""
        found = self.quality
        return f"{found['line']} (judged on {found['dataset']}, {found['date']})" if found else None

    def denoiser(self, device: torch.device | str, dtype: torch.dtype) -> Denoiser:
        """Load the network where and as it is wanted.

        Args:
            device: Where it runs.
            dtype: Of its weights and its input.

        Returns:
            The `Denoiser`: (x `[R, C, h, w]` of `dtype`, timestep int64 `[R]`, class_ids int64 `[R]`) ->
            `[R, C or 2C, h, w]`.

        Raises:
            UserError: The weights cannot be had or are damaged.
        """
        return self.network.denoiser(torch.device(device), dtype)

    @cached_property
    def digest(self) -> str:
        """sha256 of the network's weights, whatever file layout they came in; loads them."""
        return self.network.digest()

    @property
    def digests(self) -> dict[str, str]:
        """What tells the weights of both networks, as what is kept about them records it."""
        return {"generator_digest": self.digest, "autoencoder_digest": self.autoencoder.digest}

    def class_ids(self, class_names: Sequence[str]) -> list[int]:
        """Find the network's id of each class of a dataset.

        By name where the generator knows names, of which one may be several synonyms with commas between;
        by wnid for a network of the 1,000 ImageNet classes; by position where the dataset has as many classes
        as the network.

        Args:
            class_names: Names of the dataset's classes, in label order.

        Returns:
            One id per name.

        Raises:
            UserError: A name is unknown, or the rules above do not apply.
        """
        return find_ids(class_names, self.class_names, self.num_classes, self.name)


def place_network(generator: Generator, device: torch.device, precision: str) -> Denoiser:
    """Load a generator's network where and as it is wanted.

    Args:
        generator: Its network.
        device: Where it runs.
        precision: fp32, bf16, fp16 or fp8.

    Returns:
        The denoiser, whose input is of `dtype_of(precision)`.

    Raises:
        UserError: The weights cannot be had, or fp8 is asked for and they are no DiT's, or of sizes that are
            no multiples of 16.
    """
    network = generator.denoiser(device, dtype_of(precision))
    if precision != "fp8":
        return network
    from mgd3_engine.dit import DiT, float8_linears

    if not isinstance(network, DiT):
        raise UserError(f"precision must be auto, fp32, bf16 or fp16 for {generator.name}, got 'fp8'")
    try:
        return float8_linears(network)
    except ValueError as error:
        raise UserError(str(error)) from None


def checked_channels(autoencoder: Autoencoder, channels: int, name: str) -> None:
    """Refuse an autoencoder whose latents have another number of channels than a network."""
    if autoencoder.latent_channels != channels:
        raise UserError(
            f"vae must have {channels} latent channels for {name}, got {autoencoder.latent_channels}"
        )
