"""A dataset to findings: one pass over all pictures of all splits before any work is done with them."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.check.counting import count_findings, counts_of, majority_share
from mgd3_fast.check.duplicates import duplicate_findings, find_links
from mgd3_fast.check.finding import Finding, sorted_findings
from mgd3_fast.check.kinds import kind_findings
from mgd3_fast.check.layout import layout_findings, name_findings
from mgd3_fast.check.pictures import Pictures
from mgd3_fast.check.shapes import PUBLISHED, shape_findings
from mgd3_fast.check.splits import open_splits, see_all
from mgd3_fast.config.check import CheckConfig
from mgd3_fast.datasets import DATASET_NAMES, Dataset, chosen_framing
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.storage.json_results import result_file, write_json

RESULT = "check.json"


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Args:
        dataset: As it was named.
        counts: Pictures that can be read, by split and class.
        majority: By split, the share of its most frequent class: what a constant answer scores.
        sides: Least, median and largest of the shorter and of the longer sides, in pixels.
        findings: The worst first.
        next_step: The command to go on with; None where an error has to be mended first.
    """

    dataset: str
    counts: dict[str, dict[str, int]]
    majority: dict[str, float]
    sides: dict[str, list[float]]
    findings: tuple[Finding, ...]
    next_step: str | None

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self)

    def save(self, out: Path) -> Path:
        """Write the result as JSON; an older file is replaced when the new one is complete.

        Args:
            out: A file that ends in .json, or a folder, which receives `check.json`; it is made.

        Returns:
            The file.

        Raises:
            OSError: It cannot be written.
        """
        target = result_file(out, RESULT)
        write_json(target, self.to_json(), indent=2)
        return target


def check_dataset(config: CheckConfig, progress: Progress = SILENT) -> Checked:
    """Look at every picture of every split of a dataset once.

    Args:
        config: Dataset, and what it is wanted for.
        progress: Receives the bars.

    Returns:
        Counts, sides and findings.

    Raises:
        UserError: There is no such dataset, it has no training images, or a stream of it breaks off.
    """
    splits, refusals = open_splits(config, progress)
    framing = chosen_framing(config)
    pictures = see_all(splits, framing, progress)
    opened = [(split.name, split.source) for split in splits if isinstance(split.source, Dataset)]
    usual = None if config.dataset in DATASET_NAMES else PUBLISHED
    with progress.activity("looking for duplicates"):
        duplicates = list(duplicate_findings(pictures, find_links(pictures)))
    findings = sorted_findings(
        [
            *kind_findings(pictures),
            *count_findings(pictures, config.ipc),
            *duplicates,
            *shape_findings(pictures, framing, config.size, usual),
            *name_findings(pictures.class_names),
            *(finding for split in opened for finding in layout_findings(*split)),
            *map(_no_test_split, refusals[:1]),
        ]
    )
    counts = counts_of(pictures)
    return Checked(
        config.dataset,
        {
            split: dict(zip(pictures.class_names, of_split.tolist(), strict=True))
            for split, of_split in zip(pictures.splits, counts, strict=True)
        },
        {split: majority_share(row) for split, row in zip(pictures.splits, counts, strict=True)},
        _sides(pictures),
        tuple(findings),
        _next_step(config, findings),
    )


def _sides(pictures: Pictures) -> dict[str, list[float]]:
    sides = pictures.sides
    return {} if not len(sides) else {"shorter": _span(sides.min(1)), "longer": _span(sides.max(1))}


def _span(sides: NDArray[np.int32]) -> list[float]:
    return [float(sides.min()), float(np.median(sides)), float(sides.max())]


def _no_test_split(refusal: str) -> Finding:
    advice = (
        "keep a part of every class in val/, or evaluate --eval-split val, which holds a fifth out of train"
    )
    return Finding("note", "no-test", f"there are no images to test on: {refusal}", 1, advice)


def _next_step(config: CheckConfig, findings: list[Finding]) -> str | None:
    """Train a generator, or distil where one is shipped or published."""
    errors = {finding.about for finding in findings if finding.severity == "error"}
    if errors - {"unreadable"}:
        return None
    words = ["mgd3-fast", "train", "--dataset", config.dataset]
    if config.dataset in DATASET_NAMES:
        words = ["mgd3-fast", "distill", "--dataset", config.dataset, "--ipc", str(config.ipc or 10)]
    if config.data_dir is not None:
        words += ["--data-dir", str(config.data_dir)]
    if config.classes is not None:
        words += ["--classes", config.classes]
    if errors:
        words += ["--on-bad-image", "skip"]
    return shlex.join([*words, "--out", "OUT"])
