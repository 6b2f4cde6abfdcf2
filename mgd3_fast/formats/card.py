"""The `README.md` of an export: a header that Hugging Face tools read, and words for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgd3_fast.formats.source import Source

# Licences that the hub knows by these very names; others are given as "other" with their own words.
_HUB_LICENCES = (
    *("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0"),
    *("creativeml-openrail-m", "openrail", "openrail++"),
)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGEST = "1M<n<10M"
_SETTINGS = ("method", "discovery", "sampler", "steps", "cfg_scale", "seed")


@dataclass(frozen=True)
class CardText:
    """What the card of a format says that others do not.

    Args:
        data_files: Pattern of the files that hold the images.
        dataset_info: Lines of the header's section of that name; none where readers infer it.
        fields: A sentence on what a sample holds.
        snippet: Lines of Python that open the folder.
    """

    data_files: str
    dataset_info: Sequence[str]
    fields: str
    snippet: Sequence[str]


def write_card(target: Path, source: Source, text: CardText) -> None:
    """Write the card.

    Args:
        target: Path of `README.md`.
        source: What was converted.
        text: What the format adds.
    """
    lines = [*_header(source, text), "", *_body(source, text), ""]
    target.write_text("\n".join(lines), encoding="utf-8")


def dataset_info(
    names: Sequence[str], columns: Mapping[str, str], examples: int, num_bytes: int, size: int
) -> list[str]:
    """The header's section of features and sizes.

    Args:
        names: Name of every label.
        columns: Type of each column besides image and label.
        examples: Number of rows.
        num_bytes: Of the table in memory.
        size: Of the files.

    Returns:
        Lines of YAML.
    """
    return [
        "dataset_info:",
        "  features:",
        "  - name: image",
        "    dtype: image",
        "  - name: label",
        "    dtype:",
        "      class_label:",
        "        names:",
        *(f"          '{label}': {json.dumps(name)}" for label, name in enumerate(names)),
        *(line for name, dtype in columns.items() for line in (f"  - name: {name}", f"    dtype: {dtype}")),
        "  splits:",
        "  - name: train",
        f"    num_bytes: {num_bytes}",
        f"    num_examples: {examples}",
        f"  download_size: {size}",
        f"  dataset_size: {num_bytes}",
    ]


def _header(source: Source, text: CardText) -> list[str]:
    return [
        "---",
        *_licence_lines(licence_of(source)),
        "task_categories:",
        "- image-classification",
        *(("tags:", "- dataset-distillation", "- synthetic") if _is_synthetic(source.run) else ()),
        "size_categories:",
        f"- {_size_category(len(source.images))}",
        *text.dataset_info,
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        f"    path: {json.dumps(text.data_files)}",
        "---",
    ]


def licence_of(source: Source) -> str | None:
    """The licence of the generator's weights, as the run's manifest records it."""
    licence = ((source.run or {}).get("generator") or {}).get("licence")
    return str(licence) if licence else None


def _licence_lines(licence: str | None) -> list[str]:
    if licence is None:
        return ["license: unknown"]
    if licence.lower() in _HUB_LICENCES:
        return [f"license: {licence.lower()}"]
    return ["license: other", f"license_name: {json.dumps(licence)}"]


def _size_category(images: int) -> str:
    return next((category for limit, category in _SIZES if images < limit), _LARGEST)


def _body(source: Source, text: CardText) -> list[str]:
    per_class = f"{source.ipc} of each" if source.ipc else "not equally many of each"
    lines = [
        f"# {source.dataset}, distilled" if source.run else f"# {source.dataset}",
        "",
        f"{len(source.images):,} images of {len(source.classes):,} classes, {per_class}. Labels count in the"
        f" class list of {source.dataset}. {text.fields}",
    ]
    if source.run is not None:
        lines += ["", *_how_made(source.run)]
    return [
        *lines,
        "",
        "```python",
        *text.snippet,
        "```",
        "",
        "| label | class | title | images |",
        "| --- | --- | --- | --- |",
        *(
            f"| {one.label} | {_cell(one.name)} | {_cell(one.title or '')} | {one.images} |"
            for one in source.classes
        ),
    ]


def _how_made(run: dict[str, Any]) -> list[str]:
    generator, guidance, settings = (run.get(name) or {} for name in ("generator", "guidance", "settings"))
    rows = {name: settings[name] for name in _SETTINGS if name in settings}
    if _is_synthetic(run):
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
    else:
        how = "Real images chosen by mgd3-fast."
    return [
        f"{how} `weight` is the share of its class's images that an image stands for, `source_image` the real"
        " image it is or is next to. The dataset behind them has terms of its own.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {_cell(value)} |" for name, value in rows.items()),
    ]


def _is_synthetic(run: dict[str, Any] | None) -> bool:
    """A run of real images, chosen as a baseline, names no generator."""
    return bool(((run or {}).get("generator") or {}).get("name"))


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
