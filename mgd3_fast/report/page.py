"""A distilled folder as one HTML page that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from mgd3_engine.files.renaming import renamed
from mgd3_fast import __version__
from mgd3_fast.config.metrics import MetricsConfig
from mgd3_fast.config.report import ReportConfig
from mgd3_fast.datasets import Dataset, Framing, chosen_framing, open_dataset
from mgd3_fast.datasets.holdout import fit_part
from mgd3_fast.datasets.spreading import spread
from mgd3_fast.errors import UserError, printable
from mgd3_fast.metrics.measuring import SCORES, Measured, measure
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.report.accuracies import read_accuracies
from mgd3_fast.report.pictures import data_url, place_map
from mgd3_fast.storage.remote import is_url
from mgd3_fast.writers import check_writable
from mgd3_fast.writers.fetching import local_run
from mgd3_fast.writers.labelled import LabelledFolder
from mgd3_fast.writers.reader import read_run

REPORT = "report.html"
_TEMPLATE = "report.html.j2"
_PIXELATED_PX = 64  # images up to this size are enlarged without smoothing


def write_report(config: ReportConfig, progress: Progress = SILENT) -> Path:
    """Write the page of a finished run.

    Args:
        config: The run and what to show of it.
        progress: Receives bars and notes; among them why something could not be shown.

    Returns:
        The file.

    Raises:
        UserError: The folder holds no finished run, an image is missing, or what was named does not fit.
    """
    import jinja2

    if is_url(config.folder) and config.out is None:
        raise UserError(f"out must name the file to write for a run at a URL, got none for {config.folder}")
    config = replace(config, folder=local_run(config.folder, "folder", progress, config.cache_dir))
    folder = Path(config.folder)
    run = read_run(folder, "folder")
    target = folder / REPORT if config.out is None else Path(config.out)
    if target.is_dir():
        raise UserError(f"out must be a file, got the folder {target}")
    check_writable(target.parent)
    evaluations = read_accuracies(config.evaluation, folder)
    notes: list[str] = []
    dataset = _open_real(config, run.manifest, notes, progress)
    shown = spread(len(run.manifest["classes"]), config.classes_shown)
    measured = _measure(config, run.manifest, dataset, shown, notes, progress)
    with progress.stage("report", total=len(shown), unit="class") as bar:
        classes = []
        for place in shown:
            classes.append(_shown_class(run, place, dataset, measured, config.images_shown))
            bar.advance()
    for note in notes:
        progress.note(note)
    try:
        page = _render(run, classes, measured, evaluations, notes)
    except (jinja2.UndefinedError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the manifest in {folder} is damaged: {error}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with renamed(target) as unfinished:
        unfinished.write_text(printable(page), encoding="utf-8")
    return target


def _open_real(
    config: ReportConfig, manifest: dict[str, Any], notes: list[str], progress: Progress
) -> Dataset | None:
    """Open the run's dataset; one that was not asked for by name may be missing."""
    recorded = manifest["dataset"]
    names = ",".join(one["name"] for one in manifest["classes"])
    part = recorded["split"]
    try:
        dataset = open_dataset(
            config.dataset or recorded["name"],
            data_dir=config.data_dir,
            classes=names,
            split="train" if part == "fit" else part,
            progress=progress,
            cache_dir=config.cache_dir,
        )
        dataset = fit_part(dataset) if part == "fit" else dataset
    except UserError as error:
        if config.dataset is not None or config.data_dir is not None:
            raise
        notes.append(f"real images, maps and metrics are left out: {error}")
        return None
    if dataset.fingerprint != recorded["fingerprint"]:
        raise UserError(
            f"dataset must be the one that {config.folder} was made from ({recorded['name']}),"
            f" got other images in {dataset.root or dataset.name}"
        )
    framing = chosen_framing(config, {str(config.folder): Framing.recorded(manifest["settings"])})
    return replace(dataset, framing=framing)


def _measure(
    config: ReportConfig,
    manifest: dict[str, Any],
    dataset: Dataset | None,
    places: Sequence[int],
    notes: list[str],
    progress: Progress,
) -> Measured | None:
    if dataset is None or config.map == "off":
        return None
    try:
        metrics = MetricsConfig(
            folders=(Path(config.folder),),
            dataset=config.dataset or manifest["dataset"]["name"],
            data_dir=config.data_dir,
            classes=",".join(dataset.class_names),
            generator=config.generator or manifest["generator"]["name"] or "auto",
            split=manifest["dataset"]["split"],
            cache_dir=config.cache_dir,
            on_bad_image="skip",
            **dataset.framing.options(),
        )
        return measure(metrics, progress, places=places)
    except UserError as error:
        if config.generator is not None:
            raise
        notes.append(f"maps and metrics are left out: {error}")
        return None


def _shown_class(
    run: LabelledFolder, place: int, dataset: Dataset | None, measured: Measured | None, most: int
) -> dict[str, Any]:
    """A class of the contact sheet: its images with the real ones nearest to their modes, and its map."""
    one = run.manifest["classes"][place]
    of_class = run.by_class[one["name"]]
    images = []
    side = of_class[0].load().width
    for index in spread(len(of_class), most):
        image, facts = of_class[index], of_class[index].facts
        real = None
        if dataset is not None:
            real = data_url(dataset.square(place, facts["source_index"], side))
        images.append(
            {
                "synthetic": data_url(image.load()),
                "real": real,
                "weight": facts["weight"],
                "source": facts["source_image"],
                "file": image.path.relative_to(run.path).as_posix(),
            }
        )
    maps = [] if measured is None else [each for each in measured.maps if each.class_name == one["name"]]
    drawn = place_map(maps[0].real, maps[0].synthetic[0]) if maps else None
    described = {name: one[name] for name in ("name", "label", "source_images")}
    return {**described, "images": images, "map": drawn}


def _timings(sessions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds of each stage over all sessions, and their share of the longest."""
    spent = [one["timings_s"] or {} for one in sessions]
    stages = dict.fromkeys(stage for one in spent for stage in one if stage != "total")
    seconds = {stage: sum(one.get(stage, 0.0) for one in spent) for stage in stages}
    longest = max(seconds.values(), default=0.0) or 1.0
    return [{"stage": stage, "s": value, "share": value / longest} for stage, value in seconds.items()]


def _render(
    run: LabelledFolder,
    classes: Sequence[dict[str, Any]],
    measured: Measured | None,
    evaluations: Sequence[dict[str, Any]],
    notes: Sequence[str],
) -> str:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = files("mgd3_fast.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    page: str = environment.from_string(template).render(
        title=run.name,
        small=run.images[0].load().width <= _PIXELATED_PX,
        manifest=run.manifest,
        classes=classes,
        measured=None if measured is None else measured.folders[0],
        scores=SCORES,
        evaluations=evaluations,
        notes=notes,
        timings=_timings(run.manifest["sessions"]),
        version=__version__,
    )
    return page
