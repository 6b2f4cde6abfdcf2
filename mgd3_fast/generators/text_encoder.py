"""Prompts to what a text-to-image network attends to, by CLIP's text encoder (Radford et al. 2021).

Shape letters: N prompts, L tokens of a prompt, E numbers of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.weights import TRANSFORMERS_STEMS, check_finite, read_model_weights
from mgd3_fast.errors import UserError
from mgd3_fast.generators.hub import loaded_or_refused

_CLASS = "CLIPTextModel"
_PREFIX = "text_model."  # which transformers 5 has dropped
_POSITIONS = "position_ids"  # counted, not learned, and stored in old files only


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
        raise UserError(
            "a text-to-image generator needs the package transformers, which is not installed:"
            " pip install 'mgd3-fast[stable-diffusion]'"
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
        check_finite(weights)
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
