"""The licences that bind a distilled dataset: of the weights that made it and of the images behind it."""

from __future__ import annotations

from typing import Any

from mgd3_fast.datasets.imagenet import IMAGENET_NAMES
from mgd3_fast.formats.card import HUB_LICENCES, is_synthetic, licence_of
from mgd3_fast.writers.labelled import LabelledFolder

_IMAGENET = (
    "ImageNet's terms of access: non-commercial research and education (https://image-net.org/download)"
)
_MNIST = "CC-BY-SA-3.0 (MNIST, Yann LeCun and Corinna Cortes)"
_NON_COMMERCIAL = ("-nc", "non-commercial", "noncommercial")


def licence_lines(run: LabelledFolder, source_licence: str | None) -> list[str]:
    """Say both licences, as a list in Markdown; what is not known is said, too.

    Args:
        run: A finished run.
        source_licence: Of the distilled images, where the user states it.
    """
    source = _of_source(run, source_licence) or "not stated: ask who made them"
    lines = [f"- of the source images ({run.dataset}): {source}"]
    if is_synthetic(run):
        weights = licence_of(run) or "not stated"
        lines.insert(0, f"- of the weights that made them ({run.manifest['generator']['name']}): {weights}")
    if any(word in line.lower() for line in lines for word in _NON_COMMERCIAL):
        lines.append("- so there is no commercial use of this dataset")
    return lines


def licence_head(run: LabelledFolder, source_licence: str | None) -> dict[str, Any]:
    """The same for the card's head: names that the hub knows, or `other` where one is no such name."""
    told = [_of_source(run, source_licence), *([licence_of(run)] if is_synthetic(run) else [])]
    names = sorted({(text or "").partition(" (")[0].lower() for text in told})
    if all(name in HUB_LICENCES for name in names):
        return {"license": names if len(names) > 1 else names[0]}
    return {"license": "other", "license_name": "see-the-first-lines"}


def _of_source(run: LabelledFolder, stated: str | None) -> str | None:
    """What is stated or known; of a dataset of the hub, where to read it."""
    dataset = run.dataset
    if stated or dataset in IMAGENET_NAMES:
        return stated or _IMAGENET
    if dataset.startswith("hf:") and "/" in dataset:
        return f"see https://huggingface.co/datasets/{dataset.removeprefix('hf:').partition(':')[0]}"
    return _MNIST if dataset == "mnist5k" else None
