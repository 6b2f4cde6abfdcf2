"""ILSVRC-2012 as it is downloaded: a tar of 1,000 class tars, and a flat tar of the validation images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.datasets.dataset import ImageClass
from mgd3_fast.datasets.folders import is_image, left_out_notes, suffix_of
from mgd3_fast.datasets.images import FileList, ListedImages, ScannedFile
from mgd3_fast.datasets.tar_index import IndexedImage, TarIndex, TarIndexes, TarRange
from mgd3_fast.datasets.tars import read_from_tar, tar_members
from mgd3_fast.errors import UserError, listed
from mgd3_fast.progress import Progress

ILSVRC_TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
_DEVKIT = "ILSVRC2012_devkit_t12"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"
_SYNSET_LABELS = "imagenet_2012_validation_synset_labels.txt"


class TarImages(ListedImages):
    """Images of one class that lie in a tar file from their offsets on, int64 [n]; read from there."""

    def __init__(self, files: FileList, tar: Path, offsets: NDArray[np.int64]) -> None:
        super().__init__(files)
        self._tar, self._offsets = tar, offsets

    def location(self, position: int) -> str:
        """The tar and the image in it."""
        return f"{self._tar}:{self.name(position)}"

    def read(self, position: int) -> bytes:
        """Bytes of one image file; see `read_from_tar`."""
        return read_from_tar(self._tar, int(self._offsets[position]), self.size(position))


def find_ilsvrc_tar(data_dir: Path, split: str) -> Path | None:
    """The downloaded tar of a split, "train" or "val": `data_dir` itself, or in it, or beside the other's."""
    tar = (data_dir.parent if data_dir.is_file() else data_dir) / ILSVRC_TARS[split]
    return tar if tar.is_file() else None


def open_ilsvrc_tar(
    tar: Path, names: Sequence[str], labels: Sequence[int], split: str, indexes: Path, progress: Progress
) -> tuple[tuple[ImageClass, ...], list[str]]:
    """Find the images of some classes in a downloaded tar, without unpacking it.

    Names, sizes and times of change are those of the unpacked tree, and so are the keys made of them:
    latents of one serve the other. Images are sorted by name; what a scan of the headers found is kept in
    the folder `indexes`.

    Returns:
        A class for each of the labels in the class list; and a note where files were left out.

    Raises:
        UserError: A class is missing, the tar is damaged, or the validation labels are not beside it.
    """
    wanted = [names[label] for label in labels]
    opened = _train_images if split == "train" else _validation_images
    images, left_out = opened(tar, wanted, indexes, progress)
    empty = [name for name, of_class in zip(wanted, images, strict=True) if not len(of_class)]
    notes = left_out_notes(left_out)
    if empty:
        raise UserError("; ".join([f"{tar} must hold images of each class, none of {listed(empty)}", *notes]))
    found = zip(wanted, labels, images, strict=True)
    return tuple(ImageClass(*of_class) for of_class in found), notes


def _train_images(
    tar: Path, wnids: Sequence[str], indexes: Path, progress: Progress
) -> tuple[list[TarImages], Counter[str]]:
    outer = TarRange.whole(tar)
    with progress.stage("index", total=1 + len(wnids), unit="tar") as bar:
        (class_tars,) = TarIndexes(indexes, "class tars", _scan_class_tars).of([outer], bar)
        places = {class_tars.label(position): position for position in range(len(class_tars))}
        missing = [wnid for wnid in wnids if wnid not in places]
        if missing:
            raise UserError(f"{tar} must hold a tar for each class, missing {listed(missing)}")
        ranges = [
            TarRange(tar, int(class_tars.offsets[place]), int(class_tars.files.sizes[place]), outer.mtime_ns)
            for place in (places[wnid] for wnid in wnids)
        ]
        found = list(TarIndexes(indexes, "images", _scan_images).of(ranges, bar))
    left_out = sum((Counter(index.left_out) for index in found), Counter[str]())
    return [TarImages(index.files, tar, index.offsets) for index in found], left_out


def _validation_images(
    tar: Path, wnids: Sequence[str], indexes: Path, progress: Progress
) -> tuple[list[TarImages], Counter[str]]:
    wnid_of_image = np.array(_validation_wnids(tar.parent))
    with progress.stage("index", total=1, unit="tar") as bar:
        (index,) = TarIndexes(indexes, "images", _scan_images).of([TarRange.whole(tar)], bar)
    if len(index) != len(wnid_of_image):
        raise UserError(
            f"{tar} must hold the {len(wnid_of_image):,} images that have labels, got {len(index):,}"
        )
    images = [_chosen(tar, index, np.flatnonzero(wnid_of_image == wnid)) for wnid in wnids]
    return images, Counter(index.left_out)


def _chosen(tar: Path, index: TarIndex, positions: NDArray[np.int64]) -> TarImages:
    files = FileList.of(index.files[position] for position in positions)
    return TarImages(files, tar, index.offsets[positions])


def _scan_class_tars(tar: TarRange, left_out: Counter[str]) -> Iterator[IndexedImage]:
    for member in tar.members(wanted=lambda name: False):
        path = Path(member.name)
        if path.suffix == ".tar":
            file = ScannedFile(path.name, member.size, member.mtime_ns)
            yield IndexedImage(file, member.offset, path.stem)


def _scan_images(tar: TarRange, left_out: Counter[str]) -> list[IndexedImage]:
    found = []
    for member in tar.members(wanted=lambda name: False):
        name = Path(member.name).name
        if is_image(name):
            found.append(IndexedImage(ScannedFile(name, member.size, member.mtime_ns), member.offset))
        elif not name.startswith("."):
            left_out[suffix_of(name)] += 1
    return sorted(found)


def _validation_wnids(folder: Path) -> list[str]:
    """The wnid of each validation image, in the order of their numbers."""
    labels = folder / _SYNSET_LABELS
    if labels.is_file():
        return labels.read_text(encoding="utf-8").split()
    truth_file, meta = _devkit_files(folder)
    truth = [int(line) for line in truth_file.decode().split()]
    wnids = _wnids_of_ids(meta)
    unknown = sorted(set(truth) - wnids.keys())
    if unknown:
        raise UserError(f"{_DEVKIT} must name the synset of each label, missing {listed(unknown)}")
    return [wnids[number] for number in truth]


def _devkit_files(folder: Path) -> tuple[bytes, bytes]:
    """Labels and synsets of the development kit, unpacked or as downloaded."""
    unpacked, packed = folder / _DEVKIT, folder / f"{_DEVKIT}.tar.gz"
    if unpacked.is_dir():
        return (unpacked / _GROUND_TRUTH).read_bytes(), (unpacked / _META).read_bytes()
    if not packed.is_file():
        raise UserError(
            f"{folder} must hold the labels of the validation images: {_DEVKIT}.tar.gz (or unpacked) "
            f"or {_SYNSET_LABELS}, got neither"
        )
    names = [f"{_DEVKIT}/{name}" for name in (_GROUND_TRUTH, _META)]
    with packed.open("rb") as file:
        found = {member.name: member.content for member in tar_members(file, str(packed), names.__contains__)}
    truth, meta = (found.get(name) for name in names)
    if truth is None or meta is None:
        raise UserError(f"{packed} must hold {' and '.join(names)}")
    return truth, meta


def _wnids_of_ids(meta: bytes) -> dict[int, str]:
    from scipy.io import loadmat  # type: ignore[import-untyped]

    synsets = loadmat(BytesIO(meta), squeeze_me=True)["synsets"]
    numbers, wnids = synsets["ILSVRC2012_ID"], synsets["WNID"]
    return {int(number): str(wnid) for number, wnid in zip(numbers, wnids, strict=True)}
