"""Images decoded once, resized as the protocols do, and kept whole as uint8.

Shape letters: N images, B of a batch, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mgd3_fast.datasets import BadImageError
from mgd3_fast.devices import usable_processors
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.sending import send
from mgd3_fast.progress import SILENT, Progress

_MOST_SHARE_OF_DEVICE = 0.25
_MANY_IMAGES = 1000  # fewer are read in a second or two


class StoredImage(NamedTuple):
    """An image that can be read as RGB: the place of its class, and where it lies, for messages."""

    label: int
    load: Callable[[], Image.Image]
    location: str


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and labels in memory.

    Args:
        pixels: uint8 `[N, 3, H, W]`.
        labels: int64 `[N]`, on the same device.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of shape, pixels and labels."""
        digest = hashlib.sha256(str(list(self.pixels.shape)).encode())
        for tensor in (self.pixels, self.labels):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def on(self, device: torch.device) -> ImageSet:
        """The same images on a device, if they take at most a quarter of its memory; else where they are."""
        if device.type != "cuda":
            return self
        if self.pixels.nbytes > _MOST_SHARE_OF_DEVICE * torch.cuda.get_device_properties(device).total_memory:
            return self
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def batch(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Some images, uint8 `[B, 3, H, W]`, and their labels, int64 `[B]`, on a device.

        `indices` are int64 `[B]`, on the CPU.
        """
        indices = send(indices, self.pixels.device)
        return send(self.pixels[indices], device), send(self.labels[indices], device)


def load_images(
    stored: Sequence[StoredImage],
    resize: int | None,
    size: int | None,
    *,
    name: str,
    progress: Progress = SILENT,
) -> ImageSet:
    """Read images side by side, in their order.

    Args:
        stored: The images, at least one.
        resize: Shorter side after resizing; None: images stay as they are.
        size: Side of the centre that is cut out then.
        name: What is read, for the bar.
        progress: Receives a bar when there are many.

    Raises:
        UserError: An image is damaged, or they stay as they are and are not all of one size.
    """
    pixels: Tensor | None = None
    shown = progress if len(stored) >= _MANY_IMAGES else SILENT
    with (
        ThreadPoolExecutor(min(4, usable_processors()), thread_name_prefix="decode") as pool,
        shown.stage(f"read {name}", total=len(stored), unit="img") as bar,
    ):
        remaining = iter(stored)
        place = 0
        while some := list(islice(remaining, _MANY_IMAGES)):  # bounds what is decoded but not yet kept
            for image in pool.map(lambda one: _read(one, resize, size), some):
                if pixels is None:
                    pixels = torch.empty(len(stored), *image.shape, dtype=torch.uint8)
                if image.shape != pixels.shape[1:]:
                    raise UserError(
                        f"images must all be of one size, or --stored-size be given,"
                        f" got {_size(pixels[0])} and {_size(image)} ({stored[place].location})"
                    )
                pixels[place] = image
                place += 1
                bar.advance()
    assert pixels is not None
    return ImageSet(pixels, torch.tensor([one.label for one in stored]))


def fit_image(image: Image.Image, resize: int, size: int) -> Image.Image:
    """Resize an image and cut out its centre as torchvision's Resize and CenterCrop do with Pillow.

    Args:
        image: Any size.
        resize: Its shorter side becomes this, its longer one in proportion, rounded down; bilinear.
        size: Side of the centre, at most `resize`; half a pixel too much is rounded to an even place.
    """
    width, height = image.size
    shorter = min(width, height)
    if shorter != resize:
        width, height = width * resize // shorter, height * resize // shorter
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _read(stored: StoredImage, resize: int | None, size: int | None) -> Tensor:
    try:
        image = stored.load()
    except BadImageError as error:
        raise UserError(f"images must be readable, got {stored.location}: {error}") from None
    if resize is not None and size is not None:
        image = fit_image(image, resize, size)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [3, H, W]


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"
