"""`distill --method random|herding|kmeans-closest`: chosen real images in the layout of a distilled set.

The output folder, its journal, its shards and its manifest are those of a generated run; only what makes an
image differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mgd3_fast.baselines.selection import FEATURE_SIDE, Selection, select_images
from mgd3_fast.completion import images_done, sheet_rows, source_sections
from mgd3_fast.config import DistillConfig
from mgd3_fast.datasets import BadImage, Dataset, center_crop
from mgd3_fast.errors import Interrupted
from mgd3_fast.formats.converting import check_format
from mgd3_fast.modes import check_ipc
from mgd3_fast.progress import Progress
from mgd3_fast.session import new_session
from mgd3_fast.sources import open_training_images
from mgd3_fast.timings import Timings
from mgd3_fast.writers import (
    CONTACT_SHEET,
    MANIFEST,
    Layout,
    OutState,
    PngWriter,
    RunFolder,
    check_writable,
    file_digest,
    layout_of,
    read_manifest,
    state_of,
    write_contact_sheet,
    write_manifest,
)

_CHOSEN = "chosen"
_RESOLUTIONS = {"mnist5k": 32}
_USUAL_RESOLUTION = 256


class Made(NamedTuple):
    """What a call did.

    Args:
        manifest: Content of `manifest.json`; None while images of other shards are missing.
        made: Images written by this call.
        missing: Images that other shards have still to write.
    """

    manifest: dict[str, Any] | None
    made: int
    missing: int


def make_baseline(config: DistillConfig, progress: Progress, timings: Timings) -> Made:
    """Choose real images and write them as a distilled set; takes up what is there.

    Args:
        config: With one of `REAL_METHODS`.
        progress: Receives bars and notes.
        timings: Receives the seconds of `choose` and `write`.

    Returns:
        What was done.

    Raises:
        UserError: If the configuration does not fit the dataset, an image is bad, or the folder holds
            something else.
        Interrupted: On Ctrl-C; what was finished is kept.
    """
    job = _open(config, progress)
    out, settings = Path(config.out), job.settings()
    state = state_of(out, settings)
    run = RunFolder(out, settings, job.layout, *config.shard_of())
    block = job.layout.block(*config.shard_of())
    manifest = read_manifest(out) if state is OutState.FINISHED else None
    done = images_done(run, manifest, block, progress)
    if done is None:
        return Made(manifest, 0, 0)
    todo = [image for image in block if image not in done]
    check_writable(out)
    with _saying_what_is_kept(run), run.open():
        if manifest is not None:
            run.reopen(manifest, done)
        if todo:
            _write(job, run, todo, progress, timings)
        return _complete(job, run, len(todo))


@dataclass(frozen=True)
class _Job:
    """A run whose every choice is made."""

    config: DistillConfig
    dataset: Dataset
    layout: Layout
    resolution: int

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
            "resolution": self.resolution,
            "features": "none" if config.method == "random" else f"pixels at {FEATURE_SIDE}",
        }


def _open(config: DistillConfig, progress: Progress) -> _Job:
    dataset = open_training_images(config, progress)
    check_ipc(dataset.counts, config.ipc)
    check_format(config.format, dataset.class_names)
    labels = tuple(cls.label for cls in dataset.classes)
    layout = Layout(dataset.class_names, labels, config.ipc, layout_of(config.format))
    resolution = _RESOLUTIONS.get(dataset.name, _USUAL_RESOLUTION)
    progress.note(
        f"{config.method}: {len(layout):,} real images, {config.ipc} for each of {len(layout.class_names):,}"
        f" classes, at {resolution} px"
    )
    return _Job(config, dataset, layout, resolution)


def _write(job: _Job, run: RunFolder, todo: list[int], progress: Progress, timings: Timings) -> None:
    """Choose the images of each class and write those that are to be written."""
    session = new_session(job.config.shard, "cpu")
    run.record_session(session)
    skipped: list[BadImage] = []
    by_class: dict[int, list[int]] = {}
    for image in todo:
        by_class.setdefault(job.layout.place(image)[0], []).append(image)
    with (
        progress.stage("choose", total=len(todo), unit="img") as bar,
        PngWriter(run.out, run.temporary, run.record) as writer,
    ):
        for class_index, images in by_class.items():
            with timings.measure("choose"):
                chosen = _chosen(job, run, class_index, skipped)
            with timings.measure("write"):
                for image in images:
                    _, place = job.layout.place(image)
                    pixels = center_crop(job.dataset.load(class_index, chosen.indices[place]), job.resolution)
                    writer.put(image, job.layout.file(image), np.asarray(pixels))
            bar.advance(len(images))
        with timings.measure("write"):
            writer.close()
    told = [{"image": f"{bad.class_name}/{bad.image_name}", "reason": bad.reason} for bad in skipped]
    run.record_session({**session, "skipped": told, "images": len(todo), "timings_s": timings.rounded()})


def _chosen(job: _Job, run: RunFolder, class_index: int, skipped: list[BadImage]) -> Selection:
    """The choice of a class: kept by an earlier call or another shard, or made now."""
    path = run.work / _CHOSEN / f"{class_index}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Selection(tuple(kept["indices"]), tuple(kept["weights"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    config = job.config
    chosen = select_images(
        job.dataset,
        class_index,
        config.method,
        config.ipc,
        config.seed,
        on_bad_image=config.on_bad_image,
        bad_images=skipped,
    )
    path.parent.mkdir(exist_ok=True)
    temporary = run.temporary / f"{class_index}.json"
    temporary.write_text(json.dumps(asdict(chosen)), encoding="utf-8")
    temporary.replace(path)
    return chosen


def _complete(job: _Job, run: RunFolder, made: int) -> Made:
    """Write the manifest if every shard's images are there; else leave it to the shard that ends last."""
    missing = 0
    with run.completing() as ours:
        if ours:
            digests, sessions = run.finished()
            there = (image for image in digests if (run.out / run.layout.file(image)).is_file())
            missing = len(run.layout) - sum(1 for _ in there)
            if missing == 0:
                run.temporary.mkdir(exist_ok=True)
                write_contact_sheet(run.out / CONTACT_SHEET, sheet_rows(run), run.work / CONTACT_SHEET)
                content = _manifest(job, run, digests, sessions)
                write_manifest(run.out / MANIFEST, content, run.work / MANIFEST)
    if missing:
        return Made(None, made, missing)
    run.clear()
    return Made(read_manifest(run.out), made, 0)


def _manifest(
    job: _Job, run: RunFolder, digests: dict[int, str], sessions: list[dict[str, Any]]
) -> dict[str, Any]:
    """The sections of a generated run's manifest, with no guidance and no generator."""
    dataset, layout = job.dataset, job.layout
    chosen = [_chosen(job, run, class_index, []) for class_index in range(len(layout.class_names))]
    return {
        "settings": job.settings(),
        "guidance": None,
        "generator": {"name": None, "resolution": job.resolution},
        **source_sections(dataset, layout, sessions),
        "files": {CONTACT_SHEET: file_digest(run.out / CONTACT_SHEET)},
        "sessions": [{name: of[name] for name in of if name != "skipped"} for of in sessions],
        "images": [_image_record(job, chosen, image, digests[image]) for image in range(len(layout))],
    }


def _image_record(job: _Job, chosen: list[Selection], image: int, sha256: str) -> dict[str, Any]:
    class_index, place = job.layout.place(image)
    cls, selection = job.dataset.classes[class_index], chosen[class_index]
    source = selection.indices[place]
    return {
        "file": job.layout.file(image),
        "label": cls.label,
        "class": cls.name,
        "mode": place,
        "weight": round(selection.weights[place], 6),
        "source_image": cls.images.name(source),
        "source_index": source,
        "seed": None,
        "sha256": sha256,
    }


@contextmanager
def _saying_what_is_kept(run: RunFolder) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        kept = len(run.finished()[0])
        raise Interrupted(
            f"{kept:,} of {len(run.layout):,} images are kept in {run.out}, and so are finished choices;"
            " the same command goes on from here"
        ) from None
