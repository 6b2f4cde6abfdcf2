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

from mgd3_fast.datasets import DEFAULT_FRAMING, BadImageError, Framing, bad_image_error
from mgd3_fast.devices import usable_processors
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.sending import send
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.storage.remote import is_url
from mgd3_fast.storage.remote_path import REQUESTS

_MOST_SHARE_OF_DEVICE = 0.25
_MANY_IMAGES = 1000  # fewer are read in a second or two


class StoredImage(NamedTuple):
    """An image that can be read: the place of its class, and where it lies, for messages."""

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
    framing: Framing = DEFAULT_FRAMING,
    skipped: dict[str, str] | None = None,
    progress: Progress = SILENT,
) -> ImageSet:
    """Read images side by side, in their order.

    Args:
        stored: The images, at least one.
        resize: Side after resizing, see `fit_image`; None: images stay as they are.
        size: Side of the centre that is cut out then.
        name: What is read, for the bar.
        framing: How images become RGB and square.
        skipped: Receives location and reason of damaged images, which are left out; None where they are
            errors.
        progress: Receives a bar when there are many, and damaged images that `skipped` does not hold yet.

    Raises:
        UserError: An image is damaged, or all are, or they stay as they are and are not all of one size.
    """
    pixels: Tensor | None = None
    labels: list[int] = []
    shown = progress if len(stored) >= _MANY_IMAGES else SILENT
    threads = REQUESTS if is_url(stored[0].location) else min(4, usable_processors())
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool,
        shown.stage(f"read {name}", total=len(stored), unit="img") as bar,
    ):
        remaining = iter(stored)
        while some := list(islice(remaining, _MANY_IMAGES)):  # bounds what is decoded but not yet kept
            read = pool.map(lambda one: _read(one, resize, size, framing), some)
            for one, image in zip(some, read, strict=True):
                bar.advance()
                if isinstance(image, BadImageError):
                    _leave_out(one.location, str(image), skipped, progress)
                    continue
                if pixels is None:
                    pixels = torch.empty(len(stored), *image.shape, dtype=torch.uint8)
                if image.shape != pixels.shape[1:]:
                    raise UserError(
                        f"images must all be of one size, or --stored-size be given,"
                        f" got {_size(pixels[0])} and {_size(image)} ({one.location})"
                    )
                pixels[len(labels)] = image
                labels.append(one.label)
    if pixels is None:
        raise UserError(f"none of the {len(stored):,} images of {name} can be read")
    return ImageSet(pixels[: len(labels)], torch.tensor(labels))


def fit_image(image: Image.Image, resize: int, size: int, framing: Framing = DEFAULT_FRAMING) -> Image.Image:
    """Resize an image and cut out its centre as torchvision's Resize and CenterCrop do with Pillow.

    Args:
        image: RGB, of any size.
        resize: Its shorter side, or with fit "pad" its longer one, becomes this, the other one in proportion,
            rounded down; bilinear.
        size: Side of the centre, at most `resize`; half a pixel too much is rounded to an even place.
        framing: Decides between both sides, and what fills a square that the image does not.
    """
    side = min(image.size) if framing.fit == "crop" else max(image.size)
    if side != resize:
        width, height = (max(1, length * resize // side) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    square = Image.new("RGB", (size, size), framing.background)
    square.paste(image, (-round((image.width - size) / 2), -round((image.height - size) / 2)))
    return square


def _leave_out(location: str, reason: str, skipped: dict[str, str] | None, progress: Progress) -> None:
    """Refuse a damaged image, or say that it is left out, once."""
    if skipped is None:
        raise bad_image_error(location, reason)
    if location not in skipped:
        progress.note(f"skipped {location}: {reason}")
    skipped[location] = reason


def _read(
    stored: StoredImage, resize: int | None, size: int | None, framing: Framing
) -> Tensor | BadImageError:
    try:
        image = framing.rgb(stored.load())
    except BadImageError as error:
        return error
    if resize is not None and size is not None:
        image = fit_image(image, resize, size, framing)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [3, H, W]


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"
