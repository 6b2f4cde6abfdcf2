"""Arguments of adaLN for benchmarks and GPU checks.

Shape letters: N rows of a batch, T tokens of a row, d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.gpu.step_arguments import DTYPES
from mgd3_kernels import (
    gated_residual_norm,
    gated_residual_norm_reference,
    modulated_norm,
    modulated_norm_reference,
)

KERNEL = (modulated_norm, gated_residual_norm)
REFERENCE = (modulated_norm_reference, gated_residual_norm_reference)


@dataclass
class AdaLN:
    """Tokens, a branch, and what gates, shifts and scales them: columns of one table, as the DiT's are."""

    tokens: Tensor
    branch: Tensor
    gate: Tensor
    shift: Tensor
    scale: Tensor

    def norm(self, function: Callable[..., Tensor]) -> Tensor:
        return function(self.tokens, self.shift, self.scale)

    def residual(self, function: Callable[..., Tensor]) -> Tensor:
        """Update the tokens and return their norm."""
        return function(self.tokens, self.gate, self.branch, self.shift, self.scale)

    def residual_bytes(self) -> int:
        """Least traffic of `residual`: tokens read and written, branch read, norm written, each row once."""
        tokens, rows = self.tokens, self.gate
        return (4 * tokens.numel() + 3 * rows.numel()) * tokens.element_size()


def make_adaln(device: torch.device | str, shape: tuple[int, int, int], dtype: str = "bf16") -> AdaLN:
    N, _, d = shape
    generator = torch.Generator(device).manual_seed(0)
    tokens, branch = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
    table = torch.randn((N, 6 * d), generator=generator, device=device).to(DTYPES[dtype])
    shift, scale, gate = table[:, : 3 * d].chunk(3, dim=1)
    # A small gate: repeated calls update the same tokens.
    return AdaLN(tokens.to(DTYPES[dtype]), branch.to(DTYPES[dtype]), gate.mul_(0.01), shift, scale)
