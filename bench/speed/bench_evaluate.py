"""Speed of evaluation: augmentation and steps of the protocols, and a whole training of preset mnist5k.

    pytest bench/speed/bench_evaluate.py --benchmark-only

Correctness is asserted before timing. The whole training runs once, on one thread; its processor seconds are
in the extra information beside its accuracy.

Shape letters: B images.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import functional as F

from bench.measuring import sized
from mgd3_fast.datasets import open_dataset
from mgd3_fast.evaluate import EvaluateConfig
from mgd3_fast.evaluate.augmentation import augment_batch
from mgd3_fast.evaluate.geometry import crop_maps, draw_boxes
from mgd3_fast.evaluate.images import StoredImage, load_images
from mgd3_fast.evaluate.networks import build_network
from mgd3_fast.evaluate.presets import find_preset
from mgd3_fast.evaluate.recipe import Recipe, make_recipe
from mgd3_fast.evaluate.training import Job, train_classifier
from mgd3_fast.progress import SILENT
from mgd3_fast.run.selection import select_images

IPC = 10
ROUNDS = sized(1, 5)


def recipe_of(protocol: str, preset: str, side: int) -> Recipe:
    teacher = {"teacher": "teacher.pth"} if protocol == "soft" else {}
    config = EvaluateConfig(folders=(Path("x"),), dataset="d", protocol=protocol, **teacher)
    found = find_preset(preset, "d", side, False)
    return make_recipe(config, found, "resnet18", ipc=IPC, num_classes=10, side=side)


@pytest.mark.parametrize(
    ("protocol", "preset", "side"),
    [
        ("hard", "mnist5k", 32),
        ("hard", "imagenet", 224),
        ("soft", "imagenet", 256),
        ("cross", "imagenet", 128),
    ],
    ids=["hard-32", "hard-224", "soft-256-to-224", "cross-128"],
)
def test_augmentation_of_a_batch(benchmark: BenchmarkFixture, protocol: str, preset: str, side: int) -> None:
    recipe, B = recipe_of(protocol, preset, side), 32
    pixels = torch.randint(0, 256, (B, 3, side, side), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    assert augment_batch(pixels, recipe, generator).shape == (B, 3, recipe.size, recipe.size)
    benchmark.pedantic(lambda: augment_batch(pixels, recipe, generator), rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info.update(images_per_s=B / benchmark.stats["median"], threads=torch.get_num_threads())


@pytest.mark.parametrize("provider", ["batched-maps", "one-resize-per-image"])
def test_random_resized_crops(benchmark: BenchmarkFixture, provider: str) -> None:
    B, side = 32, 224
    images = torch.rand(B, 3, side, side)
    boxes = draw_boxes(B, side, side, (0.5, 1.0), torch.Generator().manual_seed(0))

    def one_by_one() -> torch.Tensor:
        crops = []
        for k in range(B):
            top, left, height, width = (int(one[k]) for one in boxes)
            crop = images[k : k + 1, :, top : top + height, left : left + width]
            crops.append(F.interpolate(crop, (side, side), mode="bilinear", antialias=True))
        return torch.cat(crops)

    def batched() -> torch.Tensor:
        return crop_maps(boxes, side).apply(images)

    torch.testing.assert_close(batched(), one_by_one(), rtol=0, atol=2e-5)
    benchmark.pedantic(batched if provider == "batched-maps" else one_by_one, rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info.update(images_per_s=B / benchmark.stats["median"])


@pytest.mark.parametrize(
    ("network", "B"), [("convnet3w32-in", 64), ("convnet3-in", 64), ("resnetap10-in", 16)]
)
def test_training_step_at_32_pixels(benchmark: BenchmarkFixture, network: str, B: int) -> None:
    torch.manual_seed(0)
    classifier = build_network(network, 10, 32)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.randn(B, 3, 32, 32), torch.randint(10, (B,))

    def step() -> float:
        loss = F.cross_entropy(classifier(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss)

    first = step()
    assert step() < first
    benchmark.pedantic(step, rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info.update(images_per_s=B / benchmark.stats["median"], threads=torch.get_num_threads())


class _Bar:
    def advance(self, n: int = 1) -> None:
        pass

    def skip(self, n: int) -> None:
        pass


def test_whole_training_of_the_mnist5k_preset(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """All of it for `BENCH_SIZE=full`, else a fifth of its epochs."""
    recipe = recipe_of("hard", "mnist5k", 32)
    recipe = replace(recipe, epochs=sized(recipe.epochs // 5, recipe.epochs))
    train, test = open_dataset("mnist5k"), open_dataset("mnist5k", split="test")
    chosen = [select_images(train, label, "random", IPC, 0).indices for label in range(10)]
    real = [
        StoredImage(label, lambda label=label, place=place: train.load(label, place), str(place))
        for label, places in enumerate(chosen)
        for place in places
    ]
    tested = [
        StoredImage(label, lambda label=label, place=place: test.load(label, place), str(place))
        for label, cls in enumerate(test.classes)
        for place in range(len(cls))
    ]
    job = Job(
        network="convnet3w32-in",
        recipe=recipe,
        num_classes=10,
        seed=0,
        train=load_images(real, 32, 32, name="real", progress=SILENT),
        test=load_images(tested, 32, 32, name="test", progress=SILENT),
        teacher=None,
        device=torch.device("cpu"),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcome, _ = benchmark.pedantic(
            train_classifier, args=(job, tmp_path / "state.pt", _Bar()), rounds=1, iterations=1
        )
    finally:
        torch.set_num_threads(threads)
    assert outcome["last"] > 85
    names = ("best", "last", "cpu_s", "wall_s", "parameters")
    benchmark.extra_info.update({name: outcome[name] for name in names}, epochs=job.recipe.epochs, ipc=IPC)
