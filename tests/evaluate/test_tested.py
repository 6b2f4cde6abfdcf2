"""What classifiers are tested on: labelled splits of folders, hub datasets and shards, by any name."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgd3_fast.cli import main
from mgd3_fast.datasets import Dataset, imagenet_classes, open_source
from mgd3_fast.datasets.shard_index import ShardColumns, build_index, index_path, write_index
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate import EvaluateConfig, evaluate_folders
from mgd3_fast.evaluate.tested import open_split
from mgd3_fast.progress import SILENT
from tests.fakes.full_disks import largest_file
from tests.fakes.manifests import whole_manifest
from tests.fakes.pictures import encoded, photo
from tests.fakes.tars import write_shards

NAMES = ("ant", "bee", "cow")


def write_classes(folder: Path, names: tuple[str, ...] = NAMES, count: int = 2, first: int = 0) -> Path:
    """Photos `first`, `first` + 1, ... in folders of classes."""
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            (folder / name / f"{k}.png").write_bytes(encoded(photo(first + place * count + k), "PNG"))
    return folder


def write_flat(folder: Path) -> None:
    folder.mkdir(parents=True)
    for k in range(3):
        (folder / f"{k}.png").write_bytes(encoded(photo(k), "PNG"))


def opened(dataset: object, split: str = "test", **options: Any) -> Dataset:
    config = EvaluateConfig(folders=(Path("x"),), dataset=str(dataset), eval_split=split, **options)
    return open_split(config, SILENT)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with train/ and val/, whose photos are from 100 on."""
    write_classes(tmp_path / "insects/train")
    write_classes(tmp_path / "insects/val", first=100)
    return tmp_path / "insects"


@pytest.fixture(autouse=True)
def caches(cache: Path) -> None:
    """Indexes of shards and streams lie in a folder of the test."""


# Folders


@pytest.mark.parametrize("layout", ["flat", "one folder", "empty"])
def test_unlabelled_test_images_give_way_to_validation_images(root: Path, layout: str) -> None:
    """As Kaggle and Tiny ImageNet hand out their test images."""
    write_flat(root / "test" / ("images" if layout == "one folder" else ""))
    if layout == "empty":
        shutil.rmtree(root / "test")
        (root / "test").mkdir()
    dataset = opened(root)
    assert (dataset.split, dataset.root, dataset.counts) == (
        "val",
        str(root / "val"),
        dict.fromkeys(NAMES, 2),
    )
    assert dataset.notes[0].startswith("test/ has no folder named as a class")
    assert np.array_equal(np.asarray(dataset.load(0, 0)), np.asarray(photo(100)))


def test_nothing_labelled_is_said_of_the_dataset(root: Path) -> None:
    shutil.rmtree(root / "val")
    write_flat(root / "test" / "images")
    with pytest.raises(
        UserError, match=r"insects/test must hold one folder per class named as those of train/"
    ):
        opened(root)


def test_labelled_test_images_come_first(root: Path) -> None:
    write_classes(root / "test", first=200)
    dataset = opened(root)
    assert (dataset.split, dataset.notes) == ("test", [])
    assert np.array_equal(np.asarray(dataset.load(0, 0)), np.asarray(photo(200)))


@pytest.mark.parametrize(
    ("split", "folder", "first"),
    [("validation", "val", 100), ("train", "train", 0), ("dev", "dev", 300), ("test", "test", 200)],
)
def test_any_split_of_a_folder_can_be_named(root: Path, split: str, folder: str, first: int) -> None:
    write_classes(root / "test", first=200)
    if split == "dev":
        write_classes(root / "dev", first=300)
    dataset = opened(root, split)
    assert (dataset.split, dataset.root) == (split, str(root / folder))
    assert np.array_equal(np.asarray(dataset.load(0, 0)), np.asarray(photo(first)))


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [
        ("insects", "dev", "must hold dev/ for split dev, got train, val"),
        ("insects/train", "test", "must hold test/ for split test, but its folders are classes"),
        ("mnist5k", "dev", "split must be .*, got 'dev'"),
    ],
)
def test_splits_that_are_not_there_are_one_line(root: Path, dataset: str, split: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(dataset if dataset == "mnist5k" else root.parent / dataset, split)


def test_images_held_out_of_train_are_still_called_val(root: Path) -> None:
    assert (opened(root, "val").split, len(opened(root, "val"))) == ("val of train", 3)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_imagenet_is_tested_on_its_validation_images(tmp_path: Path, split: str) -> None:
    write_classes(tmp_path / "val", imagenet_classes("imagewoof"), count=1)
    assert opened("imagewoof", split, data_dir=tmp_path).split == "val"


@pytest.fixture
def distilled(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "set")


def test_a_class_without_test_images_is_said_of_the_dataset(
    root: Path, distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(root / "val/bee")
    words = ["evaluate", str(distilled), "--dataset", str(root), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"insects has no test images of bee, but {distilled} holds these classes" in line
    (distilled / "bee").rename(distilled / "00001")  # called by its label in the training images' list
    assert main(words) == 2
    assert "insects has no test images of bee" in capsys.readouterr().err
    assert main([*words, "--classes", "ant,bee"]) == 2
    assert "insects/val must hold a folder for each class, missing bee" in capsys.readouterr().err
    shutil.rmtree(distilled / "00001")
    few = ["--networks", "convnet1w4-in", "--epochs", "1", "--repeats", "1", "--size", "16"]
    assert main([*words, *few, "--stored-size", "16"]) == 0
    result = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert result["dataset"]["notes"] == ["val/ has no images of bee, which train/ has"]


def test_labels_are_those_of_the_training_images(root: Path) -> None:
    shutil.rmtree(root / "val/ant")
    write_classes(root / "val", ("dog",))
    dataset = opened(root)
    assert [(one.name, one.label) for one in dataset.classes] == [("bee", 1), ("cow", 2)]
    assert dataset.class_list_hash == opened(root, "train").class_list_hash
    assert dataset.notes == [
        "val/ has folders that train/ has not, which are left out: dog",
        "val/ has no images of ant, which train/ has",
    ]


# The hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes splits of a dataset by their labels; images of a split are photos from a number on."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=list(NAMES))})

    def write(**splits: tuple[list[int], int]) -> str:
        (tmp_path / "hub/data").mkdir(parents=True)
        for split, (labels, first) in splits.items():
            images = [
                {"bytes": encoded(photo(first + k), "PNG"), "path": f"{k}.png"} for k in range(len(labels))
            ]
            table = library.Dataset.from_dict({"image": images, "label": labels}, features=features)
            table.to_parquet(tmp_path / "hub/data" / f"{split}-00000-of-00001.parquet")
        return f"hf:{tmp_path / 'hub'}"

    return write


def test_hub_datasets_are_read_once_and_tested_on(hub: Callable[..., str], tmp_path: Path) -> None:
    """Images come mixed; the result has them class after class, and repeats."""
    spec = hub(train=([0, 1, 2], 0), test=([2, 0, 1, 0], 50))
    dataset = opened(spec)
    assert (dataset.split, dataset.counts) == ("test", {"ant": 2, "bee": 1, "cow": 1})
    for place, image, number in ((0, 0, 51), (0, 1, 53), (1, 0, 52), (2, 0, 50)):
        assert np.array_equal(np.asarray(dataset.load(place, image)), np.asarray(photo(number)))
    assert opened(spec, classes="ant,cow").counts == {"ant": 2, "cow": 1}
    config = EvaluateConfig(
        folders=(write_classes(tmp_path / "set"),),
        dataset=spec,
        networks=("convnet1w4-in",),
        epochs=1,
        repeats=1,
        size=16,
        stored_size=16,
        out=tmp_path / "out",
        device="cpu",
    )
    result = evaluate_folders(config)
    assert (result["dataset"]["images"], result["dataset"]["split"]) == (4, "test")
    assert result["dataset"]["fingerprint"] == dataset.fingerprint == opened(spec).fingerprint


def test_unlabelled_test_rows_of_the_hub_give_way_to_validation_rows(hub: Callable[..., str]) -> None:
    """As in most of its benchmarks: -1 is no label."""
    dataset = opened(hub(train=([0, 1, 2], 0), validation=([0, 1, 2], 70), test=([-1, -1], 50)))
    assert (dataset.split, len(dataset)) == ("validation", 3)
    assert dataset.notes[-1].startswith("the test images are unlabelled, the validation images are taken")
    assert np.array_equal(np.asarray(dataset.load(0, 0)), np.asarray(photo(70)))


def test_any_split_of_a_hub_dataset_can_be_named(hub: Callable[..., str]) -> None:
    spec = hub(train=([0, 1, 2], 0), validation=([0, 1, 2], 70), extra=([2, 1, 0], 90))
    for split, first in (("extra", 92), ("validation", 70), ("train", 0)):
        dataset = opened(spec, split)
        assert dataset.split == split
        assert np.array_equal(np.asarray(dataset.load(0, 0)), np.asarray(photo(first)))
    with pytest.raises(UserError, match=r"split must be one of .* for hf:.*, got 'other'"):
        opened(spec, "other")
    with pytest.raises(UserError, match=r"eval_split must name a split of hf:.*: no images can be held out"):
        opened(spec, "val")


def test_a_hub_dataset_that_was_encoded_is_tested_on_alike(hub: Callable[..., str]) -> None:
    """Its index is kept then, and it opens as a dataset whose images are still read from front to back."""
    spec = hub(train=([0, 1, 2], 0), test=([2, 0, 1], 50))
    fresh, stream = opened(spec), open_source(spec, split="test")
    rows = list(stream.read(0))
    columns = ShardColumns.of(*([getattr(row, name) for row in rows] for name in ("label", "name")), [9] * 3)
    write_index(index_path(stream, None), build_index([columns], NAMES, spec))
    assert open_source(spec, split="test").stream is not None
    known = opened(spec)
    assert (known.stream, known.split, known.fingerprint) == (None, "test", fresh.fingerprint)


def test_a_full_disk_is_one_line(hub: Callable[..., str]) -> None:
    spec = hub(train=([0], 0), test=([0, 1, 2], 50))
    with largest_file(100), pytest.raises(UserError, match=r"images to test on do not fit into .*TMPDIR"):
        opened(spec)


def test_what_a_hub_dataset_lacks_is_said_of_it(hub: Callable[..., str]) -> None:
    spec = hub(train=([0, 1, 2], 0), test=([-1], 50))
    with pytest.raises(UserError, match=r"hf:.* has no label in column label of row"):
        opened(spec)
    shutil.rmtree(Path(spec.removeprefix("hf:")))
    with pytest.raises(UserError, match="has no images of bee"):
        opened(hub(test=([0, 2], 0)))


# WebDataset shards


@pytest.fixture
def shards(tmp_path: Path) -> Callable[..., str]:
    """Writes in-train-000.tar and shards of other splits; gives what names those of training."""
    pytest.importorskip("braceexpand")

    def write(**splits: list[str]) -> str:
        for place, (split, labels) in enumerate({"train": ["0", "1", "2"], **splits}.items()):
            (path,) = write_shards(tmp_path / "wds" / split, [labels], first=100 * place)
            path.rename(tmp_path / "wds" / f"in-{split}-000.tar")
        return f"wds:{tmp_path}/wds/in-train-{{000..000}}.tar"

    return write


def test_shards_of_a_split_are_called_as_those_of_training(
    shards: Callable[..., str], tmp_path: Path
) -> None:
    spec = shards(val=["2", "1", "0"], dev=["0", "1", "2"])
    for split, name, first in (("test", "val", 102), ("validation", "val", 102), ("dev", "dev", 200)):
        dataset = opened(spec, split)
        assert (dataset.split, dataset.counts) == (name, {"0": 1, "1": 1, "2": 1})
        assert np.array_equal(np.asarray(dataset.load(0, 0)), np.asarray(photo(first)))
    assert opened(spec, "train").split == "train"
    assert opened(f"wds:{tmp_path}/wds/in-dev-000.tar").split == "test"  # shards that are named are meant
    with pytest.raises(
        UserError, match=r"no shards of split extra were found: they must be called like wds:.* with extra"
    ):
        opened(spec, "extra")


def test_unlabelled_test_shards_give_way_to_validation_shards(
    shards: Callable[..., str], tmp_path: Path
) -> None:
    spec = shards(val=["0", "1", "2"])
    (path,) = write_shards(tmp_path / "wds/test", [[""]])
    path.rename(tmp_path / "wds/in-test-000.tar")
    dataset = opened(spec)
    assert dataset.split == "val"
    assert re.match(
        r"the test shards are unlabelled and not read \(sample .* holds no label", dataset.notes[-1]
    )


def test_damaged_test_shards_are_not_passed_over(shards: Callable[..., str], tmp_path: Path) -> None:
    spec = shards(val=["0", "1", "2"], test=["0", "1", "2"])
    whole = (tmp_path / "wds/in-test-000.tar").read_bytes()
    (tmp_path / "wds/in-test-000.tar").write_bytes(whole[:700])
    with pytest.raises(UserError, match=r"in-test-000\.tar"):
        opened(spec)


def test_compressed_shards_are_read_once(shards: Callable[..., str], tmp_path: Path) -> None:
    shards(val=["2", "1", "0"])
    packed = tmp_path / "wds/in-val-000.tar.gz"
    packed.write_bytes(gzip.compress((tmp_path / "wds/in-val-000.tar").read_bytes()))
    dataset = opened(f"wds:{packed}")
    assert (dataset.stream, dataset.counts) == (None, {"0": 1, "1": 1, "2": 1})
    assert np.array_equal(np.asarray(dataset.load(2, 0)), np.asarray(photo(100)))


def test_a_class_of_a_run_that_shards_lack_is_said_of_the_dataset(
    shards: Callable[..., str], tmp_path: Path
) -> None:
    """Shards without a list of classes know those that they hold."""
    spec = shards(val=["0", "1"])
    run = write_classes(tmp_path / "run", ("0", "1", "2"), count=1)
    classes = [
        {"name": name, "label": k, "folder": name, "source_images": 2}
        for k, name in enumerate(("0", "1", "2"))
    ]
    (run / "manifest.json").write_text(json.dumps(written_manifest(classes)))
    with pytest.raises(UserError, match=r"in-val-.* \(val\) has no images of 2, but .*run was made for them"):
        evaluate_folders(EvaluateConfig(folders=(run,), dataset=spec, out=tmp_path / "out"))


def written_manifest(classes: list[dict[str, Any]]) -> dict[str, Any]:
    from mgd3_fast.writers.manifest import FORMAT, FORMAT_VERSION

    return {"format": FORMAT, "format_version": FORMAT_VERSION, **whole_manifest(classes=classes)}
