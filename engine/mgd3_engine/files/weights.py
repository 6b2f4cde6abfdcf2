"""The one reader of weight files, whatever they are of: tensors by name, mapped from the file, not copied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.pickled import read_pickled
from mgd3_engine.files.renaming import renamed

WRAPPERS = ("ema", "state_dict", "model", "net")
"""What training scripts keep a state dict under; the first that is there counts, and averages go first."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before names."""
DIFFUSERS_STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model")
TRANSFORMERS_STEMS = ("model", "pytorch_model")
"""How a library names the weights of a model's folder: in safetensors, and in PyTorch's own format."""

_INDEX = ".index.json"
_MOST_NESTED = 3


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a state dict.

    Args:
        path: A `.safetensors` file; a `*.index.json` beside the parts of a large model; or a PyTorch
            checkpoint under any other name (`.bin`, `.pt`, `.pth`, `.ckpt`), plain or under `WRAPPERS`, also
            two or three inside one another. `PREFIXES` of names are removed.

    Returns:
        The tensors by name and the metadata of a safetensors file (empty for others).

    Raises:
        FileNotFoundError: There is no file at `path`, or a part is missing.
        ValueError: The file is damaged, or holds anything but weights and what `read_pickled` knows.
    """
    if path.name.endswith(_INDEX):
        return _read_parts(path), {}
    return _read_file(path)


def read_model_weights(folder: Path, stems: tuple[str, str] = DIFFUSERS_STEMS) -> dict[str, Tensor]:
    """Read the weights of a model's folder, safetensors where there are any.

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
    """Name the files that can hold a model's weights, safetensors first.

    Args:
        stems: `DIFFUSERS_STEMS` or `TRANSFORMERS_STEMS`.

    Returns:
        For each format: the single file, the pattern of the parts of a large model, and their index.
    """
    return tuple(
        (f"{stem}.{end}", f"{stem}-*-of-*.{end}", f"{stem}.{end}{_INDEX}")
        for stem, end in zip(stems, ("safetensors", "bin"), strict=True)
    )


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
        weights, metadata = _read_safetensors(path)
    else:
        weights, metadata = _unwrapped(read_pickled(path), path), {}
    if not weights:
        raise ValueError(f"checkpoint must hold at least one tensor, got none in {path}")
    return {_without_prefix(name): tensor for name, tensor in weights.items()}, metadata


def _read_parts(index_path: Path) -> dict[str, Tensor]:
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index_path} must have a weight_map of tensor names to files, got {weight_map!r}")
    weights: dict[str, Tensor] = {}
    for part in sorted({str(name) for name in weight_map.values()}):
        if Path(part).name != part:
            raise ValueError(f"{index_path} must name files of its own folder, got {part!r}")
        weights.update(_read_file(index_path.parent / part)[0])
    if missing := sorted(set(weight_map) - set(weights)):
        raise ValueError(f"shards of {index_path} must hold every tensor of the index, missing {missing[0]}")
    return weights


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file, got a damaged one ({error})") from None


def _unwrapped(content: object, path: Path) -> dict[str, Tensor]:
    for _ in range(_MOST_NESTED):
        if not isinstance(content, dict) or _is_state_dict(content):
            break
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    if isinstance(content, dict):
        if _is_state_dict(content):
            return dict(content)
        found = ", ".join(repr(key) for key in list(content)[:5])
    else:
        found = f"a {type(content).__name__}"
    raise ValueError(
        f"{path} must hold a state dict, plain or under {' or '.join(map(repr, WRAPPERS))}, got {found}"
    )


def _is_state_dict(content: dict[object, object]) -> bool:
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _without_prefix(name: str) -> str:
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name
