"""`tensor`: all images in one array, class after class, as DD-Ranking and the DC and MTT code read them.

Shape letters: N images, H W pixels.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgd3_fast.config.convert import ConvertConfig
from mgd3_fast.datasets import Framing, chosen_framing, decode_image
from mgd3_fast.errors import UserError
from mgd3_fast.formats.ddranking import CONFIG_FILE, write_ddranking_config
from mgd3_fast.formats.record import Written
from mgd3_fast.progress import Bar
from mgd3_fast.writers import sha256_of
from mgd3_fast.writers.labelled import LabelledFolder, LabelledImage
from mgd3_fast.writers.reader import read_ahead

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

SAFETENSORS, IMAGES_PT, LABELS_PT = "images.safetensors", "images.pt", "labels.pt"
_ARRAY = "array"  # memory-mapped while it fills, so that it may be larger than memory

# Mean and standard deviation of red, green and blue in 0..1; those of mnist5k are over all pixels of the
# 4,000 images of its train split, margins included.
NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist5k": ((0.1002, 0.1002, 0.1002), (0.2752, 0.2752, 0.2752)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def write(source: LabelledFolder, config: ConvertConfig, draft: Path, bar: Bar) -> Written:
    """Decode all images into one array, normalised as by torchvision's ToTensor and Normalize.

    `images` is float32 or uint8 `[N, 3, H, W]`, `labels` int64 `[N]`; images of a class are neighbours,
    classes ascend by label.

    Raises:
        UserError: If a file is missing or changed, or sizes differ while none is asked for.
    """
    import torch

    framing = chosen_framing(config)
    first = _pixels(source.images[0], config.size, framing)
    facts = _facts(source, config, (len(source.images), *first.shape))
    shape, dtype = facts["shape"], getattr(torch, config.dtype)
    array = draft / _ARRAY
    _reserve(array, math.prod(shape) * dtype.itemsize)
    images = torch.from_file(str(array), shared=True, size=math.prod(shape), dtype=dtype).view(shape)
    # Rows are computed on the reading threads: torch would split each small one over all processors.
    rows = images.numpy()
    read = read_ahead(
        source.images, lambda image: _row(_pixels(image, config.size, framing, first.shape), facts)
    )
    for number, row in enumerate(read):
        rows[number] = row
        bar.advance()
    labels = torch.tensor([image.label for image in source.images])
    files = _write_tensors(images, labels, config.tensor_file, facts, draft)
    del images, rows
    array.unlink()
    facts["ddranking"] = write_ddranking_config(draft, source, facts)
    if facts["ddranking"] == CONFIG_FILE:
        files.append(CONFIG_FILE)
    return Written({name: sha256_of(draft / name) for name in files}, facts)


def _facts(source: LabelledFolder, config: ConvertConfig, shape: tuple[int, ...]) -> dict[str, Any]:
    """Shape, number format and normalisation, for the record."""
    name = "none" if config.dtype == "uint8" else config.normalisation
    if name == "auto":  # ImageNet's figures for everything else, as the papers' code does
        name = "mnist5k" if source.dataset == "mnist5k" else "imagenet"
    mean, std = map(list, NORMALISATIONS[name])
    normalisation = {"name": name, "mean": mean, "std": std}
    return {"shape": list(shape), "dtype": config.dtype, "normalisation": normalisation}


def _reserve(path: Path, size: int) -> None:
    """Make a file whose blocks are there: a mapped one without them ends the process on a full disk."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def _pixels(
    image: LabelledImage, size: int | None, framing: Framing, shape: tuple[int, ...] | None = None
) -> NDArray[np.uint8]:
    """[3, H, W]; refuses an image that is not of the size of the first."""
    import numpy as np

    decoded = decode_image(image.content())
    shown = framing.rgb(decoded) if size is None else framing.square(decoded, size)
    pixels: NDArray[np.uint8] = np.array(shown).transpose(2, 0, 1)
    if shape is not None and pixels.shape != shape:
        raise UserError(
            f"images must all be of one size, or --size be given, got {shape[2]}x{shape[1]} and"
            f" {pixels.shape[2]}x{pixels.shape[1]} ({image.path})"
        )
    return pixels


def _row(pixels: NDArray[np.uint8], facts: dict[str, Any]) -> NDArray[Any]:
    """Uint8 [3, H, W] as it is, or float32 [3, H, W] in torchvision's order of operations."""
    import numpy as np

    if facts["dtype"] == "uint8":
        return pixels
    used = facts["normalisation"]
    mean, std = (np.array(used[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
    row = pixels.astype(np.float32)
    row /= 255
    row -= mean
    row /= std
    return row


def _write_tensors(
    images: Tensor, labels: Tensor, tensor_file: str, facts: dict[str, Any], draft: Path
) -> list[str]:
    from mgd3_fast.storage.tensor_files import save_tensors, write_pickled

    files: list[str] = []
    if tensor_file != "pt":
        metadata = {name: json.dumps(value) for name, value in facts.items()}
        save_tensors(draft / SAFETENSORS, {"images": images, "labels": labels}, metadata)
        files.append(SAFETENSORS)
    if tensor_file != "safetensors":
        for name, tensor in ((IMAGES_PT, images), (LABELS_PT, labels)):
            write_pickled(draft / name, tensor)
            files.append(name)
    return files
