"""Augmentation of the evaluation protocols, against plain formulas and Pillow, image by image."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.evaluate.augmentation import augment_batch
from mgd3_fast.evaluate.colours import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColourChanges,
    draw_colours,
    normalise,
    recolour,
)
from mgd3_fast.evaluate.geometry import (
    AxisMaps,
    Boxes,
    crop_maps,
    draw_boxes,
    flip_half,
    shift_maps,
    shuffle_patches,
)
from mgd3_fast.evaluate.images import fit_image
from mgd3_fast.evaluate.mixing import draw_beta, draw_box, mix
from mgd3_fast.evaluate.presets import find_preset
from mgd3_fast.evaluate.recipe import Recipe, make_recipe
from mgd3_fast.evaluate.siamese import CHANGES, augment_siamese
from tests.fakes.pictures import photo


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=seeded(seed))


# Crops


@pytest.mark.parametrize("size", [7, 16, 32, 50], ids=lambda size: f"to-{size}px")
@pytest.mark.parametrize("area", [(0.08, 1.0), (0.5, 1.0)], ids=["from-8%", "from-50%"])
def test_resized_crops_equal_torch_resizing_each_crop(size: int, area: tuple[float, float]) -> None:
    batch = images(8, 40)
    boxes = draw_boxes(8, 40, 40, area, seeded(size))
    out = crop_maps(boxes, size).apply(batch)
    for k in range(8):
        top, left, height, width = (int(one[k]) for one in boxes)
        crop = batch[k : k + 1, :, top : top + height, left : left + width].double()
        wanted = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]
        # In float64, because torch's float32 coordinates are up to 2e-6 off; ours measured 1.5e-7.
        torch.testing.assert_close(out[k].double(), wanted, rtol=0, atol=5e-7)


def test_a_resized_crop_is_the_bilinear_formula() -> None:
    """Written out pixel by pixel; the crop grows, so that no antialiasing takes part."""
    image, top, left, height, width, size = images(1, 12)[0].double(), 3, 2, 5, 7, 9
    boxes = Boxes(*(torch.tensor([one]) for one in (top, left, height, width)))
    out = crop_maps(boxes, size).apply(image[None].float())[0]

    def places(length: int, place: int) -> tuple[int, int, float]:
        at = min(max((place + 0.5) * length / size - 0.5, 0.0), length - 1.0)
        low = int(at)
        return low, min(low + 1, length - 1), at - low

    for row in range(size):
        for column in range(size):
            y0, y1, fy = places(height, row)
            x0, x1, fx = places(width, column)
            crop = image[:, top : top + height, left : left + width]
            upper = (1 - fx) * crop[:, y0, x0] + fx * crop[:, y0, x1]
            lower = (1 - fx) * crop[:, y1, x0] + fx * crop[:, y1, x1]
            wanted = ((1 - fy) * upper + fy * lower).float()
            torch.testing.assert_close(out[:, row, column], wanted, rtol=0, atol=1e-6)


def test_boxes_have_the_areas_and_aspects_of_random_resized_crop() -> None:
    boxes = draw_boxes(20_000, 224, 224, (0.5, 1.0), seeded())
    area = (boxes.height * boxes.width).double() / 224**2
    aspect = boxes.width.double() / boxes.height
    assert int((boxes.top + boxes.height).max()) <= 224
    assert int((boxes.left + boxes.width).max()) <= 224
    assert min(int(boxes.top.min()), int(boxes.left.min())) == 0
    assert 0.495 < float(area.min()) < 0.51
    assert float(area.max()) <= 1
    assert 0.74 < float(aspect.min()) < 0.76
    assert 1.32 < float(aspect.max()) < 1.35
    # A box that does not fit is drawn again, which happens more often to large ones: below the mean of 0.75.
    wanted = reference_mean_area(random.Random(0), 224, 0.5)
    assert float(area.mean()) == pytest.approx(wanted, abs=0.004)
    assert float((boxes.top.double() / (224 - boxes.height).clamp(min=1)).mean()) == pytest.approx(
        0.5, abs=0.01
    )


def reference_mean_area(source: random.Random, side: int, smallest: float, draws: int = 20_000) -> float:
    """RandomResizedCrop's rule, one image at a time."""
    total = 0.0
    for _ in range(draws):
        box = side * side
        for _ in range(10):
            area = side * side * source.uniform(smallest, 1.0)
            aspect = math.exp(source.uniform(math.log(3 / 4), math.log(4 / 3)))
            width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < width <= side and 0 < height <= side:
                box = width * height
                break
        total += box / (side * side)
    return total / draws


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(40, 40, (0, 0, 40, 40)), (20, 90, (0, 31, 20, 27)), (90, 20, (31, 0, 27, 20))],
    ids=["square", "wide", "tall"],
)
def test_a_box_that_never_fits_becomes_the_largest_centred_one(
    height: int, width: int, box: tuple[int, int, int, int]
) -> None:
    boxes = draw_boxes(3, height, width, (4.0, 4.0), seeded())  # four times the area never fits
    assert [tuple(int(one[k]) for one in boxes) for k in range(3)] == [box] * 3


@pytest.mark.parametrize("length", [1, 5, 32])
def test_resize_weights_add_up_to_one_inside_the_box(length: int) -> None:
    box = Boxes(*(torch.tensor([one]) for one in (3, 5, length, 4)))
    found = crop_maps(box, 13)
    torch.testing.assert_close(found.weights.sum(2), torch.ones(2, 1, 13))
    assert found.places.shape == (2, 1, max(2, math.ceil(2 * length / 13)), 13)
    for axis, (start, pixels) in enumerate([(3, length), (5, 4)]):
        places = found.places[axis]
        assert start <= int(places.min())
        assert int(places.max()) < start + pixels


def test_matrices_hold_the_maps() -> None:
    """Every weight at its place, nothing elsewhere; images that are not square."""
    boxes = draw_boxes(4, 9, 14, (0.2, 1.0), seeded())
    maps = crop_maps(boxes, 6)
    matrices = maps.matrices(9, 14, torch.device("cpu"))
    for axis, (matrix, side) in enumerate(zip(matrices, (9, 14), strict=True)):
        wanted = torch.zeros(4, side, 6)
        for k, tap, output in np.ndindex(*maps.weights.shape[1:]):
            wanted[k, maps.places[axis, k, tap, output], output] += maps.weights[axis, k, tap, output]
        assert torch.equal(matrix, wanted)


# Shifts, flips and patches


def test_shifts_are_crops_of_the_padded_image() -> None:
    batch = images(200, 8)
    out = shift_maps(200, 8, 2, seeded()).apply(batch)
    padded = F.pad(batch, (2, 2, 2, 2))
    seen = set()
    for k in range(200):
        candidates = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(out[k], padded[k, :, top : top + 8, left : left + 8])
        ]
        assert len(candidates) == 1
        seen.add(candidates[0])
    assert len(seen) == 25


def same_maps(count: int, side: int) -> AxisMaps:
    return AxisMaps(torch.arange(side).expand(2, count, 1, side), torch.ones(2, count, 1, side))


def test_flips_mirror_half_of_the_images() -> None:
    batch = images(400, 6)
    out = flip_half(same_maps(400, 6), seeded()).apply(batch)
    mirrored = [torch.equal(out[k], batch[k].flip(2)) for k in range(400)]
    assert all(done or torch.equal(out[k], batch[k]) for k, done in enumerate(mirrored))
    assert sum(mirrored) == pytest.approx(200, abs=40)


@pytest.mark.parametrize(("side", "factor"), [(8, 2), (9, 2), (10, 3)])
def test_patches_are_shuffled_by_columns_then_rows(side: int, factor: int) -> None:
    """RDED's ShufflePatches, written out: every order of columns with every order of rows, each once."""
    from itertools import permutations

    batch = images(1, side).expand(300, 3, side, side)
    out = shuffle_patches(same_maps(300, side), factor, (side, side), seeded()).apply(batch)
    starts = [place * (side // factor) for place in range(factor)] + [side]
    strips = [slice(starts[place], starts[place + 1]) for place in range(factor)]
    possible = [
        torch.cat([torch.cat([batch[0][:, rows, columns] for columns in across], 2) for rows in down], 1)
        for across in permutations(strips)
        for down in permutations(strips)
    ]
    matches = [[torch.equal(one, wanted) for wanted in possible].index(True) for one in out]
    counts = np.bincount(matches, minlength=len(possible))
    assert counts.min() > 0
    expected = 300 / len(possible)
    assert counts.max() < 2 * expected + 10


def test_one_patch_is_no_shuffle() -> None:
    maps = same_maps(2, 8)
    assert shuffle_patches(maps, 1, (8, 8), seeded()) is maps


def test_a_shuffle_comes_before_the_crop_and_a_flip_after_it() -> None:
    batch = images(16, 12)
    boxes = draw_boxes(16, 12, 12, (0.5, 1.0), seeded(1))
    crop = crop_maps(boxes, 12)
    shuffled = shuffle_patches(same_maps(16, 12), 2, (12, 12), seeded(2)).apply(batch)
    out = flip_half(shuffle_patches(crop, 2, (12, 12), seeded(2)), seeded(3)).apply(batch)
    wanted = flip_half(same_maps(16, 12), seeded(3)).apply(crop.apply(shuffled))
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-6)


# Colours


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)], ids=str)
def test_colours_are_the_formulas_whatever_the_order_of_jitter(order: tuple[int, int, int]) -> None:
    """Jitter in one of its six orders, lighting and normalisation, change by change in float64."""
    batch = images(3, 5)
    amounts = torch.tensor([[0.3, -0.2, 0.4], [-0.4, 0.1, 0.0], [0.05, 0.4, -0.4]])
    alphas = torch.tensor([[0.1, -0.2, 0.05], [0.0, 0.3, -0.1], [0.0, 0.0, 0.0]])
    out = recolour(batch, ColourChanges(amounts, alphas))
    vectors = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    values = [0.2175, 0.0188, 0.0045]
    for k in range(3):
        image = batch[k].double().numpy()
        for change in order:
            grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
            reference = [np.zeros_like(grey), np.full_like(grey, grey.mean()), grey][change]
            image = image + float(amounts[k, change]) * (reference - image)
        for channel in range(3):
            light = sum(vectors[channel][j] * float(alphas[k, j]) * values[j] for j in range(3))
            wanted = (image[channel] + light - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
            np.testing.assert_allclose(out[k, channel].numpy(), wanted, rtol=0, atol=1e-6)


def unlit(amounts: Tensor) -> ColourChanges:
    return ColourChanges(amounts, torch.zeros(len(amounts), 3))


def raw(images: Tensor) -> Tensor:
    """Undo normalisation."""
    std, mean = (torch.tensor(one).view(3, 1, 1) for one in (IMAGENET_STD, IMAGENET_MEAN))
    return images * std + mean


def test_jitter_differs_per_image_and_is_not_clamped() -> None:
    batch = images(1, 4).expand(64, 3, 4, 4)
    out = raw(recolour(batch, unlit(draw_colours(64, seeded()).amounts)))
    assert len({one.numpy().tobytes() for one in out}) == 64
    assert float(out.max()) > 1  # brighter than white
    white = torch.ones(2000, 3, 2, 2)
    # White has no contrast and no saturation: only brightness acts, by a factor of 0.6 to 1.4.
    factors = raw(recolour(white, unlit(draw_colours(2000, seeded()).amounts)))[:, 0, 0, 0]
    assert 0.6 <= float(factors.min()) < 0.61
    assert 1.39 < float(factors.max()) <= 1.4
    assert float(factors.mean()) == pytest.approx(1, abs=0.02)


def test_lighting_draws_alphas_of_deviation_a_tenth() -> None:
    black = torch.zeros(20_000, 3, 1, 1)
    alphas = draw_colours(20_000, seeded()).alphas
    offsets = raw(recolour(black, ColourChanges(torch.zeros(20_000, 3), alphas)))[..., 0, 0]
    products = (-0.5675 * 0.2175, 0.7192 * 0.0188, 0.4009 * 0.0045)
    wanted = 0.1 * math.sqrt(sum(product**2 for product in products))
    assert float(offsets[:, 0].std()) == pytest.approx(wanted, rel=0.03)


def test_normalisation_is_imagenets() -> None:
    grey = normalise(torch.full((1, 3, 1, 1), 0.5)).flatten().tolist()
    assert grey == pytest.approx(
        [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225], abs=1e-6
    )


# CutMix and mixup


def test_cutmix_boxes_have_the_papers_statistics() -> None:
    """Sides sqrt(1 - lam), centres uniform, clipped: against the rule drawn one box at a time with numpy."""
    generator, source = seeded(), np.random.default_rng(0)
    ours, wanted = [], []
    for _ in range(6000):
        rows, columns = draw_box(32, 32, draw_beta(1.0, generator), generator)
        assert 0 <= rows.start <= rows.stop <= 32
        assert 0 <= columns.start <= columns.stop <= 32
        ours.append((rows.stop - rows.start) * (columns.stop - columns.start) / 1024)
        cut = int(32 * np.sqrt(1 - source.beta(1, 1)))
        y, x = source.integers(32, size=2)
        sides = [np.clip(c + cut // 2, 0, 32) - np.clip(c - cut // 2, 0, 32) for c in (y, x)]
        wanted.append(sides[0] * sides[1] / 1024)
    assert np.mean(ours) == pytest.approx(np.mean(wanted), abs=0.012)
    assert np.std(ours) == pytest.approx(np.std(wanted), abs=0.012)
    np.testing.assert_allclose(
        np.quantile(ours, [0.25, 0.5, 0.75]), np.quantile(wanted, [0.25, 0.5, 0.75]), atol=0.03
    )


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_pastes_one_box_and_counts_its_true_area(seed: int) -> None:
    batch = images(6, 16, seed)
    before = batch.clone()
    mixed = mix(batch, "cutmix", 1.0, seeded(seed))
    assert torch.equal(batch, before)
    assert sorted(mixed.partner.tolist()) == list(range(6))
    pasted = mixed.images == batch[mixed.partner]
    own = mixed.images == batch
    assert bool((pasted | own).all())
    for k in (k for k in range(6) if mixed.partner[k] != k):
        assert float(own[k].float().mean()) == pytest.approx(mixed.share)
        changed = ~own[k, 0]
        rows, columns = changed.any(1).sum(), changed.any(0).sum()
        assert int(changed.sum()) == int(rows * columns)  # one rectangle


def test_mixup_averages_pairs() -> None:
    batch = images(6, 4)
    mixed = mix(batch, "mixup", 0.8, seeded())
    assert 0 < mixed.share < 1
    wanted = mixed.share * batch + (1 - mixed.share) * batch[mixed.partner]
    torch.testing.assert_close(mixed.images, wanted)


@pytest.mark.parametrize(("alpha", "deviation"), [(1.0, math.sqrt(1 / 12)), (0.8, math.sqrt(1 / (4 * 2.6)))])
def test_shares_are_beta_distributed(alpha: float, deviation: float) -> None:
    generator = seeded()
    draws = np.array([draw_beta(alpha, generator) for _ in range(6000)])
    assert draws.mean() == pytest.approx(0.5, abs=0.015)
    assert draws.std() == pytest.approx(deviation, rel=0.03)


# GLaD's augmentation


def test_siamese_chooses_one_change_for_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, chosen = images(2, 8), []
    for name in CHANGES:
        monkeypatch.setitem(CHANGES, name, lambda given, _, name=name: chosen.append(name) or given)
    for seed in range(120):
        augment_siamese(batch, True, seeded(seed))
    assert set(chosen) == set(CHANGES)
    chosen.clear()
    for seed in range(120):
        augment_siamese(batch, False, seeded(seed))
    assert set(chosen) == set(CHANGES) - {"flip"}


def test_siamese_colour_is_the_formula() -> None:
    batch = images(2, 4).double()
    out = CHANGES["colour"](batch.float(), seeded(5))
    brightness, saturation, contrast = torch.rand(3, 2, 1, 1, 1, generator=seeded(5))
    for k in range(2):
        image = batch[k] + (float(brightness[k]) - 0.5)
        mean = image.mean(0, keepdim=True)
        image = (image - mean) * (2 * float(saturation[k])) + mean
        image = (image - image.mean()) * (float(contrast[k]) + 0.5) + image.mean()
        torch.testing.assert_close(out[k].double(), image, rtol=0, atol=1e-6)


def test_siamese_crop_shifts_by_up_to_an_eighth() -> None:
    batch = images(100, 16) + 1
    out = CHANGES["crop"](batch, seeded())
    padded = F.pad(batch, (2, 2, 2, 2))
    for k in range(100):
        assert any(
            torch.equal(out[k], padded[k, :, top : top + 16, left : left + 16])
            for top in range(5)
            for left in range(5)
        )


def test_siamese_cutout_clears_a_clipped_square() -> None:
    out = CHANGES["cutout"](torch.ones(200, 3, 16, 16), seeded())
    sizes = set()
    for one in out[:, 0]:
        cleared = one == 0
        rows, columns = int(cleared.any(1).sum()), int(cleared.any(0).sum())
        assert int(cleared.sum()) == rows * columns
        sizes.add((rows, columns))
    assert max(sizes) == (8, 8)
    assert min(min(sizes)) == 4  # a centre on the border leaves half


@pytest.mark.parametrize("name", ["scale", "rotate"])
def test_siamese_resampling_keeps_the_centre(name: str) -> None:
    ramp = torch.linspace(-1, 1, 17)
    batch = torch.stack([ramp.expand(17, 17), ramp[:, None].expand(17, 17), torch.ones(17, 17)])[None]
    out = CHANGES[name](batch.expand(64, 3, 17, 17), seeded())
    torch.testing.assert_close(out[:, :2, 8, 8], torch.zeros(64, 2), rtol=0, atol=1e-6)
    # The first two channels hold the coordinates that each pixel was taken from.
    x, y = out[:, 0, 8, 12], out[:, 1, 8, 12]
    if name == "scale":
        assert bool(((x / ramp[12] > 1 / 1.2 - 1e-5) & (x / ramp[12] < 1.2 + 1e-5)).all())
        torch.testing.assert_close(y, torch.zeros(64), rtol=0, atol=1e-6)
    else:
        degrees = torch.rad2deg(torch.atan2(y, x))
        torch.testing.assert_close((x**2 + y**2).sqrt(), ramp[12].expand(64), rtol=0, atol=1e-5)
        assert 12 < float(degrees.abs().max()) <= 15


# Whole pipelines and test images


def recipe_of(protocol: str, preset: str = "imagenet", **changes: object) -> Recipe:
    options: dict[str, object] = {"teacher": "teacher.pth"} if protocol == "soft" else {}
    config = EvaluateConfig(
        folders=("x",), dataset="d", protocol=protocol, preset=preset, **{**options, **changes}
    )
    found = find_preset(preset, "d", 32, False)
    return make_recipe(config, found, "resnet18", ipc=10, num_classes=10, side=32)


@pytest.mark.parametrize("protocol", ["hard", "soft", "cross"])
@pytest.mark.parametrize("preset", ["imagenet", "small", "mnist5k"])
def test_every_pipeline_gives_normalised_images_of_the_recipe_and_repeats(protocol: str, preset: str) -> None:
    recipe = replace(recipe_of(protocol, preset), size=24)
    side = 24 if recipe.stored_size else 30
    pixels = torch.randint(0, 256, (5, 3, side, side), dtype=torch.uint8, generator=seeded())
    out = augment_batch(pixels, recipe, seeded(3))
    assert out.shape == (5, 3, 24, 24)
    assert out.dtype == torch.float32
    assert torch.equal(out, augment_batch(pixels, recipe, seeded(3)))
    assert not torch.equal(out, augment_batch(pixels, recipe, seeded(4)))


def test_the_hard_pipeline_is_its_parts_in_order() -> None:
    recipe = replace(recipe_of("hard"), size=20, stored_size=20)
    pixels = torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8, generator=seeded())
    generator = seeded(9)
    boxes = draw_boxes(4, 20, 20, (0.5, 1.0), generator)
    wanted = flip_half(crop_maps(boxes, 20), generator).apply(pixels / 255)
    wanted = recolour(wanted, draw_colours(4, generator))
    torch.testing.assert_close(augment_batch(pixels, recipe, seeded(9)), wanted, rtol=0, atol=1e-6)


class DeviceOperations(TorchDispatchMode):
    """Counts what a device other than the CPU is asked to do, and what is copied to it; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[str] = []
        self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        free = func.is_view or func is torch.ops.aten._unsafe_view.default
        if isinstance(out, Tensor) and out.device.type != "cpu" and not free:
            copied = func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu"
            self.copies += copied
            self.launches += [] if copied else [func.name()]
        return out


@pytest.mark.parametrize(("protocol", "launches", "copies"), [("hard", 10, 3), ("soft", 9, 2)])
def test_a_device_is_asked_little(protocol: str, launches: int, copies: int) -> None:
    """Each operation is a launch, and on a GPU small launches were a quarter of a training step."""
    recipe = replace(recipe_of(protocol), size=24)
    pixels = torch.zeros(5, 3, 24 if recipe.stored_size else 30, 24, dtype=torch.uint8, device="meta")
    augment_batch(pixels, recipe, seeded())  # constants are sent once
    with DeviceOperations() as counted:
        augment_batch(pixels, recipe, seeded())
    assert (len(counted.launches), counted.copies) == (launches, copies), counted.launches


def test_no_augmentation_only_normalises() -> None:
    recipe = recipe_of("hard", "mnist5k", augment="none")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=seeded())
    torch.testing.assert_close(augment_batch(pixels, recipe, seeded()), normalise(pixels / 255))


@pytest.mark.parametrize(
    ("width", "height", "resize", "size", "resized", "corner"),
    [
        (50, 40, 32, 32, (40, 32), (4, 0)),
        (40, 50, 32, 28, (32, 40), (2, 6)),
        (41, 33, 32, 32, (39, 32), (4, 0)),  # 39.76 is cut to 39; 3.5 pixels are rounded to an even 4
        (32, 32, 32, 32, (32, 32), (0, 0)),
        (20, 15, 32, 28, (42, 32), (7, 2)),
    ],
)
def test_test_images_are_resized_and_cropped_as_torchvision_does(
    width: int, height: int, resize: int, size: int, resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    image = photo(1, width, height)
    whole = image if image.size == resized else image.resize(resized, Image.Resampling.BILINEAR)
    left, top = corner
    wanted = np.asarray(whole)[top : top + size, left : left + size]
    np.testing.assert_array_equal(np.asarray(fit_image(image, resize, size)), wanted)
