"""Real images in place of generated ones: `distill --method random|herding|kmeans-closest`.

What stands for a class is the choice of some of its images; there is nothing to encode.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from mgd3_fast.config import DistillConfig
from mgd3_fast.datasets import BadImage, Dataset, center_crop
from mgd3_fast.run.run import Run, dataset_settings, layout_for, left_out
from mgd3_fast.run.selection import FEATURE_SIDE, Selection, select_images
from mgd3_fast.run.sources import open_training_images
from mgd3_fast.writers import Layout, PngWriter, RunFolder

if TYPE_CHECKING:
    from mgd3_fast.progress import Progress

_CHOSEN = "chosen"
_RESOLUTIONS = {"mnist5k": 32}
_USUAL_RESOLUTION = 256


@dataclass(frozen=True)
class _Choices:
    """The chosen images of every class, chosen or taken up when they are first asked for."""

    config: DistillConfig
    dataset: Dataset
    folder: RunFolder
    bad_images: list[BadImage] = field(default_factory=list)
    found: dict[int, Selection] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes of the run."""
        return self.dataset.class_names

    def of(self, class_index: int) -> Selection:
        """Chosen images of the class at a place in the run."""
        if class_index not in self.found:
            self.found[class_index] = self._kept_or_made(class_index)
        return self.found[class_index]

    def _kept_or_made(self, class_index: int) -> Selection:
        path = self.folder.work / _CHOSEN / f"{class_index}.json"
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return Selection(tuple(kept["indices"]), tuple(kept["weights"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
        config = self.config
        chosen = select_images(
            self.dataset,
            class_index,
            config.method,
            config.ipc,
            config.seed,
            on_bad_image=config.on_bad_image,
            bad_images=self.bad_images,
        )
        path.parent.mkdir(exist_ok=True)
        self.folder.temporary.mkdir(exist_ok=True)
        temporary = self.folder.temporary / f"{class_index}.json"
        temporary.write_text(json.dumps(asdict(chosen)), encoding="utf-8")
        temporary.replace(path)
        return chosen


@dataclass(frozen=True, kw_only=True)
class RealImages:
    """A source of images that are there already; see `ImageSource`.

    Args:
        config: What was asked for.
        dataset: The classes of the run.
        layout: The image list.
        resolution: Side of the square crop that is written, in pixels.
    """

    config: DistillConfig
    dataset: Dataset
    layout: Layout
    resolution: int
    kept: str = "finished choices"
    device: str = "cpu"

    def settings(self) -> dict[str, Any]:
        """Name what decides the images."""
        return {
            **dataset_settings(self.config, self.dataset),
            "resolution": self.resolution,
            "features": "none" if self.config.method == "random" else f"pixels at {FEATURE_SIDE}",
        }

    def encode(self, run: Run[Any], classes: Sequence[int]) -> list[dict[str, str]]:
        """Do nothing: images are compared by their pixels."""
        return []

    def find_modes(self, run: Run[Any], classes: Sequence[int]) -> _Choices:
        """Prepare to choose."""
        return _Choices(self.config, self.dataset, run.folder)

    def make_images(self, run: Run[Any], images: Sequence[int], modes: _Choices) -> list[dict[str, str]]:
        """Choose the images of each class, and write those that are to be written.

        Args:
            run: The run, with its folder opened.
            images: Image numbers, ascending.
            modes: What is chosen.

        Returns:
            Images that cannot be read.
        """
        folder, timings = run.folder, run.timings
        with (
            run.progress.stage("choose", total=len(images), unit="img") as bar,
            PngWriter(folder.out, folder.temporary, folder.record) as writer,
        ):
            for class_index, group in groupby(images, lambda image: self.layout.place(image)[0]):
                of_class = list(group)
                with timings.measure("choose"):
                    chosen = modes.of(class_index)
                with timings.measure("write"):
                    for image in of_class:
                        source = chosen.indices[self.layout.place(image)[1]]
                        pixels = center_crop(self.dataset.load(class_index, source), self.resolution)
                        writer.put(image, self.layout.file(image), np.asarray(pixels))
                bar.advance(len(of_class))
            with timings.measure("write"):
                writer.close()
        return left_out(modes.bad_images)

    def save_modes(self, run: Run[Any], modes: _Choices) -> tuple[str, ...]:
        """Write nothing: the manifest names the chosen images."""
        return ()

    def origin(self, modes: _Choices, image: int) -> dict[str, Any]:
        """Tell which real image an image is."""
        class_index, place = self.layout.place(image)
        chosen = modes.of(class_index)
        return {
            "weight": round(chosen.weights[place], 6),
            "source_index": chosen.indices[place],
            "seed": None,
        }

    def sections(self) -> dict[str, Any]:
        """Say that there is no guidance and no generator."""
        return {"guidance": None, "generator": {"name": None, "resolution": self.resolution}}


def open_real_images(config: DistillConfig, progress: Progress) -> RealImages:
    """Open the dataset and check that the images can be chosen; nothing is written.

    Args:
        config: With one of `REAL_METHODS`.
        progress: Receives the description.

    Returns:
        The source of images.

    Raises:
        UserError: If the configuration does not fit the dataset.
    """
    dataset = open_training_images(config, progress)
    layout = layout_for(config, dataset)
    resolution = _RESOLUTIONS.get(dataset.name, _USUAL_RESOLUTION)
    progress.note(
        f"{config.method}: {len(layout):,} real images, {config.ipc} for each of {len(layout.class_names):,}"
        f" classes, at {resolution} px"
    )
    return RealImages(config=config, dataset=dataset, layout=layout, resolution=resolution)
