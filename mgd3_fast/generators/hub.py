"""Fetching just the files of one network from the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mgd3_engine.files.weights import DIFFUSERS_STEMS, weight_files
from mgd3_fast.errors import UserError


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


def fetch_model(
    repo_id: str,
    subfolder: str,
    *,
    option: str,
    licence: str,
    stems: tuple[str, str] = DIFFUSERS_STEMS,
) -> Path:
    """Download a model of a hub repository, or take it from the local cache.

    Safetensors are preferred; the PyTorch files are fetched only where there are none.

    Args:
        repo_id: owner/name.
        subfolder: Where a pipeline keeps the model; a repository of the model alone keeps it at its root.
        option: Command line option that takes a local path instead, for the message.
        licence: Of the weights, for the message.
        stems: How the library of the model names its weights.

    Returns:
        Local folder with `config.json` and weights.

    Raises:
        UserError: The repository cannot be reached, or does not hold such a model.
    """
    for patterns in weight_files(stems):
        names = ["config.json", *patterns]
        wanted = [f"{prefix}{name}" for prefix in ("", f"{subfolder}/") for name in names]
        root = fetch_files(repo_id, wanted, option=option, licence=licence)
        folder = model_folder(root, subfolder)
        if any(True for pattern in patterns for _ in folder.glob(pattern)):
            return folder
    raise UserError(f"{repo_id} must hold {stems[0]}.safetensors or .bin, got a repository without")


def fetch_files(repo_id: str, patterns: Sequence[str], *, option: str, licence: str) -> Path:
    """Download some files of a hub repository, or take them from the local cache.

    Args:
        repo_id: owner/name.
        patterns: Paths in the repository, with wildcards; one that is not there is left out.
        option: Command line option that takes a local path instead, for the message.
        licence: Of what the repository holds, for the message.

    Returns:
        Local folder that holds them, in the repository's layout.

    Raises:
        UserError: The repository cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client raises its own, the network library's and OSError
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{repo_id} could not be fetched from the Hugging Face hub"
            f" ({type(error).__name__}: {reason[:160]}); give a local copy with {option} PATH"
            f" (licence of these weights: {licence})"
        ) from None
