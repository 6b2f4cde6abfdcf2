"""Forward pass of DiT, ours against diffusers', on the same weights.

    pytest bench/bench_dit.py --benchmark-only

The networks must agree before either is timed. `extra_info` carries the rate in GFLOP/s.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mgd3_engine.dit import DiT, DiTConfig, dit_config, load_dit

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Root mean square of the difference from ours in float32, over that of the output: measured 6e-7 and 1e-2.
BOUNDS = {"fp32": 1e-5, "bf16": 0.03}


@dataclass(frozen=True)
class Case:
    """A network, and the rows of its input: twice the images of a batch."""

    config: DiTConfig
    rows: int
    rounds: int


CASES = {
    "demo-16tokens-x128": Case(
        DiTConfig(
            input_size=8,
            patch_size=2,
            hidden_size=192,
            depth=4,
            num_heads=6,
            num_classes=10,
            frequency_shift=1,
        ),
        rows=128,
        rounds=10,
    ),
    "S2-256tokens-x2": Case(replace(dit_config("DiT-S/2"), frequency_shift=1), rows=2, rounds=5),
}


def diffusers_network(config: DiTConfig) -> Any:
    """Random weights without a zero layer; the blocks' copies of the embedders agree."""
    from diffusers import DiTTransformer2DModel

    network = DiTTransformer2DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.hidden_size // config.num_heads,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        num_layers=config.depth,
        sample_size=config.input_size,
        patch_size=config.patch_size,
        num_embeds_ada_norm=config.num_classes,
    )
    network.eval().requires_grad_(False)
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.normal_(std=0.5 / max(parameter[0].numel(), 16) ** 0.5)
    embedders = network.transformer_blocks[0].norm1.emb.state_dict()
    for block in network.transformer_blocks:
        block.norm1.emb.load_state_dict(embedders)
    return network


class Providers:
    """Both networks of a case in float32, and their forward passes in any dtype on one input."""

    def __init__(self, case: Case, folder: Path) -> None:
        twin = diffusers_network(case.config)
        twin.save_pretrained(folder)
        self.networks: dict[str, nn.Module] = {"mgd3": load_dit(folder, case.config), "diffusers": twin}
        side, channels = case.config.input_size, case.config.in_channels
        self.x = torch.randn(case.rows, channels, side, side, generator=torch.Generator().manual_seed(1))
        self.timestep = torch.linspace(999, 0, case.rows).to(torch.int64)
        self.class_ids = torch.arange(case.rows) % case.config.num_labels

    def forward(self, provider: str, dtype: torch.dtype) -> Callable[[], Tensor]:
        network = nn.Module.to(deepcopy(self.networks[provider]), dtype)
        x = self.x.to(dtype)
        if provider == "diffusers":
            return lambda: network(x, self.timestep, self.class_ids, return_dict=False)[0]
        return lambda: network(x, self.timestep, self.class_ids)


def gflop(case: Case) -> float:
    """Work of the matrix products of one forward pass, counted on the meta device."""
    with torch.device("meta"):
        x = torch.empty(case.rows, case.config.in_channels, case.config.input_size, case.config.input_size)
        ids = torch.empty(case.rows, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            DiT(case.config)(x, ids, ids)
    return float(counter.get_total_flops() / 1e9)


@pytest.fixture(scope="module", params=CASES)
def case_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def providers(case_name: str, tmp_path_factory: pytest.TempPathFactory) -> Providers:
    return Providers(CASES[case_name], tmp_path_factory.mktemp("dit"))


@pytest.mark.parametrize("provider", ["mgd3", "diffusers"])
@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_dit_forward(benchmark: Any, case_name: str, providers: Providers, dtype: str, provider: str) -> None:
    case = CASES[case_name]
    want = providers.forward("mgd3", torch.float32)()
    forward = providers.forward(provider, DTYPES[dtype])
    difference = (forward().float() - want).square().mean().sqrt() / want.square().mean().sqrt()
    assert difference <= BOUNDS[dtype]
    benchmark.pedantic(forward, rounds=case.rounds, warmup_rounds=1)
    if benchmark.stats is None:
        return
    p20, median, p80 = np.quantile(benchmark.stats.stats.data, [0.2, 0.5, 0.8])
    benchmark.extra_info.update(
        op="dit_forward",
        case=case_name,
        provider=provider,
        dtype=dtype,
        relative_rms_difference=float(difference),
        p20_ms=p20 * 1e3,
        median_ms=median * 1e3,
        p80_ms=p80 * 1e3,
        gflop=gflop(case),
        gflop_per_s=gflop(case) / median,
        rows_per_s=case.rows / median,
        device=platform.processor() or platform.machine(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )
