"""Which real images stand for a class: drawn by chance, or chosen by their pixels.

Shape letters: n images of a class, K chosen ones (= ipc), D = 3 * side^2.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from mgd3_fast.config.methods import REAL_METHODS
from mgd3_fast.datasets import BadImage, BadImageError, Dataset, bad_image_error, image_batches
from mgd3_fast.errors import UserError
from mgd3_fast.modes import HerdingDiscovery, ModeDiscovery, method_named

FEATURE_SIDE = 32
_BATCH = 256


@dataclass(frozen=True)
class Selection:
    """Real images that stand for a class.

    Args:
        indices: Their positions in the class, K of them.
        weights: Share of the class's images that each stands for; they add up to 1.
    """

    indices: tuple[int, ...]
    weights: tuple[float, ...]


def select_images(
    dataset: Dataset,
    class_index: int,
    method: str,
    ipc: int,
    seed: int,
    *,
    on_bad_image: str = "error",
    bad_images: list[BadImage] | None = None,
) -> Selection:
    """Choose `ipc` real images of a class, the same on every machine.

    "random" draws different ones, each as likely. "herding" and "kmeans-closest" (the image nearest to each
    K-means centre) compare pixels: the square of 32 x 32, in 0..1.

    Args:
        dataset: The images.
        class_index: Position in `dataset.classes`.
        method: One of `REAL_METHODS`.
        ipc: K.
        seed: Of "random" and of K-means.
        on_bad_image: "error", or "skip": bad images are never chosen.
        bad_images: Receives those that were found.

    Raises:
        UserError: No such method, too few good images, or a bad one with `on_bad_image="error"`.
    """
    if method not in REAL_METHODS:
        raise UserError(f"method must be one of {', '.join(REAL_METHODS)}, got {method!r}")
    bad_images = [] if bad_images is None else bad_images
    if method == "random":
        return _draw(dataset, class_index, ipc, seed, on_bad_image, bad_images)
    chooser: ModeDiscovery = HerdingDiscovery() if method == "herding" else method_named(method)
    batches = list(
        image_batches(dataset, class_index, FEATURE_SIDE, _BATCH, on_bad_image, bad_images=bad_images)
    )
    features = torch.cat([batch.images.flatten(1).float() / 255 for batch in batches])  # [n, D]
    _check_enough(dataset, class_index, len(features), ipc)
    found = chooser.fit(features, ipc, seed)
    rows = torch.cat([batch.indices for batch in batches])[found.source_index]
    return Selection(tuple(rows.tolist()), tuple(found.weights.tolist()))


def _draw(
    dataset: Dataset, class_index: int, ipc: int, seed: int, on_bad_image: str, bad_images: list[BadImage]
) -> Selection:
    """Draw without replacement; bad images make room for the next ones drawn."""
    cls = dataset.classes[class_index]
    digest = hashlib.sha256(f"{seed}/{cls.name}".encode("utf-8", "surrogateescape")).digest()
    order = np.random.default_rng(int.from_bytes(digest, "big")).permutation(len(cls))
    chosen: list[int] = []
    for place in map(int, order):
        if len(chosen) == ipc:
            break
        try:
            cls.images.load(place)
            chosen.append(place)
        except BadImageError as error:
            if on_bad_image == "error":
                raise bad_image_error(cls.images.location(place), str(error)) from None
            bad_images.append(BadImage(cls.name, place, cls.images.name(place), str(error)))
    _check_enough(dataset, class_index, len(chosen), ipc)
    return Selection(tuple(sorted(chosen)), (1 / ipc,) * ipc)


def _check_enough(dataset: Dataset, class_index: int, count: int, ipc: int) -> None:
    if count < ipc:
        name = dataset.classes[class_index].name
        raise UserError(f"ipc must be at most {count}, the number of good images of class {name}, got {ipc}")
