"""Latents of a stream in the order they were read, in small files, until all of it is read.

A part holds the latents of the next images of one shard, and of every row that was read the label, the name
and the size. Parts are written whole or not at all, so that reading goes on after the last one, whenever it
was stopped.

Shape letters: m latents and r rows of a part, C channels, h w latent size, L bytes of all names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.datasets.file_list import pack_names
from mgd3_fast.tensor_files import open_if_whole, remove_leftovers, save_tensors

_FORMAT = "mgd3-fast stream part 1"


class BadRow(NamedTuple):
    """An image of a stream that was left out: its row in the shard, its name, and why."""

    row: int
    name: str
    reason: str


@dataclass
class PartRows:
    """What is gathered of the rows of a part."""

    labels: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)

    def add(self, label: str, name: str, size: int) -> None:
        """Add the next row."""
        self.labels.append(label)
        self.names.append(name)
        self.sizes.append(size)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Part:
    """A part as it was stored.

    Args:
        shard: Number of its shard.
        first_row: Its first row in the shard.
        last: Whether the shard ends with it.
        label_names: Distinct labels, as the stream writes them.
        labels: int64 [r], place of each row's label in `label_names`.
        names: uint8 [L], names of the rows end to end.
        ends: int64 [r], where each name ends.
        sizes: int64 [r], bytes of the image files.
        latents: [m, C, h, w], memory-mapped.
        rows: int64 [m], row of each latent in the shard.
        bad: Rows that were left out.
    """

    shard: int
    first_row: int
    last: bool
    label_names: tuple[str, ...]
    labels: NDArray[np.int64]
    names: NDArray[np.uint8]
    ends: NDArray[np.int64]
    sizes: NDArray[np.int64]
    latents: Tensor
    rows: NDArray[np.int64]
    bad: tuple[BadRow, ...]

    def __len__(self) -> int:
        return len(self.labels)


class StreamParts:
    """The parts of one reading of a stream.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folder and delete what killed runs left half written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)

    def of_shard(self, shard: int, *, check: bool = False) -> Iterator[Part]:
        """Parts of a shard, from its start up to the first that is missing or damaged."""
        row, last = 0, False
        while not last:
            part = _read(self._path(shard, row), check)
            if part is None:
                return
            yield part
            row, last = row + len(part), part.last

    def next_row(self, shard: int) -> int | None:
        """First row of a shard that is not stored, or None when all are."""
        row = 0
        for part in self.of_shard(shard, check=True):
            if part.last:
                return None
            row += len(part)
        return row

    def is_complete(self, shard: int) -> bool:
        """Whether all rows of a shard are stored, as far as file headers tell."""
        return any(part.last for part in self.of_shard(shard))

    def write(
        self,
        shard: int,
        first_row: int,
        rows: PartRows,
        latents: Tensor,
        latent_rows: Sequence[int],
        last: bool,
    ) -> None:
        """Store a part.

        Args:
            shard: Number of its shard.
            first_row: Its first row in the shard.
            rows: Its rows.
            latents: [m, C, h, w], in the store's number format.
            latent_rows: Row of each latent in the shard.
            last: Whether the shard ends with it.

        Raises:
            OSError: The disk is full or cannot be written.
        """
        names, ends = pack_names(rows.names)
        label_names = list(dict.fromkeys(rows.labels))
        places = {label: place for place, label in enumerate(label_names)}
        arrays = {
            "labels": np.array([places[label] for label in rows.labels], dtype=np.int64),
            "ends": ends,
            "sizes": np.array(rows.sizes, dtype=np.int64),
            "rows": np.array(latent_rows, dtype=np.int64),
        }
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        tensors |= {"latents": latents, "names": torch.from_numpy(np.array(names))}
        metadata = {
            "format": _FORMAT,
            "shard": str(shard),
            "first_row": str(first_row),
            "last": json.dumps(last),
            "label_names": json.dumps(label_names),
            "bad": json.dumps(rows.bad),
        }
        save_tensors(self._path(shard, first_row), tensors, metadata)

    def remove(self) -> None:
        """Delete all parts, and the folders above them that are empty then."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.folder.parent, self.folder.parent.parent):
            with suppress(OSError):
                folder.rmdir()

    def _path(self, shard: int, first_row: int) -> Path:
        return self.folder / f"{shard:06d}-{first_row:010d}.safetensors"


def _read(path: Path, check: bool) -> Part | None:
    file = open_if_whole(path, check=check)
    if file is None or file.metadata.get("format") != _FORMAT:
        return None
    arrays = {name: tensor.numpy() for name, tensor in file.tensors.items() if name != "latents"}
    return Part(
        shard=int(file.metadata["shard"]),
        first_row=int(file.metadata["first_row"]),
        last=json.loads(file.metadata["last"]),
        label_names=tuple(json.loads(file.metadata["label_names"])),
        labels=arrays["labels"],
        names=arrays["names"],
        ends=arrays["ends"],
        sizes=arrays["sizes"],
        latents=file.tensors["latents"],
        rows=arrays["rows"],
        bad=tuple(BadRow(*one) for one in json.loads(file.metadata["bad"])),
    )
