"""The `README.md` beside converted images: a header that Hugging Face tools read, and words for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from mgd3_fast.errors import printable
from mgd3_fast.writers.labelled import LabelledFolder

# Licences that the hub knows by these very names; others are given as "other" with their own words.
HUB_LICENCES = (
    *(
        "mit",
        "apache-2.0",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
    ),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0"),
    *("creativeml-openrail-m", "openrail", "openrail++"),
)
_SIZES = (
    *((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")),
    (math.inf, "1M<n<10M"),
)
_SETTINGS = ("method", "discovery", "sampler", "steps", "cfg_scale", "seed")


def write_card(
    target: Path,
    source: LabelledFolder,
    *,
    data_files: str,
    fields: str,
    snippet: Sequence[str],
    dataset_info: Mapping[str, Any] | None = None,
) -> None:
    """Write the card.

    Args:
        target: Path of `README.md`.
        source: What was converted.
        data_files: Pattern of the files that hold the images.
        fields: A sentence on what a sample holds.
        snippet: Lines of Python that open the folder.
        dataset_info: The header's section of features and sizes; None where readers infer it.
    """
    licence = licence_of(source)
    known = licence is not None and licence.lower() in HUB_LICENCES
    header = DatasetCardData(
        license="unknown" if licence is None else licence.lower() if known else "other",
        license_name=None if licence is None or known else licence,
        task_categories=["image-classification"],
        tags=["dataset-distillation", "synthetic"] if is_synthetic(source) else None,
        size_categories=[next(name for limit, name in _SIZES if len(source.images) < limit)],
        dataset_info=dataset_info,
        configs=[
            {"config_name": "default", "data_files": [{"split": "train", "path": data_files}]},
        ],
    )
    lines = ["---", header.to_yaml(), "---", "", *_body(source, fields, snippet), ""]
    target.write_text(printable("\n".join(lines)), encoding="utf-8")


def licence_of(source: LabelledFolder) -> str | None:
    """The licence of the generator's weights, as the run's manifest records it."""
    licence = source.manifest.get("generator", {}).get("licence")
    return str(licence) if licence else None


def _body(source: LabelledFolder, fields: str, snippet: Sequence[str]) -> list[str]:
    per_class = f"{source.ipc} of each" if source.even else "not equally many of each"
    return [
        f"# {source.dataset}, distilled" if source.manifest else f"# {source.dataset}",
        "",
        f"{len(source.images):,} images of {len(source.classes):,} classes, {per_class}. Labels count in the"
        f" class list of {source.dataset}. {fields}",
        *(["", *how_made(source)] if source.manifest else []),
        "",
        "```python",
        *snippet,
        "```",
        "",
        *class_table(source),
    ]


def class_table(source: LabelledFolder) -> list[str]:
    """A line of a table for each class."""
    rows = [(one.label, one.name, one.title or "", one.images) for one in source.classes]
    return markdown_table("| label | class | title | images |", rows)


def how_made(source: LabelledFolder) -> list[str]:
    """Where a run's images come from, in words and as a table of its settings."""
    generator, guidance, settings = (
        source.manifest.get(name) or {} for name in ("generator", "guidance", "settings")
    )
    rows = {name: settings[name] for name in _SETTINGS if name in settings}
    how = "Real images chosen by mgd3-fast."
    if is_synthetic(source):
        how = (
            "Synthetic images made by mgd3-fast by mode-guided diffusion (MGD3, ICML 2025) and its variants."
        )
        rows = {
            "generator": f"{generator['name']}, digest {str(generator.get('digest'))[:16]}",
            "licence of its weights": generator.get("licence"),
            "guidance": guidance.get("form"),
            "mode_scale": guidance.get("scale"),
            "t_stop": guidance.get("t_stop"),
            **rows,
        }
    return [
        f"{how} `weight` is the share of its class's images that an image stands for, `source_image` the real"
        " image it is or is next to. The dataset behind them has terms of its own.",
        "",
        *markdown_table("| | |", rows.items()),
    ]


def markdown_table(head: str, rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table, under a head such as `| a | b |`."""
    lines = (f"| {' | '.join(map(_cell, row))} |" for row in rows)
    return [head, f"|{' --- |' * (head.count('|') - 1)}", *lines]


def is_synthetic(source: LabelledFolder) -> bool:
    """A run of real images, chosen as a baseline, names no generator."""
    return bool(source.manifest.get("generator", {}).get("name"))


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
