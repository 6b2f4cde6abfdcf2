"""The network with its timesteps and classes bound, and what they set computed once a class where it can be.

Shape letters: R rows of the network's input, C channels, H W latent size, S respaced steps, U slots of the
table, M numbers that a row's timestep and class set in the network.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mgd3_engine.denoiser import CachingDenoiser, Denoiser, HoistedDenoiser, PatchDenoiser


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


CachePlan = Mapping[int, tuple[float, ...]]
"""By step of a cached phase, the weights of what the last computed steps kept; none for a computed step."""


def bind_network(
    denoiser: Denoiser,
    timesteps: Tensor,
    rows: int,
    most_classes: int,
    plan: CachePlan | None = None,
) -> StepNetwork:
    """Bind a denoiser to the timesteps of a run.

    Args:
        denoiser: Any denoiser; a `HoistedDenoiser` is run in its two parts.
        timesteps: int64 `[S]` on the network's device.
        rows: R.
        most_classes: Different classes that a batch can have.
        plan: None, or empty, for a network that is run on every step; else it is a `CachingDenoiser`.

    Returns:
        The network for batches of R rows, its classes still to be loaded.
    """
    if plan:
        assert isinstance(denoiser, CachingDenoiser)
        return CachedNetwork(denoiser, timesteps, rows, most_classes, plan)
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
        return self._denoise(x, self._modulation(x, step))

    def _modulation(self, x: Tensor, step: int) -> Tensor:
        return self._table[step].index_select(0, self._slots[: len(x)])

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


class CachedNetwork(HoistedNetwork):
    """Leaves the blocks out on some steps, and takes what they would add from steps before.

    A phase computes as many steps as a forecast reads before it forecasts, so that nothing is read that it
    has not kept itself: a captured phase is whole, and what it keeps lies in the memory of its graph.
    """

    def __init__(
        self,
        denoiser: CachingDenoiser,
        timesteps: Tensor,
        rows: int,
        most_classes: int,
        plan: CachePlan,
    ) -> None:
        super().__init__(denoiser, timesteps, rows, most_classes)
        self._caching, self._plan = denoiser, plan
        self._kept: deque[Tensor] = deque(maxlen=max(map(len, plan.values())))  # [R, T, d], newest first

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """Run the network, or its two ends, on `[R, C, H, W]`, or on its first rows, at respaced step i."""
        if step not in self._plan:
            return super().__call__(x, step)
        modulation, weights = self._modulation(x, step), self._plan[step]
        if weights:
            return self._caching.denoise_adding(x, modulation, self._forecast(weights))
        out, added = self._caching.denoise_keeping(x, modulation)
        self._kept.appendleft(added)
        return out

    def _forecast(self, weights: Sequence[float]) -> Tensor:
        if len(weights) == 1:
            return self._kept[0]
        added = self._kept[0] * weights[0]  # [R, T, d]
        for kept, weight in zip(list(self._kept)[1:], weights[1:], strict=True):
            added.add_(kept, alpha=weight)
        return added
