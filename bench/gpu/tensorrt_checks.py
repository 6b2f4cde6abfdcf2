"""What a GPU with TensorRT must show of backend tensorrt; `checks.py` runs these.

Each is skipped, with the reason, where neither TensorRT nor TensorRT-RTX knows the GPU or the packages that
export a graph are missing. On the CPU they run backend onnxruntime in its place, on a tiny network, and judge
no speed.

Shape letters: R rows of the network's input, two for an image.
"""

from __future__ import annotations

import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.gpu.checking import Check, Setting, make_replay, plain_on_cpu, relative_rms, require
from bench.gpu.sampler_checks import TINY, make_images, make_sampler, matmul_rate, random_dit, timed
from mgd3_engine.backends import BackendRequest, create_backend
from mgd3_engine.dit import DiT, DiTConfig, dit_config
from mgd3_engine.tensorrt import installed_flavour
from mgd3_engine.tensorrt.building import capability_of

# Largest relative root mean square from float32 eager; bf16 and fp16 are also held against eager in their
# own format, which a typed network must not be worse than by more than half.
BOUNDS = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
OWN_FORMAT_FACTOR = 1.5
XL_TFLOP_PER_ROW = 0.23724
CACHE = tempfile.TemporaryDirectory()


def missing(setting: Setting) -> str:
    """Say what the machine lacks, or return an empty string."""
    packages = ["onnx", "onnxscript"] if setting.on_gpu else ["onnx", "onnxscript", "onnxruntime"]
    if lacking := [name for name in packages if find_spec(name) is None]:
        return f"not installed: {', '.join(lacking)}"
    if setting.on_gpu:
        try:
            installed_flavour(capability_of(setting.device))
        except ValueError as error:
            return str(error)
    return ""


def skipped_without_tensorrt(check: Check) -> Check:
    def checked(setting: Setting) -> dict[str, Any]:
        reason = missing(setting)
        return {"skipped": reason} if reason else check(setting)

    return checked


def backend_of(setting: Setting) -> str:
    return "tensorrt" if setting.on_gpu else "onnxruntime"


def make_denoiser(setting: Setting, network: DiT, rows: int) -> tuple[Any, float]:
    """The denoiser, and the seconds it took to export and build it."""
    started, dtype = time.perf_counter(), network.x_embedder.proj.weight.dtype
    request = BackendRequest(
        denoiser=network, device=setting.device, dtype=dtype, rows=rows, cache_dir=Path(CACHE.name)
    )
    denoiser = create_backend(backend_of(setting), request)[1]
    return denoiser, round(time.perf_counter() - started, 1)


def cache_bytes() -> int:
    return sum(file.stat().st_size for file in Path(CACHE.name).rglob("*") if file.is_file())


def make_rows(setting: Setting, config: DiTConfig, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, config.in_channels, config.input_size, config.input_size, generator=generator)
    timestep = torch.linspace(0, 999, rows).round().to(torch.int64)
    class_ids = torch.arange(rows) * 7 % (config.num_classes + 1)
    return x.to(setting.device), timestep.to(setting.device), class_ids.to(setting.device)


@skipped_without_tensorrt
def check_against_eager(setting: Setting) -> dict[str, Any]:
    """Engines of a DiT-S/2 against float32 eager; rows by themselves, in any place, captured in a graph."""
    config = dit_config("DiT-S/2", image_size=256) if setting.on_gpu else TINY
    R = setting.size(64, 16)
    x, timestep, class_ids = make_rows(setting, config, R)
    want = random_dit(config, setting.device, torch.float32)(x, timestep, class_ids)
    order = torch.randperm(R, generator=torch.Generator().manual_seed(0)).to(setting.device)
    figures: dict[str, Any] = {"rows": R}
    holds = True
    for dtype in list(BOUNDS)[: setting.size(3, 1)]:
        network = random_dit(config, setting.device, torch.float32).to(dtype)
        inputs = x.to(dtype), timestep, class_ids
        denoiser, build_s = make_denoiser(setting, network, R)
        got = denoiser(*inputs)
        error, own = relative_rms(got, want), relative_rms(network(*inputs), want)
        permuted = denoiser(*(one[order] for one in inputs))
        replayed: list[Tensor] = []
        replay = make_replay(setting, lambda d=denoiser, i=inputs, r=replayed: r.append(d(*i)))
        replay()
        fewer = relative_rms(denoiser(*(one[:8] for one in inputs)), want[:8])
        name = str(dtype).removeprefix("torch.")
        figures[name] = {
            "export_and_build_s": build_s,
            "relative_rms": error,
            "eager_relative_rms": own,
            "fewer_rows_relative_rms": fewer,
            "same_bytes_in_another_place": torch.equal(permuted, got[order]),
            "same_bytes_replayed": torch.equal(replayed[-1], got),
        }
        holds &= max(error, fewer) < BOUNDS[dtype]
        holds &= dtype == torch.float32 or error < OWN_FORMAT_FACTOR * own
        holds &= figures[name]["same_bytes_in_another_place"] and figures[name]["same_bytes_replayed"]
    return require(holds, "beyond a bound, or bytes differ", figures)


@plain_on_cpu
@skipped_without_tensorrt
def check_sampling(setting: Setting) -> dict[str, Any]:
    """Whole runs: both phases captured give the bytes of running step by step, near eager's latents."""
    config = dit_config("DiT-S/2", image_size=256) if setting.on_gpu else TINY
    network = random_dit(config, setting.device, torch.float32)
    images, steps = make_images(network, setting.size(40, 3)), setting.size(50, 4)

    def sampled(backend: str, graphs: str) -> Tensor:
        options = {"backend": backend, "graphs": graphs, "steps": steps, "cache_dir": Path(CACHE.name)}
        sampler = make_sampler(network, setting.size(16, 8), **options)
        sampler.sample(*images)  # captures
        return sampler.sample(*images)

    stepwise = sampled(backend_of(setting), "off")
    captured = sampled(backend_of(setting), "on" if setting.on_gpu else "auto")
    eager = sampled("eager", "off")
    figures = {"images": len(images[0]), "relative_rms": relative_rms(stepwise, eager)}
    figures["same_bytes_captured"] = torch.equal(stepwise, captured)
    holds = figures["same_bytes_captured"] and figures["relative_rms"] < 1e-3
    return require(holds, "far from eager, or a replay differs", figures)


@skipped_without_tensorrt
def check_throughput(setting: Setting) -> dict[str, Any]:
    """DiT-XL/2 at 256 px, bf16: images per second of 50 guided steps, with eager's in the same run."""
    config = dit_config("DiT-XL/2", image_size=256) if setting.on_gpu else TINY
    R = setting.size(256, 16)
    dtype = torch.bfloat16 if setting.on_gpu else torch.float32
    network = random_dit(config, setting.device, dtype)
    x, timestep, class_ids = make_rows(setting, config, R)
    inputs = x.to(dtype), timestep, class_ids
    figures: dict[str, Any] = {"rows": R, "matmul_tflops": round(matmul_rate(setting), 2)}
    before = cache_bytes()
    denoiser, figures["export_and_build_s"] = make_denoiser(setting, network, R)
    figures["files_gib"] = round((cache_bytes() - before) / 2**30, 3)
    for name, function in (("eager", network), (backend_of(setting), denoiser)):
        seconds = timed(setting, lambda f=function: f(*inputs), setting.size(10, 2))
        figures[f"{name}_ms"] = round(1000 * seconds, 3)
        figures[f"{name}_images_per_s"] = round(R / 2 / (50 * seconds), 3)
        if setting.on_gpu:
            share = R * XL_TFLOP_PER_ROW / seconds / figures["matmul_tflops"]
            figures[f"{name}_matmul_share"] = round(share, 3)
    error = relative_rms(denoiser(*inputs), network(*inputs).float())
    figures["relative_rms_from_eager"] = error
    return require(error < BOUNDS[dtype], "far from eager", figures)


CHECKS = {
    "tensorrt-against-eager": check_against_eager,
    "tensorrt-sampling": check_sampling,
    "tensorrt-throughput": check_throughput,
}
