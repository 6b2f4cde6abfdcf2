"""The manifest: everything needed to say what was made, from what, by what, and to check it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgd3_engine.files.renaming import named
from mgd3_fast.errors import UserError

MANIFEST = "manifest.json"
FORMAT = "mgd3-fast manifest"
FORMAT_VERSION = 1

# What readers count on: the kind of each section, and what it, or each record of a list, must hold.
_SECTIONS: dict[str, tuple[type, dict[str, type]]] = {
    "settings": (dict, {}),
    "generator": (dict, {}),
    "dataset": (
        dict,
        {"name": str, "split": str, "fingerprint": str, "class_list_hash": str, "classes_in_list": int},
    ),
    "classes": (list, {"name": str, "label": int, "folder": str, "source_images": int}),
    "files": (dict, {}),
    "sessions": (list, {}),
    "images": (list, {"file": str, "label": int, "class": str, "mode": int, "sha256": str}),
}


def write_manifest(target: Path, content: dict[str, Any], temporary: Path) -> None:
    """Write a manifest: indented JSON, with one line per image.

    Args:
        target: Final path.
        content: Sections of the manifest; `images` is a list of flat records.
        temporary: Path on the same file system for the unfinished file.
    """
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    head.update({name: section for name, section in content.items() if name != "images"})
    text = json_with_images(head, content["images"])
    with named(target):
        temporary.write_text(text, encoding="utf-8")
    temporary.replace(target)


def json_with_images(head: dict[str, Any], images: Sequence[dict[str, Any]]) -> str:
    """Indented JSON of `head` and a last section `images`, one line an image."""
    lines = ",\n    ".join(json.dumps(record) for record in images)
    return json.dumps(head, indent=2)[: -len("\n}")] + f',\n  "images": [\n    {lines}\n  ]\n}}\n'


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest of an output folder; None where there is none.

    Raises:
        UserError: If there is a `manifest.json` that this program did not write, or a damaged one.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parsed_manifest(content, str(path))


def parsed_manifest(text: bytes, path: str) -> dict[str, Any]:
    """Read the bytes of a manifest; see `read_manifest`."""
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"out must be empty or hold a run of mgd3-fast, got {path}, which is something else")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} was written by another version of mgd3-fast: its format version is {version},"
            f" this one reads {FORMAT_VERSION}"
        )
    for name, (kind, held) in _SECTIONS.items():
        if not _is_whole(content.get(name), kind, held):
            raise UserError(f"{path} has a damaged section {name!r}")
    return content


def _is_whole(section: Any, kind: type, held: dict[str, type]) -> bool:
    if not isinstance(section, kind):
        return False
    records = section if isinstance(section, list) else [section]
    return (bool(records) or not held) and all(
        isinstance(record, dict) and all(isinstance(record.get(name), of) for name, of in held.items())
        for record in records
    )
