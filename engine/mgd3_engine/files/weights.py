"""The one reader of weight files, whatever they are of: tensors by name, mapped from the file, not copied."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.pickled import StandIn, read_pickled
from mgd3_engine.files.renaming import renamed

WRAPPERS = (
    *("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema"),
    *("state_dict", "model_state_dict", "model", "net", "network", "module", "params"),
)
"""What training scripts keep a state dict under; the first that is there counts, and averages go first."""
WRAPPER_PARTS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
)
"""What DDP, torch.compile, FSDP, activation checkpointing and Lightning's strategies put into names."""
OPTIONS = ("args", "hyper_parameters", "config", "cfg")
"""What training scripts keep their options under."""
DIFFUSERS_STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model")
TRANSFORMERS_STEMS = ("model", "pytorch_model")
"""How a library names the weights of a model's folder: in safetensors, and in PyTorch's own format."""

_INDEX = ".index.json", ".index.fp16.json"
_MOST_NESTED = 3
_PLAIN = (int, float, str, np.integer, np.floating)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a state dict.

    Args:
        path: A `.safetensors` file; a `*.index.json` beside the parts of a large model; or a PyTorch
            checkpoint under any other name (`.bin`, `.pt`, `.pth`, `.ckpt`), plain or under `WRAPPERS`, also
            two or three inside one another. `WRAPPER_PARTS` are taken out of names, wherever they stand, and
            the counter of an averaged model is left aside, as are plain values beside the tensors.

    Returns:
        The tensors by name, and what stands beside them as text: the metadata of a safetensors file, or the
        options of a checkpoint (`OPTIONS`).

    Raises:
        FileNotFoundError: There is no file at `path`, or a part is missing.
        ValueError: The file is damaged, or holds anything but weights and what `read_pickled` knows.
    """
    if path.name.endswith(_INDEX):
        return _read_parts(path), {}
    return _read_file(path)


def read_model_weights(folder: Path, stems: tuple[str, str] = DIFFUSERS_STEMS) -> dict[str, Tensor]:
    """Read the weights of a model's folder, the first of `weight_files` that is there.

    Args:
        folder: Of the model.
        stems: How its library names the files.

    Returns:
        The tensors by name.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A file is damaged.
    """
    candidates = [name for single, _, index in weight_files(stems) for name in (single, index)]
    found = next((folder / name for name in candidates if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no weights in {folder}: looked for {', '.join(candidates)}")
    return read_weights(found)[0]


def weight_files(stems: tuple[str, str] = DIFFUSERS_STEMS) -> tuple[tuple[str, str, str], ...]:
    """Name the files that can hold a model's weights: safetensors first, and half precision last.

    Args:
        stems: `DIFFUSERS_STEMS` or `TRANSFORMERS_STEMS`.

    Returns:
        For each format: the single file, the pattern of the parts of a large model, and their index.
    """
    formats = tuple(zip(stems, ("safetensors", "bin"), strict=True))
    whole = tuple(
        (f"{stem}.{end}", f"{stem}-*-of-?????.{end}", f"{stem}.{end}{_INDEX[0]}") for stem, end in formats
    )
    return whole + tuple(
        (f"{stem}.fp16.{end}", f"{stem}.fp16-*-of-?????.{end}", f"{stem}.{end}{_INDEX[1]}")
        for stem, end in formats
    )


def rooted(weights: Mapping[str, Tensor], anchors: Collection[str]) -> dict[str, Tensor]:
    """Take one network out of a file that has it under a name of its own, perhaps beside others.

    "model.x_embedder.proj.weight" beside "loss.scale" is how Lightning stores the network of a module.

    Args:
        weights: All tensors of the file.
        anchors: Names of tensors that the network has, one of which is enough.

    Returns:
        The tensors below the prefix of an anchor, without it: of several prefixes that of an average, else
        the shortest. All of them where there is no prefix, or no anchor.
    """
    prefixes = {
        name.removesuffix(anchor)
        for name in weights
        for anchor in anchors
        if name == anchor or name.endswith(f".{anchor}")
    }
    prefix = min(prefixes, key=lambda one: (-one.count("ema"), len(one)), default="")
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}


def check_weights(weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that no network can be computed with; single whole numbers are counters.

    Raises:
        ValueError: A tensor holds NaN or infinity, or whole numbers, as in a quantised network, that would be
            cast to other weights than were meant; the message names it.
    """
    for name, tensor in weights.items():
        if tensor.ndim and not tensor.is_floating_point():
            raise ValueError(
                f"the tensor {name} holds {tensor.dtype}, and weights are floating-point numbers"
            )
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        values = tensor.to(torch.float16) if tensor.itemsize == 1 else tensor
        # The extremes are NaN where there is any: 0.12 s for KL-f8 on a core, where isfinite takes 1.2.
        if not torch.stack(values.aminmax()).isfinite().all():
            raise ValueError(f"the tensor {name} holds NaN or infinity")


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


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file at {path}")
    if path.suffix == ".safetensors":
        stored, beside = _read_safetensors(path)
    else:
        content = read_pickled(path)
        stored, beside = _state_dict(content, path), _options(content)
    weights: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        plain = _plain(name)
        if plain in weights:
            raise ValueError(f"{path} holds two tensors that are {plain} without the names of wrappers")
        if plain.rpartition(".")[2] != "n_averaged":
            weights[plain] = tensor
    if not weights:
        raise ValueError(f"checkpoint must hold at least one tensor, got none in {path}")
    return weights, beside


def _read_parts(index_path: Path) -> dict[str, Tensor]:
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index_path} must have a weight_map of tensor names to files, got {weight_map!r}")
    weights: dict[str, Tensor] = {}
    for part in sorted({str(name) for name in weight_map.values()}):
        if Path(part).name != part:
            raise ValueError(f"{index_path} must name files of its own folder, got {part!r}")
        weights.update(_read_file(index_path.parent / part)[0])
    if missing := sorted(set(map(_plain, weight_map)) - set(weights)):
        raise ValueError(f"the parts of {index_path} lack a tensor of the index, {missing[0]}")
    return weights


def _plain(name: str) -> str:
    *parents, last = name.split(".")
    return ".".join([part for part in parents if part not in WRAPPER_PARTS] + [last])


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file, got a damaged one ({error})") from None


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """Find the tensors of a checkpoint, in the innermost of its wrappers."""
    for _ in range(_MOST_NESTED):
        if not isinstance(content, dict):
            break
        content = next((content[key] for key in WRAPPERS if _may_hold_weights(content.get(key))), content)
    if isinstance(content, dict):
        arrays = {name: _tensor(value) for name, value in content.items() if isinstance(name, str)}
        tensors = {name: tensor for name, tensor in arrays.items() if tensor is not None}
        if tensors or not content:
            return tensors
    found = f"a {type(content).__name__}"
    if isinstance(content, dict):
        found = ", ".join(repr(key) for key in list(content)[:5])
    raise ValueError(
        f"{path} must hold a state dict, plain or under one of {', '.join(WRAPPERS)}, got {found}"
    )


def _may_hold_weights(content: object) -> bool:
    """Tell a wrapped state dict from other dicts, such as parameters of a training."""
    return isinstance(content, dict) and (
        not content or any(key in WRAPPERS or _tensor(value) is not None for key, value in content.items())
    )


def _tensor(value: object) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(value)
    return value if isinstance(value, Tensor) else None


def _options(content: object) -> dict[str, str]:
    """Collect the numbers and words of a training's options."""
    options: dict[str, str] = {}
    for key in OPTIONS if isinstance(content, dict) else ():
        kept: Any = content.get(key)  # type: ignore[attr-defined]
        values = vars(kept) if isinstance(kept, StandIn) else kept
        if isinstance(values, dict):
            options |= {str(name): str(value) for name, value in values.items() if isinstance(value, _PLAIN)}
    return options
