"""What this machine has, found out by trying: which backends work, and why the others do not."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule, backend_names
from mgd3_engine.dit import DiT, DiTConfig
from mgd3_fast.devices import device_name, resolve_device, usable_processors
from mgd3_fast.generators import load_generator
from mgd3_fast.storage.cache import default_cache_dir
from mgd3_fast.versions import PACKAGES, installed_version
from mgd3_kernels import philox_normal

OPTIONAL_PACKAGES = (
    "mlxtend",
    "cuml-cu13",
    "cuml-cu12",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "pyarrow",
    "datasets",
    "webdataset",
)
DIT_BACKENDS = ("tensorrt", "onnxruntime")  # take no other network
PROBE_REPOSITORY = "facebook/DiT-XL-2-256"
GIB = 2**30


def examine(*, online: bool = False) -> dict[str, Any]:
    """Look at packages, processor, GPUs, backends, caches and the demo model.

    Args:
        online: Also ask the Hugging Face hub whether it answers; nothing is asked of any network otherwise.

    Returns:
        Findings by section, JSON values only. What was tried has `works` and, where it does not, `reason`.
    """
    device = resolve_device("auto")
    return {
        "packages": {name: installed_version(name) for name in (*PACKAGES, *OPTIONAL_PACKAGES)},
        "python": platform.python_version(),
        "processor": _processor(),
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
        "device": device_name(device),
        "kernels": _tried(partial(_try_kernels, device)),
        "backends": {name: _tried(partial(_try_backend, name, device)) for name in backend_names()},
        "cache": _cache(),
        "demo_model": _tried(_try_demo_model),
        "hub": _hub(online),
    }


def _tried(attempt: Callable[[], str]) -> dict[str, Any]:
    """Run an attempt; whatever it raises is the finding."""
    started = time.perf_counter()
    try:
        detail = attempt()
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return {"works": False, "reason": lines[0]}
    return {"works": True, "detail": detail, "seconds": round(time.perf_counter() - started, 2)}


def _try_backend(name: str, device: torch.device) -> str:
    """Sample four steps on the device and compare with the same on the CPU, eager."""

    def sampled(backend: str, where: torch.device) -> Tensor:
        sampler = GuidedSampler(
            _tiny_dit().to(where) if name in DIT_BACKENDS else _function,
            schedule=NoiseSchedule.linear(),
            steps=4,
            null_class=2,
            guidance=ModeGuidance(t_stop=1),
            backend=backend,
            cache_dir=default_cache_dir(),
            batch_size=8,
            device=where,
        )
        rows = torch.arange(8)
        return sampler.sample(rows % 2, torch.ones(8, 4, 4, 4), rows)

    difference = float((sampled(name, device) - sampled("eager", torch.device("cpu"))).abs().max())
    if not difference < 1e-3:
        raise ValueError(
            f"latents differ by {difference:.1e} from those of the CPU, where up to 1e-3 is allowed"
        )
    return f"largest difference from eager on the CPU {difference:.1e}"


def _function(x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
    """Stand for a network that compiles in two seconds; the smallest DiT takes many."""
    return torch.tanh(x) * (1 + class_ids.view(-1, 1, 1, 1)) / 3


def _tiny_dit() -> DiT:
    """Make a network whose weights are the same each time, none of them zero."""
    config = DiTConfig(input_size=4, patch_size=2, hidden_size=16, depth=1, num_heads=2, num_classes=2)
    dit = DiT(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in dit.parameters():
        parameter.normal_(std=0.1, generator=generator)
    return dit


def _try_kernels(device: torch.device) -> str:
    """Launch the noise kernel and compare with the same integers in torch."""
    if device.type != "cuda":
        raise ValueError("no CUDA device: the torch references run instead of the Triton kernels")
    seeds = torch.arange(4)
    on_device = philox_normal(seeds.to(device), 7, (4, 8, 8)).cpu()
    difference = float((on_device - philox_normal(seeds, 7, (4, 8, 8))).abs().max())
    if not difference < 1e-4:
        raise ValueError(
            f"noise differs by {difference:.1e} from that of the CPU, where up to 1e-4 is allowed"
        )
    return f"largest difference of the noise from the CPU {difference:.1e}"


def _try_demo_model() -> str:
    generator = load_generator("demo-mnist5k")
    network = generator.denoiser("cpu", torch.float32)
    x = torch.zeros(2, *generator.latent_shape)
    output = network(x, torch.tensor([500, 500]), torch.tensor([0, 1]))
    if not bool(torch.isfinite(output).all()):
        raise ValueError("the network gives infinite or undefined numbers")
    generator.autoencoder.decode(x)
    return f"{generator.name}, {generator.resolution} px, {generator.num_classes} classes"


def _processor() -> dict[str, Any]:
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        "architecture": platform.machine(),
        "usable_processors": usable_processors(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(page * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "available_memory_gib": round(page * os.sysconf("SC_AVPHYS_PAGES") / GIB, 1),
        "cpp_compiler": shutil.which(os.environ.get("CXX", "g++")),
    }


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(total / GIB, 1),
        "free_memory_gib": round(free / GIB, 1),
        "driver": _driver(),
    }


def _driver() -> str | None:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"Kernel Module.*?(\d+\.\d+(?:\.\d+)?)", text)
    return found[1] if found else None


def _cache() -> dict[str, Any]:
    folder = default_cache_dir()
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return {
        "folder": str(folder),
        "files": len(files),
        "size_gib": round(sum(path.stat().st_size for path in files) / GIB, 3),
        "free_gib": round(shutil.disk_usage(_nearest_existing(folder)).free / GIB, 1),
    }


def _nearest_existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _hub(online: bool) -> dict[str, Any]:
    """Tell which of the published networks is already here and, if asked, whether the hub answers."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(PROBE_REPOSITORY, "transformer/config.json"), str)
    found: dict[str, Any] = {
        "offline_mode": os.environ.get("HF_HUB_OFFLINE") == "1",
        "dit_xl_2_256_cached": cached,
    }
    if online:
        found["answers"] = _tried(lambda: str(HfApi().model_info(PROBE_REPOSITORY, timeout=10).id))
    return found
