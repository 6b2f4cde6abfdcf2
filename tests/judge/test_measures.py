"""What a judgement measures, on images and points that say what must come out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mgd3_fast.evaluate.images import ImageSet
from mgd3_fast.judge.classifier import quick_recipe, shrunk, taught_accuracy
from mgd3_fast.judge.likeness import ClassPoints, likeness, reconstruction_error


def test_reconstruction_error_of_known_differences() -> None:
    images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    decoded = images.clone()
    decoded[0] += 10  # half of all values differ by 10: mean squared error 50
    psnr, l1 = reconstruction_error(images, decoded)
    assert psnr == pytest.approx(10 * np.log10(255**2 / 50))
    assert l1 == pytest.approx(5.0)
    assert reconstruction_error(images, images) == (pytest.approx(58.92, abs=0.01), 0.0)


def points(seed: int, count: int, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, spread, (count, 4))


def test_samples_of_the_real_distribution_are_like_real_images_and_as_new() -> None:
    found = likeness(
        [ClassPoints(points(seed, 200), points(seed + 50, 400), points(seed + 90, 200)) for seed in range(3)]
    )
    assert found.coverage == pytest.approx(found.coverage_real, abs=0.05)
    assert found.density == pytest.approx(1.0, abs=0.15)
    assert found.density_real == pytest.approx(1.0, abs=0.15)
    assert found.novelty == pytest.approx(1.0, abs=0.1)


def test_copies_are_not_new_and_collapsed_samples_cover_little() -> None:
    train, held_out = points(1, 400), points(2, 200)
    copies = likeness([ClassPoints(train[:50], train, held_out)])
    assert copies.novelty == pytest.approx(0.0, abs=1e-6)
    collapsed = likeness([ClassPoints(points(3, 50, spread=0.05), train, held_out)])
    assert collapsed.coverage < 0.5 * collapsed.coverage_real
    alone = likeness([ClassPoints(train[:5], train, held_out[:1]), ClassPoints(train[:50], train, held_out)])
    assert alone.coverage == copies.coverage
    assert likeness([ClassPoints(train[:5], train, held_out[:1])]).coverage_real == 0.0


def striped(seed: int, count: int, labels: torch.Tensor) -> ImageSet:
    """Images of noise whose brightness tells the class."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 40, (count, 3, 16, 16), generator=generator)
    return ImageSet((noise + 180 * labels[:, None, None, None]).to(torch.uint8), labels)


def test_the_classifier_learns_what_the_images_show_the_same_in_every_call(one_thread: None) -> None:
    labels = torch.arange(2).repeat(10)
    recipe = quick_recipe("any", 2, 20, 16)
    assert (recipe.size, recipe.test_every) == (16, recipe.epochs)
    shortened = type(recipe)(**{**vars(recipe), "epochs": 12, "test_every": 12})
    test = striped(1, 20, labels)

    def taught(train: ImageSet) -> float:
        return taught_accuracy(
            shortened, train, test, num_classes=2, seed=0, device=torch.device("cpu"), name="images"
        )

    right, wrong = striped(2, 20, labels), striped(2, 20, 1 - labels)
    assert taught(right) == taught(right) == 1.0
    assert taught(ImageSet(right.pixels, wrong.labels)) == 0.0


def test_images_above_32_pixels_are_shrunk_by_averaging() -> None:
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    images[..., ::2] = 200
    assert shrunk(images).shape == (1, 3, 32, 32)
    assert (shrunk(images)[..., 4:-4].int() - 100).abs().max() <= 1
    assert torch.equal(shrunk(images[..., :16, :16]), images[..., :16, :16])
