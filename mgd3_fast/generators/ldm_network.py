"""Latent diffusion's network: a U-Net that attends to one token, the embedding of the class.

Shape letters: R rows of the network's input, C channels and T positions of a block, N classes, E numbers of a
class embedding.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mgd3_engine.files.digest import weights_digest
from mgd3_fast.generators.context_unet import ContextUNet
from mgd3_fast.generators.network import Network
from mgd3_fast.generators.unet_weights import filled_unet


class ClassUNet(Network):
    """A U-Net and its class embeddings (Rombach et al. 2022, section 3.3).

    Args:
        load: Loads diffusers' `UNet2DConditionModel` and the float `[N + 1, E]` table, the null class last.
    """

    def __init__(self, load: Callable[[], tuple[Any, Tensor]]) -> None:
        self._load = load

    @cached_property
    def _loaded(self) -> tuple[Any, Tensor]:
        return self._load()

    def digest(self) -> str:
        """sha256 of the weights and of what else decides the output, whatever file layout they came in."""
        unet, table = self._loaded
        weights = {**unet.state_dict(), "class_embedding_table": table}
        return weights_digest(weights, f"LDM {json.dumps(_uncommon_settings(unet.config), sort_keys=True)}")

    def _place(self, device: torch.device, dtype: torch.dtype) -> ContextUNet:
        unet, table = self._loaded
        weights = {name: tensor.to(device, dtype) for name, tensor in unet.state_dict().items()}
        placed = filled_unet(unet.config, weights)
        attend_to_one_token(placed)
        return ContextUNet(placed, table[:, None].to(device, dtype))


class OneTokenAttention:
    """Attention to a context of one token, for diffusers' `Attention.set_processor`.

    The softmax over one token is 1 whatever the query, so that every position receives W_o W_v c + b_o: two
    products a row in place of two a position.
    """

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **unused: Any
    ) -> Tensor:
        """Compute what each of `[R, T, C]` receives.

        Args:
            attn: diffusers' `Attention`, without norm or residual of its own.
            hidden_states: `[R, T, C]`; not looked at.
            encoder_hidden_states: `[R, 1, E]`.
            unused: What diffusers passes to every processor.

        Returns:
            `[R, 1, C]`, to be added to every position.
        """
        received: Tensor = attn.to_out[0](attn.to_v(encoder_hidden_states))
        return received


def attend_to_one_token(unet: Any) -> None:
    """Let the cross-attention of a U-Net make use of there being one token; the output is the same.

    Args:
        unet: diffusers' `UNet2DConditionModel`.
    """
    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            module.set_processor(OneTokenAttention())


def _uncommon_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the settings that are not diffusers' own defaults: a later version's new ones change nothing."""
    from diffusers import UNet2DConditionModel

    defaults = {
        name: json.dumps(parameter.default)
        for name, parameter in inspect.signature(UNet2DConditionModel.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    kept = {name: config[name] for name in defaults if name in config and name != "sample_size"}
    return {name: value for name, value in kept.items() if json.dumps(value) != defaults[name]}
