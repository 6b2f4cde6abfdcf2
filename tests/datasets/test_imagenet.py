"""Class lists against their published index form, and ILSVRC trees in every accepted shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.rehearsals.make_ilsvrc_tree import make_ilsvrc_tree
from mgd3_fast.datasets import (
    IMAGENET_NAMES,
    Dataset,
    FileImages,
    ImageClass,
    ScannedFile,
    describe,
    imagenet_class_titles,
    imagenet_classes,
    open_dataset,
)
from mgd3_fast.datasets.imagenet import count_notes
from mgd3_fast.errors import UserError

# ILSVRC-2012 training images of the ten imagenette classes, in list order.
NETTE = imagenet_classes("imagenette")


@pytest.mark.parametrize(
    ("name", "indices"),
    [
        ("imagenette", [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]),
        ("imagewoof", [193, 182, 258, 162, 155, 167, 159, 273, 207, 229]),
        ("imageidc", [452, 64, 374, 236, 993, 176, 882, 904, 503, 74]),
        ("imagenet-a", [255, 376, 984, 364, 500, 986, 333, 576, 148, 135]),
        ("imagenet-b", [129, 916, 90, 275, 995, 874, 102, 259, 685, 139]),
        ("imagenet-c", [565, 94, 554, 535, 92, 392, 291, 136, 324, 11]),
        ("imagenet-d", [9, 258, 13, 262, 19, 339, 321, 24, 93, 322]),
        ("imagenet-e", [816, 96, 100, 145, 739, 713, 783, 76, 688, 326]),
        ("imagenet1k", list(range(1000))),
    ],
)
def test_list_has_its_published_indices(name: str, indices: list[int]) -> None:
    position = {wnid: index for index, wnid in enumerate(sorted(imagenet_classes("imagenet1k")))}
    assert [position[wnid] for wnid in imagenet_classes(name)] == indices


def test_imagenet100_is_the_idc_list_unsorted() -> None:
    names = imagenet_classes("imagenet100")
    assert len(set(names)) == 100
    assert set(names) <= set(imagenet_classes("imagenet1k"))
    assert names != tuple(sorted(names))
    assert names[:10] == imagenet_classes("imageidc")


def test_titles_are_in_index_order() -> None:
    titles = imagenet_class_titles()
    assert len(titles) == 1000
    assert titles[0] == "tench, Tinca tinca"
    assert titles[207] == "golden retriever"
    assert titles[999].startswith("toilet tissue")


def test_unknown_list_is_named() -> None:
    with pytest.raises(UserError, match=r"name must be one of imagenet1k, .*imagenet-e, got 'imagenet-f'"):
        imagenet_classes("imagenet-f")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imagewoof's classes with 3 training and 2 validation images each."""
    root = tmp_path_factory.mktemp("ilsvrc")
    make_ilsvrc_tree(root, imagenet_classes("imagewoof"), 3)
    make_ilsvrc_tree(root, imagenet_classes("imagewoof"), 2, split="val")
    return root


@pytest.mark.parametrize("inside", ["", "train"], ids=["root", "folder-of-wnids"])
def test_train_tree_is_found(tree: Path, inside: str) -> None:
    dataset = open_dataset("imagewoof", data_dir=tree / inside)
    assert dataset.class_names == imagenet_classes("imagewoof")
    assert [cls.label for cls in dataset.classes] == list(range(10))
    assert set(dataset.counts.values()) == {3}


@pytest.mark.parametrize("nesting", ["ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC"])
@pytest.mark.parametrize(("split", "folder"), [("train", "train"), ("val", "val"), ("val", "validation")])
def test_nested_tree_is_found(tree: Path, tmp_path: Path, nesting: str, split: str, folder: str) -> None:
    (tmp_path / nesting).mkdir(parents=True)
    (tmp_path / nesting / folder).symlink_to(tree / split)
    dataset = open_dataset("imagewoof", data_dir=tmp_path, split=split)
    assert set(dataset.counts.values()) == {3 if split == "train" else 2}


@pytest.mark.parametrize("inside", ["", "val", "train"], ids=["root", "folder-of-wnids", "beside-train"])
def test_val_is_found_and_never_train_in_its_place(tree: Path, inside: str) -> None:
    dataset = open_dataset("imagewoof", data_dir=tree / inside, split="val")
    assert dataset.split == "val"
    assert set(dataset.counts.values()) == {2}


def test_imagenet_dir_is_used_unless_data_dir_is_given(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGENET_DIR", str(tree))
    assert len(open_dataset("imagewoof")) == 30
    with pytest.raises(UserError, match="data_dir must hold train/"):
        open_dataset("imagewoof", data_dir=tmp_path)
    monkeypatch.delenv("IMAGENET_DIR")
    with pytest.raises(UserError, match="give --data-dir or set IMAGENET_DIR"):
        open_dataset("imagewoof")


def test_subset_needs_only_its_own_folders_and_keeps_labels(tree: Path) -> None:
    # imagewoof's n02111889 (Samoyed) is label 2 there, 258 in the full list.
    dataset = open_dataset("imagenet1k", data_dir=tree, classes="n02111889,193")
    assert [(cls.label, cls.name) for cls in dataset.classes] == [(193, "n02096294"), (258, "n02111889")]
    woof = open_dataset("imagewoof", data_dir=tree, classes="n02111889")
    assert woof.classes[0].label == 2
    # One latent file serves both, because neither label nor list is in the key.
    assert woof.classes[0].cache_key == dataset.classes[1].cache_key
    assert woof.class_list_hash != dataset.class_list_hash


def test_missing_folders_are_counted(tree: Path) -> None:
    with pytest.raises(UserError, match=r"missing n01440764, .* and 985 more$"):
        open_dataset("imagenet1k", data_dir=tree)


def test_flat_validation_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"x")
    with pytest.raises(UserError, match=r"val must hold one folder per wnid"):
        open_dataset("imagenette", data_dir=tmp_path, split="val")


def test_test_split_is_refused(tree: Path) -> None:
    with pytest.raises(UserError, match="split must be train or val for imagewoof, got 'test'"):
        open_dataset("imagewoof", data_dir=tree, split="test")


def dataset_of(
    name: str, split: str, files: dict[str, list[str]], names: tuple[str, ...] | None = None
) -> Dataset:
    """A dataset whose files exist only by name."""
    names = names or imagenet_classes(name)
    classes = tuple(
        ImageClass(
            wnid, names.index(wnid), FileImages(Path(wnid), [ScannedFile(f, 1, 0) for f in sorted(listed)])
        )
        for wnid, listed in files.items()
    )
    return Dataset(name, classes, names, split)


def train_files(counts: list[int]) -> dict[str, list[str]]:
    return {w: [f"{w}_{i}.JPEG" for i in range(n)] for w, n in zip(NETTE, counts, strict=True)}


ILSVRC_NETTE = [1300, 1300, 1300, 1194, 1300, 1300, 1300, 1300, 1300, 1300]  # 12,894 in all
FASTAI_NETTE = [963, 955, 993, 858, 941, 956, 961, 931, 951, 960]  # 9,469 in all


def test_full_ilsvrc_counts_raise_no_note() -> None:
    assert sum(ILSVRC_NETTE) == 12_894
    assert count_notes(dataset_of("imagenette", "train", train_files(ILSVRC_NETTE))) == []
    val = {w: [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(50)] for w in NETTE}
    assert count_notes(dataset_of("imagenette", "val", val)) == []


def test_fastai_train_is_told_by_its_total() -> None:
    assert sum(FASTAI_NETTE) == 9_469
    (note,) = count_notes(dataset_of("imagenette", "train", train_files(FASTAI_NETTE)))
    assert "9,469 images: this is fastai's imagenette2, not ILSVRC-2012" in note
    assert "published figures" in note


@pytest.mark.parametrize(
    ("name", "split", "total", "known_as"),
    [
        ("imagenette", "val", 3_925, "imagenette2"),
        ("imagewoof", "train", 9_025, "imagewoof2"),
        ("imagewoof", "val", 3_929, "imagewoof2"),
    ],
)
def test_other_fastai_totals_are_known(name: str, split: str, total: int, known_as: str) -> None:
    names = imagenet_classes(name)
    files = {w: [f"{i}.JPEG" for i in range(total // 10 + (c < total % 10))] for c, w in enumerate(names)}
    (note,) = count_notes(dataset_of(name, split, files))
    assert f"{total:,} images: this is fastai's {known_as}" in note


def test_resplit_subset_is_told_by_file_names() -> None:
    wnid = NETTE[0]
    train = {wnid: [f"{wnid}_{i}.JPEG" for i in range(900)] + ["ILSVRC2012_val_00000293.JPEG"]}
    (note,) = count_notes(dataset_of("imagenette", "train", train))
    assert "901 images, 1 from the other ILSVRC split: this is a re-split" in note
    val = {
        wnid: [f"{wnid}_{i}.JPEG" for i in range(30)] + [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(20)]
    }
    (note,) = count_notes(dataset_of("imagenette", "val", val))
    assert "30 from the other ILSVRC split" in note


@pytest.mark.parametrize("count", [731, 1301])
def test_unexpected_class_count_is_noted(count: int) -> None:
    counts = [count, *ILSVRC_NETTE[1:]]
    total_note, class_note = count_notes(dataset_of("imagenette", "train", train_files(counts)))
    assert f"{sum(counts):,} images, but ILSVRC-2012 train has 12,894" in total_note
    assert f"732 to 1,300 images per class, got {NETTE[0]} {count}" in class_note


def test_incomplete_imagenet1k_total_is_noted() -> None:
    names = imagenet_classes("imagenet1k")
    files = {w: [f"{w}_{i}" for i in range(800)] for w in names}
    (note,) = count_notes(dataset_of("imagenet1k", "train", files))
    assert note == "800,000 images, but ILSVRC-2012 train has 1,281,167 for imagenet1k"


def test_description_summarises_many_classes(tmp_path: Path) -> None:
    make_ilsvrc_tree(tmp_path, imagenet_classes("imagenet100"), 1)
    lines = describe(open_dataset("imagenet100", data_dir=tmp_path)).splitlines()
    assert lines[0] == f"imagenet100 (train): 100 classes, 100 images in {tmp_path}/train"
    assert lines[1].startswith("images per class: 1 (n02869837) to 1 (")
    assert lines[2].startswith("warning: ILSVRC-2012 train has 732 to 1,300 images per class, got n0")


def test_names_are_complete() -> None:
    assert len(IMAGENET_NAMES) == 10
    for name in IMAGENET_NAMES:
        assert len(set(imagenet_classes(name))) == len(imagenet_classes(name))
