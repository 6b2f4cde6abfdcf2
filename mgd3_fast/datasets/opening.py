"""What `--dataset` accepts."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from mgd3_fast.datasets.dataset import Dataset, ImageClass
from mgd3_fast.datasets.folder import open_image_folder
from mgd3_fast.datasets.imagenet import IMAGENET_NAMES, open_imagenet
from mgd3_fast.datasets.images import ArrayImages
from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT, Progress

DATASET_NAMES = (*IMAGENET_NAMES, "mnist5k")


def open_dataset(
    spec: str,
    *,
    data_dir: Path | str | None = None,
    classes: str | None = None,
    split: str = "train",
    progress: Progress = SILENT,
) -> Dataset:
    """Open a dataset by name or path.

    Args:
        spec: One of `DATASET_NAMES`, or the path of an ImageFolder. A name wins over a folder of that name:
            write ./name for the folder.
        data_dir: The ILSVRC-2012 tree of an ImageNet name; $IMAGENET_DIR by default.
        classes: Class names, indices and ranges, such as "0-9,n01440764"; all by default. Labels stay those
            of the full list.
        split: "train", "val" or, where there is one, "test".
        progress: Where the bar of a long scan goes.

    Returns:
        The classes and where their images lie; no image is read yet.

    Raises:
        UserError: Unknown name, missing folder, missing or empty classes, unknown selector.
    """
    if spec in IMAGENET_NAMES:
        return open_imagenet(spec, None if data_dir is None else Path(data_dir), classes, split, progress)
    if data_dir is not None:
        raise UserError(f"data_dir must be left out unless dataset is an ImageNet name, got dataset {spec!r}")
    if spec == "mnist5k":
        return _open_mnist5k(classes, split)
    path = Path(spec).expanduser()
    if path.is_dir():
        return open_image_folder(path, classes, split, progress)
    if path.exists():
        raise UserError(f"dataset must be a name or a folder of class folders, got the file {path}")
    near = get_close_matches(spec.lower(), DATASET_NAMES, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near and os.sep not in spec else ""
    raise UserError(
        f"dataset must be one of {', '.join(DATASET_NAMES)} or an existing folder of class folders, "
        f"got {spec!r}{hint}"
    )


def _open_mnist5k(classes: str | None, split: str) -> Dataset:
    from mgd3_fast.datasets.mnist5k import load_mnist5k

    if split not in ("train", "val", "test"):
        raise UserError(f"split must be train or test for mnist5k, got {split!r}")
    images, labels = load_mnist5k("train" if split == "train" else "test")
    names = tuple(str(digit) for digit in range(10))
    found = tuple(
        ImageClass(name, label, ArrayImages(np.ascontiguousarray(images[labels == label])))
        for label, name in enumerate(names)
    )
    dataset = Dataset("mnist5k", found, names, split)
    return dataset if classes is None else dataset.subset(classes)
