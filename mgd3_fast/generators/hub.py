"""The files of a model or a pipeline: in a local folder, or fetched from the hub part by part."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.weights import DIFFUSERS_STEMS, weight_files
from mgd3_fast.errors import UserError, shortened
from mgd3_fast.storage.store_errors import is_full, may_pass, status_of

MODEL_INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
_LONGEST_REASON = 120
_TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def is_hub_id(text: str) -> bool:
    """Tell whether `text` has the form owner/name."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) is not None


@dataclass(frozen=True)
class ModelFiles:
    """A model or a pipeline by its place; what is asked for, and no more, is fetched.

    Args:
        source: A local folder or a hub id.
        licence: Of the weights, for messages.
        option: Command line option that takes a local path instead, for messages.
    """

    source: str
    licence: str
    option: str = "--generator"

    def settings(self, name: str) -> dict[str, Any]:
        """Read a JSON file by its path in the pipeline, such as `SCHEDULER`.

        Raises:
            UserError: It is missing, damaged, or cannot be fetched.
        """
        found = self.find_settings(name)
        if found is None:
            raise UserError(f"{self.source} must hold {name}, as diffusers' pipelines do, got none")
        return found

    def find_settings(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file as `settings` does, or return None where there is none."""
        try:
            return read_json(self._fetched([name]) / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise UserError(str(error)) from None

    def network(self, part: str, stems: tuple[str, str] = DIFFUSERS_STEMS) -> Path:
        """Find a network: that of the pipeline's folder `part`, or the one that lies there alone.

        Of a repository safetensors are preferred; what `weight_files` has later is fetched only where what it
        has earlier is not there.

        Args:
            part: Such as "unet".
            stems: How its library names weights.

        Returns:
            Local folder with `config.json` and weights.

        Raises:
            UserError: It is missing or cannot be fetched.
        """
        if Path(self.source).exists():
            return self._part_of(Path(self.source), part)
        for patterns in weight_files(stems):
            names = ["config.json", *patterns]
            root = self._fetched([f"{prefix}{name}" for prefix in ("", f"{part}/") for name in names])
            folder = self._part_of(root, part)
            if any(True for pattern in patterns for _ in folder.glob(pattern)):
                return folder
        raise UserError(f"{self.source} must hold {stems[0]}.safetensors or .bin, got a repository without")

    def tokenizer(self) -> Path:
        """Find the folder of the tokenizer.

        Raises:
            UserError: It is missing or cannot be fetched.
        """
        folder = self._fetched([f"tokenizer/{name}" for name in _TOKENIZER_FILES]) / "tokenizer"
        if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
            raise UserError(f"{self.source} must hold tokenizer/vocab.json or tokenizer.json, got neither")
        return folder

    def tokenizer_bytes(self) -> bytes:
        """Everything that decides what the tokenizer does, end to end."""
        folder = self.tokenizer()
        found = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
        return b"".join(path.read_bytes() for path in found)

    def _part_of(self, root: Path, part: str) -> Path:
        for folder in (root / part, root):
            if (folder / "config.json").is_file():
                return folder
        raise UserError(f"{self.source} must hold {part}/config.json or config.json, got neither")

    def _fetched(self, patterns: Sequence[str]) -> Path:
        """Return the local folder with some files; one that is not in the repository is left out."""
        if Path(self.source).exists():
            return Path(self.source)
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.source, allow_patterns=list(patterns)))
        except Exception as error:  # the hub client raises its own, the network library's and OSError
            why = _why(error, self.source)
            raise UserError(
                f"{self.source} could not be fetched from the Hugging Face hub: {why};"
                f" or give a local copy with {self.option} PATH (licence of these weights: {self.licence})"
            ) from None


def _why(error: Exception, source: str) -> str:
    """What was wrong and what to do, of what the hub's client raised."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"accept its terms at https://huggingface.co/{source}, then log in (hf auth login, or HF_TOKEN)"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository for this login: check the name, or log in (hf auth login, or HF_TOKEN)"
    if status_of(error) in (401, 403):
        return "it refuses this token: log in with another one (hf auth login, or HF_TOKEN)"
    if is_full(error):
        return "the disk has no room left: make room, or name another disk by HF_HOME"
    if constants.HF_HUB_OFFLINE:
        return "it is not asked while HF_HUB_OFFLINE is set: unset it once"
    if isinstance(error, errors.LocalEntryNotFoundError) or may_pass(error):
        return "it did not answer: check the network, then give the same command again"
    reason = " ".join((str(error).strip().splitlines() or [""])[0].split())
    return f"{type(error).__name__}: {shortened(reason, _LONGEST_REASON)}"


@contextmanager
def loaded_or_refused(place: Path, class_name: str) -> Iterator[None]:
    """Turn whatever a library says of settings and weights that do not fit together into one line.

    Args:
        place: Of the model, for the message.
        class_name: What it was to be.

    Raises:
        UserError: The body raised what a library raises then.
    """
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else " ".join(lines[:2])
        raise UserError(f"{place} is no usable {class_name}: {reason[:300]}") from None
