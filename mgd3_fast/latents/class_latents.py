"""The latents of one class, wherever in the store they lie.

Shape letters: n latents of the class, C channels, h w latent size.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.datasets import BadImage
from mgd3_fast.latents.parts import Part, Reading


class Piece(NamedTuple):
    """Some latents of a part: their places in it, ascending."""

    part: Part
    places: NDArray[np.int64]

    @property
    def is_whole(self) -> bool:
        """Whether it is the part, so that it can be memory-mapped as it is."""
        return len(self.places) == len(self.part.rows)


@dataclass(frozen=True)
class ClassLatents:
    """What the store holds of a class; nothing is read before it is asked for.

    Args:
        pieces: Where its latents lie, in their order.
        index: int64 [n], positions of these images in the class (bad images have none, and images that
            were encoded with their mirror image have two).
        bad_images: Images that were skipped.
        item: (C, h, w).
        dtype: float32 or float16.
    """

    pieces: Sequence[Piece]
    index: Tensor
    bad_images: tuple[BadImage, ...]
    item: tuple[int, ...]
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.index)

    @property
    def latents(self) -> Tensor:
        """[n, C, h, w], posterior means x scaling factor: memory-mapped from one part, else read."""
        if len(self.pieces) == 1 and self.pieces[0].is_whole:
            return self.pieces[0].part.map()
        latents = torch.empty(len(self), *self.item, dtype=self.dtype)
        for start, piece in zip([0, *self._stops], self.pieces, strict=False):
            piece.part.read(piece.places, latents[start : start + len(piece.places)])
        return latents

    def row(self, position: int) -> Tensor:
        """One of them, [C, h, w], without reading the others."""
        number = bisect_right(self._stops, position)
        place = position - (self._stops[number - 1] if number else 0)
        piece = self.pieces[number]
        if piece.is_whole:
            if number not in self._maps:
                self._maps[number] = piece.part.map()
            return self._maps[number][place]
        latent = torch.empty(1, *self.item, dtype=self.dtype)
        piece.part.read(piece.places[place : place + 1], latent)
        return latent[0]

    @cached_property
    def _stops(self) -> list[int]:
        return list(accumulate(len(piece.places) for piece in self.pieces))

    @cached_property
    def _maps(self) -> dict[int, Tensor]:
        return {}


def gather(class_name: str, readings: Iterable[tuple[int, NDArray[np.int64], Reading]]) -> ClassLatents:
    """Find the latents of a class in complete readings of its shards, one at least.

    Of each shard are given the position in the class of its first image, and the rows of its images.
    """
    pieces: list[Piece] = []
    index = [np.empty(0, dtype=np.int64)]
    bad: list[BadImage] = []
    for first, rows, reading in readings:
        for part in reading.parts:
            start, stop = np.searchsorted(rows, [part.first_row, part.next_row])
            places, of_rows = _places(part.rows, rows[start:stop])
            if len(places):
                pieces.append(Piece(part, places))
                index.append(of_rows + first + start)
            for one in part.bad:
                place = int(np.searchsorted(rows, one.row))
                if place < len(rows) and rows[place] == one.row:
                    bad.append(BadImage(class_name, first + place, one.name, one.reason))
    return ClassLatents(pieces, torch.from_numpy(np.concatenate(index)), tuple(bad), part.shape, part.dtype)


def _places(
    stored: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where some rows stand among those of a part's latents, and which of the rows each is."""
    left, right = np.searchsorted(stored, rows, "left"), np.searchsorted(stored, rows, "right")
    times = right - left  # 0 of a bad image, 2 with its mirror image
    starts = np.cumsum(times) - times
    return np.arange(times.sum()) + np.repeat(left - starts, times), np.repeat(np.arange(len(rows)), times)
