"""Diffusers' `UNet2DConditionModel` behind the seam: its files, and class ids that look their context up.

Shape letters: R rows of the network's input, C channels, h w latent size, N classes, L tokens of a context,
E numbers of a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.weights import check_weights, read_model_weights
from mgd3_fast.errors import UserError
from mgd3_fast.generators.hub import loaded_or_refused

_CLASS = "UNet2DConditionModel"
_FURTHER_INPUTS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")


class ContextUNet(nn.Module):
    """Diffusers' `UNet2DConditionModel` as a `Denoiser` (Rombach et al. 2022, section 3.3).

    Args:
        unet: The network.
        contexts: `[N + 1, L, E]`: what each class is conditioned on, that of the null class last.
    """

    contexts: Tensor

    def __init__(self, unet: Any, contexts: Tensor) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("contexts", contexts)

    def forward(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        """Predict the noise, or v.

        Args:
            x: `[R, C, h, w]` in the network's dtype.
            timestep: int64 `[R]`.
            class_ids: int64 `[R]`, N being the null class.

        Returns:
            `[R, C, h, w]` in the same dtype.
        """
        contexts = self.contexts[class_ids]  # [R, L, E]
        prediction: Tensor = self.unet(x, timestep, encoder_hidden_states=contexts, return_dict=False)[0]
        return prediction


def load_unet(folder: Path) -> Any:
    """Load a diffusers `UNet2DConditionModel` from its folder, as its file holds it, onto the CPU.

    Its weights are mapped from the file; it is in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: The weights are missing.
        UserError: The files are damaged, do not fit together, or the network wants more than a context.
    """
    settings = unet_settings(read_json(folder / "config.json"), str(folder))
    # Diffusers' `from_pretrained` fills a tensor that the file lacks with whatever is in memory, and warns.
    with loaded_or_refused(folder, _CLASS):
        weights = read_model_weights(folder)
        check_weights(weights)
        return filled_unet(settings, weights)


def unet_settings(settings: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the settings of a U-Net, its `config.json`, unless `ContextUNet` cannot call such a one.

    Raises:
        UserError: It is of another class, or has further inputs; the message names `place`.
    """
    if settings.get("_class_name", _CLASS) != _CLASS:
        raise UserError(f"unet of {place} must be a {_CLASS}, got a {settings['_class_name']!r}")
    for name in _FURTHER_INPUTS:
        if settings.get(name) is not None:
            raise UserError(
                f"unet of {place} must take latents, timesteps and text alone, got one with {name}"
                f" {settings[name]!r}"
            )
    return settings


def latent_size(settings: Mapping[str, Any], place: str) -> tuple[int, int]:
    """Return channels and side of the latents that a U-Net's settings state.

    Raises:
        UserError: The side is not stated.
    """
    side = settings.get("sample_size")
    if not isinstance(side, int):
        raise UserError(f"unet of {place} must state sample_size, a number, got {side!r}")
    return settings.get("in_channels", 4), side


def filled_unet(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """Build a `UNet2DConditionModel` around weights by diffusers' names, which become its own.

    Raises:
        RuntimeError, ValueError: The weights are not those of such a network.
    """
    from diffusers import UNet2DConditionModel

    for name in ("layers_per_block", "transformer_layers_per_block"):
        layers = settings.get(name, 1)
        most = max(layers) if isinstance(layers, (list, tuple)) else layers
        if isinstance(most, int) and most > len(weights):  # before minutes are spent on building them
            raise ValueError(f"its {name} is {most}, and it holds {len(weights)} tensors")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(settings)
    unet.load_state_dict(weights, assign=True)
    return unet.eval().requires_grad_(False)


def placed_unet(unet: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Build the same U-Net on a device in a dtype; weights that are there already are not copied."""
    return filled_unet(unet.config, {name: one.to(device, dtype) for name, one in unet.state_dict().items()})
