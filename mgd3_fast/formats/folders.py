"""`imagefolder` and `numeric`: one folder of unchanged image files per class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mgd3_fast.errors import UserError
from mgd3_fast.formats.config import ConvertConfig
from mgd3_fast.formats.reading import read_ahead, sha256_of
from mgd3_fast.formats.source import Source, SourceImage, content_of
from mgd3_fast.formats.written import Written
from mgd3_fast.progress import Bar
from mgd3_fast.writers import MANIFEST, class_folder, write_manifest


def write(source: Source, config: ConvertConfig, draft: Path, bar: Bar) -> Written:
    """Copy images to `<class>/<k>.png`, or to `<label, five digits>/<k>.png`, which RDED and DD-Ranking read.

    A run's manifest, modes and contact sheet come along, so that the copy is a run folder like one that
    `distill --format` wrote.

    Args:
        source: The images.
        config: Tells the format.
        draft: Receives the files.
        bar: Counts images.

    Returns:
        The files.

    Raises:
        UserError: If a file is missing or changed.
    """
    files: dict[str, str] = {}
    for image, content in read_ahead(source.images, content_of):
        name = _file(image, config.format)
        (draft / name).parent.mkdir(exist_ok=True)
        (draft / name).write_bytes(content)
        files[name] = image.sha256
        bar.advance()
    if source.manifest is not None:
        files.update(_copy_run(source.folder, source.manifest, draft))
        write_manifest(draft / MANIFEST, _manifest(source, config.format), draft / f"{MANIFEST}.part")
        files[MANIFEST] = sha256_of(draft / MANIFEST)
    return Written(files)


def _file(image: SourceImage, format: str) -> str:
    return f"{class_folder(image.class_name, image.label, format)}/{image.index}{image.suffix}"


def _copy_run(folder: Path, manifest: dict[str, Any], draft: Path) -> dict[str, str]:
    """Copy what a run has besides images, each file checked."""
    copied: dict[str, str] = {}
    for name, sha256 in manifest.get("files", {}).items():
        path = folder / Path(name).name
        if not path.is_file():
            raise UserError(f"src must hold every file of its manifest, missing {path}")
        content = path.read_bytes()
        (draft / path.name).write_bytes(content)
        if sha256_of(draft / path.name) != sha256:
            raise UserError(f"src must hold unchanged files, got {path} with another sha256 than recorded")
        copied[path.name] = sha256
    return copied


def _manifest(source: Source, format: str) -> dict[str, Any]:
    assert source.manifest is not None
    folders = {one.label: class_folder(one.name, one.label, format) for one in source.classes}
    files = {(image.label, image.index): _file(image, format) for image in source.images}
    return {
        **source.manifest,
        "settings": {**source.manifest["settings"], "format": format},
        "classes": [{**one, "folder": folders[one["label"]]} for one in source.manifest["classes"]],
        "images": [
            {**record, "file": files[record["label"], record["mode"]]} for record in source.manifest["images"]
        ],
    }
