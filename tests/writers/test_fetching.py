"""Finished runs in a bucket: the copy in the cache is the folder that a disk would hold, and is checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT
from mgd3_fast.storage.remote import Bucket
from mgd3_fast.writers import write_manifest
from mgd3_fast.writers.fetching import local_run
from tests.fakes.buckets import bucket_in_memory, copied
from tests.fakes.manifests import whole_manifest

CONTENTS = {f"{name}/{mode}.png": f"{name} {mode}".encode() * 9 for name in ("ant", "bee") for mode in (0, 1)}
MODES = b"modes"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def manifest_of(**sections: Any) -> dict[str, Any]:
    images = [
        {"file": file, "label": 0, "class": "ant", "mode": 0, "sha256": sha256(content)}
        for file, content in CONTENTS.items()
    ]
    return whole_manifest(images=images, files={"modes.safetensors": sha256(MODES)}, **sections)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run on a disk."""
    folder = tmp_path / "run"
    for name, content in {**CONTENTS, "modes.safetensors": MODES}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_manifest(folder / "manifest.json", manifest_of(), folder / "draft")
    return folder


@pytest.fixture
def bucket() -> Bucket:
    return bucket_in_memory()


def fetched(bucket: Bucket, cache: Path) -> Path:
    return local_run(bucket.url, "folder", SILENT, cache)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def put_tars(bucket: Bucket, run: Path) -> None:
    """The same run as it is made in a bucket: images end to end in two objects, between other bytes."""
    manifest = manifest_of(tars=[])
    for record in manifest["images"]:
        tar = f"images/{record['class'] if record['file'].startswith('ant') else 'b'}.tar"
        before = bucket.read_all([tar]).get(tar, b"") + b"header"
        content = CONTENTS[record["file"]]
        record.update(tar=tar, offset=len(before), size=len(content))
        bucket.write(tar, before + content)
    bucket.write("modes.safetensors", MODES)
    write_manifest(run / "in-tars.json", manifest, run / "draft")
    bucket.write("manifest.json", (run / "in-tars.json").read_bytes())
    (run / "in-tars.json").unlink()


@pytest.mark.parametrize("in_tars", [False, True])
def test_a_copy_is_the_folder_on_a_disk(run: Path, bucket: Bucket, tmp_path: Path, in_tars: bool) -> None:
    put_tars(bucket, run) if in_tars else copied(run, bucket)
    found = fetched(bucket, tmp_path / "cache")
    assert found.name == "run"
    assert files_of(found) == files_of(run)


def test_it_is_fetched_once_and_again_when_the_run_is_another(
    run: Path, bucket: Bucket, tmp_path: Path
) -> None:
    copied(run, bucket)
    first = fetched(bucket, tmp_path)
    bucket.remove([*CONTENTS])
    assert fetched(bucket, tmp_path) == first
    other = json.loads((run / "manifest.json").read_text())
    bucket.write("manifest.json", json.dumps({**other, "images": other["images"][:1]}).encode())
    with pytest.raises(UserError, match=r"must hold all files of its manifest.json, ant/0.png is missing$"):
        fetched(bucket, tmp_path)


def test_a_stopped_fetch_goes_on(run: Path, bucket: Bucket, tmp_path: Path) -> None:
    copied(run, bucket)
    bucket.remove(["bee/1.png"])
    with pytest.raises(UserError, match=r"bee/1\.png is missing"):
        fetched(bucket, tmp_path / "cache")
    bucket.remove([*CONTENTS])
    bucket.write("bee/1.png", CONTENTS["bee/1.png"])
    bucket.write("bee/0.png", CONTENTS["bee/0.png"])
    bucket.write("ant/0.png", b"changed since, and not asked for again")
    bucket.write("ant/1.png", CONTENTS["ant/1.png"])
    next((tmp_path / "cache").rglob("ant/1.png")).write_bytes(b"damaged on this disk")
    assert files_of(fetched(bucket, tmp_path / "cache")) == files_of(run)


def test_a_damaged_object_is_told(run: Path, bucket: Bucket, tmp_path: Path) -> None:
    copied(run, bucket)
    bucket.write("ant/1.png", b"?")
    with pytest.raises(UserError, match=r"^ant/1.png of memory://.* is damaged: its sha256 is not"):
        fetched(bucket, tmp_path)
    assert not list(tmp_path.rglob("cache/**/manifest.json"))


def test_names_that_lead_out_of_the_folder_are_refused(run: Path, bucket: Bucket, tmp_path: Path) -> None:
    copied(run, bucket)
    manifest = manifest_of()
    manifest["images"][0]["file"] = "../../out.png"
    write_manifest(run / "manifest.json", manifest, run / "draft")
    bucket.write("manifest.json", (run / "manifest.json").read_bytes())
    with pytest.raises(UserError, match=r"must lie inside its folder, got '\.\./\.\./out\.png'"):
        fetched(bucket, tmp_path)


def test_what_is_no_finished_run_is_told(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^folder must be a finished run of distill, got no manifest.json in"
    ):
        fetched(bucket, tmp_path)
    bucket.write("manifest.json", b"{}")
    with pytest.raises(
        UserError, match=r"^folder must hold a finished run of this mgd3-fast: .* which is something else"
    ):
        fetched(bucket, tmp_path)
