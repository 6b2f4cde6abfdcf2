"""The latent store: what a key covers, what comes back, and what a damaged or unwritable store says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from mgd3_fast.datasets import ArrayImages, BadImage, ImageClass
from mgd3_fast.errors import UserError
from mgd3_fast.latents import LatentStore
from mgd3_fast.storage.cache import default_cache_dir
from mgd3_fast.storage.tensor_files import DamagedFileError
from tests.fakes.encoders import array_dataset, put_latents

CLASS = array_dataset(3).classes[0]
LATENTS = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
INDEX = torch.arange(3)


@pytest.fixture
def store(tmp_path: Path) -> LatentStore:
    store = LatentStore(tmp_path, "d1gest", 8)
    store.prepare()
    return store


def test_what_is_put_comes_back(store: LatentStore) -> None:
    assert store.get(CLASS) is None
    bad = (BadImage("0", 1, "00001", "the file is empty"),)
    put_latents(store, CLASS, LATENTS[:2], torch.tensor([0, 2]), bad)
    found = store.open(CLASS, check=True)
    assert found is not None
    assert torch.equal(found.latents, LATENTS[:2])
    assert found.index.tolist() == [0, 2]
    assert found.bad_images == bad
    assert torch.equal(store.get(CLASS), LATENTS[:2])  # type: ignore[arg-type]


def test_float16_store_halves_the_file_within_its_rounding(tmp_path: Path) -> None:
    half = LatentStore(tmp_path, "d1gest", 8, storage_dtype=torch.float16)
    half.prepare()
    put_latents(half, CLASS, LATENTS, INDEX)
    got = half.get(CLASS)
    assert got is not None
    assert got.dtype == torch.float16
    assert ((got.float() - LATENTS).abs() <= LATENTS.abs() * 2**-11).all()


def test_put_again_replaces(store: LatentStore) -> None:
    put_latents(store, CLASS, LATENTS, INDEX)
    put_latents(store, CLASS, LATENTS + 1, INDEX)
    assert torch.equal(store.get(CLASS), LATENTS + 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(("other", 8, torch.float32, torch.float32), id="autoencoder"),
        pytest.param(("d1gest", 16, torch.float32, torch.float32), id="resolution"),
        pytest.param(("d1gest", 8, torch.bfloat16, torch.float32), id="computing-dtype"),
        pytest.param(("d1gest", 8, torch.float32, torch.float16), id="storage-dtype"),
    ],
)
def test_other_settings_have_other_latents(
    store: LatentStore, tmp_path: Path, other: tuple[str, int, torch.dtype, torch.dtype]
) -> None:
    put_latents(store, CLASS, LATENTS, INDEX)
    digest, resolution, dtype, storage_dtype = other
    assert LatentStore(tmp_path, digest, resolution, dtype, storage_dtype=storage_dtype).get(CLASS) is None


def test_label_is_not_in_the_key_but_name_and_images_are(store: LatentStore) -> None:
    put_latents(store, CLASS, LATENTS, INDEX)
    assert store.get(ImageClass(CLASS.name, 7, CLASS.images)) is not None
    assert store.get(ImageClass("other", 0, CLASS.images)) is None
    assert store.get(ImageClass(CLASS.name, 0, array_dataset(4).classes[0].images)) is None


@pytest.mark.parametrize("name", ["../up", "a/b", "ä ö", "." * 3, "x" * 300])
def test_any_class_name_gives_a_file_inside_the_store(store: LatentStore, name: str) -> None:
    cls = ImageClass(name, 0, ArrayImages(np.zeros((3, 8, 8), np.uint8)))
    put_latents(store, cls, LATENTS, INDEX)
    assert store.path(cls).parent == store.folder
    assert store.get(cls) is not None


def test_alike_names_do_not_collide(store: LatentStore) -> None:
    first, second = (ImageClass(name, 0, CLASS.images) for name in ("a b", "a_b"))
    assert store.path(first) != store.path(second)


def test_truncated_file_is_told(store: LatentStore) -> None:
    put_latents(store, CLASS, LATENTS, INDEX)
    path = store.path(CLASS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match=r"is damaged: .*; `mgd3-fast encode` makes it anew$"):
        store.get(CLASS)


def test_flipped_bit_is_told_when_asked(store: LatentStore) -> None:
    put_latents(store, CLASS, LATENTS, INDEX)
    path = store.path(CLASS)
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    assert store.open(CLASS) is not None
    with pytest.raises(DamagedFileError, match=r"checksum; `mgd3-fast encode` makes it anew$"):
        store.open(CLASS, check=True)


def test_file_of_another_class_is_told(store: LatentStore) -> None:
    other = ImageClass("other", 0, CLASS.images)
    put_latents(store, other, LATENTS, INDEX)
    store.path(other).rename(store.path(CLASS))
    with pytest.raises(
        DamagedFileError, match=r"not the latents that its name says; `mgd3-fast encode` makes it anew$"
    ):
        store.open(CLASS)


def test_latents_are_mapped_not_read(store: LatentStore) -> None:
    large = torch.zeros(4096, 4, 32, 32)  # 64 MiB
    cls = array_dataset(4096, side=1).classes[0]
    put_latents(store, cls, large, torch.arange(4096))
    process = psutil.Process()
    before = process.memory_info().rss
    mapped = store.get(cls)
    assert process.memory_info().rss - before < 8 * 2**20
    assert mapped is not None
    assert mapped.shape == large.shape


def test_root_that_cannot_be_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cache_dir must be a writable folder, got .*: Not a directory"):
        LatentStore(tmp_path / "file", "d1gest", 8).prepare()


def test_unwritable_root_is_told(store: LatentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    # By decree, because permissions do not hold for root.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    store.prepare()  # whatever is there can be used
    with pytest.raises(UserError, match=r"cache_dir must be a writable folder, got .*: not writable"):
        store.check_writable()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": "upside"}, "flip must be one of none, random, both, got 'upside'"),
        (
            {"storage_dtype": torch.bfloat16},
            "storage_dtype must be torch.float32, torch.float16 or",
        ),
        ({"resolution": 0}, "resolution must be at least 1, got 0"),
    ],
)
def test_unknown_settings_are_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentStore(tmp_path, **{"autoencoder_digest": "d", "resolution": 8, **settings})  # type: ignore[arg-type]


def test_default_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MGD3_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    assert LatentStore(None, "d", 8).folder.is_relative_to(tmp_path)
    monkeypatch.delenv("MGD3_CACHE")
    assert default_cache_dir() == Path.home() / ".cache" / "mgd3-fast"
