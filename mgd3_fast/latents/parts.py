"""Latents of a shard in the order they were read, in files of bounded size.

A part holds the latents of the next images of a shard, and of every row that was read the label, the name
and the size. Parts are written whole or not at all, so that encoding goes on after the last one, whenever
it was stopped.

Shape letters: m latents and r rows of a part, k chosen latents, C channels, h w latent size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.datasets import Row
from mgd3_fast.datasets.shard_index import ShardColumns
from mgd3_fast.storage.tensor_files import DamagedFileError, check_contents, open_tensors, save_tensors

FORMAT = "mgd3-fast latents 2"
FRAMING = "framing"  # of the images; parts without this in their metadata are of versions that dropped alpha
REMEDY = "`mgd3-fast encode` makes it anew"


class BadRow(NamedTuple):
    """An image that was left out: its row in the shard, as of `Row` its class and name, and why."""

    row: int
    class_label: int | None
    name: str
    reason: str


@dataclass
class NewPart:
    """What is gathered for a part.

    Args:
        first_row: Its first row in the shard.
        labels: Of each row, as the source writes it.
        names: Of each row.
        sizes: Of each row, bytes of the image file.
        latent_rows: Row of each latent in the shard.
        latents: Of whole batches, [B, C, h, w] each, in the store's number format.
        bad: Rows that are left out.
        is_last: Whether the shard ends with it.
    """

    first_row: int = 0
    labels: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    latent_rows: list[int] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    is_last: bool = False

    def add(self, row: Row) -> None:
        """Add the next row."""
        self.labels.append(row.label)
        self.names.append(row.name)
        self.sizes.append(row.size)

    @property
    def next_row(self) -> int:
        """The row after its last one."""
        return self.first_row + len(self.labels)


@dataclass(frozen=True)
class Part:
    """A part as it was stored; latents are read when they are asked for.

    Args:
        path: Its file.
        first_row: Its first row in the shard.
        next_row: The row after its last one.
        last: Whether the shard ends with it.
        labels: Places of the classes that were encoded; None for all.
        rows: int64 [m], row of each latent in the shard; ascending.
        bad: Rows that were left out.
        shape: (C, h, w).
        dtype: float32 or float16.
        dropped_alpha: Whether it was made by a version that knew no background.
    """

    path: Path
    first_row: int
    next_row: int
    last: bool
    labels: frozenset[int] | None
    rows: NDArray[np.int64]
    bad: tuple[BadRow, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    dropped_alpha: bool

    def map(self) -> Tensor:
        """All latents [m, C, h, w], memory-mapped."""
        return open_tensors(self.path).tensors["latents"]

    def read(self, places: NDArray[np.int64], into: Tensor) -> None:
        """Read some latents; neighbours are read at once, and nothing stays mapped.

        Args:
            places: int64 [k], ascending, which of the m.
            into: [k, C, h, w], contiguous, of this part's number format.

        Raises:
            OSError: The file is gone or cannot be read.
            DamagedFileError: It was cut off.
        """
        wanted = into.view(torch.uint8).numpy().data.cast("B")
        row_bytes = into[0].nbytes
        breaks = np.flatnonzero(np.diff(places) != 1) + 1
        with self.path.open("rb", buffering=0) as file:
            # Latents are the file's last tensor.
            start = os.fstat(file.fileno()).st_size - len(self.rows) * row_bytes
            for first, stop in zip([0, *breaks], [*breaks, len(places)], strict=True):
                file.seek(start + int(places[first]) * row_bytes)
                run = wanted[first * row_bytes : stop * row_bytes]
                while run:
                    count = file.readinto(run)
                    if not count:
                        raise DamagedFileError(f"{self.path} is damaged: it was cut off; {REMEDY}")
                    run = run[count:]


@dataclass(frozen=True)
class Reading:
    """What is stored of a shard, read for all its images or for those of some classes.

    Args:
        parts: From the shard's start on, without a gap.
        next_path: Where the part after them is to lie.
        damage: What is wrong with that part, if it is there.
    """

    parts: tuple[Part, ...]
    next_path: Path
    damage: str | None = None

    @property
    def next_row(self) -> int:
        """First row that is not stored."""
        return self.parts[-1].next_row if self.parts else 0

    @property
    def is_complete(self) -> bool:
        """Whether the shard ends with its last part."""
        return bool(self.parts) and self.parts[-1].last

    @property
    def labels(self) -> frozenset[int] | None:
        """The classes that were encoded, None for all; of a reading that has begun."""
        return self.parts[0].labels


def part_path(folder: Path, stem: str, first_row: int) -> Path:
    """Where a part lies."""
    return folder / f"{stem}-{first_row:07d}.safetensors"


def write_part(
    path: Path, part: NewPart, *, key: str, labels: frozenset[int] | None, about: Mapping[str, str]
) -> int:
    """Store a part, and tell the bytes of its latents.

    Args:
        path: See `part_path`.
        part: Its rows and latents; without latents where no image of it was chosen.
        key: Of the shard and the store's settings.
        labels: Places of the classes that were encoded; None for all.
        about: Further metadata, for people.

    Raises:
        OSError: The disk is full or cannot be written.
    """
    columns = ShardColumns.of(part.labels, part.names, part.sizes)
    arrays = {name: column for name, column in columns._asdict().items() if name != "label_names"}
    arrays["rows"] = np.array(part.latent_rows, dtype=np.int64)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    latents = torch.cat(part.latents)  # [m, C, h, w]
    metadata = {
        "format": FORMAT,
        "key": key,
        "first_row": str(part.first_row),
        "last": json.dumps(part.is_last),
        "classes": json.dumps(None if labels is None else sorted(labels)),
        "label_names": json.dumps(columns.label_names),
        "bad": json.dumps(part.bad),
        **about,
    }
    save_tensors(path, {**tensors, "latents": latents}, metadata)
    return latents.nbytes


def read_parts(
    folder: Path, stem: str, key: str, *, check: bool = False, fetch: Callable[[Path], bool]
) -> Reading:
    """Parts of a shard from its start up to the last, or to the first that is missing or damaged.

    Args:
        folder: Where they lie.
        stem: The shard's part of their names.
        key: Of the shard and the store's settings.
        check: Also compare contents with their checksums, which reads them.
        fetch: Brings a part that is missing from somewhere else, and tells whether it could.
    """
    parts: list[Part] = []
    path = part_path(folder, stem, 0)
    while not parts or not parts[-1].last:
        try:
            parts.append(_read(path, key, check))
        except FileNotFoundError:
            if fetch(path):
                continue
            break
        except DamagedFileError as error:
            return Reading(tuple(parts), path, str(error))
        path = part_path(folder, stem, parts[-1].next_row)
    return Reading(tuple(parts), path)


def read_columns(parts: Sequence[Part]) -> ShardColumns:
    """Labels, names and sizes of the rows of a shard's parts.

    Raises:
        DamagedFileError: A part is damaged.
    """
    found = [open_tensors(part.path) for part in parts]
    label_names: dict[str, int] = {}
    labels, ends, length = [], [], 0
    for file in found:
        names = json.loads(file.metadata["label_names"])
        table = [label_names.setdefault(name, len(label_names)) for name in names]
        labels.append(np.array(table, dtype=np.int64)[file.tensors["labels"].numpy()])
        ends.append(file.tensors["ends"].numpy() + length)
        length += file.tensors["names"].numel()
    names, sizes = (torch.cat([file.tensors[one] for file in found]).numpy() for one in ("names", "sizes"))
    return ShardColumns(tuple(label_names), np.concatenate(labels), names, np.concatenate(ends), sizes)


def _read(path: Path, key: str, check: bool) -> Part:
    file = open_tensors(path)
    if file.metadata.get("key") != key:
        raise DamagedFileError(f"{path} is damaged: it is not the latents that its name says")
    if check:
        check_contents(path, file)
    classes, first_row = json.loads(file.metadata["classes"]), int(file.metadata["first_row"])
    latents = file.tensors["latents"]
    return Part(
        path=path,
        first_row=first_row,
        next_row=first_row + len(file.tensors["labels"]),
        last=json.loads(file.metadata["last"]),
        labels=None if classes is None else frozenset(classes),
        rows=file.tensors["rows"].numpy().copy(),
        bad=tuple(BadRow(*one) for one in json.loads(file.metadata["bad"])),
        shape=tuple(latents.shape[1:]),
        dtype=latents.dtype,
        dropped_alpha=FRAMING not in file.metadata,
    )
