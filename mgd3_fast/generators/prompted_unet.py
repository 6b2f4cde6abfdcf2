"""Stable Diffusion's network: a U-Net, and CLIP's text encoder (Radford et al. 2021) for what it attends to.

Shape letters: N classes or prompts, L tokens of a prompt, E numbers of a token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd3_engine.files.digest import weights_digest
from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.networks import check_weights
from mgd3_engine.files.weights import TRANSFORMERS_STEMS, read_model_weights
from mgd3_fast.errors import UserError, missing
from mgd3_fast.generators.base import Network
from mgd3_fast.generators.hub import ModelFiles, loaded_or_refused
from mgd3_fast.generators.prompts import ClassPrompts
from mgd3_fast.generators.trained_schedule import Training
from mgd3_fast.generators.unet import ContextUNet, load_unet, placed_unet

_CLASS = "CLIPTextModel"
_PREFIX = "text_model."  # which transformers 5 has dropped
_POSITIONS = "position_ids"  # counted, not learned, and stored in old files only
_OF_THE_WRITER = frozenset({"architectures", "transformers_version", "torch_dtype", "dtype"})


class PromptedUNet(Network):
    """A U-Net that attends to prompts (Rombach et al. 2022, section 3.3), and the text encoder of these.

    Args:
        files: Of the pipeline.
        training: Schedule, and what the network predicts.
    """

    def __init__(self, files: ModelFiles, training: Training) -> None:
        self._files = files
        self._trained = f"{training.prediction} {training.schedule.betas.tobytes().hex()}"
        self._prompts: ClassPrompts | None = None
        self._contexts: Tensor | None = None

    def for_prompts(self, prompts: ClassPrompts) -> PromptedUNet:
        """Return the network whose class ids are those of these prompts; it shares what is loaded already."""
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
        return ContextUNet(placed_unet(self._unet, device, dtype), self._contexts.to(device, dtype))

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
        return self._files.network("unet")

    @cached_property
    def _encoder_folder(self) -> Path:
        return self._files.network("text_encoder", TRANSFORMERS_STEMS)

    def _encoded(self, device: torch.device) -> Tensor:
        """Return `[N + 1, L, E]`, the negative prompt's last; the text encoder is gone afterwards."""
        assert self._prompts is not None  # `TextGenerator.denoiser` sees to it
        texts = (*self._prompts.texts, self._prompts.negative)
        return encode_prompts(self._encoder_folder, self._files.tokenizer(), texts, device)


@torch.no_grad()
def encode_prompts(encoder: Path, tokenizer: Path, texts: Sequence[str], device: torch.device) -> Tensor:
    """Encode prompts in float32, padded to the encoder's length, one by one.

    So the bytes of a prompt's context do not depend on which others are encoded.

    Args:
        encoder: Folder of a transformers `CLIPTextModel`.
        tokenizer: Folder of its `CLIPTokenizer`.
        texts: The prompts.
        device: Where the encoder runs.

    Returns:
        float32 `[N, L, E]` on the CPU: the last hidden states, after the last normalisation.

    Raises:
        UserError: transformers is missing, a file is damaged or missing, or a prompt is too long.
    """
    try:
        import transformers
    except ImportError:
        raise missing(
            "a text-to-image generator needs the package transformers, which is not installed",
            "stable-diffusion",
        ) from None
    network = _load_encoder(transformers, encoder)
    tokens = _tokens(transformers, tokenizer, texts, network.config.max_position_embeddings)
    network.to(device)
    contexts = {text: network(ids[None].to(device)).last_hidden_state.cpu() for text, ids in tokens.items()}
    return torch.cat([contexts[text] for text in texts])


def encoder_weights(folder: Path) -> dict[str, Tensor]:
    """Read the encoder's weights under the same names whatever version wrote them.

    Raises:
        FileNotFoundError, ValueError: They are missing or damaged.
    """
    weights = read_model_weights(folder, TRANSFORMERS_STEMS)
    named = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in named.items() if not name.endswith(_POSITIONS)}


def _load_encoder(transformers: Any, folder: Path) -> Any:
    settings = read_json(folder / "config.json")
    if settings.get("model_type") != "clip_text_model":
        raise UserError(f"{folder} must be of a {_CLASS}, got a {settings.get('model_type')!r}")
    # Transformers' `from_pretrained` makes up a tensor that the file lacks, and warns.
    with loaded_or_refused(folder, _CLASS):
        config = transformers.CLIPTextConfig.from_dict(settings)
        weights = encoder_weights(folder)
        if config.num_hidden_layers > len(weights):  # before minutes are spent on building them
            raise ValueError(f"it states {config.num_hidden_layers} layers, and holds {len(weights)} tensors")
        check_weights(weights)
        with torch.device("meta"):
            network = transformers.CLIPTextModel(config)
        names = {name.removeprefix(_PREFIX): name for name in network.state_dict()}
        network.load_state_dict(
            {names.get(name, name): tensor.to(torch.float32) for name, tensor in weights.items()}, assign=True
        )
    for module in network.modules():
        if hasattr(module, _POSITIONS):
            module.position_ids = torch.arange(config.max_position_embeddings)[None]  # [1, L]
    return network.eval().requires_grad_(False)


def _tokens(transformers: Any, folder: Path, texts: Sequence[str], length: int) -> dict[str, Tensor]:
    """Tokens int64 `[L]` of each different prompt."""
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # damaged files raise almost anything
        reason = " ".join(str(error).split())
        raise UserError(f"{folder} must be of a CLIPTokenizer, got: {reason[:200]}") from None
    tokens = {}
    for text in dict.fromkeys(texts):
        ids = tokenizer(text, padding="max_length", max_length=length).input_ids
        if len(ids) > length:
            raise UserError(
                f"prompts must have at most {length - 2} tokens, got {len(ids) - 2} in {text[:60]!r}"
            )
        tokens[text] = torch.tensor(ids)
    return tokens


def _architecture(folder: Path) -> str:
    """What of `config.json` decides the output, in a fixed order."""
    settings = read_json(folder / "config.json")
    kept = (name for name in sorted(settings) if not name.startswith("_") and name not in _OF_THE_WRITER)
    return json.dumps({name: settings[name] for name in kept})
