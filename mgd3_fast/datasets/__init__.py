"""Whatever `--dataset` names becomes classes in label order, and a stream of square images."""

from mgd3_fast.datasets.batches import (
    BadImage,
    bad_image_error,
    image_batches,
    load_image,
    no_good_image_error,
    run_ahead,
)
from mgd3_fast.datasets.cropping import center_crop
from mgd3_fast.datasets.dataset import Dataset, ImageClass, describe
from mgd3_fast.datasets.decoding import BadImageError, decode_image
from mgd3_fast.datasets.framing import DEFAULT_FRAMING, Framing, chosen_framing
from mgd3_fast.datasets.imagenet import IMAGENET_NAMES, imagenet_class_titles, imagenet_classes
from mgd3_fast.datasets.images import ArrayImages, FileImages, ScannedFile
from mgd3_fast.datasets.opening import DATASET_NAMES, open_dataset, open_source, unread_error
from mgd3_fast.datasets.shards import Row, Shard, rows_of, shards_of
from mgd3_fast.datasets.streams import ImageStream, StreamedImage

__all__ = [
    "DATASET_NAMES",
    "DEFAULT_FRAMING",
    "IMAGENET_NAMES",
    "ArrayImages",
    "BadImage",
    "BadImageError",
    "Dataset",
    "FileImages",
    "Framing",
    "ImageClass",
    "ImageStream",
    "Row",
    "ScannedFile",
    "Shard",
    "StreamedImage",
    "bad_image_error",
    "center_crop",
    "chosen_framing",
    "decode_image",
    "describe",
    "image_batches",
    "imagenet_class_titles",
    "imagenet_classes",
    "load_image",
    "no_good_image_error",
    "open_dataset",
    "open_source",
    "rows_of",
    "run_ahead",
    "shards_of",
    "unread_error",
]
