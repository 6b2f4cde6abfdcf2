"""What a GPU must show of the autoencoder; `gpu_checks.py` runs these and writes what they return.

Shape letters: B images, P resolution in pixels, h w latent size.

They need diffusers, pillow and tqdm beside torch and are skipped where one is missing. On the CPU they run a
tiny autoencoder and judge no speed.
"""

from __future__ import annotations

import tempfile
import time
from copy import deepcopy
from itertools import product
from typing import Any

import numpy as np
import torch
from checking import Check, Setting, median_seconds, needs_packages, require
from torch import Tensor, nn

DECODE_GOAL, ENCODE_GOAL = 600.0, 1500.0  # images per second at 256 px
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
TINY: dict[str, Any] = {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "layers_per_block": 1}


def random_autoencoder(setting: Setting, folder: str) -> Any:
    """KL-f8 with random weights, in bfloat16 as a GPU runs it; a tiny one on the CPU."""
    from diffusers import AutoencoderKL

    from mgd3_fast.generators import KLAutoencoder
    from mgd3_fast.generators.vae_weights import KL_F8

    torch.manual_seed(0)
    settings = KL_F8 if setting.on_gpu else KL_F8 | TINY
    AutoencoderKL(**{k: v for k, v in settings.items() if k != "_class_name"}).save_pretrained(folder)
    return KLAutoencoder(folder).to(setting.device, torch.bfloat16)


def resolution(setting: Setting) -> int:
    return setting.size(256, 32)


def random_latents(setting: Setting, B: int) -> Tensor:
    side = resolution(setting) // 8
    return torch.randn(B, 4, side, side, generator=torch.Generator().manual_seed(0))


@needs_packages
def check_decode_choice(setting: Setting) -> dict[str, Any]:
    """The batch and layout that are fixed for a GPU reach 95% of the best of ten."""
    from mgd3_fast.generators.batched_autoencoder import DECODE_CHOICES

    choice = DECODE_CHOICES[setting.device.type]
    chosen_rows = choice.rows(resolution(setting) ** 2)
    chosen_layout = "channels-last" if torch.bfloat16 in choice.channels_last else "contiguous"
    figures: dict[str, Any] = {"chosen": f"{chosen_layout} {chosen_rows}", "images_per_s": {}}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        network = random_autoencoder(setting, folder)._network
        batches = {chosen_rows, *((4, 8, 16, 32, 64) if setting.on_gpu else (4,))}
        for (name, layout), B in product(LAYOUTS.items(), sorted(batches)):
            laid_out = nn.Module.to(deepcopy(network), memory_format=layout)
            latents = random_latents(setting, B).to(setting.device, torch.bfloat16)
            latents = latents.contiguous(memory_format=layout)
            laid_out.decode(latents)
            seconds = median_seconds(setting, lambda n=laid_out, z=latents: n.decode(z), setting.size(10, 1))
            figures["images_per_s"][f"{name} {B}"] = round(B / seconds, 1)
    rates = figures["images_per_s"]
    share = rates[figures["chosen"]] / max(rates.values())
    figures["share_of_best"] = round(share, 3)
    return require(not setting.on_gpu or share >= 0.95, "another batch or layout is faster", figures)


@needs_packages
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
def check_decode_beside_sampling(setting: Setting) -> dict[str, Any]:
    """Decoding behind the sampler gives the bytes of `decode`, and the sampler's thread goes on at once."""
    from mgd3_fast.decoding import DecodeQueue

    B, batches, kept = setting.size(64, 8), 2, _Kept()
    with tempfile.TemporaryDirectory() as folder:
        autoencoder = random_autoencoder(setting, folder)
        latents = random_latents(setting, batches * B)
        want = autoencoder.decode(latents).permute(0, 2, 3, 1).numpy()
        started = time.perf_counter()
        with DecodeQueue(autoencoder, kept, setting.device, lambda n: None, threaded=True) as decoding:
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
