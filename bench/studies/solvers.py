"""What a sampler's fewer calls and rows cost on the demo network: rows, time a step, distance to many steps.

    python -m bench.studies.solvers --images 16

Every sampler runs in turn in each round, in this one process; its fastest round counts. Modes are images of
the unguided network from other noise; guidance stops where 50 steps with t_stop 25 do. Deterministic samplers
start from the same noise, and their distance is the root mean square difference to DDIM of 200 steps with the
same guidance, over that of the modes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mgd3_engine import GuidedSampler, ModeGuidance
from mgd3_fast.generators import load_generator, place_network

INTERVAL = (200, 800)
RUNS: dict[str, tuple[str, int, tuple[int, int] | None]] = {
    "ddpm, 20 steps": ("ddpm", 20, None),
    "ddpm, 20 steps, 200 to 800": ("ddpm", 20, INTERVAL),
    "ddim, 10 steps": ("ddim", 10, None),
    "ddim, 20 steps": ("ddim", 20, None),
    "ddim, 20 steps, 200 to 800": ("ddim", 20, INTERVAL),
    "dpmpp, 10 steps": ("dpmpp", 10, None),
    "dpmpp, 20 steps": ("dpmpp", 20, None),
    "dpmpp, 20 steps, 200 to 800": ("dpmpp", 20, INTERVAL),
    "dpmpp-sde, 20 steps": ("dpmpp-sde", 20, None),
}
MakeSampler = Callable[..., GuidedSampler]


def sampler_maker(images: int) -> tuple[MakeSampler, tuple[int, int, int]]:
    """(method, steps, interval, guided) -> a sampler of the demo network; and the shape of its latents."""
    generator = load_generator("demo-mnist5k")
    network = place_network(generator, torch.device("cpu"), "fp32")

    def make(
        method: str, steps: int, interval: tuple[int, int] | None = None, guided: bool = True
    ) -> GuidedSampler:
        stop = generator.schedule.stop_index(25, of=50, steps=steps)
        return GuidedSampler(
            network,
            schedule=generator.schedule,
            method=method,
            steps=steps,
            prediction=generator.prediction,
            cfg_scale=generator.defaults.cfg_scale,
            cfg_channels=generator.cfg_channels,
            cfg_interval=interval,
            null_class=generator.null_class,
            guidance=ModeGuidance(0.1, stop) if guided else None,
            batch_size=images,
            backend="eager",
        )

    return make, generator.latent_shape


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=16, help="of one batch (default: 16)")
    parser.add_argument("--rounds", type=int, default=9, help="timed runs of each sampler (default: 9)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    make, shape = sampler_maker(args.images)
    class_ids, seeds = torch.arange(args.images) % 10, torch.arange(args.images)
    starts = torch.randn(args.images, *shape, generator=torch.Generator().manual_seed(0))
    modes = make("ddim", 50, guided=False).sample(class_ids, None, seeds + 1000, latent_shape=shape)

    def from_start(sampler: GuidedSampler) -> Tensor:
        return sampler.sample(class_ids, modes, None, noise=lambda step, image: starts[image])

    samplers = {name: make(*run) for name, run in RUNS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    for round_ in range(args.rounds + 1):
        for name, sampler in samplers.items():
            begin = time.perf_counter()
            sampler.sample(class_ids, modes, seeds)
            if round_:  # the first one computes the classes' conditioning
                seconds[name].append(time.perf_counter() - begin)
    many = {interval: from_start(make("ddim", 200, interval)) for interval in (None, INTERVAL)}
    print("| sampler | network rows an image | ms a step | time over ddpm's | distance |")
    print("| --- | --- | --- | --- | --- |")
    first = next(iter(samplers))
    for name, (method, steps, interval) in RUNS.items():
        ratio = min(seconds[name]) / min(seconds[first])
        distance = "-"
        if method in ("ddim", "dpmpp"):
            gap = from_start(samplers[name]) - many[interval]
            distance = f"{float(gap.square().mean().sqrt() / modes.square().mean().sqrt()):.3f}"
        step_ms = 1000 * min(seconds[name]) / steps
        print(f"| {name} | {samplers[name].network_rows} | {step_ms:.1f} | {ratio:.2f} | {distance} |")


if __name__ == "__main__":
    main()
