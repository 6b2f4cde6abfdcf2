"""Loading a DiT from every layout in which its weights are published, and saving our own."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mgd3_engine.dit.config import DiTConfig
from mgd3_engine.dit.layouts import (
    diffusers_config,
    fold_gains,
    from_diffusers,
    infer_config,
    is_diffusers,
)
from mgd3_engine.dit.model import DiT, position_embedding
from mgd3_engine.dit.presets import HEADS_OF_HIDDEN_SIZE
from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.weights import (
    check_weights,
    read_model_weights,
    read_weights,
    rooted,
    weight_files,
    write_safetensors,
)

_METADATA_KEY = "mgd3_dit_config"
_ANCHORS = ("x_embedder.proj.weight", "pos_embed.proj.weight")  # the authors' name and diffusers'
_HEADS = ("num_heads", "num_attention_heads", "heads", "n_heads")
_DIFFUSERS_FILES = {name for single, _, index in weight_files() for name in (single, index)}


@dataclass(frozen=True)
class DiTCheckpoint:
    """What `read_dit` found: tensors that are mapped from their file, and the architecture they are of.

    Args:
        path: Where they lie.
        config: The architecture.
        weights: By our names.
        unused: Names of the file's tensors that the network's forward pass never uses, in the published code
            neither, or that belong to other networks of the file.
        heads_known: Whether `config.num_heads` was stated or is that of a published width; it is 1 otherwise.
    """

    path: Path
    config: DiTConfig
    weights: Mapping[str, Tensor]
    unused: tuple[str, ...]
    heads_known: bool

    def network(self, dtype: torch.dtype = torch.float32) -> DiT:
        """Build the network on the CPU, in evaluation mode, without gradients.

        Raises:
            ValueError: A tensor is missing, unknown, of another shape or not finite, or the number of heads
                is not known.
        """
        with _named(self.path):
            if not self.heads_known:
                widths = ", ".join(map(str, HEADS_OF_HIDDEN_SIZE))
                raise ValueError(
                    f"its width {self.config.hidden_size} is not a published one ({widths}), and weights do"
                    ' not tell the number of attention heads: give num_heads, or write {"num_heads": N} into'
                    " a config.json beside the file"
                )
            return _assemble(self.config, self.weights, dtype)


def load_dit(
    source: str | Path,
    config: DiTConfig | None = None,
    *,
    num_heads: int | None = None,
    frequency_shift: int = 0,
    dtype: torch.dtype = torch.float32,
) -> DiT:
    """Load a DiT for inference from the authors' layout, from diffusers' or from ours.

    Weights of the wanted dtype stay mapped from their file, so that loading takes no second copy of them.

    Args:
        source: See `read_dit`, and so the others.
        config: The architecture; None reads it.
        num_heads: Attention heads, where nothing else tells them.
        frequency_shift: Convention of the timestep sinusoids where the file does not tell.
        dtype: Of the network's weights.

    Returns:
        The network on the CPU, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: There is nothing at `source`.
        ValueError: The file is damaged, is no DiT, lacks a tensor, has too many, holds NaN or infinity, or
            does not fit `config`.
    """
    return read_dit(source, config, num_heads=num_heads, frequency_shift=frequency_shift).network(dtype)


def read_dit(
    source: str | Path,
    config: DiTConfig | None = None,
    *,
    num_heads: int | None = None,
    frequency_shift: int = 0,
) -> DiTCheckpoint:
    """Find out what DiT is at a place, without building it.

    The gains of DiffFit fine-tuning are folded into the weights.

    Args:
        source: A `.pt` file in the authors' layout (see `read_weights` for its wrappers), a `.safetensors`
            file (ours, or any in the authors' names), a diffusers folder (the pipeline's or its
            `transformer`), or a weights file inside one.
        config: The architecture; None reads it from our metadata, from diffusers' `config.json` or off the
            shapes.
        num_heads: Attention heads of a network in the authors' layout, which no shape tells; None takes what
            the options stored in the file or a `config.json` beside it say (`num_heads`, `heads`, `n_heads`
            or `num_attention_heads`), else those of the published network of the same width.
        frequency_shift: Convention of the timestep sinusoids where the file does not tell: 0 for every
            network of the authors, in whatever layout; 1 for one that was trained within diffusers.

    Returns:
        Its tensors and architecture.

    Raises:
        FileNotFoundError: There is nothing at `source`.
        ValueError: The file is damaged or is no DiT.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    folder = _diffusers_folder(path)
    with _named(path):
        stored, beside = (read_model_weights(folder), {}) if path.is_dir() and folder else read_weights(path)
        own = {name: tensor for name, tensor in rooted(stored, _ANCHORS).items() if not _is_unused(name)}
        used = set(map(id, own.values()))
        unused = tuple(name for name, tensor in stored.items() if id(tensor) not in used)
        weights = from_diffusers(own) if folder is not None else fold_gains(own)
        if config is None and folder is not None:
            config = diffusers_config(read_json(folder / "config.json"), frequency_shift=frequency_shift)
        elif config is None and _METADATA_KEY in beside:
            config = _stored_config(beside[_METADATA_KEY])
        if config is not None:
            if num_heads not in (None, config.num_heads):
                raise ValueError(f"it states {config.num_heads} attention heads, not {num_heads}")
            return DiTCheckpoint(path, config, weights, unused, True)
        heads = num_heads or _stated_heads(beside, path)
        config = infer_config(weights, num_heads=heads, frequency_shift=frequency_shift)
        known = heads is not None or config.hidden_size in HEADS_OF_HIDDEN_SIZE
        return DiTCheckpoint(path, config, weights, unused, known)


def save_dit(path: str | Path, dit: DiT, *, dtype: torch.dtype | None = None) -> None:
    """Write a DiT and its configuration to one safetensors file, in place of an older one only when complete.

    Args:
        path: The file to write.
        dit: The network.
        dtype: Of the stored weights; None keeps the network's. The fixed `pos_embed` keeps its own.
    """
    weights = {
        name: tensor.to(tensor.dtype if name == "pos_embed" else dtype)
        for name, tensor in dit.state_dict().items()
    }
    write_safetensors(Path(path), weights, {_METADATA_KEY: json.dumps(asdict(dit.config))})


def _diffusers_folder(path: Path) -> Path | None:
    """Return the folder with the transformer's `config.json`, or None for a file of another layout."""
    if path.is_dir():
        for folder in (path, path / "transformer"):
            if (folder / "config.json").is_file():
                return folder
        raise ValueError(f"{path} must hold config.json or transformer/config.json of a DiT, got neither")
    if path.name in _DIFFUSERS_FILES and (path.parent / "config.json").is_file():
        return path.parent
    return None


def _stored_config(text: str) -> DiTConfig:
    try:
        return DiTConfig(**json.loads(text))
    except TypeError as error:
        raise ValueError(f"stored configuration must have the fields of DiTConfig, got {error}") from None


def _is_unused(name: str) -> bool:
    """Tell whether the code that MGD3 is sampled with declares a tensor and never uses it."""
    return name.startswith("m_embedder.")


def _stated_heads(beside: Mapping[str, str], path: Path) -> int | None:
    """Find the number of heads among a training's options, or in a `config.json` beside the file."""
    settings: Mapping[str, object] = beside
    if not any(name in beside for name in _HEADS) and (path.parent / "config.json").is_file():
        settings = read_json(path.parent / "config.json")
    stated = next((str(settings[name]) for name in _HEADS if name in settings), "")
    return int(stated) if stated.isdecimal() and int(stated) > 0 else None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in whatever is wrong with it."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} cannot be loaded as a DiT: {error}") from None


def _assemble(config: DiTConfig, weights: Mapping[str, Tensor], dtype: torch.dtype) -> DiT:
    """Put the tensors into a network that was made without memory of its own."""
    if is_diffusers(weights):
        raise ValueError("weights in diffusers' names must come with their config.json, got none beside them")
    if "pos_embed" not in weights:
        grid = position_embedding(config.hidden_size, config.input_size // config.patch_size)
        weights = {**weights, "pos_embed": grid[None]}
    if config.depth > len(weights):
        raise ValueError(f"its settings say {config.depth} blocks, and it holds {len(weights)} tensors")
    with torch.device("meta"):
        dit = DiT(config)
    expected = dit.state_dict()
    if missing := expected.keys() - weights.keys():
        raise ValueError(f"weights must be complete, missing {_listed(missing)}")
    if unknown := weights.keys() - expected.keys():
        raise ValueError(f"weights must be those of a DiT alone, got also {_listed(unknown)}")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape or not tensor.is_floating_point():
            raise ValueError(
                f"{name} must be floating-point of shape {list(expected[name].shape)},"
                f" got {tensor.dtype} {list(tensor.shape)}"
            )
    check_weights(weights)
    dit.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, assign=True)
    return dit.eval().requires_grad_(False)


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
