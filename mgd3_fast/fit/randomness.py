"""Random numbers of a step and the order of an epoch: functions of a seed and a purpose alone."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def step_generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A CPU generator seeded by the first 63 bits of a sha256 over seed and purpose, as ("dit", step)."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class EpochOrder:
    """Every item once per epoch, in an order that depends on (seed, purpose, epoch) alone.

    Args:
        count: Number of items.
        batch_size: Items of a step.
        seed: Seed of the run.
        purpose: Words that separate this order from others of the run.
        straddling: Whether a step may end one epoch and begin the next; the last step of an epoch has what is
            left otherwise.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, *purpose: str, straddling: bool = False
    ) -> None:
        self.count, self.batch_size, self.straddling = count, batch_size, straddling
        self._seed, self._purpose = seed, purpose
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; where they straddle, rounded up."""
        return -(-self.count // self.batch_size)

    def indices(self, step: int) -> Tensor:
        """Items of a step, from 0: int64 `[batch_size]`, at the end of an epoch fewer, in 0..count-1."""
        if self.straddling:
            return self._between(step * self.batch_size, (step + 1) * self.batch_size)
        epoch, place = divmod(step, self.steps_per_epoch)
        start = epoch * self.count + place * self.batch_size
        return self._between(start, min(start + self.batch_size, (epoch + 1) * self.count))

    def _between(self, start: int, stop: int) -> Tensor:
        """Items from one position to another of the row of all epochs."""
        pieces = []
        while start < stop:
            epoch, place = divmod(start, self.count)
            pieces.append(self._of(epoch)[place : place + stop - start])
            start += len(pieces[-1])
        return torch.cat(pieces)

    def _of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = step_generator(self._seed, *self._purpose, "order", epoch)
            self._epoch, self._order = epoch, torch.randperm(self.count, generator=generator)
        return self._order
