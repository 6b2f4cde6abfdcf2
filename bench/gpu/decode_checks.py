"""What a GPU must show of the autoencoder; `checks.py` runs these and writes what they return.

Shape letters: B images, P resolution in pixels, h w latent size.

They need diffusers, pillow and tqdm beside torch and are skipped where one is missing. On the CPU they run a
tiny autoencoder and judge no speed.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.gpu.checking import Check, Setting, median_seconds, needs_packages, plain_on_cpu, require

DECODE_GOAL, ENCODE_GOAL = 600.0, 1500.0  # images per second at 256 px
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
TINY: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}


def random_autoencoder(setting: Setting, folder: str) -> Any:
    """KL-f8 with random weights, in bfloat16 as a GPU runs it; a tiny one on the CPU."""
    from safetensors.torch import save_file

    from mgd3_engine.autoencoder import KL_F8, AutoencoderKL
    from mgd3_fast.generators import KLAutoencoder

    torch.manual_seed(0)
    config = KL_F8 if setting.on_gpu else replace(KL_F8, **TINY)
    save_file(AutoencoderKL(config).state_dict(), Path(folder) / "diffusion_pytorch_model.safetensors")
    (Path(folder) / "config.json").write_text(json.dumps(config.settings()))
    return KLAutoencoder(folder).to(setting.device, torch.bfloat16)


def resolution(setting: Setting) -> int:
    return setting.size(256, 32)


def random_latents(setting: Setting, B: int) -> Tensor:
    side = resolution(setting) // 8
    return torch.randn(B, 4, side, side, generator=torch.Generator().manual_seed(0))


@needs_packages
@plain_on_cpu
def check_decode_choice(setting: Setting) -> dict[str, Any]:
    """The network and batch of a GPU reach 95% of the best: other batches, and diffusers' in both layouts."""
    from diffusers import AutoencoderKL

    from mgd3_fast.generators.batched_autoencoder import CHOICES

    figures: dict[str, Any] = {"images_per_s": {}}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        autoencoder = random_autoencoder(setting, folder)
        network = next(autoencoder._network.parameters())
        chosen = CHOICES[setting.device.type].rows(resolution(setting) ** 2, network.dtype)
        figures["chosen"] = f"ours {chosen}"
        rival = AutoencoderKL.from_pretrained(folder).eval()
        runs: dict[str, Callable[[Tensor], Any]] = {"ours": autoencoder._network.decode}
        for name, layout in LAYOUTS.items():
            laid_out = nn.Module.to(deepcopy(rival), setting.device, network.dtype)
            runs[f"diffusers {name}"] = nn.Module.to(laid_out, memory_format=layout).decode
        batches = {chosen, *((32, 64, 128) if setting.on_gpu else (4,))}
        for (name, decode), B in product(runs.items(), sorted(batches)):
            latents = random_latents(setting, B).to(setting.device, network.dtype)
            layout = torch.contiguous_format if name == "diffusers contiguous" else torch.channels_last
            latents = latents.contiguous(memory_format=layout)
            decode(latents)
            seconds = median_seconds(setting, lambda d=decode, z=latents: d(z), setting.size(10, 1))
            figures["images_per_s"][f"{name} {B}"] = round(B / seconds, 1)
    rates = figures["images_per_s"]
    share = rates[figures["chosen"]] / max(rates.values())
    figures["share_of_best"] = round(share, 3)
    return require(not setting.on_gpu or share >= 0.95, "another batch, layout or network is faster", figures)


@needs_packages
@plain_on_cpu
def check_throughput(setting: Setting) -> dict[str, Any]:
    """Decode and encode KL-f8 at 256 px in bfloat16, from and to the GPU's memory."""
    B, P = setting.size(256, 4), resolution(setting)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        autoencoder = random_autoencoder(setting, folder)
        latents = random_latents(setting, B).to(setting.device)
        images = torch.randint(0, 256, (B, 3, P, P), dtype=torch.uint8).to(setting.device)
        for name, run in (
            ("decode", lambda: autoencoder.decode(latents)),
            ("encode", lambda: autoencoder.encode(images)),
        ):
            run()
            if setting.on_gpu:
                torch.cuda.reset_peak_memory_stats()
            figures[f"{name}_images_per_s"] = round(B / median_seconds(setting, run, setting.size(5, 1)), 1)
            if setting.on_gpu:
                figures[f"{name}_peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    reached = figures["decode_images_per_s"] >= DECODE_GOAL and figures["encode_images_per_s"] >= ENCODE_GOAL
    reason = f"fewer than {DECODE_GOAL:g} images decoded or {ENCODE_GOAL:g} encoded per second"
    return require(not setting.on_gpu or reached, reason, figures)


class _Kept:
    """A sink that keeps the pixels."""

    def __init__(self) -> None:
        self.pixels: dict[int, np.ndarray] = {}

    def put(self, image: int, file: str, pixels: np.ndarray) -> None:
        self.pixels[image] = pixels.copy()


@needs_packages
@plain_on_cpu
def check_decode_beside_sampling(setting: Setting) -> dict[str, Any]:
    """Decoding behind the sampler gives the bytes of `decode`, and the sampler's thread goes on at once."""
    from mgd3_fast.run.decoding import DecodeQueue

    B, batches, kept = setting.size(64, 8), 2, _Kept()
    with tempfile.TemporaryDirectory() as folder:
        autoencoder = random_autoencoder(setting, folder)
        latents = random_latents(setting, batches * B)
        want = autoencoder.decode(latents).permute(0, 2, 3, 1).numpy()
        started = time.perf_counter()
        with DecodeQueue(autoencoder, kept, setting.device, threaded=True) as decoding:
            for start in range(0, batches * B, B):
                images = [(start + k, "") for k in range(B)]
                decoding.put(images, latents[start : start + B])
            in_put_s = time.perf_counter() - started
        total_s = time.perf_counter() - started
    got = np.stack([kept.pixels[image] for image in range(batches * B)])
    figures = {
        "images": batches * B,
        "different_bytes": int((got != want).sum()),
        "sampler_waited_ms": round(1e3 * in_put_s, 2),
        "decoded_after_ms": round(1e3 * total_s, 2),
    }
    require(figures["different_bytes"] == 0, "pixels differ from decode()", figures)
    waited = in_put_s < 0.1 * total_s
    return require(not setting.on_gpu or waited, "the sampler waited for the decoder", figures)


CHECKS: dict[str, Check] = {
    "decode-choice": check_decode_choice,
    "decode-beside-sampling": check_decode_beside_sampling,
    "autoencoder-throughput": check_throughput,
}
