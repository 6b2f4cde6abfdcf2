"""Reading tensors from checkpoint files without running code from them or copying them, and writing them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd3_engine.files.renaming import renamed

_WRAPPERS = ("ema", "model", "state_dict")
_PARALLEL_PREFIXES = ("module.", "_orig_mod.")
_LIGHTNING_KEYS = tuple(
    f"{package}.callbacks.model_checkpoint.ModelCheckpoint"
    for package in ("pytorch_lightning", "lightning.pytorch")
)


class _ForeignKey:
    """Takes the place of a class that PyTorch Lightning's training states before 1.5 have as a key."""


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the state dict of one file; its tensors are mapped from the file, not copied.

    Args:
        path: A `.safetensors` file, or a PyTorch checkpoint that holds a state dict, plain or wrapped as
            "ema", "model" or "state_dict" (the first of these that is there counts). Prefixes that
            DistributedDataParallel and torch.compile put before names are removed.

    Returns:
        The tensors by name and the file's metadata (empty for a PyTorch checkpoint).

    Raises:
        FileNotFoundError: There is no file at `path`.
        ValueError: The file is damaged, or holds anything but tensors, plain Python values, an
            `argparse.Namespace` and the class of PyTorch Lightning's checkpoint callback.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file at {path}")
    if path.suffix == ".safetensors":
        weights, metadata = _read_safetensors(path)
    else:
        weights, metadata = _state_dict(_read_pickle(path), path), {}
    if not weights:
        raise ValueError(f"checkpoint must hold at least one tensor, got none in {path}")
    return {_without_prefix(name): tensor for name, tensor in weights.items()}, metadata


def read_sharded_weights(index_path: Path) -> dict[str, Tensor]:
    """Read the shards that an index file names, as Hugging Face libraries write them.

    Args:
        index_path: A `*.index.json` file, beside its shards.

    Returns:
        The tensors of all shards by name.

    Raises:
        FileNotFoundError: The index or one of its shards is missing.
        ValueError: The index or a shard is damaged, or the index leads out of its folder.
    """
    index = read_json(index_path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index_path} must have a weight_map of tensor names to files, got {weight_map!r}")
    weights: dict[str, Tensor] = {}
    for shard in sorted({str(name) for name in weight_map.values()}):
        if Path(shard).name != shard:
            raise ValueError(f"{index_path} must name files of its own folder, got {shard!r}")
        weights.update(read_weights(index_path.parent / shard)[0])
    if missing := sorted(set(weight_map) - set(weights)):
        raise ValueError(f"shards of {index_path} must hold every tensor of the index, missing {missing[0]}")
    return weights


def write_safetensors(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to a safetensors file that appears, or replaces an older one, only when complete.

    Args:
        path: The file; its permissions are those of any new file, not the writer's private ones.
        weights: Tensors by name, on any device.
        metadata: Text to store beside them.
    """
    from safetensors.torch import save_file

    with renamed(path, shared=True) as unfinished:
        unfinished.touch()
        permissions = unfinished.stat().st_mode
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(on_cpu, unfinished, metadata=dict(metadata))
        unfinished.chmod(permissions)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        FileNotFoundError: There is no file at `path`.
        ValueError: The file is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(content).__name__}")
    return content


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file, got a damaged one ({error})") from None


def _read_pickle(path: Path) -> object:
    # argparse.Namespace: DiT's own training script stores its command line beside the weights.
    # The unpickler looks names up and imports nothing: Lightning's are given a class that does nothing.
    foreign = [(_ForeignKey, name) for name in _LIGHTNING_KEYS]
    with torch.serialization.safe_globals([argparse.Namespace, *foreign]):
        try:
            return _load(path)
        except Exception as error:  # a damaged byte makes the unpickler raise almost anything
            reason = " ".join(str(error).split())
            if "Unsupported global" in reason or "Unsupported class" in reason:
                culprit = reason.split("GLOBAL ")[-1].split(" was not")[0]
                raise ValueError(
                    f"{path} must hold only tensors and plain values, got the object {culprit}"
                ) from None
            raise ValueError(
                f"{path} must be a PyTorch checkpoint, got a damaged or foreign file ({reason[:120]})"
            ) from None


def _load(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        # Files from before PyTorch 1.6 are no archives and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True)


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict):
        wrapped = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), content)
        if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in wrapped.items()):
            return dict(wrapped)
        found = ", ".join(repr(key) for key in list(wrapped)[:5])
    else:
        found = f"a {type(content).__name__}"
    raise ValueError(
        f"{path} must hold a state dict, plain or under {' or '.join(map(repr, _WRAPPERS))}, got {found}"
    )


def _without_prefix(name: str) -> str:
    while prefix := next((prefix for prefix in _PARALLEL_PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name
