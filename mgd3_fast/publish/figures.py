"""What is known of a run's worth, as Markdown: what evaluate, compare, metrics and judge found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mgd3_engine.files.json_file import read_json
from mgd3_fast.compare.tables import COMPARISON
from mgd3_fast.compare.tables import FORMAT as COMPARISON_FORMAT
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.evaluation import FORMAT as EVALUATION_FORMAT
from mgd3_fast.evaluate.store import RESULT as EVALUATION
from mgd3_fast.formats.card import markdown_table
from mgd3_fast.generators.folder import DESCRIPTION
from mgd3_fast.metrics.measuring import RESULT as METRICS
from mgd3_fast.writers.labelled import LabelledFolder

_FILES = (EVALUATION, COMPARISON, METRICS, DESCRIPTION)

Reader = Callable[[Mapping[str, Any], LabelledFolder], list[str]]
"""What a result says of a run, in lines; none where it is about something else."""


def figure_lines(paths: Sequence[Path], run: LabelledFolder) -> list[str]:
    """Read results that are named, or those that lie in a run, beside it and in `evaluation/` beside it.

    Args:
        paths: Files of results, or folders with them.
        run: The run that they are to be about.

    Returns:
        Paragraphs and tables; what nobody named and is of other runs or programs is passed over.

    Raises:
        UserError: What was named holds no result, or none of this run.
    """
    lines: list[str] = []
    for path in paths:
        found = [line for file in _results_in(path) for line in _said(file, run)]
        if not found:
            raise UserError(f"results must be {', '.join(_FILES)} of {run.name}, or a folder, got {path}")
        lines += found
    if not paths:
        beside = run.path.resolve().parent
        for folder in (run.path, beside, beside / Path(EVALUATION).stem):
            for file in _results_in(folder):
                with suppress(UserError):  # of another program
                    lines += _said(file, run)
    quality = run.manifest["generator"].get("quality")  # of a judged generator
    verdict = _verdict(quality) if quality else []
    return lines if not verdict or verdict[0] in lines else [*lines, *verdict]


def _results_in(path: Path) -> Iterator[Path]:
    """The file, or the results that a folder has."""
    names = [path / name for name in _FILES] if path.is_dir() else [path]
    return (file for file in names if file.is_file())


def _said(file: Path, run: LabelledFolder) -> list[str]:
    try:
        content = read_json(file)
        return _reader_of(content)(content, run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"results must be what evaluate, compare, metrics or judge wrote, got {file}: {error}"
        ) from None


def _reader_of(content: Mapping[str, Any]) -> Reader:
    if "format" in content:
        return {EVALUATION_FORMAT: _evaluated, COMPARISON_FORMAT: _compared}.get(content["format"], _judged)
    return _measured if "folders" in content else _judged


def _evaluated(content: Mapping[str, Any], run: LabelledFolder) -> list[str]:
    settings = run.manifest["settings"]
    ours = [name for name, of in content["folders"].items() if of.get("settings") == settings]
    rows = [
        (row["network"], row["ipc"], len(row["seeds"]), _spread(row["best"]), _spread(row["last"]))
        for row in content["rows"]
        if row["folder"] in ours
    ]
    head = "| network | images of each class | trainings | best, % | last, % |"
    of, most = content["dataset"], content["dataset"]["majority"]["accuracy"]
    about = (
        f"Classifiers trained on these images, tested on {of['images']:,} real ones ({of['name']},"
        f" {of['split']}): protocol {content['protocol']}, preset {content['preset']};"
        f" mean (deviation) over trainings. Always answering the largest class scores {most:.1f}%."
    )
    return [about, "", *markdown_table(head, rows), ""] if rows else []


def _compared(content: Mapping[str, Any], run: LabelledFolder) -> list[str]:
    lines: list[str] = []
    for table in content["tables"]:
        if run.name not in (row["folder"] for row in table["rows"]):
            continue
        rows = [(row["method"], len(row["seeds"]), _spread(row["accuracy"])) for row in table["rows"]]
        about = f"Beside other ways to {table['ipc']} images of each class: {table['verdict']}."
        lines += [about, "", *markdown_table("| images | trainings | accuracy, % |", rows), ""]
    return lines


def _measured(content: Mapping[str, Any], run: LabelledFolder) -> list[str]:
    of = content["settings"]
    same = of["dataset_fingerprint"] == run.manifest["dataset"]["fingerprint"]
    ours = [one for one in content["folders"] if same and one["name"] == run.name]
    scores = [one["mean"] | {"frechet_distance": one["frechet"]} for one in ours]
    rows = [
        (name.replace("_", " "), f"{value:.4g}")
        for one in scores
        for name, value in one.items()
        if value is not None
    ]
    about = f"Beside the real images, in {of['features']} (`mgd3-fast metrics`; means over classes):"
    return [about, "", *markdown_table("| score | |", rows), ""] if rows else []


def _judged(content: Mapping[str, Any], run: LabelledFolder) -> list[str]:
    quality = content.get("quality", content)
    same = quality["generator_digest"] == run.manifest["generator"].get("digest")
    return _verdict(quality) if same else []


def _verdict(quality: Mapping[str, Any]) -> list[str]:
    return [f"The generator, judged by {quality['dataset']}: {quality['line']}", ""]


def _spread(summary: Mapping[str, Any]) -> str:
    return f"{summary['mean']:.1f} ({summary['std']:.1f})"
