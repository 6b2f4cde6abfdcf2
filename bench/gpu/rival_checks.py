"""The sampler against its best rival on a GPU; `checks.py` runs this and writes what it returns.

Needs diffusers beside torch, and is skipped without. Whether both give equal latents is `bench_sampler.py`'s
part, where they have the same weights.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bench.gpu.checking import Check, Setting, median_seconds, needs_packages, require
from bench.gpu.sampler_checks import TINY, make_images, make_sampler, random_dit
from bench.speed.sampling_rivals import DiTPipelineLatents
from mgd3_engine.dit import DiTConfig, dit_config
from tests.fakes.random_networks import diffusers_dit

COMPILED_RIVAL_GOAL = 1.15
FULL_STEPS = 50


@needs_packages
def check_sampler_against_diffusers(setting: Setting) -> dict[str, Any]:
    """DiT-XL/2 at 256 px, bf16, CFG, DDIM without mode guidance: ours, and DiTPipeline eager and compiled."""
    config = dit_config("DiT-XL/2", image_size=256) if setting.on_gpu else replace(TINY, num_classes=1000)
    batch, steps = setting.size(128, 2), setting.size(10, 2)
    network = random_dit(config, setting.device, torch.bfloat16)
    sampler = make_sampler(network, batch, backend="eager", method="ddim", steps=steps, guidance=None)
    class_ids, modes, seeds = make_images(network, batch)
    labels, shape = class_ids.tolist(), tuple(modes.shape[1:])
    rivals = {
        # Compiling is not what is rehearsed on a CPU.
        f"diffusers_{name}": DiTPipelineLatents(
            random_transformer(config, setting), "ddim", steps, compiled=name == "compiled" and setting.on_gpu
        )
        for name in ("eager", "compiled")
    }
    runs = {"ours": lambda: sampler.sample(class_ids, None, seeds, latent_shape=shape)}
    runs |= {name: lambda rival=rival: rival(labels) for name, rival in rivals.items()}
    figures: dict[str, Any] = {"batch": batch, "steps_timed": steps}
    for name, run in runs.items():
        started = time.perf_counter()
        run()
        figures[f"{name}_first_s"] = round(time.perf_counter() - started, 1)
        run()  # graphs are captured in the second call
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(setting.size(5, 1)):
        for name, run in runs.items():
            seconds[name].append(median_seconds(setting, run, 1))
    for name, found in seconds.items():
        rate = batch * steps / FULL_STEPS / statistics.median(found)
        figures[f"{name}_images_per_s"] = round(rate, 2)
    for name in rivals:
        ratios = [rival / own for rival, own in zip(seconds[name], seconds["ours"], strict=True)]
        figures[f"speedup_over_{name}"] = round(statistics.median(ratios), 3)
    holds = not setting.on_gpu or figures["speedup_over_diffusers_compiled"] >= COMPILED_RIVAL_GOAL
    return require(holds, f"less than {COMPILED_RIVAL_GOAL} times a compiled DiTPipeline", figures)


def random_transformer(config: DiTConfig, setting: Setting) -> Any:
    """diffusers' DiT of the same architecture, its own random weights."""
    with torch.device(setting.device):
        transformer = diffusers_dit(config)
    return nn.Module.to(transformer, torch.bfloat16).requires_grad_(False).eval()


CHECKS: dict[str, Check] = {"sampler-against-diffusers": check_sampler_against_diffusers}
