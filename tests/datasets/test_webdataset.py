"""`wds:`: which shards, classes and labels a specification means, local and as a stream."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import sys
from functools import partial
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest

from mgd3_engine.installing import install_command
from mgd3_fast.datasets import (
    Dataset,
    ImageStream,
    StreamedImage,
    decode_image,
    open_dataset,
    open_source,
)
from mgd3_fast.errors import UserError
from tests.fakes.pictures import encoded, photo
from tests.fakes.tars import tar_bytes, write_shards

pytest.importorskip("webdataset")

LABELS = [["1", "0", "1"], ["0", "2"]]


def zstd(content: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    packed = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(content)
    return bytes(packed.getvalue())


COMPRESSED = {
    **dict.fromkeys(("tar.gz", "tgz"), gzip.compress),
    **dict.fromkeys(("tar.bz2", "bin"), bz2.compress),
    "tar.xz": lzma.compress,
    "tar.lzma": partial(lzma.compress, format=lzma.FORMAT_ALONE),
    "tar.zst": zstd,
}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards", LABELS)
    return tmp_path / "shards"


def opened(spec: str, cache: Path, **settings: str) -> Dataset:
    return open_dataset(spec, cache_dir=cache, **settings)


def stream_of(spec: str, cache: Path) -> ImageStream:
    stream = open_source(spec, cache_dir=cache)
    assert not isinstance(stream, Dataset)
    return stream


def rows_of(stream: ImageStream, start: int = 0) -> list[list[StreamedImage]]:
    return [list(stream.read(shard, start)) for shard in range(len(stream.shards))]


class TestLocalShards:
    def test_images_lie_where_their_labels_say(self, shards: Path, tmp_path: Path) -> None:
        dataset = opened(f"wds:{shards}/{{000..001}}.tar", tmp_path)
        assert dataset.counts == {"0": 2, "1": 2, "2": 1}
        seeds = {0: [1, 3], 1: [0, 2], 2: [4]}
        for label, of_class in seeds.items():
            for position, seed in enumerate(of_class):
                np.testing.assert_array_equal(
                    np.asarray(dataset.load(label, position)), np.asarray(photo(seed))
                )

    def test_names_are_shard_and_member(self, shards: Path, tmp_path: Path) -> None:
        images = opened(f"wds:{shards}/*.tar", tmp_path).classes[0].images
        assert [images.name(place) for place in range(2)] == [
            "000.tar/sample0001.png",
            "001.tar/sample0003.png",
        ]
        assert images.location(1) == f"{shards}/001.tar:001.tar/sample0003.png"

    @pytest.mark.parametrize(
        "pattern", ["{000..001}.tar", "{000,001}.tar", "*.tar", "000.tar::{shards}/001.tar"]
    )
    def test_patterns_name_the_same_shards(self, shards: Path, tmp_path: Path, pattern: str) -> None:
        spec = f"wds:{shards}/{pattern}".replace("{shards}", str(shards))
        assert len(opened(spec, tmp_path)) == 5

    @pytest.mark.parametrize("companion", ["classnames.txt", "classes.txt"])
    def test_companion_names_the_classes(self, shards: Path, tmp_path: Path, companion: str) -> None:
        (shards / companion).write_text("ant\nbee\ncow\n")
        assert opened(f"wds:{shards}/*.tar", tmp_path).counts == {"ant": 2, "bee": 2, "cow": 1}

    def test_named_list_goes_before_the_companion(self, shards: Path, tmp_path: Path) -> None:
        (shards / "classes.txt").write_text("ant\nbee\ncow\n")
        (tmp_path / "names").write_text("x\ny\nz\n")
        dataset = opened(f"wds:{shards}/*.tar#classes={tmp_path}/names", tmp_path)
        assert dataset.class_names == ("x", "y", "z")

    def test_a_relative_list_lies_here_or_beside_the_shards(
        self, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        spec = f"wds:{shards}/*.tar#classes=names"
        with pytest.raises(UserError, match="must be a readable list of class names: names: No such file"):
            opened(spec, tmp_path)
        (shards / "names").write_text("x\ny\nz\n")
        assert opened(spec, tmp_path).class_names == ("x", "y", "z")
        Path("names").write_text("ant\nbee\ncow\n")
        assert opened(spec, tmp_path).class_names == ("ant", "bee", "cow")

    @pytest.mark.parametrize("key", ["cls", "label"])
    @pytest.mark.parametrize("value", ["2", '"cow"'])
    def test_labels_in_json_are_indices_or_names(self, tmp_path: Path, key: str, value: str) -> None:
        write_shards(tmp_path, [[f'{{"{key}": 0}}', f'{{"{key}": 1}}', f'{{"{key}": {value}}}']], json=True)
        (tmp_path / "classes.txt").write_text("ant\nbee\ncow\n")
        assert opened(f"wds:{tmp_path}/000.tar", tmp_path).counts == {"ant": 1, "bee": 1, "cow": 1}

    def test_names_alone_are_classes_in_sorted_order(self, tmp_path: Path) -> None:
        write_shards(tmp_path, [["cow", "a/nt", "cow", "7"]])
        dataset = opened(f"wds:{tmp_path}/000.tar", tmp_path)
        assert dataset.counts == {"7": 1, "a_nt": 1, "cow": 2}

    @pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
    def test_image_kinds(self, tmp_path: Path, kind: str) -> None:
        write_shards(tmp_path, [["0"]], kind=kind)
        assert opened(f"wds:{tmp_path}/000.tar", tmp_path).load(0, 0).size == (40, 30)

    @pytest.mark.parametrize(
        ("images", "names"),
        [
            (["a.b/c.png", "a.b/d.png"], ["a.b/c.png", "a.b/d.png"]),
            (["x.v2.png", "y.v2.PNG"], ["x.v2.png", "y.v2.PNG"]),
            (["x.depth.png", "x.png", "y.jpg.png"], ["x.png", "y.jpg.png"]),
            (["x.tif", "x.txt", "y.TIFF"], ["x.tif", "y.TIFF"]),
        ],
        ids=["folders", "extensions", "the-plain-one", "kinds"],
    )
    def test_keys_end_at_the_first_dot_of_the_last_part(
        self, tmp_path: Path, images: list[str], names: list[str]
    ) -> None:
        contents: dict[str, bytes] = {}
        for number, name in enumerate(images):
            contents[name] = encoded(photo(number), "PNG")
            key = name.rpartition("/")[0] + "/" + name.rpartition("/")[2].partition(".")[0]
            contents[f"{key.lstrip('/')}.cls"] = b"0"
        (tmp_path / "t.tar").write_bytes(tar_bytes(dict(sorted(contents.items()))))
        found = opened(f"wds:{tmp_path}/t.tar", tmp_path).classes[0].images
        assert [found.name(place) for place in range(len(found))] == [f"t.tar/{name}" for name in names]
        (streamed,) = rows_of(stream_of(f"wds:pipe:cat {tmp_path}/t.tar", tmp_path))
        assert [row.name for row in streamed] == [f"t.tar/{name}" for name in names]

    def test_other_files_are_counted_now_and_when_the_index_is_read(self, tmp_path: Path) -> None:
        picture = encoded(photo(0), "PNG")
        sample = {"a.png": picture, "a.seg.png": picture, "a.cls": b"0", "a.txt": b"", "a.meta.json": b"{}"}
        (tmp_path / "t.tar").write_bytes(tar_bytes({**sample, "b.png": picture, "b.cls": b"0", "b.txt": b""}))
        for _ in range(2):
            notes = opened(f"wds:{tmp_path}/t.tar", tmp_path).notes
            assert notes == ["3 files were left out: 2 .txt, 1 .png"]

    def test_accents_of_labels_may_be_spelled_otherwise(self, tmp_path: Path) -> None:
        write_shards(tmp_path, [[normalize("NFD", "café"), "7"]])
        (tmp_path / "classes.txt").write_text("\n".join([normalize("NFC", "café"), *"abcdefg"]))
        dataset = opened(f"wds:{tmp_path}/000.tar", tmp_path, classes="0,7")
        assert dataset.counts == {normalize("NFC", "café"): 1, "g": 1}

    def test_fingerprint_knows_neither_folder_nor_time(self, tmp_path: Path) -> None:
        for folder in ("here", "there"):
            write_shards(tmp_path / folder, LABELS)
        one, other = (opened(f"wds:{tmp_path}/{folder}/*.tar", tmp_path) for folder in ("here", "there"))
        assert one.fingerprint == other.fingerprint

    def test_chosen_classes_keep_their_labels(self, shards: Path, tmp_path: Path) -> None:
        dataset = opened(f"wds:{shards}/*.tar", tmp_path, classes="1-2")
        assert [(cls.label, len(cls)) for cls in dataset.classes] == [(1, 2), (2, 1)]


class TestStreams:
    @pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.bz2", "tar.xz", "tar.lzma", "tar.zst", "bin"])
    @pytest.mark.parametrize("way", ["", "pipe:cat "])
    def test_compressed_files_are_streams(self, shards: Path, tmp_path: Path, suffix: str, way: str) -> None:
        packed = shards / f"000.{suffix}"
        packed.write_bytes(COMPRESSED[suffix]((shards / "000.tar").read_bytes()))
        (unpacked,) = rows_of(stream_of(f"wds:{way}{packed}", tmp_path))
        assert [row.label for row in unpacked] == LABELS[0]
        dataset = opened(f"wds:{shards}/000.tar", tmp_path)
        pixels = [np.asarray(decode_image(unpacked[row].content)) for row in (0, 2)]
        assert all(np.array_equal(one, dataset.load(1, place)) for place, one in enumerate(pixels))

    @pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
    def test_cut_off_compressed_file_is_told(self, shards: Path, tmp_path: Path, suffix: str) -> None:
        content = COMPRESSED[suffix]((shards / "000.tar").read_bytes())
        for length in (len(content) // 2, 40):
            (shards / suffix).write_bytes(content[:length])
            with pytest.raises(UserError, match=f"{suffix} (is not a whole tar file|broke off)"):
                rows_of(stream_of(f"wds:{shards}/{suffix}", tmp_path))

    def test_zstd_without_its_package_is_told(
        self, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        packed = shards / "000.tar.zst"
        packed.write_bytes(COMPRESSED["tar.zst"]((shards / "000.tar").read_bytes()))
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(
            UserError, match=rf"is compressed by zstd, .*: {re.escape(install_command('data'))}$"
        ):
            rows_of(stream_of(f"wds:{packed}", tmp_path))

    def test_pipes_are_streams(self, shards: Path, tmp_path: Path) -> None:
        piped = rows_of(stream_of(f"wds:pipe:cat {shards}/{{000..001}}.tar", tmp_path))
        assert [[row.label for row in rows] for rows in piped] == LABELS

    def test_reading_starts_at_a_row(self, shards: Path, tmp_path: Path) -> None:
        rows = rows_of(stream_of(f"wds:pipe:cat {shards}/{{000..001}}.tar", tmp_path), start=1)
        assert [[(row.row, row.label) for row in of_shard] for of_shard in rows] == [
            [(1, "0"), (2, "1")],
            [(1, "2")],
        ]

    def test_names_are_those_of_local_shards(self, shards: Path, tmp_path: Path) -> None:
        stream = stream_of(f"wds:pipe:cat {shards}/{{000..001}}.tar", tmp_path)
        assert [row.name for row in rows_of(stream)[1]] == [
            "001.tar/sample0003.png",
            "001.tar/sample0004.png",
        ]

    def test_failing_sender_is_told(self, tmp_path: Path) -> None:
        stream = stream_of("wds:pipe:exit 3", tmp_path)
        with pytest.raises(UserError, match=r"pipe:exit 3 broke off: .*exit 3.*run again to go on$"):
            rows_of(stream)

    def test_sender_that_fails_after_whole_samples_is_told(self, shards: Path, tmp_path: Path) -> None:
        stream = stream_of(f"wds:pipe:cat {shards}/000.tar && exit 4", tmp_path)
        with pytest.raises(UserError, match="exit 4"):
            rows_of(stream)

    def test_cut_off_download_is_told(self, shards: Path, tmp_path: Path) -> None:
        stream = stream_of(f"wds:pipe:head -c 3000 {shards}/000.tar", tmp_path)
        with pytest.raises(UserError, match="is not a whole tar file"):
            rows_of(stream)

    def test_stopping_early_is_no_mistake(self, shards: Path, tmp_path: Path) -> None:
        rows = stream_of(f"wds:pipe:cat {shards}/000.tar /dev/zero", tmp_path).read(0)
        assert next(rows).label == "1"
        rows.close()  # type: ignore[attr-defined]

    def test_identity_follows_urls_names_and_times_of_files(self, shards: Path, tmp_path: Path) -> None:
        packed = shards / "000.tar.gz"
        packed.write_bytes(gzip.compress((shards / "000.tar").read_bytes()))
        (tmp_path / "names").write_text("a\nb\n")
        specs = [f"wds:{packed}", f"wds:{packed}#classes={tmp_path}/names", "wds:pipe:a", "wds:pipe:b"]
        before = [stream_of(spec, tmp_path).identity for spec in specs]
        assert len(set(before)) == 4
        packed.write_bytes(packed.read_bytes() + b"more")
        assert stream_of(specs[0], tmp_path).identity != before[0]

    def test_a_stream_that_was_never_read_is_no_dataset_yet(self, tmp_path: Path) -> None:
        with pytest.raises(
            UserError, match=r"^the images of 'wds:pipe:x' are not known yet, .*`mgd3-fast encode`"
        ):
            opened("wds:pipe:x", tmp_path)


class TestMistakes:
    @pytest.mark.parametrize(
        ("contents", "message"),
        [
            ({"a.txt": b"0"}, r"sample a of .*t\.tar holds no image \(jpg .*\), only txt"),
            ({"a.png": b"0"}, r"sample a of .*t\.tar holds no label \(cls, or json .*\), only png"),
            ({"a.png": b"0", "a.json": b"{}"}, "sample a of .* holds no label"),
            ({"a.png": b"0", "a.json": b"["}, "sample a of .* holds no label"),
            ({"a.png": b"0", "a.cls": b""}, "sample a of .* holds no label"),
            (
                {"a.1.png": b"0", "a.2.png": b"0"},
                r"sample a of .*t\.tar must hold only one of 1\.png, 2\.png: .*first dot",
            ),
            (
                {"a.1.cls": b"0", "a.2.cls": b"0", "a.png": b""},
                r"sample a of .* must hold only one of 1\.cls, 2\.cls",
            ),
            ({"a.PNG": b"0", "a.png": b"0"}, r"sample a of .*t\.tar holds png twice"),
            ({"a.png": b"0", "a.cls": b"2"}, r"wds:.* has no images of 0, 1 "),
            ({"a.png": b"0", "a.cls": b"99999999"}, "labels must be class indices up to 1,000,000 or names"),
        ],
        ids=[
            *(
                "no-image",
                "no-label",
                "json-without",
                "json-broken",
                "empty-label",
                "two-images",
                "two-labels",
            ),
            *("twice", "gaps", "hash"),
        ],
    )
    def test_wrong_samples(self, tmp_path: Path, contents: dict[str, bytes], message: str) -> None:
        (tmp_path / "t.tar").write_bytes(tar_bytes(contents))
        with pytest.raises(UserError, match=message):
            opened(f"wds:{tmp_path}/t.tar", tmp_path)

    @pytest.mark.parametrize("label", ["3", "dog", "-1"])
    def test_label_outside_the_list(self, tmp_path: Path, label: str) -> None:
        write_shards(tmp_path, [["0", label]])
        (tmp_path / "classes.txt").write_text("ant\nbee\ncow\n")
        message = rf"label '{label}' of .*sample0001.* is no class: labels are indices from 0 to 2 or names"
        with pytest.raises(UserError, match=message):
            opened(f"wds:{tmp_path}/000.tar", tmp_path)

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("wds:", "dataset must name something after wds:, got 'wds:'"),
            ("wds:{0..1.tar", "balanced braces"),
            ("wds:/no/such/{0..1}.tar", "dataset must name existing shards, got '/no/such/0.tar'"),
            ("wds:/no/such/*.tar", r"dataset must name existing shards, got '/no/such/\*\.tar'"),
            ("wds:x.tar#names=y", "dataset options must be classes=..., each once, got 'names=y'"),
            ("wds:pipe:x#classes=/no/such", "classes must be a readable list of class names: /no/such"),
        ],
    )
    def test_wrong_specifications(self, tmp_path: Path, spec: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            opened(spec, tmp_path)

    def test_repeated_class_names_are_told(self, shards: Path, tmp_path: Path) -> None:
        (shards / "classes.txt").write_text("ant\nbee\nant\n")
        with pytest.raises(UserError, match=r"classes\.txt must name each class once, got ant"):
            opened(f"wds:{shards}/*.tar", tmp_path)

    def test_splits_are_told(self, shards: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="split must be train for wds shards"):
            opened(f"wds:{shards}/*.tar", tmp_path, split="val")

    def test_missing_package_names_the_extra(
        self, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "braceexpand", None)
        with pytest.raises(UserError, match=rf"^wds datasets need .*{re.escape(install_command('data'))}$"):
            opened(f"wds:{shards}/000.tar", tmp_path)
