"""The main job: encode -> discover -> sample -> decode -> write, skipping what is already there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mgd3_fast.baselines import make_baseline
from mgd3_fast.completion import complete, images_done
from mgd3_fast.config import DistillConfig
from mgd3_fast.config.convert import CONVERTED_FORMATS
from mgd3_fast.config.distill import REAL_METHODS
from mgd3_fast.devices import device_name
from mgd3_fast.errors import Interrupted
from mgd3_fast.formats.converting import convert_run
from mgd3_fast.modes import ModeSet
from mgd3_fast.plan import Plan, make_plan
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.sampling import make_images
from mgd3_fast.session import new_session
from mgd3_fast.stages import modes_of, prepare_latents
from mgd3_fast.timings import Timings
from mgd3_fast.tracing import requested_trace, write_trace
from mgd3_fast.writers import (
    CONTACT_SHEET,
    MODES,
    OutState,
    PngWriter,
    RunFolder,
    check_writable,
    read_manifest,
    state_of,
)


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
    """

    folder: Path
    manifest: dict[str, Any] | None
    made: int
    missing: int
    timings_s: dict[str, float]
    export: Path | None = None

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

    Returns:
        The distilled dataset.

    Raises:
        UserError: If the configuration does not fit the dataset, the generator or this machine, or the folder
            holds something else.
        Interrupted: On Ctrl-C; what was finished is kept.
        OSError: If the folder cannot be written.
    """
    timings = Timings()
    if config.method in REAL_METHODS:
        made = make_baseline(config, progress, timings)
        distilled = DistilledDataset(Path(config.out), *made, timings.rounded())
    else:
        distilled = _generate(config, progress, timings)
    if distilled.manifest is None or config.format not in CONVERTED_FORMATS:
        return distilled
    with timings.measure("export"):
        folder = _convert(distilled, config.format, progress)
    return replace(distilled, export=folder, timings_s=timings.rounded())


def _generate(config: DistillConfig, progress: Progress, timings: Timings) -> DistilledDataset:
    """Make the images by diffusion, and draw how some of them came about if that is asked for."""
    plan = make_plan(config, progress)
    trace = requested_trace(plan)
    distilled = _run(plan, progress, timings)
    if distilled.manifest is None or trace is None:
        return distilled
    with timings.measure("trace"):
        write_trace(plan, trace, ModeSet.load(distilled.folder / MODES), progress)
    return replace(distilled, timings_s=timings.rounded())


def _run(plan: Plan, progress: Progress, timings: Timings) -> DistilledDataset:
    """Do what is not done yet; the folder of images is the same whatever it is converted to."""
    config, settings = plan.config, plan.settings()
    out = Path(config.out)
    state = state_of(out, settings)
    run = RunFolder(out, settings, plan.layout, *config.shard_of())
    block = plan.layout.block(*config.shard_of())
    manifest = read_manifest(out) if state is OutState.FINISHED else None
    done = images_done(run, manifest, block, progress)
    if done is None:
        return DistilledDataset(out, manifest, 0, 0, timings.rounded())
    todo = [image for image in block if image not in done]
    with _saying_what_is_kept(run):
        # Latents go to the cache: a bad image is found before the output folder is touched.
        check_writable(out)
        skipped = prepare_latents(plan, run, plan.layout.classes_of(todo), progress, timings) if todo else []
        with run.open():
            if manifest is not None:
                run.reopen(manifest, done)
            modes = _make(plan, run, todo, skipped, progress, timings) if todo else None
            manifest, missing = complete(plan, run, modes, progress, timings)
    return DistilledDataset(out, manifest, len(todo), missing, timings.rounded())


def _make(
    plan: Plan,
    run: RunFolder,
    todo: list[int],
    skipped: list[dict[str, str]],
    progress: Progress,
    timings: Timings,
) -> ModeSet:
    """Make images from the discover stage on, and note in the journal how it went; return their modes."""
    session = {**new_session(plan.config.shard, device_name(plan.sources.device)), "skipped": skipped}
    run.record_session(session)
    modes = modes_of(plan, run, plan.layout.classes_of(todo), progress, timings)
    block = plan.layout.block(*plan.config.shard_of())
    with (
        progress.stage(
            "sample",
            total=len(block),
            unit="img",
            initial=len(block) - len(todo),
            batch=plan.sampler.batch_shape,
            first_apart=bool(plan.sampler.preparation),
        ) as bar,
        PngWriter(run.out, run.temporary, run.record) as writer,
    ):
        make_images(plan, modes, todo, writer, bar, timings, progress)
        with timings.measure("write"):
            writer.close()
    run.record_session({**session, "images": len(todo), "timings_s": timings.rounded()})
    return modes


def _convert(distilled: DistilledDataset, format: str, progress: Progress) -> Path:
    try:
        return convert_run(distilled.folder, format, progress).folder
    except KeyboardInterrupt:
        raise Interrupted(
            f"all {len(distilled):,} images are kept in {distilled.folder}; the same command goes on with the"
            f" format {format}"
        ) from None


@contextmanager
def _saying_what_is_kept(run: RunFolder) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        kept = len(run.finished()[0])
        raise Interrupted(
            f"{kept:,} of {len(run.layout):,} images are kept in {run.out}, and so are finished latents and"
            " modes; the same command goes on from here"
        ) from None
