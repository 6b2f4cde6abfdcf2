"""ILSVRC-2012 as it is downloaded: a tar of 1,000 class tars, and a flat tar of the validation images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from mgd3_fast.datasets.dataset import ImageClass
from mgd3_fast.datasets.file_list import FileList, ScannedFile
from mgd3_fast.datasets.scanning import IMAGE_SUFFIXES, listed
from mgd3_fast.datasets.tar_index import IndexedImage, TarImages, TarIndex, TarIndexes, TarRange
from mgd3_fast.datasets.tars import Region, tar_members
from mgd3_fast.errors import UserError
from mgd3_fast.progress import Progress

ILSVRC_TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
_DEVKIT = "ILSVRC2012_devkit_t12"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"
_SYNSET_LABELS = "imagenet_2012_validation_synset_labels.txt"


def find_ilsvrc_tar(data_dir: Path, split: str) -> Path | None:
    """The downloaded tar of a split: `data_dir` itself, or in it, or beside it when it is the other split's.

    Args:
        data_dir: A folder or a tar file.
        split: "train" or "val".

    Returns:
        The tar, or None.
    """
    if data_dir.is_file():
        data_dir = data_dir if data_dir.name == ILSVRC_TARS[split] else data_dir.parent / ILSVRC_TARS[split]
        return data_dir if data_dir.is_file() else None
    inside = data_dir / ILSVRC_TARS[split]
    return inside if inside.is_file() else None


def open_ilsvrc_tar(
    tar: Path, names: Sequence[str], labels: Sequence[int], split: str, indexes: Path, progress: Progress
) -> tuple[ImageClass, ...]:
    """Find the images of some classes in a downloaded tar, without unpacking it.

    Names, sizes and times of change are those of the unpacked tree, and so are the keys made of them:
    latents of one serve the other.

    Args:
        tar: ILSVRC2012_img_train.tar or ILSVRC2012_img_val.tar.
        names: The full class list (wnids), in label order.
        labels: Which of them to open.
        split: "train" or "val".
        indexes: Folder that keeps what a scan of the tar's headers found.
        progress: Where the bar goes.

    Returns:
        One class per label, images sorted by name.

    Raises:
        UserError: A class is missing, the tar is damaged, or the validation labels are not beside it.
    """
    if split == "train":
        return _train_classes(tar, names, labels, indexes, progress)
    wnids = _validation_wnids(tar.parent)
    with progress.stage("index", total=1, unit="tar") as bar:
        (index,) = TarIndexes(indexes, "images", _scan_images).of([TarRange.whole(tar)], bar)
    if len(index) != len(wnids):
        raise UserError(f"{tar} must hold the {len(wnids):,} images that have labels, got {len(index):,}")
    members: dict[str, list[int]] = {}
    for position, wnid in enumerate(wnids):
        members.setdefault(wnid, []).append(position)
    missing = [names[label] for label in labels if names[label] not in members]
    if missing:
        raise UserError(f"{tar} must hold images of each class, missing {listed(missing)}")
    return tuple(
        ImageClass(names[label], label, _images_of(tar, index, members[names[label]])) for label in labels
    )


def _train_classes(
    tar: Path, names: Sequence[str], labels: Sequence[int], indexes: Path, progress: Progress
) -> tuple[ImageClass, ...]:
    outer = TarRange.whole(tar)
    with progress.stage("index", total=1 + len(labels), unit="tar") as bar:
        (class_tars,) = TarIndexes(indexes, "class tars", _scan_class_tars).of([outer], bar)
        places = {class_tars.label(position): position for position in range(len(class_tars))}
        missing = [names[label] for label in labels if names[label] not in places]
        if missing:
            raise UserError(f"{tar} must hold a tar for each class, missing {listed(missing)}")
        ranges = [
            TarRange(tar, int(class_tars.offsets[place]), int(class_tars.files.sizes[place]), outer.mtime_ns)
            for place in (places[names[label]] for label in labels)
        ]
        classes = [
            ImageClass(names[label], label, _images_of(tar, index, range(len(index))))
            for label, index in zip(
                labels, TarIndexes(indexes, "images", _scan_images).of(ranges, bar), strict=True
            )
        ]
    empty = [cls.name for cls in classes if not len(cls)]
    if empty:
        raise UserError(f"class tars in {tar} must hold images, empty: {listed(empty)}")
    return tuple(classes)


def _scan_class_tars(region: Region, tar: TarRange) -> Iterable[IndexedImage]:
    for member in tar_members(region, str(tar.path), wanted=lambda name: False):
        path = Path(member.name)
        if path.suffix == ".tar":
            file = ScannedFile(path.name, member.size, member.mtime_ns)
            yield IndexedImage(file, tar.start + member.offset, path.stem)


def _scan_images(region: Region, tar: TarRange) -> list[IndexedImage]:
    members = tar_members(region, str(tar.path), wanted=lambda name: False)
    found = [
        IndexedImage(
            ScannedFile(Path(member.name).name, member.size, member.mtime_ns), tar.start + member.offset, ""
        )
        for member in members
        if member.name.lower().endswith(IMAGE_SUFFIXES)
    ]
    return sorted(found)


def _images_of(tar: Path, index: TarIndex, positions: Sequence[int]) -> TarImages:
    files = index.files
    if len(positions) == len(index):
        chosen, offsets = files, index.offsets
    else:
        chosen = FileList.of(
            ScannedFile(files.name(place), int(files.sizes[place]), int(files.mtimes_ns[place]))
            for place in positions
        )
        offsets = index.offsets[np.array(positions, dtype=np.int64)]
    return TarImages(chosen, tar, offsets)


def _validation_wnids(folder: Path) -> list[str]:
    """The wnid of each validation image, in the order of their numbers."""
    labels = folder / _SYNSET_LABELS
    if labels.is_file():
        return labels.read_text(encoding="utf-8").split()
    files = _devkit_files(folder)
    truth = [int(line) for line in files[_GROUND_TRUTH].decode().split()]
    wnids = _wnids_of_ids(files[_META])
    unknown = sorted(set(truth) - wnids.keys())
    if unknown:
        raise UserError(
            f"{_DEVKIT} must name the synset of each label, missing {listed(list(map(str, unknown)))}"
        )
    return [wnids[number] for number in truth]


def _devkit_files(folder: Path) -> dict[str, bytes]:
    """The two files of the development kit, unpacked or as downloaded."""
    wanted = (_GROUND_TRUTH, _META)
    unpacked, packed = folder / _DEVKIT, folder / f"{_DEVKIT}.tar.gz"
    if unpacked.is_dir():
        return {name: (unpacked / name).read_bytes() for name in wanted}
    if not packed.is_file():
        raise UserError(
            f"{folder} must hold the labels of the validation images: {_DEVKIT}.tar.gz (or unpacked) "
            f"or {_SYNSET_LABELS}, got neither"
        )
    names = {f"{_DEVKIT}/{name}": name for name in wanted}
    with packed.open("rb") as file:
        members = tar_members(file, str(packed), wanted=names.__contains__, seekable=False)
        found = {names[member.name]: member.content or b"" for member in members if member.name in names}
    if found.keys() != set(wanted):
        raise UserError(f"{packed} must hold {' and '.join(names)}, got only {len(found)} of them")
    return found


def _wnids_of_ids(meta: bytes) -> dict[int, str]:
    from scipy.io import loadmat  # type: ignore[import-untyped]

    synsets = loadmat(BytesIO(meta), squeeze_me=True)["synsets"]
    numbers, wnids = synsets["ILSVRC2012_ID"], synsets["WNID"]
    return {int(number): str(wnid) for number, wnid in zip(numbers, wnids, strict=True)}
