"""The dataset card: what the hub reads at its head, and what people should know first."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from mgd3_fast.datasets.imagenet import IMAGENET_NAMES
from mgd3_fast.errors import printable
from mgd3_fast.formats.card import class_table, how_made, is_synthetic
from mgd3_fast.publish.licences import licence_head, licence_lines
from mgd3_fast.writers import CONTACT_SHEET, MODES
from mgd3_fast.writers.labelled import LabelledFolder

_MARK = "<!-- written by mgd3-fast; edit the card and it stays as it is: "
_CITATION = """@inproceedings{chansantiago2025mgd3,
  title = {{MGD}$^3$: Mode-Guided Dataset Distillation using Diffusion Models},
  author = {Chan-Santiago, Jeffrey A. and Tirupattur, Praveen and Nayak, Gaurav Kumar and Liu, Gaowen
            and Shah, Mubarak},
  booktitle = {Proceedings of the 42nd International Conference on Machine Learning},
  series = {PMLR},
  volume = {267},
  year = {2025}
}"""


def hub_card(
    run: LabelledFolder,
    repo: str,
    source_licence: str | None,
    figures: Sequence[str],
    head: Mapping[str, Any],
) -> str:
    """Compose the card.

    Args:
        run: What is published.
        repo: owner/name.
        source_licence: Of the images that were distilled, where the user states it.
        figures: Paragraphs and tables; may be none.
        head: What the card of a conversion to parquet says of licence, files and features.

    Returns:
        Markdown with a YAML head. Its last line tells `is_edited` whether somebody has changed it.
    """
    per_class = f"{run.ipc} images of each class" if run.even else f"{len(run.images):,} images"
    title = f"{run.dataset}, distilled to {per_class}"
    data = DatasetCardData(
        **{**head, "license_name": None, **licence_head(run, source_licence)},
        pretty_name=title,
        source_datasets=_source_datasets(run.dataset),
        annotations_creators=["machine-generated"] if is_synthetic(run) else None,
    )
    body = _body(run, repo, licence_lines(run, source_licence), figures)
    text = printable("\n".join(["---", data.to_yaml(), "---", "", f"# {title}", "", *body]))
    return f"{text}\n{_MARK}{_digest(text)} -->\n"


def is_edited(card: Path) -> bool:
    """Whether a card is another than `hub_card` made; False where there is none."""
    if not card.exists():
        return False
    text, _, mark = card.read_text(encoding="utf-8", errors="replace").rpartition(f"\n{_MARK}")
    return mark != f"{_digest(text)} -->\n"


def _body(run: LabelledFolder, repo: str, licences: Sequence[str], figures: Sequence[str]) -> list[str]:
    return [
        "**Licences that bind these images:**",
        "",
        *licences,
        "",
        f"![the first images of each class]({CONTACT_SHEET})",
        "",
        f"{len(run.images):,} images of {len(run.classes):,} classes; labels count in the class list of"
        f" {run.dataset}.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'images = load_dataset("{repo}", split="train")',
        'images[0]["image"], images.features["label"].int2str(images[0]["label"])',
        "```",
        *(["", "## Figures", "", *figures[:-1]] if figures else []),
        "",
        "## How it was made",
        "",
        *how_made(run),
        "",
        "`manifest.json` has all settings, versions, and seed and sha256 of every image"
        + (f"; `{MODES}` has the modes." if MODES in run.manifest["files"] else "."),
        "",
        "## Classes",
        "",
        *class_table(run),
        *(["", "## Citation", "", "```bibtex", _CITATION, "```"] if is_synthetic(run) else []),
    ]


def _source_datasets(dataset: str) -> list[str]:
    """As the hub's cards name them."""
    if dataset in IMAGENET_NAMES:
        return ["extended|imagenet-1k"]
    if dataset.startswith("hf:"):
        return [dataset.removeprefix("hf:").partition(":")[0]]
    return ["extended|mnist"] if dataset == "mnist5k" else ["extended|other"]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
