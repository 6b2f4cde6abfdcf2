"""Arguments of one guided step for benchmarks and GPU checks.

Shape letters: B images, C channels, H W latent size, S steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mgd3_kernels import guided_step

STEPS = 50
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Step:
    """Arguments of one call, on the device; the default is the main job's variant."""

    x: Tensor
    out: Tensor
    table: Tensor
    step: Tensor
    options: dict[str, Any]

    def run(self, function: Callable[..., Tensor] = guided_step, **changes: Any) -> Tensor:
        """Call on a copy of x."""
        return function(self.x.clone(), self.out, self.table, self.step, **(self.options | changes))


def make_step(
    device: torch.device | str,
    shape: tuple[int, int, int, int] = (2, 4, 8, 8),
    dtype: str = "bf16",
    *,
    cfg: bool = True,
    learned_variance: bool = True,
    guided: bool = True,
    noise: str = "counter",
    history: bool = False,
    layout: str = "dense",
) -> Step:
    B, C, H, W = shape
    generator = torch.Generator().manual_seed(0)
    x, modes, given = (torch.randn(shape, generator=generator) for _ in range(3))
    out_shape = ((1 + cfg) * B, (1 + learned_variance) * C, H, W)
    out = torch.rand(out_shape, generator=generator).mul(2).sub(1).to(DTYPES[dtype])
    # Columns in the order of Coefficient, of the size they have in mid-run; all of them count.
    row = torch.tensor([1.1, -0.5, 0.1, 0.05, 0.88, 0.1, -1.68, -1.66, 0.9, 0.1, -0.2])
    table = row * torch.linspace(0.9, 1.0, STEPS)[:, None]
    options: dict[str, Any] = {"cfg_scale": 4.0, "cfg_channels": min(3, C), "stream": 1}
    options["net_input"] = torch.full(((1 + cfg) * B, C, H, W), torch.nan, dtype=DTYPES[dtype])
    if guided:
        options["modes"] = modes
    if noise == "given":
        options["noise"] = given
    if history:
        options["history"] = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    if noise == "counter":
        options["seeds"] = torch.randint(-(2**63), 2**63 - 1, (B,), generator=generator)
    on_device = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in options.items()}
    out = lay_out(out.to(device), layout)
    step = torch.tensor(STEPS - 1, device=device)
    return Step(x.to(device), out, table.to(device), step, on_device)


def lay_out(out: Tensor, layout: str) -> Tensor:
    if layout == "patches":  # of 2x2 pixels, as DiT writes them: the channels of a pixel side by side
        N, C, H, W = out.shape
        split = out.view(N, C, H // 2, 2, W // 2, 2)
        return split.permute(0, 2, 4, 3, 5, 1).contiguous().permute(0, 5, 1, 3, 2, 4)
    if layout == "channels-last":
        return out.contiguous(memory_format=torch.channels_last)
    if layout == "channel-slice":
        return torch.nn.functional.pad(out, (0, 0, 0, 0, 3, 5), value=torch.nan)[:, 3:-5]
    return out


def step_bytes(step: Step) -> int:
    """Least traffic of the main variant: each tensor once, the null half on the guided channels only."""
    B, C, H, W = step.x.shape
    state = 3 * step.x.element_size() * C  # x read and written, the mode read
    network = step.out.element_size() * (2 * C + step.options["cfg_channels"] + 2 * C)
    return B * H * W * (state + network)
