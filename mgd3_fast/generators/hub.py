"""Fetching just the files of one network from the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from mgd3_fast.errors import UserError

_STEM = "diffusion_pytorch_model"
_WEIGHT_PATTERNS = (
    (f"{_STEM}.safetensors", f"{_STEM}-*-of-*.safetensors", f"{_STEM}.safetensors.index.json"),
    (f"{_STEM}.bin", f"{_STEM}-*-of-*.bin", f"{_STEM}.bin.index.json"),
)


def is_hub_id(text: str) -> bool:
    """Tell whether `text` has the form owner/name."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) is not None


def model_folder(root: Path, subfolder: str) -> Path:
    """Return `root/subfolder` of a pipeline, or `root` itself where that holds the model.

    Raises:
        UserError: Neither holds a `config.json`.
    """
    for folder in (root / subfolder, root):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"{root} must hold config.json or {subfolder}/config.json, got neither")


def fetch_model(repo_id: str, subfolder: str, *, option: str, licence: str) -> Path:
    """Download a diffusers model of a hub repository, or take it from the local cache.

    Safetensors are preferred; the PyTorch files are fetched only where there are none.

    Args:
        repo_id: owner/name.
        subfolder: Where a pipeline keeps the model; a repository of the model alone keeps it at its root.
        option: Command line option that takes a local path instead, for the message.
        licence: Of the weights, for the message.

    Returns:
        Local folder with `config.json` and weights.

    Raises:
        UserError: The repository cannot be reached, or does not hold such a model.
    """
    from huggingface_hub import snapshot_download

    for patterns in _WEIGHT_PATTERNS:
        names = ["config.json", *patterns]
        wanted = [f"{prefix}{name}" for prefix in ("", f"{subfolder}/") for name in names]
        try:
            root = Path(snapshot_download(repo_id, allow_patterns=wanted))
        except Exception as error:  # the hub client raises its own, the network library's and OSError
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(
                f"{repo_id} could not be fetched from the Hugging Face hub"
                f" ({type(error).__name__}: {reason[:160]}); give a local copy with {option} PATH"
                f" (licence of these weights: {licence})"
            ) from None
        folder = model_folder(root, subfolder)
        if any(True for pattern in patterns for _ in folder.glob(pattern)):
            return folder
    raise UserError(f"{repo_id} must hold {_STEM}.safetensors or .bin, got a repository without")
