"""What every family's network is to its generator."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from mgd3_engine import Denoiser


class Network(ABC):
    """A network that is loaded on first use and placed where it is asked for; the last placing is kept."""

    _placed: tuple[torch.device, torch.dtype, Denoiser] | None = None

    def denoiser(self, device: torch.device, dtype: torch.dtype) -> Denoiser:
        """Return the network on `device`, its weights and input in `dtype`.

        Raises:
            UserError: The weights cannot be had or are damaged.
        """
        if self._placed is None or self._placed[:2] != (device, dtype):
            self._placed = (device, dtype, self._place(device, dtype))
        return self._placed[2]

    @abstractmethod
    def _place(self, device: torch.device, dtype: torch.dtype) -> Denoiser:
        """Put a network on `device` in `dtype`; weights that are there already are not copied."""

    @abstractmethod
    def digest(self) -> str:
        """sha256 of the weights and of what else decides the output, whatever file layout they came in."""
