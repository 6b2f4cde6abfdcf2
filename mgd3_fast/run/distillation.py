"""The story of a run: prepare -> latents -> modes -> images -> finish, each step skipping what is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mgd3_fast.config import DistillConfig
from mgd3_fast.errors import Interrupted
from mgd3_fast.modes.recovery import RecoveryCount
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.finishing import export_images
from mgd3_fast.run.run import Timings, check_out, run_folder
from mgd3_fast.run.units import (
    Encode,
    FindModes,
    Finish,
    Left,
    MakeImages,
    OpenFolder,
    Survey,
    Trace,
    divided,
    parts_for,
)
from mgd3_fast.run.worker import run_worker
from mgd3_fast.storage.cache import cache_dir_or_default, cache_url
from mgd3_fast.storage.remote import is_url
from mgd3_fast.workers import Workers, open_workers
from mgd3_fast.writers import CONTACT_SHEET, WORK


@dataclass(frozen=True)
class DistilledDataset:
    """A folder of distilled images.

    Iterating yields (path, label) of every image, class after class in label order; of a folder on a store
    the URL of the tar file that holds it.

    Args:
        folder: Output folder, or its URL.
        manifest: Content of `manifest.json`; None while images of other shards are missing.
        made: Images made by this call.
        missing: Images that other shards have still to make.
        timings_s: Seconds of this call per stage, of all workers together, and in total.
        export: Folder of the converted images, if `format` asks for them, once the run is complete.
        mode_recovery: Share of the images made by this call that ended nearest to their own mode among those
            of their class, 0..1; None where none was made, for real images, and for one image a class.
        guided: Whether modes pulled.
    """

    folder: Path | str
    manifest: dict[str, Any] | None
    made: int
    missing: int
    timings_s: dict[str, float]
    export: Path | None = None
    mode_recovery: float | None = None
    guided: bool = False

    @property
    def contact_sheet(self) -> Path | str | None:
        """The contact sheet, once the run is complete."""
        return self._at(CONTACT_SHEET) if self.manifest else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(one["name"] for one in self.manifest["classes"]) if self.manifest else ()

    def __len__(self) -> int:
        return len(self.manifest["images"]) if self.manifest else 0

    def __iter__(self) -> Iterator[tuple[Path | str, int]]:
        for image in self.manifest["images"] if self.manifest else ():
            yield self._at(image.get("tar", image["file"])), image["label"]

    def _at(self, name: str) -> Path | str:
        return self.folder / name if isinstance(self.folder, Path) else f"{self.folder}/{name}"


def distill(config: DistillConfig, progress: Progress = SILENT) -> DistilledDataset:
    """Distil a dataset into `config.ipc` images per class: by mode-guided diffusion (MGD3), or by choosing.

    An interrupted run goes on where it stopped when called again, and ends with the same files. A folder
    that is already complete is checked against its manifest; missing or damaged images are made again.

    Args:
        config: What to distil, with what, into which folder.
        progress: Receives bars and notes.

    Returns:
        The folder, as it is now.

    Raises:
        UserError: If the configuration does not fit the dataset, the generator or this machine, or the folder
            holds something else.
        Interrupted: On Ctrl-C; what was finished is kept.
        OSError: If the folder cannot be written.
    """
    check_out(config)
    story, setup = _Story(config, progress), partial(run_worker, config)
    with (
        _saying_what_is_kept(story),
        open_workers(
            config.workers,
            setup,
            progress,
            device=config.device,
            ray_address=config.ray_address,
            shared=_shared_folders(config),
        ) as story.workers,
    ):
        left = story.left = story.ask(Survey())
        missing = 0 if left.is_finished else _do_what_is_left(story, left)
        if config.trace is not None and not missing:
            story.ask(Trace())
    export = None if missing else export_images(config, len(left.layout), progress, story.timings)
    return DistilledDataset(
        story.out,
        None if missing else run_folder(config, {}, left.layout).manifest(),
        left.images,
        missing,
        story.timings.rounded(),
        export,
        mode_recovery=story.recovery.share,
        guided=left.guided,
    )


def _shared_folders(config: DistillConfig) -> list[Path]:
    """Folders that workers on other machines must see; what has a URL is shared without one."""
    cache = [] if cache_url(config.cache_dir) else [cache_dir_or_default(config.cache_dir)]
    out = [] if is_url(config.out) else [Path(config.out) / WORK]
    return [*out, *cache]


class _Story:
    """A run as whoever asked for it sees it: its workers, and what they have told so far."""

    workers: Workers

    def __init__(self, config: DistillConfig, progress: Progress) -> None:
        self.config, self.progress = config, progress
        self.out = str(config.out) if is_url(config.out) else Path(config.out)
        self.timings, self.recovery = Timings(), RecoveryCount()
        self.left: Left | None = None

    def do(self, units: Iterable[Any], joined: tuple[str, int] | None = None) -> Iterator[tuple[Any, Any]]:
        """Have units done, and yield each with its value."""
        for unit, done in self.workers.do(units, joined=joined):
            for stage, seconds in done.seconds.items():
                self.timings.add(stage, seconds)
            yield unit, done.value

    def ask(self, unit: Any) -> Any:
        """Have one unit done, and return its value."""
        ((_, value),) = self.do([unit])
        return value


def _do_what_is_left(story: _Story, left: Left) -> int:
    """Do stage after stage what is left of this shard, and return how many images of others are missing."""
    skipped = _encode(story, left)
    story.ask(OpenFolder(tuple(skipped), left.damaged, idle=not left.blocks))
    if left.blocks:
        parts = parts_for(len(left.classes), story.workers.count)
        units = map(FindModes, divided(left.classes, parts))
        for _ in story.do(units, joined=("discover", len(left.classes))):
            pass
        with story.progress.stage(**left.bar) as bar:
            for unit, made in story.do(map(MakeImages, left.blocks)):
                story.recovery.include(made.recovery)
                bar.advance(len(unit.images))
    return int(story.ask(Finish()))


def _encode(story: _Story, left: Left) -> list[dict[str, str]]:
    """Bring the latents that modes are to be found in into the cache; return which images are left out."""
    if not left.lacking:
        return []
    parts = parts_for(left.shards, story.workers.count)
    units = [Encode(left.lacking, part + 1, parts) for part in range(parts)]
    skipped = {}
    for _, of_unit in story.do(units, joined=("encode", left.rows)):
        skipped.update({one["image"]: one for one in of_unit})
    return list(skipped.values())


@contextmanager
def _saying_what_is_kept(story: _Story) -> Iterator[None]:
    """Tell on Ctrl-C what the next call finds.

    Raises:
        Interrupted: In place of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        left = story.left
        if left is None or left.is_finished:
            raise
        kept = len(run_folder(story.config, {}, left.layout).finished()[0])
        raise Interrupted(
            f"{kept:,} of {len(left.layout):,} images are kept in {story.out}, and so are {left.kept}; the"
            " same command goes on from here"
        ) from None
