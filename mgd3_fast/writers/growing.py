"""The images of a run, finished or under way, for those who do not want to wait for the last one."""

from __future__ import annotations

import json
from pathlib import Path

from mgd3_fast.errors import UserError
from mgd3_fast.writers.labelled import LabelledImage
from mgd3_fast.writers.layout import Layout
from mgd3_fast.writers.manifest import MANIFEST
from mgd3_fast.writers.reader import read_run, recorded_image
from mgd3_fast.writers.run_folder import WORK, RunFolder


def images_so_far(path: Path, option: str) -> tuple[LabelledImage, ...]:
    """List the images of a finished run, or those that one under way has finished; no image is touched.

    Args:
        path: A folder that `distill` wrote or is writing into.
        option: What the folder was given as, for messages.

    Returns:
        Class after class in label order, at least one; of a finished run with what its manifest tells.

    Raises:
        UserError: There is no run, or none of its images is finished yet.
    """
    if not (path / MANIFEST).exists():
        images = _of_journals(path)
        if images:
            return images
        if (path / WORK).exists():
            raise UserError(f"{option} must hold finished images, got {path}, where none is finished yet")
    # Also where the run was completed, and its journals removed, under our hands.
    return read_run(path, option).images


def _of_journals(path: Path) -> tuple[LabelledImage, ...]:
    try:
        started = json.loads((path / WORK / "run.json").read_text(encoding="utf-8"))
        stored = started["layout"]
        layout = Layout(tuple(stored.pop("class_names")), tuple(stored.pop("labels")), **stored)
        digests, _ = RunFolder(path, started["settings"], layout, 1, 1).finished()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path / WORK / 'run.json'} is damaged, or of an earlier version") from None
    return tuple(_recorded(path, layout, image, digests[image]) for image in sorted(digests))


def _recorded(path: Path, layout: Layout, image: int, sha256: str) -> LabelledImage:
    place, mode = layout.place(image)
    name, label = layout.class_names[place], layout.labels[place]
    record = {"file": layout.file(image), "class": name, "label": label, "mode": mode, "sha256": sha256}
    return recorded_image(path, record)
