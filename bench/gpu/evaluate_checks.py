"""What a GPU must show of evaluation; `checks.py` runs these and writes what they return.

They need numpy, Pillow and tqdm beside torch, and are skipped without.

Shape letters: N images, B of a batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.gpu.checking import Check, Setting, median_seconds, needs_packages, require

# Share of a training step's time that augmentation may take: the device must not wait for random numbers.
AUGMENTATION_SHARE = 0.25
NETWORKS = {
    "hard": ("convnet6-in", "resnetap10-in", "resnet18-in"),
    "soft": ("resnet18",),
    "cross": ("alexnet-glad", "resnet18-glad", "vit-glad"),
}
REHEARSED = {"hard": ("convnet3w8-in",), "soft": ("convnet3w8-bn",), "cross": ("convnet3w8-in",)}


class _Bar:
    def advance(self, n: int = 1) -> None:
        pass

    def skip(self, n: int) -> None:
        pass


def recipe_of(protocol: str, size: int, **changes: Any) -> Any:
    from mgd3_fast.config.evaluate import EvaluateConfig
    from mgd3_fast.evaluate.presets import find_preset
    from mgd3_fast.evaluate.recipe import make_recipe

    options = {"teacher": "teacher.pth"} if protocol == "soft" else {}
    config = EvaluateConfig(folders=(Path("x"),), dataset="d", protocol=protocol, size=size, **options)
    preset = find_preset("imagenet", "d", size, True)
    recipe = make_recipe(config, preset, "resnet18", ipc=10, num_classes=10, side=size)
    return replace(recipe, **changes)


def noise(count: int, side: int, num_classes: int) -> Any:
    from mgd3_fast.evaluate.images import ImageSet

    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(count) % num_classes)


@needs_packages
def check_evaluation_repeats(setting: Setting) -> dict[str, Any]:
    """Accuracies, loss and weights of a training repeat bit for bit, for each protocol's own networks."""
    differing, trained = [], 0
    for protocol, names in (NETWORKS if setting.on_gpu else REHEARSED).items():
        for name in names:
            first, second = (_train(setting, protocol, name) for _ in range(2))
            trained += 1
            if not _equal(first, second):
                differing.append(f"{protocol} {name}")
    return require(not differing, "trainings differ", {"trained": trained, "differing": differing})


def _train(setting: Setting, protocol: str, network: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from mgd3_fast.evaluate.networks import build_network
    from mgd3_fast.evaluate.training import Job, train_classifier

    size = setting.size(224 if protocol != "cross" else 128, 32)
    recipe = recipe_of(protocol, size, epochs=2, test_every=1, batch_size=25, stored_size=size)
    teacher = None
    if protocol == "soft":
        torch.manual_seed(0)
        teacher = build_network(network, 10, size).eval().requires_grad_(False).to(setting.device)
    job = Job(
        network=network,
        recipe=recipe,
        num_classes=10,
        seed=0,
        train=noise(60, size, 10).on(setting.device),
        test=noise(40, size, 10).on(setting.device),
        teacher=teacher,
        device=setting.device,
    )
    with tempfile.TemporaryDirectory() as folder:
        outcome, state = train_classifier(job, Path(folder) / "state.pt", _Bar())
    return outcome, {name: tensor.clone() for name, tensor in state.items()}


def _equal(first: Any, second: Any) -> bool:
    same_outcome = all(first[0][name] == second[0][name] for name in ("curve", "loss"))
    return same_outcome and all(torch.equal(first[1][name], second[1][name]) for name in first[1])


@needs_packages
def check_evaluation_augmentation(setting: Setting) -> dict[str, Any]:
    """A batch on the GPU equals the CPU's, and augmenting it is a small part of a training step."""
    from mgd3_fast.evaluate.augmentation import augment_batch
    from mgd3_fast.evaluate.networks import build_network

    size, B = setting.size(224, 32), setting.size(64, 8)
    recipe = recipe_of("hard", size)
    pixels = noise(B, size, 10).pixels
    on_device = pixels.to(setting.device)
    here = augment_batch(pixels, recipe, torch.Generator().manual_seed(1))
    there = augment_batch(on_device, recipe, torch.Generator().manual_seed(1))
    figures: dict[str, Any] = {"largest_difference": float((there.cpu() - here).abs().max())}
    torch.manual_seed(0)
    name = "resnet18-in" if setting.on_gpu else "convnet3w8-in"
    network = build_network(name, 10, size).to(setting.device)
    generator, ready = torch.Generator().manual_seed(2), here.to(setting.device)

    def augment() -> Tensor:
        return augment_batch(on_device, recipe, generator)

    def steps(count: int, prepare: Callable[[], Tensor]) -> None:
        for _ in range(count):
            network(prepare()).square().sum().backward()
            network.zero_grad(set_to_none=True)

    augment(), steps(1, augment)
    timed = {
        "augment": augment,
        "step": lambda: steps(1, augment),
        # As a training does them, where the next batch is made ready while the GPU is at work.
        "ten_steps": lambda: steps(10, augment),
        "ten_steps_without_augmentation": lambda: steps(10, lambda: ready),
    }
    seconds = {part: median_seconds(setting, one, setting.size(10, 1)) for part, one in timed.items()}
    figures |= {f"{part}_ms": 1e3 * one for part, one in seconds.items()}
    figures["images_per_s"] = B / seconds["step"]
    figures["augmentation_share"] = seconds["augment"] / seconds["step"]
    require(figures["largest_difference"] < 1e-4, "the batch differs from the CPU's", figures)
    judged = not setting.on_gpu or figures["augmentation_share"] < AUGMENTATION_SHARE
    return require(judged, f"augmentation takes more than {AUGMENTATION_SHARE:.0%} of a step", figures)


CHECKS: dict[str, Check] = {
    "evaluation-repeats": check_evaluation_repeats,
    "evaluation-augmentation": check_evaluation_augmentation,
}
