"""`export.json`: what a conversion wrote, and how it is told from another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgd3_fast.config.convert import ConvertConfig
from mgd3_fast.formats.samples import described
from mgd3_fast.writers import file_digest, json_with_images
from mgd3_fast.writers.labelled import LabelledFolder

RECORD = "export.json"
CARD = "README.md"
_FORMAT = "mgd3-fast export"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Written:
    """What the writer of a format hands back.

    Args:
        files: sha256 of each file, by its path in the output folder, in the order they are to appear.
        facts: What the format has to say about itself, for the record.
    """

    files: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)


def conversion_key(source: LabelledFolder, config: ConvertConfig) -> str:
    """Hex sha256 of all that decides the files: options, class list, images and what is known of them."""
    deciding = {
        "version": _FORMAT_VERSION,
        "options": config.options(),
        "dataset": source.dataset,
        "names": source.names,
        "run": source.how_made,
        "images": [described(image) for image in source.images],
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def write_record(target: Path, source: LabelledFolder, config: ConvertConfig, written: Written) -> None:
    """Write the record: indented JSON, one line per image, nothing that depends on the machine."""
    head = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "key": conversion_key(source, config),
        "options": config.options(),
        **written.facts,
        "dataset": source.dataset,
        "class_list": source.names,
        "classes": [vars(one) for one in source.classes],
        "run": source.how_made,
        "files": written.files,
    }
    text = json_with_images(head, [described(image) for image in source.images])
    target.write_text(text, encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read the record in a folder; None where there is none of this program."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    ours = isinstance(content, dict) and content.get("format") == _FORMAT
    return content if ours and isinstance(content.get("files"), dict) else None


def is_intact(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether every recorded file is there and unchanged; the card is not recorded and may be edited."""
    return all(file_digest(folder / name) == sha256 for name, sha256 in record["files"].items())
