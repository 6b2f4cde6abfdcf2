"""Encoding a dataset: what is stored, skipped, resumed, reported and refused."""

from __future__ import annotations

import io
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mgd3_fast.datasets import Dataset, open_dataset
from mgd3_fast.datasets.shards import ClassShard
from mgd3_fast.errors import UserError
from mgd3_fast.latents import LatentStore, encode_dataset, shard_encoder
from mgd3_fast.progress import Progress
from tests.fakes.encoders import PoolingEncoder, array_dataset
from tests.fakes.killing import kill_python
from tests.fakes.pictures import encoded, photo


@pytest.fixture
def store(tmp_path: Path) -> LatentStore:
    return LatentStore(tmp_path / "cache", "d1gest", 8)


def latents_of(dataset: Dataset, store: LatentStore) -> list[Tensor]:
    found = [store.get(cls) for cls in dataset.classes]
    return [latents for latents in found if latents is not None]


def test_every_image_is_encoded_in_order(store: LatentStore) -> None:
    dataset = array_dataset(3, 21)
    report = encode_dataset(dataset, PoolingEncoder(), store, batch_size=8)
    assert (report.images, report.reused, report.counts) == (24, 0, {"0": 3, "1": 21})
    assert report.bytes_written == 24 * 4 * 2 * 2 * 4
    for cls, latents in zip(dataset.classes, latents_of(dataset, store), strict=True):
        pixels = torch.stack([torch.tensor(list(cls.images.load(i).tobytes())) for i in range(len(cls))])
        images = pixels.reshape(-1, 8, 8, 3).permute(0, 3, 1, 2).to(torch.uint8)
        assert torch.equal(latents, PoolingEncoder().encode(images))
    found = store.open(dataset.classes[1])
    assert found is not None
    assert found.index.tolist() == list(range(21))


@pytest.mark.parametrize(
    ("batch_size", "rows"),
    [(8, [8, 8, 8, 8]), (5, [8, 8, 8, 8]), (16, [8, 16, 16]), (64, [8, 24]), (None, [8, 24])],
)
def test_batches_are_padded_to_whole_eights(
    store: LatentStore, batch_size: int | None, rows: list[int]
) -> None:
    encoder = PoolingEncoder()
    encode_dataset(array_dataset(3, 21), encoder, store, batch_size=batch_size)
    assert encoder.batch_rows == rows


def test_autoencoder_is_moved_only_when_there_is_work(store: LatentStore) -> None:
    first, second = PoolingEncoder(), PoolingEncoder()
    encode_dataset(array_dataset(3), first, store, device="cpu")
    encode_dataset(array_dataset(3), second, store, device="cpu")
    assert first.placed == (torch.device("cpu"), torch.float32)
    assert second.placed is None


def test_stored_classes_are_reused_by_other_subsets(store: LatentStore) -> None:
    dataset = array_dataset(5, 6, 7)
    encode_dataset(dataset.subset([1]), PoolingEncoder(), store)
    encoder = PoolingEncoder()
    report = encode_dataset(dataset, encoder, store)
    assert (report.images, report.reused) == (12, 6)
    assert len(encoder.batch_rows) == 2


def test_interrupted_run_keeps_finished_classes_and_resumes_to_the_same_bytes(
    store: LatentStore, tmp_path: Path
) -> None:
    dataset = array_dataset(10, 10, 10)
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(dataset, PoolingEncoder(stop_after=3), store, batch_size=8)
    assert len(latents_of(dataset, store)) == 1
    report = encode_dataset(dataset, PoolingEncoder(), store, batch_size=8)
    assert (report.images, report.reused) == (20, 10)
    whole = LatentStore(tmp_path / "whole", "d1gest", 8)
    encode_dataset(dataset, PoolingEncoder(), whole, batch_size=8)
    for cls in dataset.classes:
        assert store.path(cls).read_bytes() == whole.path(cls).read_bytes()
    assert sorted(path.name for path in store.folder.iterdir()) == sorted(
        store.path(cls).name for cls in dataset.classes
    )


def test_flipped_bit_is_found_when_contents_are_checked(store: LatentStore) -> None:
    dataset = array_dataset(4, 4)
    encode_dataset(dataset, PoolingEncoder(), store)
    path = store.path(dataset.classes[1])
    whole = path.read_bytes()
    path.write_bytes(whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:])
    assert encode_dataset(dataset, PoolingEncoder(), store).reused == 8
    report = encode_dataset(dataset, PoolingEncoder(), store, check=True)
    assert (report.images, report.reused) == (4, 4)
    assert path.read_bytes() == whole


class TestPartsOfAClass:
    """Classes of more latents than a part holds."""

    @pytest.fixture(autouse=True)
    def small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shard_encoder, "_PART_LATENTS", 8)

    @pytest.mark.parametrize(("count", "parts"), [(7, 1), (8, 1), (16, 2), (21, 3)])
    def test_latents_are_those_of_one_file(
        self, store: LatentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, parts: int
    ) -> None:
        dataset = array_dataset(count)
        encode_dataset(dataset, PoolingEncoder(), store, batch_size=8)
        assert len(list(store.folder.glob("*.safetensors"))) == parts
        monkeypatch.undo()
        whole = LatentStore(tmp_path / "whole", "d1gest", 8)
        encode_dataset(dataset, PoolingEncoder(), whole, batch_size=8)
        found, wanted = store.open(dataset.classes[0]), whole.open(dataset.classes[0])
        assert found is not None
        assert wanted is not None
        assert torch.equal(found.latents, wanted.latents)
        assert torch.equal(found.index, wanted.index)
        assert torch.equal(torch.stack([found.row(place) for place in range(count)]), wanted.latents)
        assert torch.equal(torch.stack([wanted.row(place) for place in range(count)]), wanted.latents)

    @pytest.mark.parametrize("stop_after", [1, 2])
    def test_interrupted_class_goes_on_after_its_last_part(
        self, store: LatentStore, tmp_path: Path, stop_after: int
    ) -> None:
        dataset = array_dataset(21)
        with pytest.raises(KeyboardInterrupt):
            encode_dataset(dataset, PoolingEncoder(stop_after=stop_after), store, batch_size=8)
        assert store.open(dataset.classes[0]) is None
        report = encode_dataset(dataset, PoolingEncoder(), store, batch_size=8)
        assert (report.images, report.reused) == (21 - 8 * stop_after, 8 * stop_after)
        whole = LatentStore(tmp_path / "whole", "d1gest", 8)
        encode_dataset(dataset, PoolingEncoder(), whole, batch_size=8)
        assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == {
            path.name: path.read_bytes() for path in whole.folder.iterdir()
        }

    def test_class_is_encoded_again_from_a_damaged_part_on(self, store: LatentStore) -> None:
        dataset = array_dataset(21)
        encode_dataset(dataset, PoolingEncoder(), store, batch_size=8)
        second = sorted(store.folder.glob("*.safetensors"))[1]
        whole = second.read_bytes()
        second.write_bytes(whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:])
        report = encode_dataset(dataset, PoolingEncoder(), store, batch_size=8, check=True)
        assert report.images == 13
        assert second.read_bytes() == whole


class TestSeveralProcesses:
    """Threads stand for processes: locks are of open files."""

    def test_each_class_is_encoded_once_and_all_get_all(self, store: LatentStore) -> None:
        dataset = array_dataset(*[9] * 12)
        encoders = [PoolingEncoder() for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            reports = list(pool.map(lambda encoder: encode_dataset(dataset, encoder, store), encoders))
        assert sum(len(encoder.batch_rows) for encoder in encoders) == 12
        assert sum(report.images for report in reports) == len(dataset)
        for report in reports:
            assert report.images + report.reused == len(dataset)
            assert report.counts == dataset.counts

    def test_a_class_that_another_leaves_is_taken_up(self, store: LatentStore) -> None:
        dataset = array_dataset(9, 9)
        store.prepare()
        held = store.claim(ClassShard(dataset.classes[0]))
        assert held is not None
        lines = io.StringIO()
        timer = threading.Timer(0.3, held.release)
        timer.start()
        report = encode_dataset(dataset, PoolingEncoder(), store, progress=Progress(stream=lines))
        timer.join()
        assert report.images == 18
        assert "waiting for shards that other processes are encoding: 0" in lines.getvalue()

    def test_claims_are_given_back_after_a_failure(self, store: LatentStore) -> None:
        dataset = array_dataset(9, 9)
        with pytest.raises(KeyboardInterrupt):
            encode_dataset(dataset, PoolingEncoder(stop_after=0), store)
        assert [path for path in store.folder.iterdir() if path.name.endswith(".lock")] == []


SLOW_ENCODE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tests.fakes.encoders import PoolingEncoder, array_dataset
from mgd3_fast.latents import LatentStore, encode_dataset, shard_encoder

class Slow(PoolingEncoder):
    def encode(self, images):
        time.sleep(0.01)
        return super().encode(images)

encode_dataset(array_dataset(*[20] * 60), Slow(), LatentStore(sys.argv[2], "d1gest", 8), batch_size=8)
"""


def test_sigkill_keeps_finished_classes_and_leaves_nothing_else(store: LatentStore, tmp_path: Path) -> None:
    def finished_classes() -> int:
        return len(list(store.folder.glob("*.safetensors")))

    program = ("-c", SLOW_ENCODE, str(Path(__file__).parents[2]), str(store.root))
    kill_python(*program, once=lambda: finished_classes() >= 5)
    dataset, finished = array_dataset(*[20] * 60), finished_classes()
    report = encode_dataset(dataset, PoolingEncoder(), store, batch_size=8, check=True)
    assert (report.images, report.reused) == (20 * (60 - finished), 20 * finished)
    whole = LatentStore(tmp_path / "whole", "d1gest", 8)
    encode_dataset(dataset, PoolingEncoder(), whole, batch_size=8)
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == {
        path.name: path.read_bytes() for path in whole.folder.iterdir()
    }


def test_damaged_file_is_noted_and_encoded_again(store: LatentStore) -> None:
    dataset = array_dataset(4, 4)
    encode_dataset(dataset, PoolingEncoder(), store)
    path = store.path(dataset.classes[1])
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    lines = io.StringIO()
    report = encode_dataset(dataset, PoolingEncoder(), store, progress=Progress(stream=lines))
    assert (report.images, report.reused) == (4, 4)
    assert path.read_bytes() == whole
    assert f"warning: {path} is damaged" in lines.getvalue()
    assert "encoding class 1 again" in lines.getvalue()


def test_progress_says_size_first_then_counts_images(store: LatentStore) -> None:
    encode_dataset(array_dataset(4, 6).subset([0]), PoolingEncoder(), store)
    lines = io.StringIO()
    encode_dataset(array_dataset(4, 6), PoolingEncoder(), store, progress=Progress(stream=lines))
    first, *_, last = lines.getvalue().splitlines()
    assert first == f"encode: 6 images, 384 B of latents into {store.folder}"
    assert last.startswith("encode: 10/10 img")


@pytest.fixture
def damaged(tmp_path: Path) -> Dataset:
    """Class "a": good, empty, good; class "b": good."""
    contents = {"a/0.png": photo(0), "a/1.png": None, "a/2.png": photo(2), "b/0.png": photo(3)}
    for name, image in contents.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if image is None else encoded(image, "PNG"))
    return open_dataset(str(tmp_path / "images"))


def test_bad_image_is_an_error_by_default(store: LatentStore, damaged: Dataset) -> None:
    with pytest.raises(UserError, match=r"a/1\.png cannot be read: the file is empty"):
        encode_dataset(damaged, PoolingEncoder(), store)


def test_skipped_images_are_reported_now_and_when_reused(store: LatentStore, damaged: Dataset) -> None:
    for reused in (0, 4):
        report = encode_dataset(damaged, PoolingEncoder(), store, on_bad_image="skip")
        assert report.reused == reused
        assert report.counts == {"a": 2, "b": 1}
        assert [(bad.class_name, bad.image_name) for bad in report.bad_images] == [("a", "1.png")]
    found = store.open(damaged.classes[0])
    assert found is not None
    assert found.index.tolist() == [0, 2]


def test_latents_stored_with_a_gap_do_not_hide_a_bad_image(store: LatentStore, damaged: Dataset) -> None:
    encode_dataset(damaged, PoolingEncoder(), store, on_bad_image="skip")
    with pytest.raises(UserError, match=r"a/1\.png cannot be read: the file is empty"):
        encode_dataset(damaged, PoolingEncoder(), store)


def test_full_disk_is_told_before_work_starts(store: LatentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2**40, 2**40, 10_000_000))
    encoder = PoolingEncoder()
    with pytest.raises(
        UserError, match=r"10 MB are free, 192 B are needed for latents, and 67\.1 MB must stay free"
    ):
        encode_dataset(array_dataset(3), encoder, store)
    assert not encoder.batch_rows


def test_latents_that_are_not_finite_are_refused(store: LatentStore) -> None:
    class Overflowing(PoolingEncoder):
        def encode(self, images: Tensor) -> Tensor:
            return super().encode(images) / 0

    dataset = array_dataset(3)
    with pytest.raises(UserError, match="the latents of class 0 hold NaN or infinity: try"):
        encode_dataset(dataset, Overflowing(), store)
    assert latents_of(dataset, store) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 16}, "resolution must be the latent store's 8, got 16"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"on_bad_image": "ignore"}, "on_bad_image must be one of error, skip, got 'ignore'"),
    ],
)
def test_wrong_settings_are_named(store: LatentStore, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        encode_dataset(array_dataset(3), PoolingEncoder(), store, **settings)


def test_resolution_the_autoencoder_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resolution must be a multiple of 4, such as 12, got 10"):
        encode_dataset(array_dataset(3), PoolingEncoder(), LatentStore(tmp_path, "d", 10))


def test_kl_autoencoder_gives_the_same_bytes_whatever_shares_the_batch(tmp_path: Path) -> None:
    from mgd3_engine.autoencoder import AutoencoderKL, KLConfig

    torch.manual_seed(0)
    vae = AutoencoderKL(KLConfig(block_out_channels=(8, 16), norm_num_groups=4)).eval()

    class KL(PoolingEncoder):
        downsample = 2

        @torch.no_grad()
        def encode(self, images: Tensor) -> Tensor:
            return vae.encode(images / 127.5 - 1)[0] * 0.5

    dataset = array_dataset(19, side=16)
    (images,) = dataset.classes
    store = LatentStore(tmp_path, "kl", 16)
    encode_dataset(dataset, KL(), store, batch_size=8)
    (latents,) = latents_of(dataset, store)
    reversed_images = torch.stack(
        [
            torch.frombuffer(bytearray(images.images.load(i).tobytes()), dtype=torch.uint8)
            .reshape(16, 16, 3)
            .permute(2, 0, 1)
            for i in reversed(range(19))
        ]
    )
    for start in range(0, 16, 8):
        again = KL().encode(reversed_images[start : start + 8])
        assert torch.equal(again, latents.flip(0)[start : start + 8])
