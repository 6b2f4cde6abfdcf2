"""`tensor`: all images in one array, class after class, as DD-Ranking and the DC and MTT code read them.

Shape letters: N images, H W pixels.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgd3_fast.datasets import center_crop, decode_image
from mgd3_fast.errors import UserError
from mgd3_fast.formats.config import ConvertConfig
from mgd3_fast.formats.ddranking import CONFIG_FILE, write_ddranking_config
from mgd3_fast.formats.normalisation import NONE, Normalisation, choose_normalisation
from mgd3_fast.formats.reading import read_ahead, sha256_of
from mgd3_fast.formats.source import Source, SourceImage, content_of
from mgd3_fast.formats.written import Written
from mgd3_fast.progress import Bar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SAFETENSORS, IMAGES_PT, LABELS_PT = "images.safetensors", "images.pt", "labels.pt"
_ARRAY = "array"  # memory-mapped while it fills, so that it may be larger than memory


def write(source: Source, config: ConvertConfig, draft: Path, bar: Bar) -> Written:
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
    height, width = first.shape[:2]
    shape = (len(source.images), 3, height, width)
    dtype = torch.uint8 if config.dtype == "uint8" else torch.float32
    array = draft / _ARRAY
    images = torch.from_file(str(array), shared=True, size=math.prod(shape), dtype=dtype).view(shape)
    read = read_ahead(source.images, lambda image: _pixels(image, config.size))
    for row, (image, pixels) in enumerate(read):
        if pixels.shape != first.shape:
            raise UserError(
                f"images must all be of one size, or --size be given, got {width}x{height} and"
                f" {pixels.shape[1]}x{pixels.shape[0]} ({image.path})"
            )
        images[row] = _normalised(torch.from_numpy(pixels).permute(2, 0, 1), dtype, used)
        bar.advance()
    labels = torch.tensor([image.label for image in source.images])
    facts = _facts(config.dtype, shape, used)
    files = _write_tensors(images, labels, config.tensor_file, facts, draft)
    del images
    array.unlink()
    facts["ddranking"] = write_ddranking_config(draft, source, used, config.dtype, (height, width))
    if facts["ddranking"] == CONFIG_FILE:
        files.append(CONFIG_FILE)
    return Written({name: sha256_of(draft / name) for name in files}, facts)


def _pixels(image: SourceImage, size: int | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Uint8 [H, W, 3]."""
    import numpy as np

    decoded = decode_image(content_of(image))
    return np.array(decoded if size is None else center_crop(decoded, size))


def _normalised(pixels: Tensor, dtype: Any, used: Normalisation) -> Tensor:
    import torch

    if dtype == torch.uint8:
        return pixels
    mean, std = (torch.tensor(figures).view(3, 1, 1) for figures in (used.mean, used.std))
    return pixels.to(dtype).div(255).sub(mean).div(std)  # [3, H, W]


def _facts(dtype: str, shape: tuple[int, ...], used: Normalisation) -> dict[str, Any]:
    return {
        "shape": list(shape),
        "dtype": dtype,
        "normalisation": {"name": used.name, "mean": list(used.mean), "std": list(used.std)},
    }


def _write_tensors(
    images: Tensor, labels: Tensor, tensor_file: str, facts: dict[str, Any], draft: Path
) -> list[str]:
    import torch

    from mgd3_fast.tensor_files import save_tensors

    files: list[str] = []
    if tensor_file != "pt":
        metadata = {name: json.dumps(value) for name, value in facts.items()}
        save_tensors(draft / SAFETENSORS, {"images": images, "labels": labels}, metadata)
        files.append(SAFETENSORS)
    if tensor_file != "safetensors":
        torch.save(images, draft / IMAGES_PT)
        torch.save(labels, draft / LABELS_PT)
        files += [IMAGES_PT, LABELS_PT]
    return files
