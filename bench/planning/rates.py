"""What the simulation calculates with: measured figures, read from where they are kept, and stated ones."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results/nvidia-h200-2026-11-27-96adfe7"


@dataclass(frozen=True)
class Figure:
    """A number, its unit, and where it comes from."""

    value: float
    unit: str
    source: str


def measured(unit: str, file: str, *keys: str) -> Figure:
    """A figure of one H200, commit 96adfe7; of several times, the median."""
    found = _result(file)
    for key in keys:
        found = found[key]
    value = statistics.median(found) if isinstance(found, list) else found
    return Figure(float(value), unit, f"{file}: {' '.join(keys)}")


def stated(value: float, unit: str, why: str) -> Figure:
    """A figure that nobody measured here."""
    return Figure(value, unit, f"stated: {why}")


@cache
def _result(file: str) -> Any:
    return json.loads((RESULTS / file).read_text(encoding="utf-8"))


def _start_up() -> Figure:
    """A whole `distill` less sampling, compiling, finding modes, and its images at the steady rates."""
    spent, steady = _stage_seconds(), 1000 / ENCODE.value + 250 / DECODE.value
    seconds = _result("distill.json")[_RUN[0]][_RUN[1]]["s"] - spent["sample"] - spent["discover"] - steady
    return Figure(round(seconds, 1), "s", f"{_RUN[1]} of distill.json less sampling, modes and steady work")


def _first_modes() -> Figure:
    return Figure(_stage_seconds()["discover"], "s", f"{_RUN[1]} of distill.json, modes of ten classes")


def _stage_seconds() -> dict[str, float]:
    """Seconds of each stage, as `distill` printed them."""
    said = _result("distill.json")[_RUN[0]][_RUN[1]]["tail"][-1]
    return {name: float(seconds) for name, seconds in re.findall(r"(\w+) ([\d.]+) s", said)}


def _unit_overhead() -> Figure:
    """What 512 images take from files over what they take at the steady rate."""
    files = measured("images/s", "gpu_checks.json", *_PIPELINE, "from_jpeg_images_per_s")
    seconds = 512 / files.value - 512 / ENCODE.value
    return Figure(round(seconds, 3), "s", f"{files.source}, 512 images, less those at the steady rate")


_RUN = ("alone_on_the_gpu", "xl_auto")
_PIPELINE = ("checks", "encode-pipeline", "figures")
_DECODED = ("checks", "autoencoder-throughput", "figures", "decode_images_per_s")
_DRAINED = ("checks", "decode-beside-sampling", "figures", "decoded_after_ms")

ENCODE = measured("images/s", "gpu_checks.json", *_PIPELINE, "pipeline_images_per_s")
DECODE = measured("images/s", "gpu_checks.json", *_DECODED)
SAMPLE = measured("images/s", "sampler_and_peers.json", "ours_eager", "images_per_s_50")
BATCH = measured("images", "sampler_and_peers.json", "batch")
KMEANS_1000 = measured("s", "gpu_checks.json", "checks", "kmeans-goal", "figures", "seconds")
DRAIN = measured("ms", "gpu_checks.json", *_DRAINED)
START_UP, FIRST_MODES = _start_up(), _first_modes()
UNIT_OVERHEAD = _unit_overhead()

WEIGHTS = stated(3.05e9, "bytes", "DiT-XL/2's file of 2.52 GiB (docs/measurements.md) and 0.33 GB of KL-f8")
JPEG = stated(115_400, "bytes", "147.9 GB of ILSVRC2012_img_train.tar over 1,281,167 images")
LATENT = stated(4 * 32 * 32 * 4, "bytes", "4x32x32 in float32, as the store keeps it")
PNG = stated(120_000, "bytes", "a photograph of 256 px")
HARDWARE = stated(2e-5, "deaths an hour", "419 in 54 days of 16,384 GPUs (The Llama 3 Herd of Models, 3.3.4)")
SPOT = stated(0.05, "deaths an hour", "machines that are taken away, one in twenty an hour")
REPLACED = stated(60.0, "s", "until another machine is there")
SLOW_SHARE = stated(0.02, "of workers", "a throttled card or a busy machine")
SLOW_FACTOR = stated(1.5, "times the time", "of such a worker")
JITTER = stated(0.05, "deviation of the logarithm", "of a unit's time")
STREAM = stated(0.25e9, "bytes/s", "one reader of a file server or an object store")
FILE_SERVER = stated(1e9, "bytes/s", "all readers of one NFS server behind 10 Gbit/s")
PARALLEL = stated(40e9, "bytes/s", "all readers of a parallel file system or an object store")
