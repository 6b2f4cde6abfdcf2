"""Layout, PNG files, contact sheet and manifest: whole or not there, and readable again."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mgd3_fast.errors import UserError
from mgd3_fast.writers import (
    Layout,
    PngWriter,
    read_manifest,
    write_contact_sheet,
    write_manifest,
    write_png,
)
from mgd3_fast.writers.png import QUEUE_LENGTH
from tests.fakes.manifests import whole_manifest

WOOF = Layout(("n02096294", "n02093754", "n02111889"), (0, 1, 2), 4)


def pixels(seed: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_images_are_numbered_class_after_class_in_label_order() -> None:
    assert len(WOOF) == 12
    assert [WOOF.file(image) for image in (0, 3, 4, 11)] == [
        "n02096294/0.png",
        "n02096294/3.png",
        "n02093754/0.png",
        "n02111889/3.png",
    ]
    assert WOOF.classes_of([11, 0, 1]) == [0, 2]


def test_numeric_folders_sort_in_label_order_also_for_some_classes_of_a_list() -> None:
    layout = Layout(("n02093754", "n02111889"), (1, 12), 2, "numeric")
    assert [layout.file(image) for image in range(4)] == [
        "00001/0.png",
        "00001/1.png",
        "00012/0.png",
        "00012/1.png",
    ]


@settings(deadline=None)
@given(classes=st.integers(1, 40), ipc=st.integers(1, 20), parts=st.integers(1, 50))
def test_shards_cover_every_image_once_in_equal_parts(classes: int, ipc: int, parts: int) -> None:
    layout = Layout(tuple(map(str, range(classes))), tuple(range(classes)), ipc)
    blocks = [layout.block(part, parts) for part in range(1, parts + 1)]
    assert [image for block in blocks for image in block] == list(range(len(layout)))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_png_holds_the_pixels_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "class" / "0.png"
    sha256 = write_png(target, pixels(0), tmp_path / "unfinished.png")
    assert np.array_equal(np.asarray(Image.open(target)), pixels(0))
    assert sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["class"]


def writer_into(folder: Path, done: Any) -> PngWriter:
    (folder / "unfinished").mkdir(exist_ok=True)
    return PngWriter(folder, folder / "unfinished", done)


def put_images(writer: PngWriter, images: int) -> None:
    for image in range(images):
        writer.put(image, f"c/{image}.png", pixels(image))


def test_writer_reports_an_image_after_it_has_its_final_name(tmp_path: Path) -> None:
    seen = {}

    def done(image: int, sha256: str) -> None:
        seen[image] = sha256 == hashlib.sha256((tmp_path / f"c/{image}.png").read_bytes()).hexdigest()

    with writer_into(tmp_path, done) as writer:
        for image in range(3 * QUEUE_LENGTH):
            writer.put(image, f"c/{image}.png", pixels(image))
    assert seen == dict.fromkeys(range(3 * QUEUE_LENGTH), True)
    assert not list((tmp_path / "unfinished").iterdir())


def test_writer_holds_the_sampler_back_when_files_are_slower(tmp_path: Path) -> None:
    release = threading.Event()
    with writer_into(tmp_path, lambda image, sha256: release.wait(20) and None) as writer:
        for image in range(QUEUE_LENGTH):
            writer.put(image, f"c/{image}.png", pixels(image))
        blocked = threading.Thread(target=writer.put, args=(999, "c/999.png", pixels(999)))
        blocked.start()
        blocked.join(0.2)
        assert blocked.is_alive()
        release.set()
        blocked.join(20)
        assert not blocked.is_alive()
    assert (tmp_path / "c/999.png").exists()


def test_writer_hands_a_full_disk_to_the_sampler(tmp_path: Path) -> None:
    def full(image: int, sha256: str) -> None:
        raise OSError(28, "No space left on device")

    writer = writer_into(tmp_path, full)
    with pytest.raises(OSError, match="No space left on device"):
        put_images(writer, 2 * QUEUE_LENGTH)
    with pytest.raises(OSError, match="No space left on device"):
        writer.close()


def test_writer_finishes_what_is_queued_when_the_sampler_is_interrupted(tmp_path: Path) -> None:
    written: list[int] = []

    def interrupted() -> None:
        with writer_into(tmp_path, lambda image, sha256: written.append(image)) as writer:
            put_images(writer, 10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(written) == list(range(10))


@pytest.mark.parametrize(
    ("classes", "images", "side", "grid"),
    [
        pytest.param(2, 3, 32, (3 * 34, 2 + 2 * 34), id="small images"),
        pytest.param(1, 12, 256, (10 * 66, 2 + 66), id="thumbnails and ten columns at most"),
        pytest.param(103, 1, 8, (10, 2 + 100 * 10), id="hundred rows at most"),
    ],
)
def test_contact_sheet_has_a_row_per_class(
    tmp_path: Path, classes: int, images: int, side: int, grid: tuple[int, int]
) -> None:
    for number in range(images):
        Image.fromarray(np.full((side, side, 3), 10 * number, np.uint8)).save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(images)]
    sheet = tmp_path / "contact_sheet.png"
    write_contact_sheet(
        sheet, [(f"class {label}", paths) for label in range(classes)], tmp_path / "draft.png"
    )
    with Image.open(sheet) as opened:
        left = opened.width - grid[0]  # the class names
        assert 20 < left < 80
        assert opened.height == grid[1]
        thumbnail = min(64, side)
        columns = min(images, 10)
        middle = [
            opened.getpixel((left + column * (thumbnail + 2) + thumbnail // 2, 2 + thumbnail // 2))
            for column in range(columns)
        ]
        assert middle == [(10 * column,) * 3 for column in range(columns)]
        ink = np.asarray(opened.convert("L"))[: thumbnail + 2, :left]
    assert ink.min() < 100
    assert not (tmp_path / "draft.png").exists()


def test_manifest_reads_back_with_one_line_per_image(tmp_path: Path) -> None:
    images = [{**whole_manifest()["images"][0], "file": f"a/{k}.png", "mode": k} for k in range(3)]
    content = whole_manifest(settings={"ipc": 3}, images=images)
    write_manifest(tmp_path / "manifest.json", content, tmp_path / "draft")
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest["settings"] == {"ipc": 3}
    assert manifest["images"] == images
    lines = (tmp_path / "manifest.json").read_text().splitlines()
    assert sum('"file"' in line for line in lines) == 3


def test_no_manifest_is_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "somebody else\'s"}', ""])
def test_foreign_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="out must be empty or hold a run of mgd3-fast"):
        read_manifest(tmp_path)


def test_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.json", whole_manifest(), tmp_path / "draft")
    content = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(UserError, match="format version is 99, this one reads 1"):
        read_manifest(tmp_path)
    del content["format_version"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="format version is None, this one reads 1"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("section", "damaged"),
    [
        ("settings", []),
        ("generator", None),
        ("dataset", {"name": "insects"}),
        ("classes", [{"name": "ant"}]),
        ("classes", {}),
        ("images", []),
        ("images", ["ant/0.png"]),
        ("images", [{**whole_manifest()["images"][0], "label": "0"}]),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:20],
)
def test_damaged_manifest_is_refused(tmp_path: Path, section: str, damaged: Any) -> None:
    write_manifest(tmp_path / "manifest.json", whole_manifest(), tmp_path / "draft")
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert read_manifest(tmp_path) == content
    (tmp_path / "manifest.json").write_text(json.dumps({**content, section: damaged}))
    with pytest.raises(UserError, match=f"manifest.json has a damaged section '{section}'"):
        read_manifest(tmp_path)
