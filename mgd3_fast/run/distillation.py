"""The story of a run: prepare -> latents -> modes -> images -> finish, each step skipping what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mgd3_fast.config import DistillConfig
from mgd3_fast.config.distill import REAL_METHODS
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.distilled import DistilledDataset
from mgd3_fast.run.finishing import export_images, finish
from mgd3_fast.run.generated import open_generated
from mgd3_fast.run.real_images import open_real_images
from mgd3_fast.run.resuming import Left, saying_what_is_kept, what_is_left
from mgd3_fast.run.run import ImageSource, Run, Timings
from mgd3_fast.run.trace import write_trace
from mgd3_fast.writers import RunFolder, check_writable


def distill(config: DistillConfig, progress: Progress = SILENT) -> DistilledDataset:
    """Distil a dataset into `config.ipc` images per class: by mode-guided diffusion (MGD3), or by choosing.

    An interrupted run goes on where it stopped when called again, and ends with the same files. A folder
    that is already complete is checked against its manifest; missing or damaged images are made again.

    Args:
        config: What to distil, with what, into which folder.
        progress: Receives bars and notes.

    Returns:
        The distilled dataset.

    Raises:
        UserError: If the configuration does not fit the dataset, the generator or this machine, or the folder
            holds something else.
        Interrupted: On Ctrl-C; what was finished is kept.
        OSError: If the folder cannot be written.
    """
    run = prepare(config, progress)
    left = what_is_left(run)
    manifest, missing = (left.manifest, 0) if left.whole else _do_what_is_left(run, left)
    export = None
    if manifest is not None:
        if config.trace is not None:
            with run.timings.measure("trace"):
                write_trace(run)
        export = export_images(run)
    return DistilledDataset(
        run.folder.out, manifest, len(left.images), missing, run.timings.rounded(), export
    )


def prepare(config: DistillConfig, progress: Progress) -> Run[ImageSource]:
    """Open what a run starts from, and decide and check everything; nothing is written.

    Args:
        config: What to distil, with what, into which folder.
        progress: Receives the description.

    Returns:
        The run.

    Raises:
        UserError: As `distill`.
    """
    timings = Timings()
    is_real = config.method in REAL_METHODS
    source: ImageSource = (open_real_images if is_real else open_generated)(config, progress)
    folder = RunFolder(Path(config.out), source.settings(), source.layout, *config.shard_of())
    return Run(source, folder, progress, timings)


def _do_what_is_left(run: Run[ImageSource], left: Left) -> tuple[dict[str, Any] | None, int]:
    """Make the images that are left; return the manifest of the complete run, or how many are missing."""
    source, folder, classes = run.source, run.folder, run.layout.classes_of(left.images)
    with saying_what_is_kept(run):
        check_writable(folder.out)
        skipped = source.encode(run, classes) if classes else []
        with folder.open():
            if left.manifest is not None:
                folder.reopen(left.manifest, left.digests)
            if not classes:
                return finish(run, None)
            session = {**run.session(source.config.shard, source.device), "skipped": skipped}
            folder.record_session(session)
            modes = source.find_modes(run, classes)
            skipped = skipped + source.make_images(run, left.images, modes)
            done = {"skipped": skipped, "images": len(left.images), "timings_s": run.timings.rounded()}
            folder.record_session({**session, **done})
            return finish(run, modes)
