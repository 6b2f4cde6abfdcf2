"""What a training of each protocol takes on a processor: seconds of an image, and hours of whole trainings.

Steps of 16 black images are timed in processor time, which other work on the machine changes little:

    OMP_NUM_THREADS=1 python -m bench.studies.evaluation_cost --out bench/results/evaluation/cost-cpu.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench.machine import describe_machine
from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.evaluate.images import ImageSet
from mgd3_fast.evaluate.networks import build_network
from mgd3_fast.evaluate.plan import job_of
from mgd3_fast.evaluate.presets import find_preset
from mgd3_fast.evaluate.recipe import Recipe, make_recipe
from mgd3_fast.evaluate.training import time_parts

IMAGES = 16
TIMED = {
    "hard": ("convnet6-in", "resnetap10-in", "resnet18-in"),
    "soft": ("resnet18", "resnet50", "resnet101"),
    "cross": ("alexnet-glad", "vgg11-glad", "resnet18-glad", "vit-glad"),
}
# Protocol, dataset, its classes and test images, images per class.
TRAININGS: tuple[tuple[str, tuple[str, int, int, int]], ...] = (
    *(("hard", ("imagenette", 10, 500, ipc)) for ipc in (10, 20, 50)),
    *(("hard", ("imagewoof", 10, 500, ipc)) for ipc in (10, 20, 50, 70, 100)),
    *(("hard", ("imagenet100", 100, 5000, ipc)) for ipc in (10, 20, 50, 100)),
    *(("soft", ("imagenet1k", 1000, 50000, ipc)) for ipc in (10, 50)),
    ("cross", ("imagenet-a", 10, 500, 10)),
)


def recipe_of(protocol: str, network: str, dataset: str, classes: int, ipc: int, **options: Any) -> Recipe:
    """What `evaluate` does for a dataset."""
    options |= {"protocol": protocol, "teacher": "t.pth" if protocol == "soft" else None}
    config = EvaluateConfig(folders=("x",), dataset=dataset, **options)
    preset = find_preset("auto", dataset, 256, imagenet=True)
    return make_recipe(config, preset, network, ipc=ipc, num_classes=classes, side=256)


def seconds_of_image(protocol: str, network: str) -> tuple[float, float]:
    """Processor time of an image that is trained on, and of one that is tested."""
    recipe = recipe_of(protocol, network, "imagenette", 10, 10, batch_size=IMAGES)
    train, test = (black(side) for side in (recipe.stored_size or 256, recipe.size))
    teacher = build_network("resnet18", 10, recipe.size).eval() if protocol == "soft" else None
    config = EvaluateConfig(folders=("x",), dataset="imagenette", device="cpu")
    job = job_of(
        config, network, recipe, train=train, test=test, num_classes=10,
        device=torch.device("cpu"), teacher=teacher,
    )  # fmt: skip
    with mock.patch("mgd3_fast.evaluate.training.time.perf_counter", time.process_time):
        step_s, test_s = time_parts(job)
    return step_s / IMAGES, test_s


def black(side: int) -> ImageSet:
    """As many images as a step has."""
    pixels = torch.zeros(IMAGES, 3, side, side, dtype=torch.uint8)
    return ImageSet(pixels, torch.zeros(IMAGES, dtype=torch.int64))


def whole_training(
    protocol: str, network: str, of: tuple[str, int, int, int], timed: tuple[float, float]
) -> dict[str, Any]:
    """Images that one training sees, and what they take at the timed rate."""
    dataset, classes, tested, ipc = of
    recipe = recipe_of(protocol, network, dataset, classes, ipc)
    trained = recipe.epochs * classes * ipc
    tests = sum(map(recipe.is_tested, range(1, recipe.epochs + 1)))
    hours = (trained * timed[0] + tests * tested * timed[1]) / 3600
    about = {"protocol": protocol, "dataset": dataset, "ipc": ipc, "network": network}
    steps = recipe.epochs * -(-classes * ipc // recipe.batch_size)
    counted = {"epochs": recipe.epochs, "batch_size": recipe.batch_size, "steps": steps, "tests": tests}
    return about | counted | {"trained_images": trained, "tested_images": tests * tested, "cpu_h": hours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rates = {
        protocol: {network: seconds_of_image(protocol, network) for network in networks}
        for protocol, networks in TIMED.items()
    }
    trainings = [
        whole_training(protocol, network, of, timed)
        for protocol, of in TRAININGS
        for network, timed in rates[protocol].items()
    ]
    command = f"python -m bench.studies.evaluation_cost --out {options.out}"
    content = {
        "command": command,
        "machine": describe_machine(),
        "seconds_of_image": rates,
        "trainings": trainings,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    for row in trainings:
        print(*row.values())


if __name__ == "__main__":
    main()
