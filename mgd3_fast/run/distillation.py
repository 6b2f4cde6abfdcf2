"""The story of a run: prepare -> latents -> modes -> images -> finish, each step skipping what is done."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mgd3_fast.config import DistillConfig
from mgd3_fast.errors import Interrupted
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.finishing import export_images, finish
from mgd3_fast.run.generated import GeneratedImages
from mgd3_fast.run.preparing import prepare
from mgd3_fast.run.run import Run
from mgd3_fast.run.trace import write_trace
from mgd3_fast.versions import versions
from mgd3_fast.writers import CONTACT_SHEET, check_writable, file_digest


@dataclass(frozen=True)
class DistilledDataset:
    """A folder of distilled images.

    Iterating yields (path, label) of every image, class after class in label order.

    Args:
        folder: Output folder.
        manifest: Content of `manifest.json`; None while images of other shards are missing.
        made: Images made by this call.
        missing: Images that other shards have still to make.
        timings_s: Seconds of this call per stage, and in total.
        export: Folder of the converted images, if `format` asks for them, once the run is complete.
        mode_recovery: Share of the images made by this call that ended nearest to their own mode among those
            of their class, 0..1; None where none was made, for real images, and for one image a class.
        guided: Whether modes pulled.
    """

    folder: Path
    manifest: dict[str, Any] | None
    made: int
    missing: int
    timings_s: dict[str, float]
    export: Path | None = None
    mode_recovery: float | None = None
    guided: bool = False

    @property
    def contact_sheet(self) -> Path | None:
        """The contact sheet, once the run is complete."""
        return self.folder / CONTACT_SHEET if self.manifest else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(one["name"] for one in self.manifest["classes"]) if self.manifest else ()

    def __len__(self) -> int:
        return len(self.manifest["images"]) if self.manifest else 0

    def __iter__(self) -> Iterator[tuple[Path, int]]:
        for image in self.manifest["images"] if self.manifest else ():
            yield self.folder / image["file"], image["label"]


def distill(config: DistillConfig, progress: Progress = SILENT) -> DistilledDataset:
    """Distil a dataset into `config.ipc` images per class: by mode-guided diffusion (MGD3), or by choosing.

    An interrupted run goes on where it stopped when called again, and ends with the same files. A folder
    that is already complete is checked against its manifest; missing or damaged images are made again.

    Args:
        config: What to distil, with what, into which folder.
        progress: Receives bars and notes.

    Raises:
        UserError: If the configuration does not fit the dataset, the generator or this machine, or the folder
            holds something else.
        Interrupted: On Ctrl-C; what was finished is kept.
        OSError: If the folder cannot be written.
    """
    run = prepare(config, progress)
    left = _what_is_left(run)
    manifest, missing = (left.manifest, 0) if left.nothing else _do_what_is_left(run, left)
    export = None
    if manifest is not None:
        if config.trace is not None and isinstance(run, GeneratedImages):
            with run.timings.measure("trace"):
                write_trace(run)
        export = export_images(run)
    generated = run if isinstance(run, GeneratedImages) else None
    return DistilledDataset(
        run.folder.out,
        manifest,
        len(left.images),
        missing,
        run.timings.rounded(),
        export,
        mode_recovery=generated.recovery.share if generated else None,
        guided=generated is not None and generated.guidance is not None,
    )


@dataclass(frozen=True)
class _Left:
    """Images that this shard has still to make; of a run that was finished before, what it still holds."""

    images: list[int]
    manifest: dict[str, Any] | None
    digests: dict[int, str]
    nothing: bool = False


def _what_is_left(run: Run) -> _Left:
    """Find out what an earlier call has left to do; clear the working state of a run that is whole."""
    folder, block = run.folder, run.layout.block(*run.config.shard_of())
    manifest = folder.finished_manifest()
    if manifest is None:
        done = folder.intact(folder.finished()[0], block, run.progress)
        return _Left([image for image in block if image not in done], None, done)
    recorded = {image: record["sha256"] for image, record in enumerate(manifest["images"])}
    done = folder.intact(recorded, range(len(run.layout)), run.progress)
    damaged = [run.layout.file(image) for image in recorded if image not in done]
    for name, sha256 in manifest["files"].items():
        if file_digest(folder.out / name) != sha256:
            damaged.append(name)
            (folder.out / name).unlink(missing_ok=True)
    if damaged:
        run.progress.note(f"made again, because missing or damaged: {len(damaged)} files ({damaged[0]}, ...)")
        return _Left([image for image in block if image not in done], manifest, done)
    folder.clear()
    return _Left([], manifest, done, nothing=True)


def _do_what_is_left(run: Run, left: _Left) -> tuple[dict[str, Any] | None, int]:
    """Make the images that are left; return the manifest of the complete run, or how many are missing."""
    folder, classes = run.folder, run.layout.classes_of(left.images)
    with _saying_what_is_kept(run):
        check_writable(folder.out)
        skipped = run.encode(classes) if classes else []
        with folder.open():
            if left.manifest is not None:
                folder.reopen(left.manifest, left.digests)
            if not classes:
                return finish(run, None)
            session = {**_session(run), "skipped": skipped}
            folder.record_session(session)
            modes = run.find_modes(classes)
            skipped = skipped + run.make_images(left.images, modes)
            done = {"skipped": skipped, "images": len(left.images), "timings_s": run.timings.rounded()}
            folder.record_session({**session, **done})
            return finish(run, modes)


def _session(run: Run) -> dict[str, Any]:
    """What this process runs on, for journal and manifest; its times come when it is done."""
    return {
        "id": uuid.uuid4().hex[:12],
        "started": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "shard": "{}/{}".format(*run.config.shard_of()),
        "device": run.device,
        "versions": versions(),
        "images": None,
        "timings_s": None,
    }


@contextmanager
def _saying_what_is_kept(run: Run) -> Iterator[None]:
    """Tell on Ctrl-C what the next call finds.

    Raises:
        Interrupted: In place of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        kept = len(run.folder.finished()[0])
        raise Interrupted(
            f"{kept:,} of {len(run.layout):,} images are kept in {run.folder.out}, and so are"
            f" {run.kept}; the same command goes on from here"
        ) from None
