"""`hf:`: columns, labels, splits and versions of what `datasets` streams, from local parquet files."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgd3_engine.installing import install_command
from mgd3_fast.datasets import StreamedImage, imagenet_classes, open_source
from mgd3_fast.datasets.class_names import plain_names
from mgd3_fast.datasets.hugging_face import HubStream, _version
from mgd3_fast.datasets.imagenet import imagenet_class_titles
from mgd3_fast.errors import UserError
from tests.fakes.pictures import encoded, photo

library = pytest.importorskip("datasets")

Writer = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    library.disable_progress_bars()


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes train-00000.parquet, ... of given columns and features; images are photos 0, 1, ..."""

    def write(
        labels: list[list[Any]],
        label: Any = None,
        *,
        folder: str = "set",
        split: str = "train",
        names: bool = True,
        **more: Any,
    ) -> Path:
        features = {"image": library.Image(), "label": label or library.ClassLabel(names=["ant", "bee"])}
        features |= {name: feature for name, (feature, _) in more.items()}
        number = 0
        (tmp_path / folder).mkdir(exist_ok=True)
        for shard, of_shard in enumerate(labels):
            images = []
            for _ in of_shard:
                images.append(
                    {"bytes": encoded(photo(number), "PNG"), "path": f"{number}.png" if names else None}
                )
                number += 1
            columns = {"image": images, "label": of_shard}
            columns |= {name: [value] * len(of_shard) for name, (_, value) in more.items()}
            table = library.Dataset.from_dict(columns, features=library.Features(features))
            table.to_parquet(tmp_path / folder / f"{split}-{shard:05d}-of-{len(labels):05d}.parquet")
        return tmp_path / folder

    return write


def stream_of(spec: str, split: str = "train") -> HubStream:
    stream = open_source(spec, split=split, cache_dir="/nowhere")
    assert isinstance(stream, HubStream)
    return stream


def rows_of(stream: HubStream, start: int = 0) -> list[list[StreamedImage]]:
    return [list(stream.read(shard, start)) for shard in range(len(stream.shards))]


def test_columns_are_found_by_their_types(write: Writer) -> None:
    folder = write([[0, 1, 1], [1, 0]], caption=(library.Value("string"), "words"))
    stream = stream_of(f"hf:{folder}")
    assert (stream.name, stream.class_names, len(stream.shards)) == ("hf:set", ("ant", "bee"), 2)
    rows = rows_of(stream)
    assert [[row.label for row in of_shard] for of_shard in rows] == [["0", "1", "1"], ["1", "0"]]
    assert [row.content for of_shard in rows for row in of_shard] == [
        encoded(photo(n), "PNG") for n in range(5)
    ]
    assert [row.name for row in rows[1]] == ["00001/0000000-3.png", "00001/0000001-4.png"]


def test_reading_starts_at_a_row(write: Writer) -> None:
    rows = rows_of(stream_of(f"hf:{write([[0, 1, 1], [1, 0]], names=False)}"), start=2)
    assert [[(row.row, row.name) for row in of_shard] for of_shard in rows] == [[(2, "00000/0000002")], []]


def test_one_parquet_file_may_be_named(write: Writer) -> None:
    file = write([[0, 1]]) / "train-00000-of-00001.parquet"
    assert len(rows_of(stream_of(f"hf:{file}"))[0]) == 2


def test_a_folder_of_images_is_read_from_its_files(tmp_path: Path) -> None:
    for number, name in enumerate(("ant", "bee")):
        (tmp_path / "train" / name).mkdir(parents=True)
        photo(number).save(tmp_path / "train" / name / "x.png")
    stream = stream_of(f"hf:{tmp_path}")
    (rows,) = rows_of(stream)
    assert [(row.label, row.content) for row in rows] == [
        (str(number), encoded(photo(number), "PNG")) for number in range(2)
    ]


@pytest.mark.parametrize(
    ("kind", "values", "labels"),
    [("int32", [3, 0], ["3", "0"]), ("string", ["cow", "ant"], ["cow", "ant"])],
)
def test_named_label_column_may_be_numbers_or_words(
    write: Writer, kind: str, values: list[Any], labels: list[str]
) -> None:
    stream = stream_of(f"hf:{write([values], library.Value(kind))}#label=label")
    assert stream.class_names is None
    assert [row.label for row in rows_of(stream)[0]] == labels


def test_one_of_two_label_columns_is_named(write: Writer) -> None:
    folder = write([[0, 1]], coarse=(library.ClassLabel(names=["animal"]), 0))
    assert stream_of(f"hf:{folder}").class_names == ("ant", "bee")  # the one called "label"
    assert stream_of(f"hf:{folder}#label=coarse").class_names == ("animal",)


@pytest.mark.parametrize("asked", ["val", "test"])
def test_splits_have_several_names(write: Writer, asked: str) -> None:
    write([[0]])
    folder = write([[1, 1]], split="validation" if asked == "val" else "test")
    assert [row.label for row in rows_of(stream_of(f"hf:{folder}", asked))[0]] == ["1", "1"]
    assert [row.label for row in rows_of(stream_of(f"hf:{folder}", "train"))[0]] == ["0"]


def test_split_may_be_named(write: Writer) -> None:
    write([[0]])
    folder = write([[1, 1]], split="test")
    assert len(rows_of(stream_of(f"hf:{folder}#split=test"))[0]) == 2


def test_identity_follows_files_and_columns(write: Writer) -> None:
    folder = write([[0, 1]], coarse=(library.ClassLabel(names=["animal"]), 0))
    first = stream_of(f"hf:{folder}").identity
    assert stream_of(f"hf:{folder}").identity == first
    assert stream_of(f"hf:{folder}#label=coarse").identity != first
    write([[0, 1, 1]], coarse=(library.ClassLabel(names=["animal"]), 0))
    assert stream_of(f"hf:{folder}").identity != first


def test_version_of_a_file_on_the_hub_is_its_content_not_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        def info(self, path: str) -> dict[str, Any]:
            return {"name": path, "size": 7, "blob_id": "b10b", "last_commit": None, "mtime": 5}

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url: (Hub(), url))
    for commit in ("1234", "5678"):
        assert _version(f"hf://datasets/owner/name@{commit}/train.parquet") == ["train.parquet", "7", "b10b"]


def test_a_file_that_breaks_off_is_told(write: Writer) -> None:
    folder = write([[0, 1] * 200])
    stream = stream_of(f"hf:{folder}")
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"^hf:.* broke off: .*; run again to go on$"):
        rows_of(stream)


def test_copies_of_the_files_have_one_identity(write: Writer) -> None:
    one = write([[0, 1]])
    other = one.with_name("copy")
    shutil.copytree(one, other)
    assert stream_of(f"hf:{one}").identity == stream_of(f"hf:{other}").identity


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hf:", "dataset must name something after hf:"),
        ("hf:a:b:c", r"dataset must be hf:PATH\[:CONFIG\]"),
        ("hf:./no/such", "dataset must be hf: and owner/name, or an existing path"),
        ("hf:{folder}@main", "or a path without @revision"),
        ("hf:{folder}:nothere", "dataset hf:.* cannot be opened: .*nothere"),
        ("hf:{folder}#split=dev", "split must be one of train for hf:.*, got 'dev'"),
        ("hf:{folder}#image=picture", r"image must name a column of hf:.*, got 'picture' among image \("),
        ("hf:{folder}#label=image", r"column image of hf:.* must hold labels or class names"),
        ("hf:{folder}#image=label", r"column label of hf:.* must hold images"),
        ("hf:{folder}#column=x", "dataset options must be split=..., image=..., label=..., each once"),
        ("hf:owner/nothere", "dataset hf:owner/nothere cannot be opened: "),
    ],
)
def test_wrong_specifications(write: Writer, spec: str, message: str) -> None:
    folder = write([[0, 1]])
    with pytest.raises(UserError, match=message):
        stream_of(spec.format(folder=folder))


def test_label_column_without_class_names_must_be_named(write: Writer) -> None:
    folder = write([[3, 0]], library.Value("int64"))
    with pytest.raises(UserError, match=r"must have one ClassLabel column, or #label=.*label \(int64\)"):
        stream_of(f"hf:{folder}")


@pytest.mark.parametrize("label", [-1, None])
def test_row_without_a_label_is_told(write: Writer, label: int | None) -> None:
    stream = stream_of(f"hf:{write([[0, label]])}")
    with pytest.raises(UserError, match="has no label in column label of row 00000/0000001"):
        rows_of(stream)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=rf"^hf datasets need .*{re.escape(install_command('data'))}$"):
        stream_of("hf:owner/name")


class TestClassNames:
    def test_titles_of_imagenet_become_wnids(self) -> None:
        assert plain_names(imagenet_class_titles()) == imagenet_classes("imagenet1k")
        assert plain_names(imagenet_class_titles()[:10]) != imagenet_classes("imagenet1k")[:10]

    def test_names_can_be_folders_and_differ(self) -> None:
        names = ["a/b", "a_b", "..", "", " ok ", "tab\tname", "A\\B"]
        assert plain_names(names) == ("a_b-0", "a_b-1", "class-2", "class-3", "ok", "tab_name", "A_B")
