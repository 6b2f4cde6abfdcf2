"""`--flip`: which images are mirrored, what is stored of them, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mgd3_fast.datasets import ArrayImages, Dataset, ImageClass
from mgd3_fast.latents import LatentStore, encode_dataset
from mgd3_fast.latents.flipping import is_mirrored
from tests.fakes.encoders import PoolingEncoder, array_dataset


def stored(dataset: Dataset, root: Path, flip: str, **settings: int) -> list[tuple[Tensor, list[int]]]:
    store = LatentStore(root, "d1gest", 8, flip=flip)
    encode_dataset(dataset, PoolingEncoder(), store, **settings)  # type: ignore[arg-type]
    found = [store.open(cls, check=True) for cls in dataset.classes]
    return [(one.latents, one.index.tolist()) for one in found if one is not None]


def test_random_mirrors_the_images_whose_coin_says_so(tmp_path: Path) -> None:
    dataset = array_dataset(40)
    ((plain, _),), ((random, index),) = stored(dataset, tmp_path, "none"), stored(dataset, tmp_path, "random")
    coins = [is_mirrored("0", dataset.classes[0].images.name(position)) for position in range(40)]
    assert 10 < sum(coins) < 30
    assert index == list(range(40))
    for position, coin in enumerate(coins):
        # The encoder pools, so the latents of a mirrored image are the mirrored latents.
        expected = plain[position].flip(-1) if coin else plain[position]
        assert torch.allclose(random[position], expected, rtol=0, atol=1e-6)
        assert not torch.allclose(plain[position], plain[position].flip(-1), rtol=0, atol=1e-3)


def test_both_keeps_each_image_and_its_mirror_image(tmp_path: Path) -> None:
    dataset = array_dataset(5, 21)
    plain, both = stored(dataset, tmp_path, "none"), stored(dataset, tmp_path, "both", batch_size=8)
    for (once, _), (twice, index), cls in zip(plain, both, dataset.classes, strict=True):
        assert index == [position for position in range(len(cls)) for _ in range(2)]
        assert torch.equal(twice[0::2], once)
        assert torch.allclose(twice[1::2], once.flip(-1), rtol=0, atol=1e-6)


def test_both_is_reported_in_images(tmp_path: Path) -> None:
    store = LatentStore(tmp_path, "d1gest", 8, flip="both")
    report = encode_dataset(array_dataset(5, 21), PoolingEncoder(), store)
    assert (report.images, report.counts) == (26, {"0": 10, "1": 42})
    assert report.bytes_written == 2 * 26 * 4 * 2 * 2 * 4


def test_coins_are_fixed_for_ever() -> None:
    """Part of the store's contract: other coins would make other latents under the same key."""
    coins = [is_mirrored("n01440764", f"n01440764_{number}.JPEG") for number in range(16)]
    assert "".join(str(int(coin)) for coin in coins) == "0010110011001001"


def test_half_of_all_images_are_mirrored() -> None:
    share = np.mean([is_mirrored("a", str(number)) for number in range(20_000)])
    assert abs(share - 0.5) < 0.0141  # four standard deviations


def test_coins_of_classes_differ() -> None:
    one, other = ([is_mirrored(name, str(number)) for number in range(64)] for name in ("a", "b"))
    assert one != other


def test_coins_depend_on_names_not_on_places(tmp_path: Path) -> None:
    dataset = array_dataset(40)
    ((all_of_them, _),) = stored(dataset, tmp_path, "random")

    class Last(ArrayImages):
        def name(self, position: int) -> str:
            return f"{position + 30:05d}"

    pixels = np.stack([np.asarray(dataset.load(0, position))[..., 0] for position in range(30, 40)])
    last = Dataset("arrays", (ImageClass("0", 0, Last(pixels)),), ("0",))
    ((ten, _),) = stored(last, tmp_path, "random")
    assert torch.equal(ten, all_of_them[30:])


@pytest.mark.parametrize("flip", ["random", "both"])
def test_flips_have_their_own_files_and_keys(tmp_path: Path, flip: str) -> None:
    (cls,) = array_dataset(3).classes
    plain, flipped = (LatentStore(tmp_path, "d1gest", 8, flip=name) for name in ("none", flip))
    assert plain.path(cls).name != flipped.path(cls).name
    assert plain.content_key(cls) != flipped.content_key(cls)
    assert plain.folder != flipped.folder
