"""What a GPU must show of the whole sampler; `checks.py` runs these and writes what they return.

Shape letters: N images, B images of a batch, C channels, H W latent size, S steps.

On the CPU they run a tiny network without graphs, and judge no speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from bench.gpu.checking import Setting, median_seconds, plain_on_cpu, relative_rms, require
from mgd3_engine import FeatureCache, GuidedSampler, ModeGuidance, NoiseSchedule
from mgd3_engine.dit import DiT, DiTConfig, dit_config
from mgd3_kernels import quantise_rows

IMAGES_PER_S_GOAL = 23.0
FAST_IMAGES_PER_S_GOAL = 80.0
# Two forwards of 237.24 GFLOP (DiT-XL/2, 256 tokens) on each of 50 steps.
XL_TFLOP_PER_IMAGE = 23.724
# bfloat16 weights and activations against float32, relative root mean square of final latents.
BF16_BOUND = 0.05
TINY = DiTConfig(input_size=8, patch_size=2, hidden_size=48, depth=2, num_heads=3, num_classes=10)


def random_dit(config: DiTConfig, device: torch.device, dtype: torch.dtype) -> DiT:
    """Every parameter normal, gates too, so that each block matters; outputs of about unit scale."""
    generator = torch.Generator(device).manual_seed(0)
    with torch.device(device):
        network = DiT(config)
    for name, parameter in network.named_parameters():
        if name != "pos_embed":
            parameter.data.normal_(std=0.02, generator=generator)
    return network.to(dtype).requires_grad_(False).eval()


def make_sampler(network: DiT, batch_size: int, **options: Any) -> GuidedSampler:
    settings: dict[str, Any] = {"steps": 50, "guidance": ModeGuidance(scale=0.1)}
    settings |= {"dtype": network.x_embedder.proj.weight.dtype, "batch_size": batch_size} | options
    return GuidedSampler(
        network,
        schedule=NoiseSchedule.linear(),
        null_class=network.null_class,
        cfg_channels=3,
        **settings,
    )


def make_images(network: DiT, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    config = network.config
    generator = torch.Generator().manual_seed(seed)
    shape = (config.in_channels, config.input_size, config.input_size)
    class_ids = torch.randint(0, config.num_classes, (count,), generator=generator)
    return class_ids, torch.randn(count, *shape, generator=generator), torch.arange(count) + seed


def check_graphs_against_steps(setting: Setting) -> dict[str, Any]:
    """Replays of both phases give the bytes of running step by step, on new seeds, modes and labels."""
    return compare_replays(setting, [{"method": "ddpm"}, {"method": "ddim"}])


def check_solver_graphs(setting: Setting) -> dict[str, Any]:
    """The same for a solver with history and for steps without null rows: four phases."""
    interval = {"cfg_interval": (200, 800) if setting.on_gpu else (0, 500)}
    return compare_replays(setting, [{"method": method, **interval} for method in ("dpmpp", "dpmpp-sde")])


def check_cache_graphs(setting: Setting) -> dict[str, Any]:
    """The same where blocks are left out on steps after t_stop, reused and continued; eager alone has it."""
    guided = {} if setting.on_gpu else {"guidance": None}  # two steps, of which the second is forecast
    orders = range(setting.size(3, 1))
    kinds = [{"cache": FeatureCache(2, order), **guided} for order in orders]
    return compare_replays(setting, kinds, ("eager",))


def compare_replays(
    setting: Setting, kinds: Sequence[dict[str, Any]], backends: Sequence[str] = ("eager", "compiled")
) -> dict[str, Any]:
    different, compared = 0, 0
    backends = backends if setting.on_gpu else ("eager",)
    dtypes = (torch.float32, torch.bfloat16)[: setting.size(2, 1)]
    for dtype, backend, kind in product(dtypes, backends, kinds):
        network = random_dit(TINY, setting.device, dtype)
        options = {"guidance": ModeGuidance(scale=0.1), **kind}
        options |= {"backend": backend, "steps": setting.size(50, 2)}
        stepwise = make_sampler(network, setting.size(16, 1), graphs="off", **options)
        graphed = make_sampler(
            network, setting.size(16, 1), graphs="on" if setting.on_gpu else "auto", **options
        )
        for seed in (0, 100, 200):
            images = make_images(network, setting.size(40, 2), seed)
            got, want = graphed.sample(*images), stepwise.sample(*images)
            different += int((got != want).sum())
            compared += got.numel()
    figures = {"values": compared, "different": different, "captured": setting.on_gpu}
    return require(different == 0, "a replay differs from running step by step", figures)


def check_graphs_at_batch_1(setting: Setting) -> dict[str, Any]:
    """At one image a batch DiT-XL/2 is bound by launches; two graphs a batch must be faster."""
    config = dit_config("DiT-XL/2", image_size=256) if setting.on_gpu else TINY
    network = random_dit(config, setting.device, torch.bfloat16)
    images = make_images(network, 1)
    figures: dict[str, Any] = {"network": "DiT-XL/2" if setting.on_gpu else "tiny", "batch": 1}
    for graphs in ("off", "auto"):
        sampler = make_sampler(network, 1, graphs=graphs, backend="eager", steps=setting.size(50, 4))
        seconds = timed(setting, lambda s=sampler: s.sample(*images), setting.size(5, 1))
        figures[f"graphs_{graphs}_ms_per_image"] = round(1000 * seconds, 2)
    figures["speedup"] = round(figures["graphs_off_ms_per_image"] / figures["graphs_auto_ms_per_image"], 3)
    return require(not setting.on_gpu or figures["speedup"] > 1.0, "graphs are slower", figures)


@plain_on_cpu
def check_sampler_throughput(setting: Setting) -> dict[str, Any]:
    """DiT-XL/2 at 256 px, bf16, CFG on all 50 steps: images per second and share of the matmul rate."""
    config = dit_config("DiT-XL/2", image_size=256) if setting.on_gpu else TINY
    network = random_dit(config, setting.device, torch.bfloat16)
    batch, steps = setting.size(128, 8), setting.size(50, 4)
    images = make_images(network, batch)
    figures: dict[str, Any] = {
        "batch": batch,
        "steps": steps,
        "matmul_tflops": round(matmul_rate(setting), 2),
    }
    for backend in ("eager", "compiled") if setting.on_gpu else ("eager",):
        sampler = make_sampler(network, batch, backend=backend, steps=steps)
        started = time.perf_counter()
        sampler.sample(*images)
        figures[f"{backend}_first_batch_s"] = round(time.perf_counter() - started, 1)
        if setting.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        rate = batch / timed(setting, lambda s=sampler: s.sample(*images), setting.size(3, 1))
        figures[f"{backend}_images_per_s"] = round(rate, 2)
        if setting.on_gpu:
            share = rate * XL_TFLOP_PER_IMAGE / figures["matmul_tflops"]
            figures[f"{backend}_matmul_share"] = round(share, 3)
            figures[f"{backend}_peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    best = max(rate for name, rate in figures.items() if name.endswith("images_per_s"))
    reached = not setting.on_gpu or best >= IMAGES_PER_S_GOAL
    return require(reached, f"fewer than {IMAGES_PER_S_GOAL} images per second", figures)


@plain_on_cpu
def check_fast_throughput(setting: Setting) -> dict[str, Any]:
    """DiT-XL/2 at 256 px, bf16, with what `--preset fast` sets: images per second, and exact's beside."""
    config = dit_config("DiT-XL/2", image_size=256) if setting.on_gpu else TINY
    network = random_dit(config, setting.device, torch.bfloat16)
    images = make_images(network, setting.size(128, 8))
    fast = {"steps": 12, "cfg_interval": (100, 700), "guidance": ModeGuidance(scale=0.25, t_stop=5)}
    figures: dict[str, Any] = {"batch": len(images[0])}
    for name, options in (("exact", {"steps": setting.size(50, 4)}), ("fast", fast)):
        sampler = make_sampler(network, len(images[0]), backend="eager", **options)
        seconds = timed(setting, lambda s=sampler: s.sample(*images), setting.size(3, 1))
        figures[f"{name}_images_per_s"] = round(len(images[0]) / seconds, 2)
        figures[f"{name}_network_rows"] = sampler.network_rows
    reached = not setting.on_gpu or figures["fast_images_per_s"] >= FAST_IMAGES_PER_S_GOAL
    return require(reached, f"fewer than {FAST_IMAGES_PER_S_GOAL} images per second", figures)


@plain_on_cpu
def check_bf16_latents(setting: Setting) -> dict[str, Any]:
    """Final latents in bf16, eager and compiled, lie near those of float32 eager."""
    config = dit_config("DiT-S/2", image_size=256) if setting.on_gpu else TINY
    steps = setting.size(50, 4)
    exact = random_dit(config, setting.device, torch.float32)
    images = make_images(exact, 8)
    want = make_sampler(exact, 8, backend="eager", steps=steps).sample(*images)
    rough = random_dit(config, setting.device, torch.float32).bfloat16()
    figures: dict[str, Any] = {}
    for backend in ("eager", "compiled") if setting.on_gpu else ("eager",):
        got = make_sampler(rough, 8, backend=backend, steps=steps).sample(*images)
        figures[f"{backend}_relative_rms"] = relative_rms(got, want)
    return require(max(figures.values()) < BF16_BOUND, f"beyond {BF16_BOUND}", figures)


def timed(setting: Setting, function: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, the first two calls apart: they compile and capture."""
    function()
    function()
    return median_seconds(setting, function, repeats)


def matmul_rate(setting: Setting, precision: str = "bf16") -> float:
    """TFLOP/s of a large bf16 or fp8 matrix product of random numbers, median of twenty."""
    n = setting.size(8192, 256)
    a, b = (torch.randn(n, n, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    if precision == "bf16":
        seconds = timed(setting, lambda: a @ b, setting.size(20, 2))
    else:
        (rows, scale_a), (columns, scale_b) = quantise_rows(a), quantise_rows(b)
        options = {"scale_a": scale_a, "scale_b": scale_b.t(), "out_dtype": torch.bfloat16}
        seconds = timed(
            setting,
            lambda: torch._scaled_mm(rows, columns.t(), **options, use_fast_accum=True),
            setting.size(20, 2),
        )
    return 2 * n**3 / seconds * 1e-12


CHECKS = {
    "graphs-against-steps": check_graphs_against_steps,
    "solver-graphs": check_solver_graphs,
    "cache-graphs": check_cache_graphs,
    "graphs-at-batch-1": check_graphs_at_batch_1,
    "bf16-latents": check_bf16_latents,
    "sampler-throughput": check_sampler_throughput,
    "fast-throughput": check_fast_throughput,
}
