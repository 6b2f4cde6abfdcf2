"""The modes of a run: given in a file, kept by earlier calls, or found in the latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mgd3_fast.datasets import Framing
from mgd3_fast.errors import UserError, listed
from mgd3_fast.modes import (
    Discovery,
    ModeSet,
    check_ipc,
    classes_without_modes,
    discover_modes,
    latents_of,
    modes_key,
)
from mgd3_fast.run.run import Timings, left_out, out_folder
from mgd3_fast.run.sources import Sources
from mgd3_fast.writers import MODES, WORK

if TYPE_CHECKING:
    from mgd3_fast.config import DiscoverConfig
    from mgd3_fast.latents import Share
    from mgd3_fast.progress import Progress

MODES_SUFFIX = ".safetensors"
_NUMBER_FORMATS = ("precision", "storage")
_MISFITS = {
    "images": "its modes were found in other images",
    "autoencoder": "its modes were found in latents of another autoencoder",
}


@dataclass(frozen=True, kw_only=True)
class ModeFinder:
    """Where the modes of a run come from.

    Args:
        config: What was asked for.
        sources: Dataset, generator, device and latents.
        discovery: How modes are found.
        header: What the header of the file of given modes stated when the run was opened, if there was one.
        progress: Receives bars and notes.
        timings: Receives the seconds of each stage.
    """

    config: DiscoverConfig
    sources: Sources
    discovery: Discovery
    header: Mapping[str, str]
    progress: Progress
    timings: Timings

    takes_other_formats: ClassVar[bool] = False
    """Whether given modes may have been found in latents of another number format."""

    def lacking(self, classes: Sequence[int]) -> list[int]:
        """Tell which of some classes have no modes yet; see `Run`.

        Raises:
            UserError: If given modes are of something else.
        """
        if not classes or self.given is not None:
            return []
        dataset, store = self.sources.dataset, self.sources.store
        labels = set(classes_without_modes(dataset.at(classes), store, self.discovery, self._work))
        return [place for place in classes if dataset.classes[place].label in labels]

    def encode(self, classes: Sequence[int], share: Share | None = None) -> list[dict[str, str]]:
        """Encode some classes, or a share of their source, and return which images are left out; see `Run`.

        Raises:
            UserError: If an image is damaged, or the disk has no room.
        """
        if not classes:
            return []
        with self.timings.measure("encode"):
            report = self.sources.encode(
                self.sources.dataset.at(classes), self.config.on_bad_image, self.progress, share=share
            )
        if report.counts:  # a share may hold no whole class
            check_ipc(report.counts, self.config.ipc)
        return left_out(report.bad_images)

    def find_modes(self, classes: Sequence[int], *, tell: bool = True) -> ModeSet:
        """Load, take up or find the modes of at least some classes; see `Run`.

        Raises:
            UserError: As `lacking` and `encode`.
        """
        modes = self.given or self._found(classes)
        if not tell:
            return modes
        repeating = [f"{name} has {count} of {modes.ipc}" for name, count in modes.repeating().items()]
        if repeating:
            self.progress.note(
                "modes are not all different, because there are not as many different images:"
                f" {listed(repeating)}"
            )
        return modes

    @cached_property
    def given(self) -> ModeSet | None:
        """Modes of this very run from a file: the one that is named, or the one in the output folder.

        Raises:
            UserError: They were found otherwise, or in other latents; naming what differs.
        """
        path = given_modes(self.config)
        if path is None:
            return None
        modes, dataset, store = ModeSet.load(path), self.sources.dataset, self.sources.store
        found = _described(modes, modes.class_names, modes.kmeans, modes.latents)
        wanted = _described(
            self.discovery, dataset.class_names, self.discovery.kmeans, latents_of(dataset, store)
        )
        differing = [name for name in wanted if name in found and found[name] != wanted[name]]
        for name in differing:
            if not (self.takes_other_formats and name in _NUMBER_FORMATS):
                said = _MISFITS.get(name, f"its {name} is {found[name]}, not {wanted[name]}")
                raise UserError(f"{path} does not fit this run: {said}")
        if not differing and modes.key != modes_key(dataset, store, self.discovery):
            raise UserError(
                f"{path} does not fit this run: it is of other images, another autoencoder or another"
                " precision (the version that wrote it did not record these)"
            )
        self._note_taken(path, modes, [f"{name} {found[name]}, here {wanted[name]}" for name in differing])
        return modes

    @property
    def foreign_key(self) -> str | None:
        """The key of given modes that were not found in the latents of this very run."""
        key = self.header.get("key")
        own = modes_key(self.sources.dataset, self.sources.store, self.discovery) if key else None
        return None if key == own else key

    def _note_taken(self, path: Path, modes: ModeSet, others: list[str]) -> None:
        config = self.config
        if config.kmeans not in ("auto", modes.kmeans):
            others.append(f"kmeans {modes.kmeans}, here {config.kmeans}")
        if config.discovery_seed is None and modes.seed != config.seed:
            others.append(f"seed {modes.seed}, here {config.seed}")
        if others:
            self.progress.note(f"modes are taken as they are in {path}: {'; '.join(others)}")

    def _found(self, classes: Sequence[int]) -> ModeSet:
        """Modes of some classes, kept or found in the latents, which are encoded where they are missing."""
        wanted = self.discovery
        if self.foreign_key is not None:
            raise UserError(
                f"the modes that {self.config.out} was made from are missing, and a new search would give"
                " other ones: give their file with --modes"
            )
        lacking = self.lacking(classes)
        if lacking:
            self.encode(lacking)
            self.progress.note(f"discover: {wanted.method}, K-means runner {wanted.runner} ({wanted.reason})")
        with self.timings.measure("discover"):
            return discover_modes(
                self.sources.dataset.at(classes),
                self.sources.store,
                self.sources.generator.latent_shape,
                wanted,
                self._work,
                self.progress,
            )

    @property
    def _work(self) -> Path:
        """Keeps the modes of single classes for later calls and other shards."""
        return modes_file(self.config)[1] / "modes"


def modes_file(config: DiscoverConfig) -> tuple[Path, Path]:
    """The file that the modes of a run are written to, and the folder that keeps unfinished work."""
    out = out_folder(config)
    if out.suffix.lower() == MODES_SUFFIX and not out.is_dir():
        return out, out.with_name(f".{out.name}{WORK}")
    return out / MODES, out / WORK


def given_modes(config: DiscoverConfig) -> Path | None:
    """Find the file of modes that a run takes up: the named one, or what it would write, if that is there."""
    named, own = getattr(config, "modes", None), modes_file(config)[0]
    if named is not None:
        return Path(named)
    return own if own.exists() else None


def _described(
    by: ModeSet | Discovery, class_names: Sequence[str], kmeans: str, latents: Mapping[str, str]
) -> dict[str, Any]:
    """What modes depend on, by the names that messages use."""
    return {
        "ipc": by.ipc,
        "discovery": by.method,
        "kmeans": kmeans,
        "discovery seed": by.seed,
        "list of classes": listed(class_names),
        **latents,
        **({"framing": str(Framing.recorded(latents))} if latents else {}),  # the default is not recorded
    }
