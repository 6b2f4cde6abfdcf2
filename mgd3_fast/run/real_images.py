"""Real images in place of generated ones: `distill --method random|herding|kmeans-closest`.

What stands for a class is the choice of some of its images; there is nothing to encode.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.config import DistillConfig
from mgd3_fast.datasets import DATASET_NAMES, BadImage, Dataset
from mgd3_fast.datasets.sides import sensible_side
from mgd3_fast.generators import Generator, load_generator
from mgd3_fast.run.run import Maker, Run, Timings, laid_out, layout_for, left_out
from mgd3_fast.run.selection import FEATURE_SIDE, Selection, select_images
from mgd3_fast.run.sources import note_skipped, open_training_images
from mgd3_fast.run.units import Made
from mgd3_fast.writers import PngWriter

if TYPE_CHECKING:
    from mgd3_fast.latents import Share
    from mgd3_fast.progress import Progress

_CHOSEN = "chosen"
_IMAGENET_SIDE, _MNIST_SIDE = 256, 32


@dataclass(frozen=True, kw_only=True)
class RealImages(Run):
    """A run whose images are there already.

    Args:
        resolution: Side of the squares that are written, in pixels.
        found: The chosen images of classes, by their place in the run, as far as they were asked for.
        bad_images: Images that cannot be read, as far as they were come upon.
    """

    resolution: int
    found: dict[int, Selection] = field(default_factory=dict)
    bad_images: list[BadImage] = field(default_factory=list)

    kept: ClassVar[str] = "finished choices"
    device: ClassVar[str] = "cpu"

    def settings(self) -> dict[str, Any]:
        """Name what decides the images; see `Run`."""
        return {
            **super().settings(),
            "resolution": self.resolution,
            "features": "none" if self.config.method == "random" else f"pixels at {FEATURE_SIDE}",
        }

    def lacking(self, classes: Sequence[int]) -> list[int]:
        """Tell that nothing is to be encoded: images are compared by their pixels."""
        return []

    def encode(self, classes: Sequence[int], share: Share | None = None) -> list[dict[str, str]]:
        """Do nothing; see `lacking`."""
        return []

    def find_modes(self, classes: Sequence[int], *, tell: bool = True) -> Dataset:
        """Give all classes: their images are chosen when they are first asked for."""
        return self.dataset

    def blocks(self, images: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Divide images by their classes, or objects of a store; see `Run`."""
        size = max(self.layout.ipc, self.layout.together)
        for _, block in groupby(images, lambda image: image // size):
            yield tuple(block)

    def bar_of(self, images: Sequence[int]) -> dict[str, Any]:
        """Arguments of the bar; see `Run`."""
        return {"name": "choose", "total": len(images), "unit": "img"}

    @contextmanager
    def making(self) -> Iterator[Maker]:
        """Choose the images of classes, and write those that are to be written; see `Run`."""
        folder, layout, timings = self.folder, self.layout, self.timings
        with PngWriter(folder.out, folder.temporary, folder.record) as writer:

            def make(images: Sequence[int], modes: Dataset) -> Callable[[], Made]:
                known = len(self.bad_images)
                with timings.measure("choose"):
                    for class_index in layout.classes_of(images):
                        self._chosen(class_index)
                found = self.bad_images[known:]
                note_skipped(found, self.progress)
                with timings.measure("write"):
                    written = [writer.put(image, layout.file(image), self._pixels(image)) for image in images]

                def wait() -> Made:
                    with timings.measure("write"):
                        for one in written:
                            one.result()
                        writer.check()
                    return Made(skipped=left_out(found))

                return wait

            yield make

    def _pixels(self, image: int) -> NDArray[np.uint8]:
        """The square `[H, W, 3]` of the real image that an image is."""
        class_index, place = self.layout.place(image)
        source = self._chosen(class_index).indices[place]
        return np.asarray(self.dataset.square(class_index, source, self.resolution))

    def save_modes(self, modes: Dataset) -> tuple[str, ...]:
        """Write nothing: the manifest names the chosen images."""
        return ()

    def origin(self, modes: Dataset, image: int) -> dict[str, Any]:
        """Tell which real image an image is."""
        class_index, place = self.layout.place(image)
        chosen = self._chosen(class_index)
        return {
            "weight": round(chosen.weights[place], 6),
            "source_index": chosen.indices[place],
            "seed": None,
        }

    def sections(self) -> dict[str, Any]:
        """Say that there is no guidance and no generator."""
        return {"guidance": None, "generator": {"name": None, "resolution": self.resolution}}

    def _chosen(self, class_index: int) -> Selection:
        if class_index not in self.found:
            self.found[class_index] = self._kept_or_made(class_index)
        return self.found[class_index]

    def _kept_or_made(self, class_index: int) -> Selection:
        config, folder = self.config, self.folder
        path = folder.work / _CHOSEN / f"{class_index}.json"
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return Selection(tuple(kept["indices"]), tuple(kept["weights"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
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
        folder.temporary.mkdir(exist_ok=True)
        temporary = folder.temporary / path.name
        temporary.write_text(json.dumps(asdict(chosen)), encoding="utf-8")
        temporary.replace(path)
        return chosen


def open_real_images(config: DistillConfig, progress: Progress, worker: int) -> RealImages:
    """Open the dataset and check that the images can be chosen; nothing is written.

    Raises:
        UserError: If the configuration does not fit the dataset.
    """
    timings = Timings()
    dataset = open_training_images(config, progress)
    layout = laid_out(config, layout_for(config, dataset), config.ipc)
    named = config.generator != "auto"
    generator = load_generator(config.generator, dataset_name=dataset.name) if named else None
    resolution = config.image_size or side_beside(generator, dataset)
    progress.note(
        f"{config.method}: {len(layout):,} real images, {config.ipc} for each of {len(layout.class_names):,}"
        f" classes, at {resolution} px"
    )
    return RealImages(
        config=config,
        dataset=dataset,
        layout=layout,
        progress=progress,
        timings=timings,
        worker=worker,
        resolution=resolution,
    )


def side_beside(generator: Generator | None, dataset: Dataset) -> int:
    """Choose the side of real images in pixels.

    Args:
        generator: What made the images they are compared with, if it is known.
        dataset: The images.

    Returns:
        The generator's resolution; else 32 for mnist5k, 256 for ImageNet's names, and the side that suits the
        images.
    """
    if generator is not None:
        return generator.resolution
    if dataset.name in DATASET_NAMES:
        return _MNIST_SIDE if dataset.name == "mnist5k" else _IMAGENET_SIDE
    return sensible_side(dataset)
