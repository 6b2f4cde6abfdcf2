"""Modes and latents of some classes become pictures in a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageOps

from mgd3_fast.config.discover import PROJECTIONS
from mgd3_fast.datasets import Dataset, ImageClass
from mgd3_fast.errors import UserError, printable
from mgd3_fast.latents.flipping import is_mirrored
from mgd3_fast.modes import NO_RUNNER
from mgd3_fast.pictures.members import ModeMembers, mode_members
from mgd3_fast.pictures.mode_map import draw_mode_map
from mgd3_fast.pictures.nearest_sheet import MOST_MODES, draw_nearest_sheet
from mgd3_fast.pictures.style import check_matplotlib
from mgd3_fast.progress import SILENT, Progress

if TYPE_CHECKING:
    from mgd3_fast.latents import ClassLatents, LatentStore
    from mgd3_fast.modes import ModeSet

MOST_CLASSES = 10


def check_drawable(projection: str) -> None:
    """Refuse before any work starts what would fail after it.

    Raises:
        UserError: No such projection, or matplotlib is missing.
    """
    if projection not in PROJECTIONS:
        raise UserError(f"projection must be one of {', '.join(PROJECTIONS)}, got {projection!r}")
    check_matplotlib()


def plot_modes(
    dataset: Dataset,
    store: LatentStore,
    modes: ModeSet,
    folder: Path,
    *,
    projection: str = "tsne",
    progress: Progress = SILENT,
) -> list[Path]:
    """Draw a map and a sheet of nearest images for each class of a dataset.

    Args:
        dataset: The classes to draw; their images are read.
        store: Holds their latents.
        modes: Modes of at least these classes.
        folder: Receives `LABEL-CLASS-map.png` and `LABEL-CLASS-nearest.png`; made if it is missing.
        projection: "tsne" or "pca".
        progress: Receives the bar.

    Returns:
        The pictures, class after class.

    Raises:
        UserError: A class without latents, matplotlib is missing, or no such projection.
        OSError: The folder cannot be written.
    """
    check_drawable(projection)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    with progress.stage("plot", total=len(dataset.classes), unit="class") as bar:
        for cls in dataset.classes:
            found = store.open(cls)
            if found is None:
                raise UserError(
                    f"latents of class {cls.name} must be encoded first, got none in {store.folder}"
                )
            members = _members(cls, found, modes)
            images = [
                [_encoded_image(cls, found, row, store) for row in rows]
                for rows in members.nearest[:MOST_MODES].tolist()
            ]
            stem = f"{cls.label:04d}-{re.sub(r'[^A-Za-z0-9_-]', '_', cls.name)[:80]}"
            pictures += [folder / f"{stem}-map.png", folder / f"{stem}-nearest.png"]
            draw_mode_map(pictures[-2], members, projection, modes.seed)
            draw_nearest_sheet(pictures[-1], members, images)
            bar.advance()
    return pictures


def _members(cls: ImageClass, found: ClassLatents, modes: ModeSet) -> ModeMembers:
    place = modes.class_names.index(cls.name)
    latents, of_class = found.latents.flatten(1).float(), modes.modes[place].flatten(1)  # [n, D], [K, D]
    runner = "" if modes.kmeans == NO_RUNNER else f" by {modes.kmeans}"
    sources = []
    for mode, image in zip(of_class, modes.source_index[place], strict=True):
        rows = torch.nonzero(found.index == image)[:, 0]  # two with mirror images
        sources.append(int(rows[(latents[rows] - mode).square().sum(1).argmin()]))
    return mode_members(
        f"class {printable(cls.name)}: {modes.ipc} modes ({modes.method}{runner}) of {len(cls):,} images",
        latents,
        of_class,
        modes.weights[place],
        torch.tensor(sources),
    )


def _encoded_image(cls: ImageClass, found: ClassLatents, row: int, store: LatentStore) -> Image.Image:
    """An image as it was encoded: square, and mirrored where it was."""
    position = int(found.index[row])
    image = store.framing.square(cls.images.load(position), store.resolution)
    if store.flip == "both":
        mirrored = row > 0 and int(found.index[row - 1]) == position
    else:
        mirrored = store.flip == "random" and is_mirrored(cls.name, cls.images.name(position))
    return ImageOps.mirror(image) if mirrored else image
