"""The files of a diffusers pipeline: in a local folder, or fetched from the hub part by part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.weights import DIFFUSERS_STEMS
from mgd3_fast.errors import UserError
from mgd3_fast.generators.hub import fetch_files, fetch_model

MODEL_INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
_TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


@dataclass(frozen=True)
class PipelineFiles:
    """A pipeline by its place; what is asked for, and no more, is fetched.

    Args:
        source: A local folder or a hub id.
        licence: Of the weights, for messages.
    """

    source: str
    licence: str

    def settings(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the pipeline.

        Args:
            name: Its path in the pipeline, such as `SCHEDULER`.

        Returns:
            Its content.

        Raises:
            UserError: It is missing, damaged, or cannot be fetched.
        """
        path = self._fetched([name]) / name
        try:
            return read_json(path)
        except FileNotFoundError:
            raise UserError(f"{self.source} must hold {name}, as diffusers' pipelines do, got none") from None
        except ValueError as error:
            raise UserError(str(error)) from None

    def model(self, part: str, stems: tuple[str, str] = DIFFUSERS_STEMS) -> Path:
        """Find a network of the pipeline.

        Args:
            part: Its folder, such as "unet".
            stems: How its library names weights.

        Returns:
            Local folder with `config.json` and weights.

        Raises:
            UserError: It is missing or cannot be fetched.
        """
        folder = Path(self.source) / part
        if not Path(self.source).exists():
            return fetch_model(self.source, part, option="--generator", licence=self.licence, stems=stems)
        if not (folder / "config.json").is_file():
            raise UserError(f"{self.source} must hold {part}/config.json, got none")
        return folder

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

    def _fetched(self, names: list[str]) -> Path:
        if Path(self.source).exists():
            return Path(self.source)
        return fetch_files(self.source, names, option="--generator", licence=self.licence)


def pipeline_class(source: str, licence: str) -> str | None:
    """Name the class of a pipeline.

    Args:
        source: A local path or a hub id.
        licence: Of the weights, for messages.

    Returns:
        Such as "StableDiffusionPipeline"; None for what holds no `model_index.json`.

    Raises:
        UserError: The file is damaged, or the repository cannot be reached.
    """
    path = Path(source)
    if not path.exists():
        path = fetch_files(source, [MODEL_INDEX], option="--generator", licence=licence)
    if not (path / MODEL_INDEX).is_file():
        return None
    return str(PipelineFiles(str(path), licence).settings(MODEL_INDEX).get("_class_name"))
