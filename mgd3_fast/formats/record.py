"""`export.json`: what an export holds, and how it is told from another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgd3_fast.errors import UserError
from mgd3_fast.formats.config import ConvertConfig
from mgd3_fast.writers import file_digest
from mgd3_fast.writers.labelled import LabelledFolder, LabelledImage

RECORD = "export.json"
CARD = "README.md"
_FORMAT = "mgd3-fast export"
_FORMAT_VERSION = 1


def conversion_key(source: LabelledFolder, config: ConvertConfig) -> str:
    """Hex sha256 of all that decides an export: options, class list, images and what is known of them."""
    described = {
        "version": _FORMAT_VERSION,
        "options": config.options(),
        "dataset": source.dataset,
        "names": source.names,
        "run": source.how_made,
        "images": [_image(image) for image in source.images],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def write_record(
    target: Path,
    source: LabelledFolder,
    config: ConvertConfig,
    files: Mapping[str, str],
    facts: Mapping[str, Any],
) -> None:
    """Write the record of an export: indented JSON, one line per image, nothing that depends on the machine.

    Args:
        target: Path of the record.
        source: What was converted.
        config: Into what.
        files: sha256 of each file of the export, by its path in it.
        facts: What the format has to say about itself.
    """
    head = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "key": conversion_key(source, config),
        "options": config.options(),
        **facts,
        "dataset": source.dataset,
        "class_list": source.names,
        "classes": [vars(one) for one in source.classes],
        "run": source.how_made,
        "files": dict(files),
    }
    images = ",\n    ".join(json.dumps(_image(image)) for image in source.images)
    text = json.dumps(head, indent=2)[: -len("\n}")] + f',\n  "images": [\n    {images}\n  ]\n}}\n'
    target.write_text(text, encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read the record of an export.

    Args:
        folder: Where an export may lie.

    Returns:
        Its content, or None where there is none of this program.
    """
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    ours = isinstance(content, dict) and content.get("format") == _FORMAT
    return content if ours and isinstance(content.get("files"), dict) else None


def is_intact(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether every file of an export is there and has the recorded sha256; the card may have been edited."""
    return all(file_digest(folder / name) == sha256 for name, sha256 in record["files"].items())


def check_same(folder: Path, record: Mapping[str, Any], key: str) -> None:
    """Refuse a folder that holds an export of other images or with other options.

    Raises:
        UserError: Naming the folder.
    """
    if record.get("key") != key:
        raise UserError(
            f"out must be unused or hold this very export, got {folder}, which was made from other images or"
            " with other options"
        )


def _image(image: LabelledImage) -> dict[str, Any]:
    return {
        "label": image.label,
        "class": image.class_name,
        "index": image.index,
        "sha256": image.sha256,
        **image.facts,
    }
