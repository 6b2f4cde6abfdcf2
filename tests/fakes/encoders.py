"""Encoders and datasets small enough to encode in a test."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mgd3_fast.datasets import ArrayImages, BadImage, Dataset, ImageClass
from mgd3_fast.datasets.shards import ClassShard
from mgd3_fast.latents import LatentStore
from mgd3_fast.latents.parts import BadRow, NewPart


class PoolingEncoder:
    """Four channels: 4x4 means of red, green, blue, and of red again; counts what it is asked."""

    latent_channels = 4
    downsample = 4

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.batch_rows: list[int] = []
        self.placed: tuple[torch.device, torch.dtype] | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> PoolingEncoder:
        self.placed = (device, dtype)
        return self

    def encode(self, images: Tensor) -> Tensor:
        if len(self.batch_rows) == self.stop_after:
            raise KeyboardInterrupt
        self.batch_rows.append(len(images))
        assert images.dtype == torch.uint8
        pooled = torch.nn.functional.avg_pool2d(images.float() / 127.5 - 1, 4)
        return torch.cat([pooled, pooled[:, :1]], dim=1)


def array_dataset(*counts: int, side: int = 8) -> Dataset:
    """Classes "0", "1", ... with so many random grey images."""
    classes = []
    for label, count in enumerate(counts):
        pixels = np.random.default_rng(label).integers(0, 256, (count, side, side), dtype=np.uint8)
        classes.append(ImageClass(str(label), label, ArrayImages(pixels)))
    return Dataset("arrays", tuple(classes), tuple(cls.name for cls in classes))


def put_latents(
    store: LatentStore, cls: ImageClass, latents: Tensor, index: Tensor, bad_images: tuple[BadImage, ...] = ()
) -> None:
    """Store latents [n, C, h, w] of the images at some positions of a class folder."""
    bad = [BadRow(bad.image_index, None, bad.image_name, bad.reason) for bad in bad_images]
    kept = [latents.detach().to("cpu", store.storage_dtype)]
    part = NewPart(latent_rows=index.tolist(), latents=kept, bad=bad, is_last=True)
    for row in ClassShard(cls).rows():
        part.add(row)
    store.put(ClassShard(cls), None, part)
