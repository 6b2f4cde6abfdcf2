"""`imagefolder` and `numeric`: one folder of unchanged image files per class."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mgd3_fast.config.convert import ConvertConfig
from mgd3_fast.errors import UserError
from mgd3_fast.formats.record import Written
from mgd3_fast.formats.samples import contents
from mgd3_fast.progress import Bar
from mgd3_fast.writers import MANIFEST, class_folder, sha256_of, write_manifest
from mgd3_fast.writers.labelled import LabelledFolder, LabelledImage


def write(source: LabelledFolder, config: ConvertConfig, draft: Path, bar: Bar) -> Written:
    """Copy images to `<class>/<k>.png`, or to `<label, five digits>/<k>.png`, which RDED and DD-Ranking read.

    A run's manifest, modes and contact sheet come along, so that the copy is a run folder like one that
    `distill --format` wrote.
    """
    files: dict[str, str] = {}
    for image, content in contents(source.images, bar):
        name = _file(image, config.format)
        (draft / name).parent.mkdir(exist_ok=True)
        (draft / name).write_bytes(content)
        assert image.sha256 is not None
        files[name] = image.sha256
    if source.manifest:
        files.update(copy_run_files(source, draft))
        write_manifest(draft / MANIFEST, _manifest(source, config.format), draft / f"{MANIFEST}.part")
        files[MANIFEST] = sha256_of(draft / MANIFEST)
    return Written(files)


def _file(image: LabelledImage, format: str) -> str:
    return f"{class_folder(image.class_name, image.label, format)}/{image.index}{image.suffix}"


def copy_run_files(source: LabelledFolder, draft: Path) -> dict[str, str]:
    """Copy what a run has besides images and its manifest.

    Returns:
        sha256 of each, by its name.

    Raises:
        UserError: One is missing or has changed.
    """
    copied: dict[str, str] = {}
    for name, sha256 in source.manifest["files"].items():
        path = source.path / Path(name).name
        if not path.is_file():
            raise UserError(f"src must hold every file of its manifest, missing {path}")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise UserError(f"src must hold unchanged files, got {path} with another sha256 than recorded")
        (draft / path.name).write_bytes(content)
        copied[path.name] = sha256
    return copied


def _manifest(source: LabelledFolder, format: str) -> dict[str, Any]:
    run = source.manifest
    files = {(image.label, image.index): _file(image, format) for image in source.images}
    return {
        **run,
        "settings": {**run["settings"], "format": format},
        "classes": [
            {**one, "folder": class_folder(one["name"], one["label"], format)} for one in run["classes"]
        ],
        "images": [{**one, "file": files[one["label"], one["mode"]]} for one in run["images"]],
    }
