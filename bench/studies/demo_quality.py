"""How good is a generator trained on mnist5k: are its samples digits of the right class, varied, and new?

    python -m bench.studies.demo_quality --cfg-scale 1.5 2 4 --sheet samples.png

A small convolutional network, trained here on the 4,000 real train digits, labels samples that were drawn
without mode guidance. Beside its verdict stand the autoencoder's error on the 1,000 test digits, and two
distances in pixels: between samples of a class (the same for real digits: 1 is as varied), and from a
sample to the nearest train digit of its class (the same for test digits: 1 is as new, 0 is a copy).

Shape letters: n images, R pixels a side, C channels, h w latent size.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mgd3_engine import GuidedSampler, image_seeds
from mgd3_fast.datasets.mnist5k import load_mnist5k
from mgd3_fast.generators import Generator, load_generator
from mgd3_fast.train.augment import augment

CLASSES = [str(digit) for digit in range(10)]


@dataclass(frozen=True)
class Digits:
    """Grey images float32 `[n, R, R]` in 0..1, and labels int64 `[n]`."""

    images: Tensor
    labels: Tensor


def real_digits(split: str) -> Digits:
    images, labels = load_mnist5k(split)
    return Digits(torch.from_numpy(images).float() / 255, torch.from_numpy(labels))


def train_classifier(train: Digits, epochs: int, seed: int) -> nn.Module:
    """A network of three convolutions, AdamW with a cosine rate, images moved and turned a little."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * len(train.labels) // 100
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    pixels = (train.images * 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    for _ in range(epochs):
        for batch in torch.randperm(len(pixels), generator=generator).split(100):
            moved = augment(pixels[batch], "affine", generator)[:, :1].float() / 255
            loss = F.cross_entropy(network(moved), train.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return network.eval()


@torch.inference_mode()
def right_share(classifier: nn.Module, digits: Digits) -> list[float]:
    """Share of images that the classifier labels right, per class."""
    right = classifier(digits.images[:, None]).argmax(1) == digits.labels
    return [right[digits.labels == label].float().mean().item() for label in range(10)]


def sample(
    generator: Generator, cfg_scale: float, per_class: int, steps: int, seed: int
) -> tuple[Digits, float]:
    """Samples without mode guidance, through the product's own sampler and decoder, and the seconds taken."""
    sampler = GuidedSampler(
        generator.denoiser("cpu", torch.float32),
        schedule=generator.schedule,
        method=generator.defaults.sampler,
        steps=steps,
        prediction=generator.prediction,
        cfg_scale=cfg_scale,
        null_class=generator.null_class,
        cfg_channels=generator.cfg_channels,
        guidance=None,
        batch_size=100,
    )
    images = [(name, index) for name in CLASSES for index in range(per_class)]
    ids = torch.tensor(generator.class_ids(CLASSES)).repeat_interleave(per_class)
    started = time.monotonic()
    latents = sampler.sample(ids, None, image_seeds(seed, images), latent_shape=generator.latent_shape)
    pixels = generator.autoencoder.decode(latents)  # [n, 3, R, R]
    labels = torch.arange(10).repeat_interleave(per_class)
    return Digits(pixels.float().mean(1) / 255, labels), time.monotonic() - started


def spread(digits: Digits) -> Tensor:
    """Mean distance between two images of a class, `[10]`."""
    rows = [digits.images[digits.labels == label].flatten(1) for label in range(10)]
    return torch.stack([torch.pdist(row).mean() for row in rows])


def novelty(digits: Digits, train: Digits) -> Tensor:
    """Mean distance to the nearest train image of the class, `[10]`."""
    nearest = []
    for label in range(10):
        ours = digits.images[digits.labels == label].flatten(1)
        nearest.append(torch.cdist(ours, train.images[train.labels == label].flatten(1)).min(1).values.mean())
    return torch.stack(nearest)


def reconstruct(generator: Generator, digits: Digits) -> Digits:
    pixels = (digits.images * 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    decoded = generator.autoencoder.decode(generator.autoencoder.encode(pixels.contiguous()))
    return Digits(decoded.float().mean(1) / 255, digits.labels)


def save_sheet(path: Path, digits: Digits, columns: int = 20, scale: int = 2) -> None:
    """One row per class."""
    rows = [torch.cat(list(digits.images[digits.labels == label][:columns]), dim=1) for label in range(10)]
    pixels = (torch.cat(rows) * 255).round().to(torch.uint8).numpy()
    sheet = Image.fromarray(pixels)
    sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(path)


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    train, test = real_digits("train"), real_digits("test")
    classifier = train_classifier(train, arguments.epochs, arguments.seed)
    generator = load_generator(arguments.generator)
    decoded = reconstruct(generator, test)
    error = (decoded.images - test.images).square().mean()
    report: dict[str, object] = {
        "generator": generator.digest,
        "autoencoder": generator.autoencoder.digest,
        "classifier_on_test": _mean(right_share(classifier, test)),
        "classifier_on_reconstructions": _mean(right_share(classifier, decoded)),
        "reconstruction_mse": error.item(),
        "reconstruction_psnr_db": (-10 * error.log10()).item(),
        "samples": [],
    }
    rows = []
    for cfg_scale in arguments.cfg_scale:
        samples, seconds = sample(generator, cfg_scale, arguments.per_class, arguments.steps, arguments.seed)
        shares = right_share(classifier, samples)
        rows.append(
            {
                "cfg_scale": cfg_scale,
                "right": _mean(shares),
                "right_per_class": [round(share, 4) for share in shares],
                "spread_over_real": (spread(samples) / spread(test)).mean().item(),
                "novelty_over_test": (novelty(samples, train) / novelty(test, train)).mean().item(),
                "images": len(samples.labels),
                "seconds": seconds,
            }
        )
        if arguments.sheet:
            path = Path(arguments.sheet)
            save_sheet(path.with_stem(f"{path.stem}-cfg{cfg_scale:g}"), samples)
    return {**report, "samples": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generator", default="demo-mnist5k")
    parser.add_argument("--cfg-scale", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0, 4.0])
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=15, help="of the classifier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", help="PNG of samples; the scale is added to its name")
    print(json.dumps(measure(parser.parse_args()), indent=1))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
