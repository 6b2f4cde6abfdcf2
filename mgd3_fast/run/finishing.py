"""The end of a run: modes, contact sheet, manifest and export, once the images of every shard are there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgd3_fast.config.convert import CONVERTED_FORMATS
from mgd3_fast.errors import Interrupted, listed
from mgd3_fast.formats.converting import convert_run
from mgd3_fast.run.run import Run, Timings
from mgd3_fast.writers import (
    CONTACT_SHEET,
    MANIFEST,
    file_digest,
    write_contact_sheet,
    write_manifest,
)

if TYPE_CHECKING:
    from mgd3_fast.config import DistillConfig
    from mgd3_fast.progress import Progress


def finish(run: Run, modes: Any) -> int:
    """Complete the run if every image of every shard is there; else leave it to the shard that finishes last.

    Args:
        run: The run, its folder opened.
        modes: What this process made its images from, or None; those of other classes are taken up.

    Returns:
        How many images are still missing.
    """
    folder, missing = run.folder, 0
    with folder.completing() as ours:
        if ours:
            digests, sessions = folder.finished()
            missing = len(folder.layout) - folder.present(digests)
            if missing == 0:
                _write(run, modes, digests, sessions)
    if not missing:
        folder.clear()  # also where another shard was faster: what this one kept is of no more use
    return missing


def export_images(config: DistillConfig, images: int, progress: Progress, timings: Timings) -> Path | None:
    """Convert a complete run of some images into a folder, if its format is made of the folder of images.

    Raises:
        Interrupted: On Ctrl-C; the images are kept.
    """
    out, format = Path(config.out), config.format
    if format not in CONVERTED_FORMATS:
        return None
    try:
        with timings.measure("export"):
            return convert_run(out, format, progress).folder
    except KeyboardInterrupt:
        raise Interrupted(
            f"all {images:,} images are kept in {out}; the same command goes on with the format {format}"
        ) from None


def _write(run: Run, modes: Any, digests: dict[int, str], sessions: list[dict[str, Any]]) -> None:
    """Write what lies beside the images; the manifest last."""
    folder, layout = run.folder, run.layout
    names = layout.class_names
    if modes is None or modes.class_names != names:
        modes = run.find_modes(range(len(names)), tell=False)
    files = (*run.save_modes(modes), CONTACT_SHEET)
    paths = [folder.out / layout.file(image) for image in range(len(layout))]
    rows = [(name, paths[row * layout.ipc : (row + 1) * layout.ipc]) for row, name in enumerate(names)]
    write_contact_sheet(folder.out / CONTACT_SHEET, rows, folder.work / CONTACT_SHEET)
    # Everything but the sessions follows from the settings: equal runs have equal manifests up to these.
    content = {
        "settings": run.settings(),
        **run.sections(),
        **_source_sections(run, sessions),
        "files": {name: file_digest(folder.out / name) for name in files},
        "sessions": [session for session in sessions if "skipped" not in session],
        **folder.sections(),
        "images": [_image_record(run, modes, image, digests[image]) for image in range(len(layout))],
    }
    write_manifest(folder.out / MANIFEST, content, folder.work / MANIFEST)
    _note_equal_images(run, digests)


def _note_equal_images(run: Run, digests: dict[int, str]) -> None:
    """Say which classes have the same image twice, as real images may."""
    ipc, equal = run.layout.ipc, []
    for row, name in enumerate(run.layout.class_names):
        different = len({digests[image] for image in range(row * ipc, (row + 1) * ipc)})
        if different < ipc:
            equal.append(f"{name} has {different} of {ipc}")
    if equal:
        run.progress.note(f"images are not all different: {listed(equal)}")


def _source_sections(run: Run, sessions: list[dict[str, Any]]) -> dict[str, Any]:
    """The images that the run was made from; notes beside the sessions tell which were left out."""
    dataset = run.dataset
    skipped = {one["image"]: one for session in sessions for one in session.get("skipped", [])}
    return {
        "dataset": {
            "name": dataset.name,
            "split": dataset.split,
            "fingerprint": dataset.fingerprint,
            "class_list_hash": dataset.class_list_hash,
            "classes_in_list": len(dataset.all_class_names),
            "notes": list(dataset.notes),
            "skipped": [skipped[image] for image in sorted(skipped)],
        },
        "classes": [
            {
                "name": cls.name,
                "label": cls.label,
                "folder": run.layout.folder(index),
                "source_images": len(cls),
            }
            for index, cls in enumerate(dataset.classes)
        ],
    }


def _image_record(run: Run, modes: Any, image: int, sha256: str) -> dict[str, Any]:
    class_index, mode = run.layout.place(image)
    cls, origin = run.dataset.classes[class_index], run.origin(modes, image)
    return {
        "file": run.layout.file(image),
        "label": cls.label,
        "class": cls.name,
        "mode": mode,
        "weight": origin["weight"],
        "source_image": cls.images.name(origin["source_index"]),
        "source_index": origin["source_index"],
        "seed": origin["seed"],
        "sha256": sha256,
        **run.folder.place(image),
    }
