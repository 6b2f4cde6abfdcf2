"""What the story of a run asks of it, whatever its images are made from."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mgd3_fast.formats.converting import check_format
from mgd3_fast.modes import check_ipc
from mgd3_fast.run.units import Made
from mgd3_fast.storage.cache import cache_dir_or_default
from mgd3_fast.storage.remote import Bucket, is_url
from mgd3_fast.writers import Layout, RunFolder, check_ours, layout_of
from mgd3_fast.writers.bucket_folder import BucketFolder, check_store, mirror_of

if TYPE_CHECKING:
    from mgd3_fast.config import DiscoverConfig, DistillConfig
    from mgd3_fast.datasets import BadImage, Dataset
    from mgd3_fast.latents import Share
    from mgd3_fast.progress import Progress


LEAST_TOGETHER = 64
"""Images of an object of a store, unless more are made at a time."""


class Timings:
    """Adds up seconds of wall time by stage name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._told: dict[str, float] = {}
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

    def taken(self) -> dict[str, float]:
        """Seconds by stage since this was last asked for."""
        told, self._told = self._told, dict(self.seconds)
        return {stage: seconds - told.get(stage, 0.0) for stage, seconds in self._told.items()}

    def rounded(self) -> dict[str, float]:
        """Seconds by stage, to the millisecond, and the total since the start."""
        stages = {stage: round(seconds, 3) for stage, seconds in self.seconds.items()}
        return {**stages, "total": round(time.perf_counter() - self._started, 3)}


Maker = Callable[[Sequence[int], Any], Callable[[], Made]]


@dataclass(frozen=True, kw_only=True)
class Run(ABC):
    """A run with every choice made.

    `encode`, `find_modes` and what `making` yields do its units of work, given places of classes in the run,
    or ascending numbers of images. Each can be done twice, by any process: what is there already is taken up,
    and what comes out is the same.

    Args:
        config: What was asked for.
        dataset: The classes.
        layout: The image list.
        progress: Receives bars and notes.
        timings: Receives the seconds of each stage.
        worker: Number of this process among the workers of its shard.
    """

    config: DistillConfig
    dataset: Dataset
    layout: Layout
    progress: Progress
    timings: Timings = field(default_factory=Timings)
    worker: int = 1

    kept: ClassVar[str]
    """What an interrupted run keeps besides images."""

    @cached_property
    def folder(self) -> RunFolder:
        """The output folder, as this worker of the run holds it."""
        return run_folder(self.config, self.settings(), self.layout, worker=self.worker)

    def settings(self) -> dict[str, Any]:
        """Name what decides the images; runs into one output folder must agree on all of it."""
        config, dataset = self.config, self.dataset
        return {
            "method": config.method,
            "dataset": dataset.name,
            "classes": f"{len(dataset.classes)} of {len(dataset.all_class_names)}",
            "class_list_hash": dataset.class_list_hash,
            "dataset_fingerprint": dataset.fingerprint,
            "ipc": config.ipc,
            "seed": config.seed,
            "format": layout_of(config.format),
            **dataset.framing.record(),
        }

    @property
    @abstractmethod
    def device(self) -> str:
        """Name of the device that makes the images."""

    @abstractmethod
    def lacking(self, classes: Sequence[int]) -> list[int]:
        """Tell which of some classes have no modes yet, and so are to be encoded."""

    @abstractmethod
    def encode(self, classes: Sequence[int], share: Share | None = None) -> list[dict[str, str]]:
        """Bring some classes, or a share of their source, into the cache; return which images are left out.

        The output folder is not touched: a bad image is found before anything is written there.
        """

    @abstractmethod
    def find_modes(self, classes: Sequence[int], *, tell: bool = True) -> Any:
        """Load, take up or find what stands for some classes, of which it has the `class_names`.

        What is odd about it is told, or not.
        """

    @abstractmethod
    def blocks(self, images: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Divide images into those that are best made together."""

    @abstractmethod
    def bar_of(self, images: Sequence[int]) -> dict[str, Any]:
        """Arguments of `Progress.stage` for the bar of some images, which are left of this shard's."""

    @abstractmethod
    def making(self) -> AbstractContextManager[Maker]:
        """Open what images are made with: it begins to make some from modes of their classes.

        Any number of blocks can be made, one after the other. What it returns waits until all images of the
        block are written.
        """

    @abstractmethod
    def save_modes(self, modes: Any) -> tuple[str, ...]:
        """Write the modes of a complete run into its folder, and name the files."""

    @abstractmethod
    def origin(self, modes: Any, image: int) -> dict[str, Any]:
        """Tell what an image was made from: `weight`, `source_index` and `seed` of its manifest record."""

    @abstractmethod
    def sections(self) -> dict[str, Any]:
        """Describe guidance and generator for the manifest."""


def laid_out(config: DistillConfig, layout: Layout, unit: int) -> Layout:
    """The image list of a run whose images are made `unit` at a time: on a store these lie in one object."""
    if not is_url(config.out):
        return layout
    return replace(layout, together=unit * max(1, LEAST_TOGETHER // unit))


def out_folder(config: DiscoverConfig) -> Path:
    """The output folder, or the folder of this machine that a run on a store is made in."""
    if not is_url(config.out):
        return Path(config.out)
    return mirror_of(str(config.out), cache_dir_or_default(config.cache_dir))


def check_out(config: DistillConfig) -> None:
    """Look at the output folder before anything is opened, which may take minutes.

    Raises:
        UserError: It holds something else, or what its store says is wrong.
    """
    if is_url(config.out):
        check_store(Bucket(str(config.out)))
    else:
        check_ours(Path(config.out))


def run_folder(
    config: DistillConfig, settings: dict[str, Any], layout: Layout, *, worker: int = 1
) -> RunFolder:
    """The output folder of a run, on a disk or on a store; see `RunFolder`."""
    out, shard = out_folder(config), config.shard_of()
    if is_url(config.out):
        return BucketFolder(Bucket(str(config.out)), out, settings, layout, *shard, worker=worker)
    return RunFolder(out, settings, layout, *shard, worker=worker)


def layout_for(config: DistillConfig, dataset: Dataset) -> Layout:
    """Number the images of a run.

    Raises:
        UserError: A class has too few images, or a class name cannot be a folder.
    """
    check_ipc(dataset.counts, config.ipc)
    check_format(config.format, dataset.class_names)
    labels = tuple(cls.label for cls in dataset.classes)
    return Layout(dataset.class_names, labels, config.ipc, layout_of(config.format))


def left_out(bad_images: Sequence[BadImage]) -> list[dict[str, str]]:
    """Describe images that cannot be read for the journal and the manifest."""
    return [{"image": f"{bad.class_name}/{bad.image_name}", "reason": bad.reason} for bad in bad_images]
