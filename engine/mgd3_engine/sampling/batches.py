"""Which images share a batch, and the tensors that every batch of a run is computed in.

Shape letters: N images of a call, B rows of state per batch (its fixed shape), R rows of the network's input
(2B with classifier-free guidance, else B), C channels, H W latent size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mgd3_engine.sampling.inputs import SampleInputs

# Matrix libraries treat the last rows of an odd count apart; in a multiple of 8 every place is alike.
ROW_MULTIPLE = 8


def padded_rows(batch_size: int) -> int:
    """Round a batch size up to the row count at which a row's bytes do not depend on its place.

    Args:
        batch_size: Images asked for, at least 1.

    Returns:
        1 for 1, else the next multiple of 8.

    Raises:
        ValueError: `batch_size` is not a whole number of at least 1.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    return 1 if batch_size == 1 else -(-batch_size // ROW_MULTIPLE) * ROW_MULTIPLE


def batch_shapes(batch_size: int | Sequence[int]) -> tuple[int, ...]:
    """Round one or several batch sizes up to row counts.

    Args:
        batch_size: Images asked for, each at least 1.

    Returns:
        The row counts, each once, largest first.

    Raises:
        ValueError: There is none, or one is not a whole number of at least 1.
    """
    sizes = [batch_size] if isinstance(batch_size, int) else list(batch_size)
    if not sizes:
        raise ValueError("batch_size must be at least one number, got none")
    return tuple(sorted({padded_rows(size) for size in sizes}, reverse=True))


def plan_batches(class_ids: Tensor, rows: int, *, keep_groups: bool = False) -> list[Tensor]:
    """Split the images of a call into batches, in order.

    Args:
        class_ids: int64 `[N]`, on the CPU.
        rows: Most images of a batch.
        keep_groups: Put all images of a class into one batch, whole classes in order of first appearance.

    Returns:
        int64 indices of each batch's images, on the CPU; each image is in exactly one batch.

    Raises:
        ValueError: `keep_groups`, and a class has more images than `rows`.
    """
    if not keep_groups:
        images = torch.arange(len(class_ids))
        return [images[start : start + rows] for start in range(0, len(images), rows)]
    groups: dict[int, list[int]] = {}
    for index, class_id in enumerate(class_ids.tolist()):
        groups.setdefault(class_id, []).append(index)
    batches: list[list[int]] = []
    for class_id, group in groups.items():
        if len(group) > rows:
            raise ValueError(
                f"batch_size must be at least {len(group)}, the images of class {class_id}, for a guidance"
                f" term that needs the whole class, got {rows}"
            )
        if not batches or len(batches[-1]) + len(group) > rows:
            batches.append([])
        batches[-1].extend(group)
    return [torch.tensor(batch, dtype=torch.int64) for batch in batches]


def pad(image_index: Tensor, rows: int) -> Tensor:
    """Repeat the last of `[n]` indices until there are `rows`."""
    return torch.cat([image_index, image_index[-1:].expand(rows - len(image_index))])


@dataclass
class BatchBuffers:
    """The tensors of one batch, at fixed addresses; rows past its images are copies of the last image.

    Args:
        x: float32 `[B, C, H, W]`: the state.
        net_input: The network's dtype `[R, C, H, W]`: the state again, in both halves.
        class_ids: int64 `[B]`.
        modes: float32 `[B, C, H, W]`, or None in a run without modes.
        seeds: int64 `[B]`, or None where noise is given.
        image_index: int64 on the CPU: place of each image in the call, without the padding.
        history: float32 `[B, C, H, W]`: x0 of the step before, or None for methods of one step.
    """

    x: Tensor
    net_input: Tensor
    class_ids: Tensor
    modes: Tensor | None
    seeds: Tensor | None
    image_index: Tensor
    history: Tensor | None = None

    @classmethod
    def allocate(
        cls,
        inputs: SampleInputs,
        rows: int,
        network_rows: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        multistep: bool = False,
    ) -> BatchBuffers:
        """Make the buffers of batches of one shape.

        Args:
            inputs: What `sample` was called with: the latent's shape, and whether there are modes and seeds.
            rows: B.
            network_rows: R, B or 2B.
            device: Where the network runs.
            dtype: The network's.
            multistep: Whether a step needs x0 of the one before.

        Returns:
            Buffers whose contents `load` sets.
        """
        x = torch.zeros(rows, *inputs.latent_shape, device=device)
        return cls(
            x=x,
            net_input=torch.zeros(network_rows, *inputs.latent_shape, device=device, dtype=dtype),
            class_ids=torch.zeros(rows, device=device, dtype=torch.int64),
            modes=None if inputs.modes is None else torch.zeros_like(x),
            seeds=None if inputs.seeds is None else torch.zeros(rows, device=device, dtype=torch.int64),
            image_index=torch.zeros(0, dtype=torch.int64),
            history=torch.zeros_like(x) if multistep else None,
        )

    def load(self, inputs: SampleInputs, image_index: Tensor) -> None:
        """Copy the images of one batch in, padded; `x` and `net_input` are left to `start`.

        Args:
            inputs: The images of the call.
            image_index: int64 `[1..B]` on the CPU.
        """
        self.image_index = image_index
        padded = pad(image_index, len(self.x))
        for buffer, source in (
            (self.class_ids, inputs.class_ids),
            (self.modes, inputs.modes),
            (self.seeds, inputs.seeds),
        ):
            if buffer is not None and source is not None:
                buffer.copy_(source.index_select(0, padded.to(source.device)))

    def start(self, noise: Tensor, level: float | None = None) -> None:
        """Set the state and the network's input.

        Args:
            noise: float32 `[B, C, H, W]`.
            level: abar: start at the modes noised to it, sqrt(abar) m + sqrt(1 - abar) noise (Ho et al. 2020,
                Eq. 4); None: at the noise.
        """
        self.x.copy_(noise)
        if level is not None:
            assert self.modes is not None
            self.x.mul_(math.sqrt(1.0 - level)).add_(self.modes, alpha=math.sqrt(level))
        if self.history is not None:
            self.history.zero_()  # the first step multiplies it by 0; what is left may be NaN
        self.write_net_input()

    def write_net_input(self) -> None:
        """Copy the state into both halves of the network's input."""
        self.net_input.view(-1, *self.x.shape).copy_(self.x)  # [R, C, H, W] as [R / B, B, C, H, W]
