"""One run into an output folder, and what it asks of the source of its images."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from mgd3_fast.formats.converting import check_format
from mgd3_fast.modes import check_ipc
from mgd3_fast.versions import versions
from mgd3_fast.writers import Layout, RunFolder, layout_of

if TYPE_CHECKING:
    from mgd3_fast.config import DistillConfig
    from mgd3_fast.datasets import BadImage, Dataset
    from mgd3_fast.progress import Progress

S = TypeVar("S", covariant=True)


class Timings:
    """Adds up seconds of wall time by stage name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of a `with` block to a stage, also when the block raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def rounded(self) -> dict[str, float]:
        """Return seconds by stage, to the millisecond, and the total since the start."""
        stages = {stage: round(seconds, 3) for stage, seconds in self.seconds.items()}
        return {**stages, "total": round(time.perf_counter() - self._started, 3)}


@dataclass(frozen=True)
class Run(Generic[S]):
    """All that a unit of work needs to know besides the unit.

    Args:
        source: Where the images come from, with what was asked for and what was opened for it.
        folder: The output folder, with the image list.
        progress: Receives bars and notes.
        timings: Receives the seconds of each stage.
    """

    source: S
    folder: RunFolder
    progress: Progress
    timings: Timings

    @property
    def layout(self) -> Layout:
        """The image list."""
        return self.folder.layout

    def session(self, shard: str, device: str) -> dict[str, Any]:
        """Record what this process runs on, for journal and manifest; its times come when it is done."""
        return {
            "id": uuid.uuid4().hex[:12],
            "started": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "shard": shard,
            "device": device,
            "versions": versions(),
            "images": None,
            "timings_s": None,
        }


class ImageSource(Protocol):
    """Where the images of a run come from.

    `encode`, `find_modes` and `make_images` are the units of work of a run. Each can be done twice, by any
    process: what is there already is taken up, and what comes out is the same.
    """

    @property
    def config(self) -> DistillConfig:
        """What was asked for."""

    @property
    def layout(self) -> Layout:
        """The image list."""

    @property
    def kept(self) -> str:
        """What an interrupted run keeps besides images."""

    @property
    def dataset(self) -> Dataset:
        """The classes of the run."""

    @property
    def device(self) -> str:
        """Name of the device that makes the images."""

    def settings(self) -> dict[str, Any]:
        """Name what decides the images; runs into one output folder must agree on all of it."""

    def encode(self, run: Run[Any], classes: Sequence[int]) -> list[dict[str, str]]:
        """Bring what the modes of some classes need into the cache, and return which images are left out.

        The output folder is not touched: a bad image is found before anything is written there.
        """

    def find_modes(self, run: Run[Any], classes: Sequence[int]) -> Any:
        """Load, take up or find what stands for some classes, of which it has the `class_names`."""

    def make_images(self, run: Run[Any], images: Sequence[int], modes: Any) -> list[dict[str, str]]:
        """Make and write some images, and return which source images were left out."""

    def save_modes(self, run: Run[Any], modes: Any) -> tuple[str, ...]:
        """Write the modes of a complete run into its folder, and name the files."""

    def origin(self, modes: Any, image: int) -> dict[str, Any]:
        """Tell what an image was made from: `weight`, `source_index` and `seed` of its manifest record."""

    def sections(self) -> dict[str, Any]:
        """Describe guidance and generator for the manifest."""


def layout_for(config: DistillConfig, dataset: Dataset) -> Layout:
    """Number the images of a run.

    Args:
        config: Images per class and format.
        dataset: The classes.

    Returns:
        The image list.

    Raises:
        UserError: A class has too few images, or a class name cannot be a folder.
    """
    check_ipc(dataset.counts, config.ipc)
    check_format(config.format, dataset.class_names)
    labels = tuple(cls.label for cls in dataset.classes)
    return Layout(dataset.class_names, labels, config.ipc, layout_of(config.format))


def dataset_settings(config: DistillConfig, dataset: Dataset) -> dict[str, Any]:
    """Name what decides the images of any run: the first of its settings.

    Args:
        config: Method, images per class, seed and format.
        dataset: The classes.

    Returns:
        Settings by name.
    """
    return {
        "method": config.method,
        "dataset": dataset.name,
        "classes": f"{len(dataset.classes)} of {len(dataset.all_class_names)}",
        "class_list_hash": dataset.class_list_hash,
        "dataset_fingerprint": dataset.fingerprint,
        "ipc": config.ipc,
        "seed": config.seed,
        "format": layout_of(config.format),
    }


def left_out(bad_images: Sequence[BadImage]) -> list[dict[str, str]]:
    """Describe images that cannot be read for the journal and the manifest."""
    return [{"image": f"{bad.class_name}/{bad.image_name}", "reason": bad.reason} for bad in bad_images]
