"""A stream becomes latents in one reading: the files it ends in, resuming, sharing, and what is refused."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mgd3_fast.datasets import Dataset, StreamedImage, center_crop, decode_image, rows_of
from mgd3_fast.datasets.shard_index import index_path, read_index, stream_shards
from mgd3_fast.errors import UserError
from mgd3_fast.latents import (
    EncodeJob,
    LatentStore,
    Share,
    encode_dataset,
    encode_stream,
    make_job,
    shard_encoder,
)
from mgd3_fast.progress import Progress
from tests.fakes.encoders import PoolingEncoder
from tests.fakes.killing import kill_python
from tests.fakes.pictures import encoded, photo

SIZE = 8
NAMES = ("ant", "bee", "cow")


class Pictures:
    """A stream of photos whose labels are given; counts how often rows are read."""

    name, location = "pictures", "wds:pictures"

    def __init__(
        self,
        labels: Sequence[Sequence[int | str]],
        names: tuple[str, ...] | None = NAMES,
        identity: str = "id",
    ) -> None:
        self.labels, self.class_names, self.identity = labels, names, identity
        self.read_rows: list[tuple[int, int]] = []
        self.damaged: set[tuple[int, int]] = set()
        self.breaks_at: tuple[int, int] | None = None
        self.num_images: int | None = None

    @property
    def shards(self) -> list[str]:
        return [str(number) for number in range(len(self.labels))]

    def shard_key(self, shard: int) -> str:
        return f"{self.identity} {shard}"

    def read(self, shard: int, start: int = 0) -> Iterator[StreamedImage]:
        for row in range(start, len(self.labels[shard])):
            if (shard, row) == self.breaks_at:
                raise UserError("wds:pictures broke off")
            self.read_rows.append((shard, row))
            content = b"?" if (shard, row) in self.damaged else self.content(shard, row)
            yield StreamedImage(row, f"{shard}/{row}.png", str(self.labels[shard][row]), content)

    def content(self, shard: int, row: int) -> bytes:
        return encoded(photo(100 * shard + row, 12, 10), "PNG")


def random_labels(*counts: int) -> list[list[int]]:
    """Labels 0, 1, 2 in random order, shard after shard."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 3, count).tolist() for count in counts]


@pytest.fixture
def store(tmp_path: Path) -> LatentStore:
    return LatentStore(tmp_path / "cache", "d1gest", SIZE)


def job_of(store: LatentStore, encoder: PoolingEncoder | None = None, **settings: Any) -> EncodeJob:
    return make_job(encoder or PoolingEncoder(), store, **{"batch_size": 8, "num_workers": 0, **settings})


def read(stream: Pictures, store: LatentStore, **settings: Any) -> Dataset:
    options = {name: settings.pop(name) for name in ("classes", "share") if name in settings}
    dataset, _ = encode_stream(stream, job_of(store, **settings), **options)
    assert dataset is not None
    return dataset


def files(store: LatentStore) -> dict[str, bytes]:
    """Every file under the store's root, and every folder, as empty."""
    found = store.root.rglob("*")
    return {str(path.relative_to(store.root)): path.read_bytes() if path.is_file() else b"" for path in found}


def expected(stream: Pictures, label: int) -> list[tuple[str, torch.Tensor]]:
    """Names and latents of a class, in the order of the stream."""
    rows = [(s, r) for s, labels in enumerate(stream.labels) for r, of in enumerate(labels) if of == label]
    latents = []
    for shard, row in rows:
        cropped = np.asarray(center_crop(decode_image(stream.content(shard, row)), SIZE)).transpose(2, 0, 1)
        pixels = torch.from_numpy(cropped.copy())[None]  # [1, 3, R, R]
        latents.append((f"{shard}/{row}.png", PoolingEncoder().encode(pixels)[0]))
    return latents


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("part", [8, 1024])
def test_classes_are_gathered_from_shards_in_the_order_of_the_stream(
    store: LatentStore, monkeypatch: pytest.MonkeyPatch, part: int, workers: int
) -> None:
    monkeypatch.setattr(shard_encoder, "_PART_LATENTS", part)
    stream = Pictures(random_labels(21, 16, 9))
    dataset = read(stream, store, num_workers=workers)
    assert dataset.class_names == NAMES
    for label, cls in enumerate(dataset.classes):
        wanted = expected(stream, label)
        found = store.open(cls, check=True)
        assert found is not None
        assert [cls.images.name(position) for position in range(len(cls))] == [name for name, _ in wanted]
        assert found.index.tolist() == list(range(len(cls)))
        assert torch.equal(found.latents, torch.stack([latents for _, latents in wanted]))


def test_nothing_but_a_file_a_shard_and_the_index_is_left(store: LatentStore) -> None:
    stream = Pictures(random_labels(21, 16))
    read(stream, store)
    shards = [f"{store.stem(shard)}-0000000.safetensors" for shard in stream_shards(stream)]
    latents = {f"latents-2/{store.folder.name}/{name}" for name in shards}
    index = str(index_path(stream, store.root).relative_to(store.root))
    folders = {"latents-2", "indexes", f"latents-2/{store.folder.name}"}
    assert set(files(store)) == latents | folders | {index}


def test_bytes_depend_neither_on_workers_nor_shares(tmp_path: Path) -> None:
    kept = []
    for workers in (0, 3):
        store = LatentStore(tmp_path / str(workers), "d1gest", SIZE)
        read(Pictures(random_labels(21, 16, 9)), store, num_workers=workers)
        kept.append(files(store))
    store = LatentStore(tmp_path / "shares", "d1gest", SIZE)
    stream = Pictures(random_labels(21, 16, 9))
    for part in (2, 1):
        encode_stream(stream, job_of(store), share=Share(part, 2))
    assert kept[0] == kept[1] == files(store)


def test_a_share_gives_no_dataset_while_others_are_missing(store: LatentStore) -> None:
    stream, lines = Pictures(random_labels(5, 6, 7)), io.StringIO()
    job = job_of(store, progress=Progress(stream=lines))
    dataset, done = encode_stream(stream, job, share=Share(1, 2))
    assert (dataset, done.images) == (None, 12)
    assert "2 of 3 shards are encoded: the rest is left to others" in lines.getvalue()
    dataset, done = encode_stream(stream, job_of(store), share=Share(2, 2))
    assert dataset is not None
    assert (len(dataset), done.images) == (18, 6)


@pytest.mark.parametrize("stop_after", [0, 1, 3, 5, 6])
def test_interrupted_reading_goes_on_to_the_same_bytes(
    store: LatentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    monkeypatch.setattr(shard_encoder, "_PART_LATENTS", 8)
    stream = Pictures(random_labels(21, 30))
    with pytest.raises(KeyboardInterrupt):
        encode_stream(stream, job_of(store, PoolingEncoder(stop_after=stop_after)))
    stream.read_rows.clear()
    read(stream, store)
    stored = sum([8, 8, 5, 8, 8, 8, 6][:stop_after])
    assert len(stream.read_rows) == 51 - stored
    whole = LatentStore(tmp_path / "whole", "d1gest", SIZE)
    read(Pictures(random_labels(21, 30)), whole)
    assert files(store) == files(whole)


def test_broken_off_stream_keeps_what_was_read(store: LatentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_encoder, "_PART_LATENTS", 8)
    stream = Pictures(random_labels(21))
    stream.breaks_at = (0, 18)
    with pytest.raises(UserError, match="broke off"):
        encode_stream(stream, job_of(store))
    stream.breaks_at = None
    stream.read_rows.clear()
    read(stream, store)
    assert stream.read_rows == [(0, row) for row in range(16, 21)]


def test_damaged_part_is_read_again(store: LatentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_encoder, "_PART_LATENTS", 8)
    stream = Pictures(random_labels(21, 4))
    encode_stream(stream, job_of(store), share=Share(1, 2))
    part = sorted(store.folder.glob("*.safetensors"))[1]
    content = bytearray(part.read_bytes())
    content[-3] ^= 1
    part.write_bytes(content)
    stream.read_rows.clear()
    dataset = read(stream, store)
    assert stream.read_rows == [(0, row) for row in range(8, 21)] + [(1, row) for row in range(4)]
    assert len(dataset) == 25


class TestKnownStreams:
    """Streams that were read before."""

    def test_index_opens_without_reading(self, store: LatentStore) -> None:
        stream = Pictures(random_labels(21, 16))
        dataset = read(stream, store)
        stream.read_rows.clear()
        index = read_index(index_path(stream, store.root))
        assert index is not None
        again = index.dataset(stream, stream_shards(stream, index), "1-2")
        assert again.class_names == ("bee", "cow")
        assert again.fingerprint == dataset.subset([1, 2]).fingerprint
        assert stream.read_rows == []

    def test_one_image_is_found_in_its_shard(self, store: LatentStore) -> None:
        stream = Pictures([[0, 1, 2, 0], [2, 2, 1]])
        dataset = read(stream, store)
        image = decode_image(stream.content(1, 1))
        assert np.array_equal(np.asarray(dataset.load(2, 2)), np.asarray(image))

    def test_changed_stream_is_told_when_an_image_is_loaded(self, store: LatentStore) -> None:
        stream = Pictures([[0, 1, 2]])
        dataset = read(stream, store)
        stream.labels = [[0]]
        with pytest.raises(UserError, match="has changed since it was encoded: encode it again"):
            dataset.load(2, 0)

    def test_other_settings_read_it_again_for_the_opened_classes(self, store: LatentStore) -> None:
        stream = Pictures(random_labels(21, 16))
        dataset = read(stream, store).subset([1])
        other = LatentStore(store.root, "other", SIZE)
        encoder = PoolingEncoder()
        report = encode_dataset(dataset, encoder, other, batch_size=8)
        assert report.counts == dataset.counts
        assert report.images == len(dataset)
        assert encoder.batch_rows == [8] * len(encoder.batch_rows)
        one, two = store.get(dataset.classes[0]), other.get(dataset.classes[0])
        assert one is not None
        assert two is not None
        assert torch.equal(one, two)

    def test_deleted_shard_is_read_again(self, store: LatentStore) -> None:
        stream = Pictures(random_labels(21, 16))
        dataset = read(stream, store)
        before = files(store)
        (store.folder / f"{store.stem(stream_shards(stream)[1])}-0000000.safetensors").unlink()
        stream.read_rows.clear()
        report = encode_dataset(dataset, PoolingEncoder(), store, batch_size=8)
        assert (report.images, report.reused) == (16, 21)
        assert stream.read_rows == [(1, row) for row in range(16)]
        assert files(store) == before

    def test_stream_that_has_changed_meanwhile_is_told(self, store: LatentStore) -> None:
        stream = Pictures(random_labels(21))
        dataset = read(stream, store)
        stream.labels = random_labels(22)
        with pytest.raises(UserError, match="gave other images than when it was first read"):
            encode_dataset(dataset, PoolingEncoder(), LatentStore(store.root, "other", SIZE), batch_size=8)

    def test_identity_is_in_the_key_but_not_in_the_fingerprint(self, store: LatentStore) -> None:
        one, other = (read(Pictures(random_labels(9), identity=name), store) for name in ("a", "b"))
        assert one.fingerprint == other.fingerprint
        ours, theirs = (next(rows_of(cls))[0] for cls in (one.classes[0], other.classes[0]))
        assert ours.key != theirs.key

    def test_latents_of_a_stream_that_has_changed_are_not_mixed_with_its_new_images(
        self, store: LatentStore
    ) -> None:
        stream = Pictures([[0, 1, 2], [0, 1, 2]])
        other = LatentStore(store.root, "other", SIZE)
        dataset = read(stream, store)
        stream.labels = [[0, 1, 2], [1, 0, 2]]
        with pytest.raises(UserError, match="run again to take them as they are now"):
            encode_dataset(dataset, PoolingEncoder(), other, batch_size=8)
        dataset = read(stream, other)
        lines = io.StringIO()
        report = encode_dataset(
            dataset, PoolingEncoder(), store, batch_size=8, progress=Progress(stream=lines)
        )
        assert (
            "wds:pictures has changed since it was encoded; encoding wds:pictures again" in lines.getvalue()
        )
        assert report.images == 3
        for label, cls in enumerate(dataset.classes):
            wanted = torch.stack([latents for _, latents in expected(stream, label)])
            for one in (store, other):
                latents = one.get(cls)
                assert latents is not None
                assert torch.equal(latents, wanted)


class TestClasses:
    def test_only_chosen_classes_are_encoded(self, store: LatentStore) -> None:
        encoder = PoolingEncoder()
        stream = Pictures([[0] * 20 + [1] * 3, [2] * 20])
        dataset = read(stream, store, classes="bee", encoder=encoder)
        assert (dataset.counts, encoder.batch_rows) == ({"bee": 3}, [8])
        assert read(stream, store, classes="0-1").counts == {"ant": 20, "bee": 3}

    def test_more_classes_later_encode_only_what_is_missing(self, store: LatentStore) -> None:
        stream = Pictures(random_labels(21, 16))
        ants = read(stream, store, classes="ant")
        index = read_index(index_path(stream, store.root))
        assert index is not None
        for classes, missing in (("0-1", ("bee",)), ("0-2", ("cow",)), ("1-2", ())):
            dataset = index.dataset(stream, stream_shards(stream, index), classes)
            report = encode_dataset(dataset, PoolingEncoder(), store, batch_size=8)
            assert report.images == sum(dataset.counts[name] for name in missing)
            assert report.reused == len(dataset) - report.images
            for cls in (*ants.classes, *dataset.classes):
                latents = store.get(cls)
                assert latents is not None
                wanted = torch.stack([one for _, one in expected(stream, cls.label)])
                assert torch.equal(latents, wanted)

    @pytest.mark.parametrize(
        ("labels", "names"),
        [([["2", "0", "1"]], ("0", "1", "2")), ([["cow", "a/nt"], ["bee"]], ("a_nt", "bee", "cow"))],
        ids=["indices", "words"],
    )
    def test_labels_alone_name_the_classes(
        self, store: LatentStore, labels: list[list[str]], names: tuple[str, ...]
    ) -> None:
        dataset = read(Pictures(labels, names=None), store)
        assert dataset.all_class_names == names
        assert [len(cls) for cls in dataset.classes] == [1, 1, 1]

    def test_unnamed_classes_are_chosen_after_reading(self, store: LatentStore) -> None:
        dataset = read(Pictures([["b", "a", "b"]], names=None), store, classes="b")
        assert [(cls.name, cls.label, len(cls)) for cls in dataset.classes] == [("b", 1, 2)]

    def test_unnamed_classes_are_encoded_with_all_others(self, store: LatentStore) -> None:
        stream = Pictures([["b", "a", "b"]], names=None)
        dataset = read(stream, store).subset([1])
        other = LatentStore(store.root, "other", SIZE)
        report = encode_dataset(dataset, PoolingEncoder(), other, batch_size=8)
        assert report.counts == {"b": 2}
        one, two = store.get(dataset.classes[0]), other.get(dataset.classes[0])
        assert one is not None
        assert two is not None
        assert torch.equal(one, two)

    def test_class_without_images_is_told(self, store: LatentStore) -> None:
        with pytest.raises(UserError, match=r"wds:pictures has no images of bee, cow \(--classes"):
            read(Pictures([[0]]), store)
        assert read(Pictures([[0]]), store, classes="ant").counts == {"ant": 1}

    def test_label_outside_the_list_is_told(self, store: LatentStore) -> None:
        with pytest.raises(
            UserError, match=r"^label '3' of wds:pictures: 0/1\.png is no class: .* 0 to 2 or names"
        ):
            read(Pictures([[0, 3]]), store)


class TestBadImages:
    @pytest.fixture
    def stream(self) -> Pictures:
        stream = Pictures([[0, 0, 1, 2], [1]])
        stream.damaged = {(0, 1)}
        return stream

    def test_bad_image_is_an_error_by_default(self, stream: Pictures, store: LatentStore) -> None:
        with pytest.raises(
            UserError, match=r"^wds:pictures: 0/1\.png cannot be read: not an image .*--on-bad-image skip"
        ):
            read(stream, store)

    def test_skipped_images_are_reported(self, stream: Pictures, store: LatentStore) -> None:
        dataset = read(stream, store, on_bad_image="skip")
        report = encode_dataset(dataset, PoolingEncoder(), store, on_bad_image="skip")
        assert report.counts == {"ant": 1, "bee": 2, "cow": 1}
        assert [(bad.class_name, bad.image_index, bad.image_name) for bad in report.bad_images] == [
            ("ant", 1, "0/1.png")
        ]
        found = store.open(dataset.classes[0])
        assert found is not None
        assert found.index.tolist() == [0]

    def test_part_stored_with_a_gap_does_not_hide_it(self, stream: Pictures, store: LatentStore) -> None:
        encode_stream(stream, job_of(store, on_bad_image="skip"), share=Share(1, 2))
        with pytest.raises(UserError, match=r"^wds:pictures: 0/1\.png cannot be read"):
            read(stream, store)

    def test_class_of_bad_images_alone_is_told(self, stream: Pictures, store: LatentStore) -> None:
        stream.damaged |= {(0, 0)}
        dataset = read(stream, store, on_bad_image="skip")
        with pytest.raises(UserError, match="none of the 2 images of class ant can be read"):
            encode_dataset(dataset, PoolingEncoder(), store, on_bad_image="skip")


def test_two_readers_share_the_work(store: LatentStore) -> None:
    """Two at the same time in one process: locks are of open files, so threads stand for processes."""
    streams = [Pictures(random_labels(16, 16, 16, 16, 16, 16)) for _ in range(2)]
    found: list[Dataset] = []
    threads = [threading.Thread(target=lambda one=one: found.append(read(one, store))) for one in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(dataset) for dataset in found] == [96, 96]
    assert sum(len(stream.read_rows) for stream in streams) == 96
    alone = LatentStore(store.root.parent / "alone", "d1gest", SIZE)
    read(Pictures(random_labels(16, 16, 16, 16, 16, 16)), alone)
    assert files(store) == files(alone)


def test_full_disk_is_told_where_the_number_of_images_is_known(
    store: LatentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Pictures(random_labels(9))
    stream.num_images = 10**12
    with pytest.raises(UserError, match=r"64 TB are needed for latents, and 67.1 MB must stay free"):
        read(stream, store)
    assert stream.read_rows == []


SLOW_READER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tests.latents import test_stream_encoding as tests
from mgd3_fast.latents import LatentStore, encode_stream, shard_encoder

class Slow(tests.PoolingEncoder):
    def encode(self, images):
        time.sleep(0.02)
        return super().encode(images)

shard_encoder._PART_LATENTS = 8
store = LatentStore(sys.argv[2], "d1gest", tests.SIZE)
encode_stream(tests.Pictures(tests.random_labels(400, 400)), tests.job_of(store, Slow()))
"""


def test_sigkill_loses_one_part_at_most(
    store: LatentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_encoder, "_PART_LATENTS", 8)

    def stored_parts() -> int:
        return len(list(store.root.glob("latents-2/*/*.safetensors")))

    program = ("-c", SLOW_READER, str(Path(__file__).parents[2]), str(store.root))
    kill_python(*program, once=lambda: stored_parts() >= 7)
    parts = stored_parts()
    stream = Pictures(random_labels(400, 400))
    read(stream, store)
    assert len(stream.read_rows) == 800 - 8 * parts
    whole = LatentStore(tmp_path / "whole", "d1gest", SIZE)
    read(Pictures(random_labels(400, 400)), whole)
    assert files(store) == files(whole)
