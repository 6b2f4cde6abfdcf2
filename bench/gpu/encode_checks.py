"""What a GPU must show of encoding; `checks.py` runs this and writes what it returns.

It needs the packages of `decode_checks`. On the CPU it runs a tiny autoencoder and judges no speed.

Shape letters: B images, R pixels a side.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.gpu.checking import Check, Setting, needs_packages, plain_on_cpu, require
from bench.gpu.decode_checks import random_autoencoder, resolution

# Copies and padding may cost this share of the autoencoder's own rate.
PIPELINE_GOAL = 0.9


@needs_packages
@plain_on_cpu
def check_encode_pipeline(setting: Setting) -> dict[str, Any]:
    """Batches from the host give the bits of batches on the device at nearly their rate; then JPEG files."""
    from bench.photos import photo
    from mgd3_fast.datasets import open_dataset
    from mgd3_fast.latents import LatentStore, encode_dataset, make_job

    side, count = resolution(setting), setting.size(1024, 16)
    dtype = torch.bfloat16 if setting.on_gpu else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        autoencoder = random_autoencoder(setting, folder)
        store = LatentStore(Path(folder) / "cache", "random", side, dtype)
        job = make_job(autoencoder, store, device=setting.device)
        images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
        host = list(torch.split(images, job.rows))  # [B, 3, R, R] each
        device = [batch.to(setting.device) for batch in host]

        def alone() -> torch.Tensor:
            return torch.cat([autoencoder.encode(batch) for batch in device]).cpu()

        def pipeline() -> torch.Tensor:
            return torch.cat(list(job.encoder.run(host, job.rows, "a check")))

        equal = torch.equal(alone(), pipeline())
        seconds = {"alone": best_of(alone), "pipeline": best_of(pipeline)}
        photographs = Path(folder) / "photos" / "class"
        photographs.mkdir(parents=True)
        for number in range(setting.size(512, 8)):
            (photographs / f"{number}.jpg").write_bytes(photo(number))
        dataset = open_dataset(str(photographs.parent))
        report = encode_dataset(dataset, autoencoder, store, device=setting.device)
    figures = {
        "rows": job.rows,
        "equal": equal,
        "alone_images_per_s": round(count / seconds["alone"], 1),
        "pipeline_images_per_s": round(count / seconds["pipeline"], 1),
        "share": round(seconds["alone"] / seconds["pipeline"], 3),
        "from_jpeg_images_per_s": round(report.images / report.seconds, 1),
    }
    require(equal, "batches from the host must give the same bits as batches on the device", figures)
    fast = not setting.on_gpu or figures["share"] >= PIPELINE_GOAL
    return require(fast, f"the pipeline must reach {PIPELINE_GOAL} of the autoencoder's own rate", figures)


def best_of(function: Callable[[], object], repeats: int = 3) -> float:
    """Least seconds of a few calls, each of which ends with its results on the host."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


CHECKS: dict[str, Check] = {"encode-pipeline": check_encode_pipeline}
