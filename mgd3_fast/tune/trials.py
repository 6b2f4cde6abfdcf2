"""A candidate's worth: its images made with a seed, and what a classifier of that seed learns from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mgd3_fast.config import DiscoverConfig, DistillConfig
from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.config.tune import TuneConfig
from mgd3_fast.devices import resolve_device
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate import evaluate_folders
from mgd3_fast.evaluate.plan import make_plan
from mgd3_fast.evaluate.presets import affordable_preset
from mgd3_fast.generators import class_ids, for_run
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.discovery import discover
from mgd3_fast.run.distillation import distill
from mgd3_fast.run.sources import open_sources
from mgd3_fast.tune.candidates import Candidate
from mgd3_fast.tune.journal import SETS, Journal
from mgd3_fast.writers import MANIFEST, MODES


@dataclass(frozen=True)
class Trials:
    """Trials in one folder; what is finished there is taken from there.

    The modes are found once, in the training images that are not held out. Images and classifier of a trial
    have its seed, so that equal seeds of two candidates make a pair.

    Args:
        config: What was asked for.
        journal: Receives mode recovery, failures and the time spent.
        clock: Seconds of a clock that only moves on.
    """

    config: TuneConfig
    journal: Journal
    clock: Callable[[], float] = time.monotonic

    def find_modes(self, progress: Progress) -> None:
        """Encode the images and find the modes that all candidates are guided to.

        Raises:
            UserError: As `discover`; or, before its work, the generator does not know a class.
        """
        config = DiscoverConfig(**self._source(), out=self._modes, seed=self.config.seed)
        with self._timed():
            sources = open_sources(config, progress, draws=True)
            class_ids(for_run(sources.generator, sources.dataset), sources.dataset, progress)
            discover(config, progress, sources=sources)

    def make(self, candidate: Candidate, seed: int) -> Path | None:
        """Make the images of a candidate; None for one whose images cannot be made, which is remembered.

        Raises:
            UserError: As `distill`.
        """
        if candidate.name in self.journal.failed:
            return None
        name = f"{candidate.name}-seed-{seed}"
        settings: dict[str, Any] = asdict(candidate)
        out = self._out / SETS / name
        if (out / MANIFEST).is_file():
            return out  # whole; to have it checked again would load the network
        try:
            with self._timed():
                made = distill(
                    DistillConfig(
                        **self._source(),
                        **settings,
                        modes=self._modes,
                        discovery_seed=self.config.seed,
                        seed=seed,
                        out=out,
                    )
                )
        except UserError:
            raise
        except ValueError as error:  # the sampler's: guidance diverged
            self.journal.failed[candidate.name] = str(error)
            self.journal.save()
            return None
        if made.made:
            self.journal.recovery[name] = made.mode_recovery
            self.journal.save()
        return out

    def score(self, candidate: Candidate, seed: int, epochs: int | str) -> float | None:
        """Measure a candidate on the held-out images: accuracy in percent after the last epoch."""
        made = self.make(candidate, seed)
        if made is None:
            return None
        with self._timed():
            result = evaluate_folders(self._evaluation(made, seed, epochs), SILENT)
        return float(result["rows"][0]["last"]["mean"])

    def whole_training(self, made: Path) -> int:
        """Choose the protocol's first network, and tell the epochs of its training on a set of images."""
        asked = self._evaluation(made, self.config.seed, self.config.epochs or "code")
        with self._timed():
            first = make_plan(asked, SILENT).first
        self.journal.network = first.network
        return first.recipe.epochs

    def recovery(self, candidate: Candidate) -> float | None:
        """Mean mode recovery of a candidate's sets, where it is known."""
        known = [
            share
            for name, share in self.journal.recovery.items()
            if name.startswith(f"{candidate.name}-seed-") and share is not None
        ]
        return fmean(known) if known else None

    @property
    def _out(self) -> Path:
        return Path(self.config.out)

    @property
    def _modes(self) -> Path:
        return self._out / MODES

    def _source(self) -> dict[str, Any]:
        names = (
            "generator",
            "dataset",
            "data_dir",
            "classes",
            "ipc",
            "background",
            "fit",
            "on_bad_image",
            "precision",
            "device",
            "cache_dir",
        )
        return {**{name: getattr(self.config, name) for name in names}, "split": "fit"}

    def _evaluation(self, made: Path, seed: int, epochs: int | str) -> EvaluateConfig:
        names = ("dataset", "data_dir", "classes", "on_bad_image", "device")
        return EvaluateConfig(
            **{name: getattr(self.config, name) for name in names},
            folders=(made,),
            eval_split="val",
            preset=affordable_preset("auto", self.config.dataset, resolve_device(self.config.device).type),
            networks=(self.journal.network,) if self.journal.network else None,
            repeats=1,
            seed=seed,
            epochs=epochs,
            tests=1,
            out=self._out / "evaluation",
        )

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = self.clock()
        try:
            yield
        finally:
            self.journal.spent_s += self.clock() - started
            if self._out.is_dir():  # a mistake at the very beginning has made nothing
                self.journal.save()
