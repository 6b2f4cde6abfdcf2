"""The network with its timesteps and classes bound, and what they set computed once a class where it can be.

Shape letters: R rows of the network's input, C channels, H W latent size, S respaced steps, U slots of the
table, M numbers that a row's timestep and class set in the network.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mgd3_engine.denoiser import Denoiser, HoistedDenoiser, PatchDenoiser


class StepNetwork(Protocol):
    """A network that knows the classes of its rows and the timestep of every step."""

    def load(self, row_classes: Sequence[int]) -> bool:
        """Take up the class of each of the R rows; returns whether a tensor has moved in memory."""
        ...

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """Run the network on `[R, C, H, W]`, or on its first rows, at respaced step i.

        Returns what `guided_step` reads as `out`.
        """
        ...


def bind_network(denoiser: Denoiser, timesteps: Tensor, rows: int, most_classes: int) -> StepNetwork:
    """Bind a denoiser to the timesteps of a run.

    Args:
        denoiser: Any denoiser; a `HoistedDenoiser` is run in its two parts.
        timesteps: int64 `[S]` on the network's device.
        rows: R.
        most_classes: Different classes that a batch can have.

    Returns:
        The network for batches of R rows, its classes still to be loaded.
    """
    if isinstance(denoiser, HoistedDenoiser):
        return HoistedNetwork(denoiser, timesteps, rows, most_classes)
    return PlainNetwork(denoiser, timesteps, rows)


class PlainNetwork:
    """Hands timestep and classes to the denoiser at every step, from tensors at fixed addresses."""

    def __init__(self, denoiser: Denoiser, timesteps: Tensor, rows: int) -> None:
        self._denoiser = denoiser
        self._timesteps = timesteps[:, None].repeat(1, rows)  # [S, R]
        self._class_ids = timesteps.new_zeros(rows)  # [R]

    def load(self, row_classes: Sequence[int]) -> bool:
        """Copy the classes in."""
        self._class_ids.copy_(torch.tensor(row_classes))
        return False

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """Run the network on `[R, C, H, W]`, or on its first rows, at respaced step i."""
        return self._denoiser(x, self._timesteps[step, : len(x)], self._class_ids[: len(x)])


class HoistedNetwork:
    """Keeps the modulations of all steps of the classes seen last, and gathers a step's rows from them.

    A class's modulations are one call of S rows, whatever else is in the batch: its bytes are the same in
    every batch. A table of U classes is S U M numbers, 20 MB a class for DiT-XL/2 in bfloat16; U grows to
    what a batch needs, by doubling, up to `most_classes`.
    """

    def __init__(self, denoiser: HoistedDenoiser, timesteps: Tensor, rows: int, most_classes: int) -> None:
        self._denoiser = denoiser
        self._denoise = denoiser.denoise_patches if isinstance(denoiser, PatchDenoiser) else denoiser.denoise
        self._timesteps = timesteps  # [S]
        self._slots = timesteps.new_zeros(rows)  # [R]
        self._table = torch.empty(0)  # [S, U, M] from the first load on
        self._capacity, self._most_classes = 0, most_classes  # U
        self._slot_of: OrderedDict[int, int] = OrderedDict()

    def load(self, row_classes: Sequence[int]) -> bool:
        """Compute what is not there of the classes, and set each row's slot.

        Args:
            row_classes: Class id of each of the R rows.

        Returns:
            Whether the table has grown, and so moved.
        """
        wanted = dict.fromkeys(row_classes)
        grown = len(wanted) > self._capacity
        if grown:
            self._capacity = min(1 << (len(wanted) - 1).bit_length(), self._most_classes)
            self._table = torch.empty(0)
            self._slot_of.clear()
        for class_id in wanted.keys() & self._slot_of.keys():
            self._slot_of.move_to_end(class_id)
        for class_id in wanted:
            if class_id not in self._slot_of:
                self._store(class_id)
        self._slots.copy_(torch.tensor([self._slot_of[class_id] for class_id in row_classes]))
        return grown

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """Run the network on `[R, C, H, W]`, or on its first rows, at respaced step i."""
        return self._denoise(x, self._table[step].index_select(0, self._slots[: len(x)]))

    def _store(self, class_id: int) -> None:
        """Compute a class's modulations into a free slot, or that of the class unused for longest."""
        slot = len(self._slot_of)
        if slot == self._capacity:
            _, slot = self._slot_of.popitem(last=False)
        modulation = self._denoiser.modulation(self._timesteps, torch.full_like(self._timesteps, class_id))
        if not self._table.numel():
            S, M = modulation.shape
            self._table = modulation.new_empty(S, self._capacity, M)
        self._table[:, slot] = modulation
        self._slot_of[class_id] = slot
