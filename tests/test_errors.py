"""Messages: lists of any length, lines of at most 400 characters, names that are not UTF-8."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mgd3_fast.cli import _one_line
from mgd3_fast.datasets import describe, open_dataset
from mgd3_fast.datasets.class_names import read_names
from mgd3_fast.datasets.selector import select_classes
from mgd3_fast.datasets.shard_index import ShardColumns, build_index
from mgd3_fast.errors import LONGEST_LINE, UserError, listed, printable, shortened
from mgd3_fast.generators.prompts import class_prompts, read_prompts
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.writers.reader import read_classes, read_labelled
from tests.fakes.encoders import array_dataset
from tests.fakes.tars import tar_bytes


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["ant"], "ant"),
        (["ant", 7], "ant, 7"),
        (list("abcdef"), "a, b, c, d, e and 1 more"),
        (range(1000), "0, 1, 2, 3, 4 and 995 more"),
    ],
)
def test_lists_name_the_first_five_and_count_the_others(names: list[object], text: str) -> None:
    assert listed(names) == text


def test_lists_of_long_names_stay_short() -> None:
    text = listed("x" * 200 + str(number) for number in range(1000))
    assert len(text) <= 140
    assert text.endswith(" and 999 more")


def test_long_lines_keep_both_ends() -> None:
    assert shortened("x" * 400) == "x" * 400
    line = shortened("begin" + "x" * 1000 + "end")
    assert len(line) == LONGEST_LINE
    assert (line[:5], line[-3:]) == ("begin", "end")


@pytest.mark.parametrize("error", [UserError("x" * 1000), ValueError("x" * 1000), OSError(5, "x" * 1000)])
def test_no_mistake_is_longer_than_a_line(error: Exception) -> None:
    assert len(_one_line(error, [])) == LONGEST_LINE


def test_no_note_is_longer_than_a_line() -> None:
    lines = io.StringIO()
    Progress(stream=lines).note("first\n" + "x" * 1000)
    assert [len(line) for line in lines.getvalue().splitlines()] == [5, LONGEST_LINE]


def test_bytes_that_are_not_utf8_are_written_as_numbers() -> None:
    name = os.fsdecode(b"b\xe9te \xc3\xa9")
    assert printable(name) == "b\\xe9te é"
    assert str(UserError(f"class {name}")) == "class b\\xe9te é"


MANY = [f"{'x' * 90}{number}" for number in range(1000)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand class folders, each with a file of a kind of its own."""
    root = tmp_path_factory.mktemp("thousand")
    for name in MANY:
        (root / name).mkdir()
        (root / name / f"a.{name}").write_bytes(b"")
    return root


def tree(root: Path, folders: Path) -> Path:
    """An ImageNet tree of one class."""
    (root / "train").mkdir()
    (root / "train" / "n01440764").symlink_to(folders)
    return root


def one_sample(root: Path) -> Path:
    (root / "t.tar").write_bytes(tar_bytes({f"a.{name}": b"" for name in MANY}))
    return root


def index_of(labels: list[str], names: list[str]) -> object:
    columns = ShardColumns.of(labels, MANY[: len(labels)], [1] * len(labels))
    index = build_index([columns], tuple(names), "wds:x")
    stream = SimpleNamespace(name="x", location="wds:x", class_names=tuple(names), shards=["x"])
    return index.dataset(stream, [], None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "mistake",
    [
        lambda root, folders: open_dataset(str(folders)),
        lambda root, folders: open_dataset(f"wds:{one_sample(root)}/t.tar"),
        lambda root, folders: open_dataset("imagenet1k", data_dir=tree(root, folders)),
        lambda root, folders: index_of(["0"], MANY),
        lambda root, folders: select_classes(range(1000, 2000), MANY),
        lambda root, folders: read_labelled(folders, "imagenet1k", "src", SILENT),
        lambda root, folders: read_classes(folders, array_dataset(*[1] * 1000), "folder"),
        lambda root, folders: read_names(listing(root, [*MANY, *MANY])),
        lambda root, folders: read_prompts(listing(root, ["a\tb"]), MANY, MANY),
    ],
    ids=["folders", "samples", "wnids", "classes", "labels", "run", "list", "names", "prompts"],
)
def test_no_list_of_a_thousand_makes_a_long_message(
    tmp_path: Path, folders: Path, mistake: Callable[[Path, Path], object]
) -> None:
    with pytest.raises(UserError) as told:
        mistake(tmp_path, folders)
    whole = ValueError.__str__(told.value)
    assert len(whole) <= LONGEST_LINE, "the middle of the message would be left out"
    assert "\n" not in whole


def listing(root: Path, lines: list[str]) -> Path:
    (root / "names.txt").write_text("\n".join(lines))
    return root / "names.txt"


def test_no_list_of_a_thousand_makes_a_long_note(tmp_path: Path) -> None:
    for name in MANY:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"a.{name}").write_bytes(b"")
        (tmp_path / name / "0.png").symlink_to("/no/such/file")
        (tmp_path / f"link-{name}").symlink_to("/no/such/folder")
    dataset = open_dataset(str(tmp_path))
    assert [note[:5] for note in dataset.notes] == ["class", "1,000", "1,000"]
    assert all(len(line) <= LONGEST_LINE for line in describe(dataset).splitlines())
    prompts = class_prompts(dataset, template="a photo {} " + "y" * 100)
    assert all(len(line) <= LONGEST_LINE for line in prompts.describe().splitlines())
