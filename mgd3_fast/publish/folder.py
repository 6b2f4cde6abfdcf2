"""The folder that is uploaded: parquet, card, manifest, modes and contact sheet, all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard

from mgd3_engine.files.renaming import renamed
from mgd3_fast.config.convert import ConvertConfig
from mgd3_fast.errors import UserError
from mgd3_fast.formats import parquet
from mgd3_fast.formats.converting import Conversion, convert_by
from mgd3_fast.formats.folders import copy_run_files
from mgd3_fast.formats.record import CARD, RECORD, Written, read_record
from mgd3_fast.progress import Bar, Progress
from mgd3_fast.publish.card import is_edited
from mgd3_fast.writers import MANIFEST, sha256_of
from mgd3_fast.writers.labelled import LabelledFolder

_HUB, _HEAD = "hub", "card_head"

CardWriter = Callable[[Mapping[str, Any]], str]
"""From the head of a plain card, which names files and features, to the text of the card."""


@dataclass(frozen=True, kw_only=True)
class HubConfig(ConvertConfig):
    """A conversion to parquet with what else a dataset on the hub has."""

    def options(self) -> dict[str, str | int | None]:
        """Tell this conversion from one to parquet alone."""
        return {**super().options(), "format": _HUB}


def make_folder(run: LabelledFolder, config: HubConfig, card: CardWriter, progress: Progress) -> Conversion:
    """Write what is uploaded; what is there and unchanged is not written again.

    Args:
        run: A finished run.
        config: From where and to where.
        card: Gives the card's text. A card that somebody has edited stays, with a note.
        progress: Receives a bar and notes.

    Raises:
        UserError: An image is missing or has changed, or the folder holds something else.
        OSError: It cannot be written.
    """

    def write(source: LabelledFolder, config: ConvertConfig, draft: Path, bar: Bar) -> Written:
        written = parquet.write(source, config, draft, bar)
        files = {**written.files, **copy_run_files(source, draft)}
        (draft / MANIFEST).write_bytes((source.path / MANIFEST).read_bytes())
        files[MANIFEST] = sha256_of(draft / MANIFEST)
        head = DatasetCard.load(draft / CARD).data.to_dict()
        (draft / CARD).write_text(card(head), encoding="utf-8")
        return Written(files, {**written.facts, _HEAD: head})

    target = Path(config.out)
    record = read_record(target)
    if record is not None and record["options"].get("format") != _HUB:
        raise UserError(f"out must be unused or hold what publish wrote, got {target}, which convert wrote")
    edited = is_edited(target / CARD)
    done = convert_by(write, run, config, progress)
    if edited:
        progress.note(f"{target / CARD} was edited and stays as it is: remove it to have it written again")
        return done
    # Figures and licences may be others than when the images were written.
    with renamed(target / CARD) as unfinished:
        unfinished.write_text(card(_record(target)[_HEAD]), encoding="utf-8")
    return done


def uploaded_files(folder: Path) -> dict[str, Path]:
    """Every file of a folder that `make_folder` wrote, by its path in the repository."""
    return {name: folder / name for name in (CARD, *_record(folder)["files"], RECORD)}


def _record(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    assert record is not None
    return record
