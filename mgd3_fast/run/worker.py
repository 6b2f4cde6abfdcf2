"""What one worker does of a run: the run is prepared once, its folder opened when it is first needed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from mgd3_fast.config import DistillConfig
from mgd3_fast.latents import Share
from mgd3_fast.run.finishing import finish
from mgd3_fast.run.generated import GeneratedImages
from mgd3_fast.run.preparing import prepare
from mgd3_fast.run.run import Maker, Run
from mgd3_fast.run.survey import survey
from mgd3_fast.run.trace import write_trace
from mgd3_fast.run.units import Done, Encode, FindModes, Finish, MakeImages, OpenFolder, Survey, Trace
from mgd3_fast.versions import versions
from mgd3_fast.workers import Begin, Place


@contextmanager
def run_worker(config: DistillConfig, place: Place) -> Iterator[Begin]:
    """Prepare a run for a worker, and yield what does its units.

    Raises:
        UserError: As `prepare`.
    """
    config = replace(config, device=place.device, workers=1, ray_address=None)
    run = prepare(config, place.progress, worker=place.number)
    with ExitStack() as held:
        yield RunWorker(run, place, held).begin


class RunWorker:
    """Does units of a prepared run; `held` is closed at the worker's end."""

    def __init__(self, run: Run, place: Place, held: ExitStack) -> None:
        self._run, self._place, self._held = run, place, held
        self._modes: Any = None
        self._images = 0

    def begin(self, unit: Any) -> Callable[[], Done]:
        """Begin a unit; images are written while the next unit is begun, all else is done at once."""
        timings = self._run.timings
        if isinstance(unit, MakeImages):
            return self._make_images(unit.images)
        value = self._do(unit)
        return lambda: Done(value, timings.taken())

    def _do(self, unit: Any) -> Any:
        run = self._run
        match unit:
            case Survey():
                return survey(run)
            case Encode(classes, part, parts):
                return run.encode(classes, Share(part, parts) if parts > 1 else None)
            case OpenFolder(skipped, damaged, idle):
                if damaged is not None:
                    self._opened.folder.reopen(damaged.sessions, damaged.digests)
                self._note_left_out(skipped)
                if not idle:
                    self._record()
            case FindModes(classes):
                self._record()
                self._modes = run.find_modes(classes)
            case Finish():
                return finish(self._opened, self._modes)
            case Trace():
                if isinstance(run, GeneratedImages):
                    with run.timings.measure("trace"):
                        write_trace(run)
        return None

    def _make_images(self, images: tuple[int, ...]) -> Callable[[], Done]:
        begun, timings = self._make(images, self._modes_of(images)), self._run.timings

        def wait() -> Done:
            made = begun()
            self._images += len(images)
            self._note_left_out(made.skipped)
            self._record(images=self._images, timings_s=timings.rounded())
            return Done(made, timings.taken())

        return wait

    @cached_property
    def _opened(self) -> Run:
        """The run, its folder opened."""
        self._held.enter_context(self._run.folder.open())
        return self._run

    @cached_property
    def _make(self) -> Maker:
        """What makes images; its threads and the autoencoder stay until the worker's end."""
        self._record()
        return self._held.enter_context(self._run.making())

    def _modes_of(self, images: tuple[int, ...]) -> Any:
        """Modes of some images, as they were found here or, by any worker, before."""
        names, classes = self._run.layout.class_names, self._run.layout.classes_of(images)
        if self._modes is None or not {names[place] for place in classes} <= set(self._modes.class_names):
            self._modes = self._run.find_modes(classes, tell=False)
        return self._modes

    def _record(self, **done: Any) -> None:
        """Note in the journal what this worker runs on and has done."""
        self._opened.folder.record_session({**self._session, **done})

    def _note_left_out(self, skipped: Sequence[dict[str, str]]) -> None:
        """Note source images for the manifest, apart from the session, which is noted again and again."""
        if skipped:
            self._opened.folder.record_session({**_identity(), "skipped": list(skipped)})

    @cached_property
    def _session(self) -> dict[str, Any]:
        return {
            **_identity(),
            "shard": "{}/{}".format(*self._run.config.shard_of()),
            **({} if self._place.alone else {"worker": self._place.number}),
            "device": self._run.device,
            "versions": versions(),
            "images": None,
            "timings_s": None,
        }


def _identity() -> dict[str, Any]:
    """What every note of a session has."""
    started = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return {"id": uuid.uuid4().hex[:12], "started": started}
