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
from mgd3_fast.datasets import center_crop, decode_image
from mgd3_fast.errors import UserError
from mgd3_fast.formats.ddranking import CONFIG_FILE, write_ddranking_config
from mgd3_fast.formats.normalisation import NONE, Normalisation, choose_normalisation
from mgd3_fast.formats.record import Written
from mgd3_fast.progress import Bar
from mgd3_fast.writers import sha256_of
from mgd3_fast.writers.labelled import LabelledFolder, LabelledImage
from mgd3_fast.writers.reader import read_ahead

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Pixels = NDArray[np.uint8]

SAFETENSORS, IMAGES_PT, LABELS_PT = "images.safetensors", "images.pt", "labels.pt"
_ARRAY = "array"  # memory-mapped while it fills, so that it may be larger than memory


def write(source: LabelledFolder, config: ConvertConfig, draft: Path, bar: Bar) -> Written:
    """Decode all images into one array, normalised as by torchvision's ToTensor and Normalize.

    `images` is float32 or uint8 `[N, 3, H, W]`, `labels` int64 `[N]`; images of a class are neighbours,
    classes ascend by label.

    Args:
        source: The images.
        config: Number format, size, normalisation, which files.
        draft: Receives the files.
        bar: Counts images.

    Returns:
        The files, and how pixels became numbers.

    Raises:
        UserError: If a file is missing or changed, or sizes differ while none is asked for.
    """
    import torch

    used = NONE if config.dtype == "uint8" else choose_normalisation(config.normalisation, source)
    first = _pixels(source.images[0], config.size)
    shape = (len(source.images), *first.shape)
    dtype = torch.uint8 if config.dtype == "uint8" else torch.float32
    array = draft / _ARRAY
    _reserve(array, math.prod(shape) * dtype.itemsize)
    images = torch.from_file(str(array), shared=True, size=math.prod(shape), dtype=dtype).view(shape)
    # Rows are computed on the reading threads: torch would split each small one over all processors.
    rows = images.numpy()
    read = read_ahead(
        source.images, lambda image: _row(_pixels(image, config.size, first.shape), config.dtype, used)
    )
    for number, row in enumerate(read):
        rows[number] = row
        bar.advance()
    labels = torch.tensor([image.label for image in source.images])
    facts = _facts(config.dtype, shape, used)
    files = _write_tensors(images, labels, config.tensor_file, facts, draft)
    del images, rows
    array.unlink()
    facts["ddranking"] = write_ddranking_config(draft, source, used, config.dtype, first.shape[1:])
    if facts["ddranking"] == CONFIG_FILE:
        files.append(CONFIG_FILE)
    return Written({name: sha256_of(draft / name) for name in files}, facts)


def _reserve(path: Path, size: int) -> None:
    """Make a file whose blocks are there: a mapped one without them ends the process on a full disk."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def _pixels(image: LabelledImage, size: int | None, shape: tuple[int, ...] | None = None) -> Pixels:
    """Uint8 [3, H, W]; refuses an image that is not of the size of the first."""
    import numpy as np

    decoded = decode_image(image.content())
    pixels: Pixels = np.array(decoded if size is None else center_crop(decoded, size)).transpose(2, 0, 1)
    if shape is not None and pixels.shape != shape:
        raise UserError(
            f"images must all be of one size, or --size be given, got {shape[2]}x{shape[1]} and"
            f" {pixels.shape[2]}x{pixels.shape[1]} ({image.path})"
        )
    return pixels


def _row(pixels: Pixels, dtype: str, used: Normalisation) -> NDArray[Any]:
    """Uint8 [3, H, W] as it is, or float32 [3, H, W] in torchvision's order of operations."""
    import numpy as np

    if dtype == "uint8":
        return pixels
    mean, std = (np.array(figures, np.float32).reshape(3, 1, 1) for figures in (used.mean, used.std))
    row = pixels.astype(np.float32)
    row /= 255
    row -= mean
    row /= std
    return row


def _facts(dtype: str, shape: tuple[int, ...], used: Normalisation) -> dict[str, Any]:
    return {
        "shape": list(shape),
        "dtype": dtype,
        "normalisation": {"name": used.name, "mean": list(used.mean), "std": list(used.std)},
    }


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
