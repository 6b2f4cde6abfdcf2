"""What `--dataset` accepts."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from mgd3_fast.datasets.dataset import Dataset, ImageClass
from mgd3_fast.datasets.folders import open_image_folder
from mgd3_fast.datasets.imagenet import IMAGENET_NAMES, open_imagenet
from mgd3_fast.datasets.images import ArrayImages
from mgd3_fast.datasets.shard_index import index_path, read_index, stream_shards
from mgd3_fast.datasets.streams import ImageStream
from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.storage.remote_path import RemotePath, path_at

DATASET_NAMES = (*IMAGENET_NAMES, "mnist5k")


def open_dataset(
    spec: str,
    *,
    data_dir: Path | str | None = None,
    classes: str | None = None,
    split: str = "train",
    progress: Progress = SILENT,
    cache_dir: Path | str | None = None,
) -> Dataset:
    """Open a dataset by name or path.

    Args:
        spec: One of `DATASET_NAMES`; the path of an ImageFolder (a name wins over a folder of that name:
            write ./name for the folder) or its URL (s3://bucket/photos); `hf:` and a dataset of the hub or a
            folder of parquet files; `wds:` and WebDataset shards.
        data_dir: The ILSVRC-2012 tree, its URL, or the folder of its tar files, of an ImageNet name;
            $IMAGENET_DIR by default.
        classes: Class names, indices and ranges, such as "0-9,n01440764"; all by default. Labels stay those
            of the full list.
        split: "train", "val" or, where there is one, "test".
        progress: Where the bar of a long scan goes.
        cache_dir: Where the indexes of tars and streams are kept; `default_cache_dir()` by default.

    Returns:
        The classes and where their images lie; no image is read yet.

    Raises:
        UserError: Unknown name, missing folder, missing or empty classes, unknown selector, or a stream
            that was never encoded, so that its images are not known.
    """
    opened = open_source(
        spec, data_dir=data_dir, classes=classes, split=split, progress=progress, cache_dir=cache_dir
    )
    if isinstance(opened, Dataset):
        return opened
    raise unread_error(spec)


def unread_error(spec: str) -> UserError:
    """What is said where a stream that was never read is of no use."""
    return UserError(
        f"the images of {spec!r} are not known yet, because it is a stream: run `mgd3-fast encode` on it"
        " first"
    )


def open_source(
    spec: str,
    *,
    data_dir: Path | str | None = None,
    classes: str | None = None,
    split: str = "train",
    progress: Progress = SILENT,
    cache_dir: Path | str | None = None,
) -> Dataset | ImageStream:
    """Open a dataset as `open_dataset` does, or hand out a stream that was never read, with all its classes.

    Raises:
        UserError: As `open_dataset`.
    """
    if spec in IMAGENET_NAMES:
        folder = None if data_dir is None else path_at(data_dir)
        return open_imagenet(spec, folder, classes, split, progress, cache_dir)
    if data_dir is not None:
        raise UserError(f"data_dir must be left out unless dataset is an ImageNet name, got dataset {spec!r}")
    if spec == "mnist5k":
        return _open_mnist5k(classes, split)
    if spec.startswith("wds:"):
        from mgd3_fast.datasets.webdataset import open_webdataset

        opened = open_webdataset(spec, classes, split, cache_dir, progress)
        return opened if isinstance(opened, Dataset) else _known(opened, classes, split, cache_dir)
    if spec.startswith("hf:"):
        from mgd3_fast.datasets.hugging_face import open_hub_stream

        return _known(open_hub_stream(spec, split), classes, split, cache_dir)
    return _open_folder(spec, classes, split, progress)


def _known(
    stream: ImageStream, classes: str | None, split: str, cache_dir: Path | str | None
) -> Dataset | ImageStream:
    """A stream as a dataset, where it was read before."""
    index = read_index(index_path(stream, cache_dir))
    return stream if index is None else index.dataset(stream, stream_shards(stream, index), classes, split)


def _open_folder(spec: str, classes: str | None, split: str, progress: Progress) -> Dataset:
    path = path_at(spec)
    if path.is_dir():
        return open_image_folder(path, classes, split, progress)
    if isinstance(path, RemotePath):
        raise UserError(f"dataset must be an existing folder of class folders, got {path}, which is empty")
    if path.exists():
        raise UserError(f"dataset must be a name or a folder of class folders, got the file {path}")
    near = get_close_matches(spec.lower(), DATASET_NAMES, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near and os.sep not in spec else ""
    raise UserError(
        f"dataset must be one of {', '.join(DATASET_NAMES)}, an existing folder of class folders, "
        f"hf:... or wds:..., got {spec!r}{hint}"
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
