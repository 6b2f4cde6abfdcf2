"""Stable Diffusion's network: a U-Net and a text encoder, loaded on first use.

Shape letters: N classes, L tokens of a prompt, E numbers of a token.
"""

from __future__ import annotations

import json
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd3_engine import NoiseSchedule
from mgd3_engine.files.digest import weights_digest
from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.weights import TRANSFORMERS_STEMS, read_model_weights
from mgd3_fast.errors import UserError
from mgd3_fast.generators.context_unet import ContextUNet
from mgd3_fast.generators.pipeline_files import PipelineFiles
from mgd3_fast.generators.prompts import ClassPrompts
from mgd3_fast.generators.text_encoder import encode_prompts, encoder_weights
from mgd3_fast.generators.text_generator import TextNetwork
from mgd3_fast.generators.unet_weights import filled_unet, load_unet

_OF_THE_WRITER = frozenset({"architectures", "transformers_version", "torch_dtype", "dtype"})


class PromptedUNet(TextNetwork):
    """A U-Net that attends to prompts (Rombach et al. 2022, section 3.3).

    Args:
        files: Of the pipeline.
        schedule: Of the training.
        prediction: What the network predicts.
    """

    def __init__(self, files: PipelineFiles, schedule: NoiseSchedule, prediction: str) -> None:
        self._files = files
        self._trained = f"{prediction} {schedule.betas.tobytes().hex()}"
        self._prompts: ClassPrompts | None = None
        self._contexts: Tensor | None = None

    def for_prompts(self, prompts: ClassPrompts) -> PromptedUNet:
        """Return the network of these prompts, which shares what is loaded already."""
        prompted = copy(self)
        prompted._prompts, prompted._contexts, prompted._placed = prompts, None, None
        return prompted

    def _place(self, device: torch.device, dtype: torch.dtype) -> ContextUNet:
        if self._contexts is None:  # before the U-Net takes its memory
            self._contexts = self._encoded(device)
        width = self._unet.config.cross_attention_dim
        if self._contexts.shape[-1] != width:
            raise UserError(
                f"text_encoder of {self._files.source} must give {width} numbers a token for its unet,"
                f" got {self._contexts.shape[-1]}"
            )
        weights = {name: tensor.to(device, dtype) for name, tensor in self._unet.state_dict().items()}
        return ContextUNet(filled_unet(self._unet.config, weights), self._contexts.to(device, dtype))

    def digest(self) -> str:
        """sha256 of what turns prompt, latent and timestep into a prediction, and of what that means."""
        text = weights_digest(encoder_weights(self._encoder_folder), _architecture(self._encoder_folder))
        tokenizer, unet = self._files.tokenizer_bytes().hex(), _architecture(self._unet_folder)
        settings = " ".join((unet, text, tokenizer, self._trained))
        return weights_digest(read_model_weights(self._unet_folder), settings)

    @cached_property
    def _unet(self) -> Any:
        """The U-Net as its file holds it."""
        return load_unet(self._unet_folder)

    @cached_property
    def _unet_folder(self) -> Path:
        return self._files.model("unet")

    @cached_property
    def _encoder_folder(self) -> Path:
        return self._files.model("text_encoder", TRANSFORMERS_STEMS)

    def _encoded(self, device: torch.device) -> Tensor:
        """Return `[N + 1, L, E]`, the negative prompt's last; the text encoder is gone afterwards."""
        assert self._prompts is not None  # `TextGenerator.denoiser` sees to it
        texts = (*self._prompts.texts, self._prompts.negative)
        return encode_prompts(self._encoder_folder, self._files.tokenizer(), texts, device)


def _architecture(folder: Path) -> str:
    """What of `config.json` decides the output, in a fixed order."""
    settings = read_json(folder / "config.json")
    kept = (name for name in sorted(settings) if not name.startswith("_") and name not in _OF_THE_WRITER)
    return json.dumps({name: settings[name] for name in kept})
