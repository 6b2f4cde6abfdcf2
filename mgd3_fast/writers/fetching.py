"""Finished runs in a bucket: fetched once into the cache, checked, then folders as all others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from mgd3_fast.errors import UserError
from mgd3_fast.progress import Bar, Progress
from mgd3_fast.storage.cache import cache_dir_or_default
from mgd3_fast.storage.remote import Bucket, is_url
from mgd3_fast.writers.kept_work import write_whole
from mgd3_fast.writers.manifest import MANIFEST, parsed_manifest, write_manifest
from mgd3_fast.writers.out_files import file_digest

_FILES_AT_A_TIME, _TARS_AT_A_TIME = 64, 2  # in memory together: a tar holds hundreds of images
_OF_TARS = ("tar", "offset", "size")  # fields of an image that lies in a tar file of the run


def local_runs(places: Iterable[Path | str], option: str, progress: Progress) -> tuple[Path, ...]:
    """The folders of finished runs: paths as they are, URLs as folders of the cache; see `local_run`."""
    return tuple(local_run(place, option, progress) for place in places)


def local_run(
    place: Path | str, option: str, progress: Progress, cache_dir: Path | str | None = None
) -> Path:
    """The folder of a finished run: a path as it is, of a URL a copy in the cache.

    The copy is the folder that `distill` writes on a disk, also where images lie in tar files of the bucket.
    It is known by the manifest's bytes; what is whole of a copy that was stopped is not fetched again.

    Args:
        place: A path, or the URL of a run that was made there or copied there.
        option: What the place was given as, for messages.
        progress: Receives a bar.
        cache_dir: Keeps the copies under `runs/`; `default_cache_dir()` by default.

    Raises:
        UserError: There is no finished run, a file is missing or not what the manifest says, or what the
            server answered.
    """
    if not is_url(place):
        return Path(place)
    bucket = Bucket(str(place))
    try:
        content = bucket.read(MANIFEST)
    except FileNotFoundError:
        raise UserError(f"{option} must be a finished run of distill, got no {MANIFEST} in {place}") from None
    digest = hashlib.sha256(content).hexdigest()
    name = bucket.url.rpartition("/")[2]
    folder = cache_dir_or_default(cache_dir) / "runs" / digest[:16] / name
    if not (folder / MANIFEST).exists():
        try:
            manifest = parsed_manifest(content, f"{bucket}/{MANIFEST}")
        except UserError as error:
            raise UserError(f"{option} must hold a finished run of this mgd3-fast: {error}") from None
        _fetch(bucket, manifest, folder, progress)
    return folder


def _fetch(bucket: Bucket, manifest: dict[str, Any], folder: Path, progress: Progress) -> None:
    """Bring every file that a manifest lists, the manifest last."""
    records = [{"file": name, "sha256": sha256} for name, sha256 in manifest["files"].items()]
    missing = [
        record
        for record in [*records, *manifest["images"]]
        if file_digest(_inside(folder, record["file"])) != record["sha256"]
    ]
    of_objects = [list(records) for _, records in groupby(missing, key=_object)]
    with progress.stage("fetch", total=len(missing), unit="file") as bar:
        at_a_time = _TARS_AT_A_TIME if "tars" in manifest else _FILES_AT_A_TIME
        for start in range(0, len(of_objects), at_a_time):
            _fetch_objects(bucket, of_objects[start : start + at_a_time], folder, bar)
    images = [{key: value for key, value in one.items() if key not in _OF_TARS} for one in manifest["images"]]
    plain = {key: value for key, value in manifest.items() if key not in ("tars", "format", "format_version")}
    write_manifest(folder / MANIFEST, {**plain, "images": images}, folder / f".{MANIFEST}.{os.getpid()}.tmp")


def _fetch_objects(
    bucket: Bucket, of_objects: Sequence[Sequence[Mapping[str, Any]]], folder: Path, bar: Bar
) -> None:
    contents = bucket.read_all(_object(records[0]) for records in of_objects)
    for records in of_objects:
        name = _object(records[0])
        if name not in contents:
            raise UserError(f"{bucket} must hold all files of its {MANIFEST}, {name} is missing")
        for record in records:
            content = contents[name]
            if "tar" in record:
                content = content[record["offset"] : record["offset"] + record["size"]]
            if hashlib.sha256(content).hexdigest() != record["sha256"]:
                raise UserError(f"{record['file']} of {bucket} is damaged: its sha256 is not the manifest's")
            write_whole(_inside(folder, record["file"]), content, shared=True)
            bar.advance()


def _object(record: Mapping[str, Any]) -> str:
    """The object that holds a file of the run."""
    return str(record.get("tar", record["file"]))


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"files of a run must lie inside its folder, got {name!r} in its {MANIFEST}")
    return path
