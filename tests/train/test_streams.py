"""Training on parquet files and shards: streams, which are read once into the cache, and tars in place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mgd3_fast.datasets import open_source
from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT
from mgd3_fast.train import train_generator
from mgd3_fast.train.batches import StreamedImages, TrainingImages, training_images
from mgd3_fast.train.run import open_run
from tests.fakes.pictures import encoded, photo
from tests.fakes.tars import write_shards
from tests.fakes.tiny_training import tiny_config

LABELS = [["0", "1", "0", "1"], ["1", "0", "0"]]


@pytest.fixture
def parquet(tmp_path, monkeypatch) -> Path:
    """A folder of one parquet file: four ants and three bees, the photos of `LABELS`."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])}
    )
    labels = [int(label) for shard in LABELS for label in shard]
    images = [{"bytes": encoded(photo(number), "PNG"), "path": None} for number in range(len(labels))]
    (tmp_path / "parquet").mkdir()
    rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    rows.to_parquet(tmp_path / "parquet/train.parquet")
    return tmp_path / "parquet"


@pytest.fixture
def shards(tmp_path) -> Path:
    write_shards(tmp_path / "tars", LABELS)
    (tmp_path / "tars/classes.txt").write_text("ant\nbee")
    return tmp_path / "tars"


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "dit.safetensors") | load_file(
        folder / "vae/diffusion_pytorch_model.safetensors"
    )


def test_a_stream_gives_the_network_that_the_same_tars_give(parquet, shards, tmp_path):
    streamed = train_generator(tiny_config(f"hf:{parquet}", tmp_path / "streamed"))
    in_place = train_generator(tiny_config(f"wds:{shards}/{{000..001}}.tar", tmp_path / "in-place"))
    assert json.loads((streamed / "generator.json").read_text())["class_names"] == ["ant", "bee"]
    one, other = weights_of(streamed), weights_of(in_place)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_compressed_shards_are_read_once_and_found_again(shards, tmp_path):
    for tar in shards.glob("*.tar"):
        tar.with_suffix(".tar.gz").write_bytes(gzip.compress(tar.read_bytes()))
    spec = f"wds:{shards}/{{000..001}}.tar.gz"
    config = tiny_config(spec, tmp_path / "gen", part="vae", classes="bee")
    run = open_run(config, SILENT)
    images = training_images(run)
    assert isinstance(images, StreamedImages)
    loaded = images.load(torch.arange(3))
    assert (loaded.dtype, loaded.shape) == (torch.uint8, (3, 3, 16, 16))
    plain = open_source(f"wds:{shards}/{{000..001}}.tar", classes="bee", cache_dir=tmp_path / "cache")
    assert torch.equal(loaded, TrainingImages(plain, 16, "error").load(torch.arange(3)))
    stored = sorted((tmp_path / "cache/latents-2").rglob("*.safetensors"))
    times = [path.stat().st_mtime_ns for path in stored]
    assert len(stored) == 2
    train_generator(config)
    assert [path.stat().st_mtime_ns for path in stored] == times


def test_the_dit_learns_the_latents_of_a_stream_that_nobody_has_read(parquet, tmp_path):
    config = tiny_config(f"hf:{parquet}", tmp_path / "gen", part="vae")
    train_generator(config)
    whole = train_generator(tiny_config(f"hf:{parquet}", tmp_path / "gen", part="dit"))
    other = {"cache_dir": tmp_path / "empty", "vae": str(whole / "vae"), "part": "dit"}
    alone = train_generator(tiny_config(f"hf:{parquet}", tmp_path / "alone", **other))
    one, two = (load_file(folder / "dit.safetensors") for folder in (whole, alone))
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert not list((tmp_path / "empty/latents-2").glob("pixels-*"))


def test_bad_images_of_a_stream_are_named_or_left_out(shards, tmp_path):
    from tests.fakes.tars import tar_bytes

    contents = {"a.png": b"no image", "a.cls": b"0"}
    for number, label in ((1, b"0"), (2, b"1"), (3, b"1")):
        contents |= {f"b{number}.png": encoded(photo(number), "PNG"), f"b{number}.cls": label}
    (tmp_path / "one.tar.gz").write_bytes(gzip.compress(tar_bytes(contents)))
    spec = f"wds:{tmp_path}/one.tar.gz"
    with pytest.raises(UserError, match=r"a\.png cannot be read: not an image"):
        train_generator(tiny_config(spec, tmp_path / "gen"))
    assert not (tmp_path / "gen").exists()
    run = open_run(tiny_config(spec, tmp_path / "gen", on_bad_image="skip"), SILENT)
    assert len(training_images(run)) == 3
    train_generator(tiny_config(spec, tmp_path / "gen", on_bad_image="skip"))


def test_the_size_of_a_stream_is_that_of_its_first_images(parquet, tmp_path):
    """Forty by thirty pixels."""
    config = tiny_config(f"hf:{parquet}", tmp_path / "gen", part="vae", resolution=None)
    assert open_run(config, SILENT).resolution == 32
