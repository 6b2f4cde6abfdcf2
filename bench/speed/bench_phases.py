"""The two phases of a batch as CUDA graphs, against the same steps launched one by one.

    pytest bench/speed/bench_phases.py --benchmark-only

On a GPU only. The bytes of both ways are compared before they are timed; capturing is timed apart. A sampler
without guidance has the unguided phase alone, one with `t_stop` 0 all but one step guided.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.gpu.kernel_checks import count_launches
from bench.measuring import DEVICE, DTYPES, ON_GPU, OURS, Figures, Subject, ratios, seconds_of, time_rounds
from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule, image_seeds
from mgd3_engine.dit import dit_config
from tests.fakes.random_networks import random_dit

pytestmark = pytest.mark.skipif(not ON_GPU, reason="CUDA graphs need a CUDA device")

STEPS, SHAPE = 50, (4, 32, 32)
PHASES = {
    "guided": ModeGuidance(scale=0.1, t_stop=0),
    "unguided": None,
    "both": ModeGuidance(scale=0.1, t_stop=25),
}


@pytest.mark.parametrize("name", ["DiT-S/2", "DiT-XL/2"])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_graphs(benchmark: BenchmarkFixture, name: str, phase: str, batch: int) -> None:
    network = random_dit(replace(dit_config(name), num_classes=1000)).to(DEVICE, DTYPES["bf16"])

    def make(graphs: str) -> GuidedSampler:
        return GuidedSampler(
            network,
            schedule=NoiseSchedule.linear(),
            steps=STEPS,
            null_class=1000,
            cfg_channels=3,
            guidance=PHASES[phase],
            backend="eager",
            batch_size=batch,
            dtype=DTYPES["bf16"],
            graphs=graphs,
        )

    modes = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0))
    images = (torch.arange(batch), modes, image_seeds(0, [(str(k), k) for k in range(batch)]))
    graphed, stepwise = make("on"), make("off")
    want = stepwise.sample(*images)
    first_batch_s = seconds_of(lambda: graphed.sample(*images))  # captures
    assert torch.equal(graphed.sample(*images), want)

    seconds = time_rounds(
        benchmark,
        lambda: graphed.sample(*images),
        rounds=5,
        beside={"stepwise": lambda: stepwise.sample(*images)},
    )
    if seconds is None:
        return
    figures = Figures(benchmark, Subject("phases", f"{name}, {phase}, batch {batch}", "bf16", batch))
    figures.add_rate("graphs", "rate", "images/s", batch, seconds[OURS])
    figures.add_rate("stepwise", "rate", "images/s", batch, seconds["stepwise"])
    figures.add("graphs", "speedup_over_stepwise", "1", ratios(seconds["stepwise"], seconds[OURS]))
    figures.add("graphs", "first_batch", "s", first_batch_s)
    figures.add("stepwise", "launches", "launches", count_launches(lambda: stepwise.sample(*images)))
    figures.add_peak_memory("graphs", lambda: graphed.sample(*images))
