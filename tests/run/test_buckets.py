"""distill into a store: the objects say the same as a folder of this machine, whatever happens on the way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.cli import main
from mgd3_fast.config import DistillConfig
from mgd3_fast.errors import UserError
from mgd3_fast.generators.autoencoder import KLAutoencoder
from mgd3_fast.progress import SILENT
from mgd3_fast.run import finishing, mode_finder, run
from mgd3_fast.run.distillation import DistilledDataset, distill
from mgd3_fast.run.mode_finder import ModeFinder
from mgd3_fast.storage.remote import Bucket
from mgd3_fast.writers.blocks import Blocks
from mgd3_fast.writers.bucket_folder import BucketFolder
from mgd3_fast.writers.fetching import local_run
from mgd3_fast.writers.out_files import sha256_of
from tests.fakes.buckets import bucket_in_memory, s3_server, s3_url
from tests.fakes.failing_store import FailingStore
from tests.fakes.killing import kill_python

__all__ = ["s3_server", "s3_url"]

pytestmark = pytest.mark.usefixtures("cache", "small_objects")
Distill = Callable[..., DistilledDataset]


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it and tidy up."""


@pytest.fixture
def small_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LEAST_TOGETHER", 1)


@pytest.fixture
def bucket() -> Bucket:
    return bucket_in_memory()


@pytest.fixture
def into(tiny_generator: Path, pictures: Path) -> Distill:
    """Distil 12 images of 3 classes, 4 to an object."""

    def call(out: Any, **changes: Any) -> DistilledDataset:
        settings = {"dataset": str(pictures), "generator": str(tiny_generator), "ipc": 4, "batch_size": 4}
        return distill(DistillConfig(out=str(out), **{**settings, **changes}))

    return call


@pytest.fixture(scope="module")
def whole(
    tiny_generator: Path, pictures: Path, cache_of_session: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    settings = {"dataset": str(pictures), "generator": str(tiny_generator), "ipc": 4, "batch_size": 4}
    distill(DistillConfig(out=out, cache_dir=cache_of_session, **settings))
    return out


def check_equal(bucket: Bucket, folder: Path) -> None:
    """Compare a bucket with a folder that one process wrote: only sessions and tar fields are others."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    objects = {name: bucket.read(name) for name in bucket.sizes()}
    manifest, expected = json.loads(objects.pop("manifest.json")), json.loads(files.pop("manifest.json"))
    tars = {name: objects.pop(name) for name in [one["file"] for one in manifest.pop("tars")]}
    for image in manifest["images"]:
        start = image.pop("offset")
        objects[image["file"]] = tars[image.pop("tar")][start : start + image.pop("size")]
    assert manifest.pop("sessions")
    assert expected.pop("sessions")
    assert manifest == expected
    assert objects == files


@contextmanager
def interrupted(owner: Any, name: str, calls: int, error: BaseException) -> Iterator[None]:
    """Let a method work a few times, then die before it does anything."""
    function, made = getattr(owner, name), iter(range(calls))

    def wrapped(*arguments: Any, **options: Any) -> Any:
        if next(made, None) is None:
            raise error
        return function(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wrapped)
        yield


def test_objects_say_what_a_folder_does(into: Distill, whole: Path, bucket: Bucket, cache: Path) -> None:
    result = into(bucket.url)
    check_equal(bucket, whole)
    assert [name for name in bucket.sizes() if name.endswith(".tar")] == [
        f"images/00000{number}.tar" for number in range(3)
    ]
    assert result.contact_sheet == f"{bucket.url}/contact_sheet.png"
    assert [place for place, _ in result][::4] == [f"{bucket.url}/images/00000{n}.tar" for n in range(3)]
    assert list((cache / "out").iterdir()) == []
    copy = local_run(bucket.url, "folder", SILENT)
    assert [(copy / file).read_bytes() for file in ("cow/3.png", "modes.safetensors")] == [
        (whole / file).read_bytes() for file in ("cow/3.png", "modes.safetensors")
    ]


def test_a_tar_file_is_read_by_webdataset(into: Distill, whole: Path, bucket: Bucket, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    into(bucket.url)
    (tmp_path / "one.tar").write_bytes(bucket.read("images/000001.tar"))
    samples = list(webdataset.WebDataset(str(tmp_path / "one.tar"), shardshuffle=False))
    assert [sample["cls"] for sample in samples] == [b"1"] * 4
    assert [sample["png"] for sample in samples] == [(whole / f"bee/{k}.png").read_bytes() for k in range(4)]
    assert json.loads(samples[2]["json"]).items() >= {"label": 1, "class": "bee", "index": 2}.items()


def test_real_images(into: Distill, bucket: Bucket, tmp_path: Path) -> None:
    options = {"method": "kmeans-closest", "generator": "auto", "batch_size": "auto"}
    into(tmp_path / "out", **options)
    into(bucket.url, **options)
    check_equal(bucket, tmp_path / "out")


KILL_POINTS = [
    pytest.param(mode_finder, "discover_modes", 0, False, id="before the modes"),
    pytest.param(KLAutoencoder, "decode_batches", 1, True, id="in the second object"),
    pytest.param(Blocks, "finish", 1, False, id="before the second object"),
    pytest.param(Blocks, "_index", 1, True, id="between an object and its index"),
    pytest.param(finishing, "write_contact_sheet", 0, False, id="after the last object"),
    pytest.param(Bucket, "upload", 1, True, id="before the contact sheet"),
    pytest.param(BucketFolder, "clear", 0, False, id="after the manifest"),
]


@pytest.mark.parametrize(("owner", "name", "calls", "elsewhere"), KILL_POINTS)
def test_killed_anywhere_it_ends_the_same_here_or_elsewhere(
    into: Distill,
    whole: Path,
    bucket: Bucket,
    tmp_path: Path,
    owner: Any,
    name: str,
    calls: int,
    elsewhere: bool,
) -> None:
    with interrupted(owner, name, calls, Killed()), pytest.raises(Killed):
        into(bucket.url)
    done = sum(one.endswith(".tar") for one in bucket.sizes("images"))
    result = into(bucket.url, **({"cache_dir": tmp_path / "other"} if elsewhere else {}))
    assert result.made == 12 - 4 * done
    check_equal(bucket, whole)


def test_shards_on_machines_of_their_own_find_each_class_once(
    into: Distill, whole: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: dict[str, set[int]] = {}
    original = ModeFinder.encode

    def encode(finder: Any, classes: Any, *rest: Any) -> Any:
        encoded.setdefault(finder.config.shard, set()).update(classes)
        return original(finder, classes, *rest)

    monkeypatch.setattr(ModeFinder, "encode", encode)
    missing = [
        into(bucket.url, shard=f"{part}/3", cache_dir=tmp_path / str(part)).missing for part in (2, 1, 3)
    ]
    assert missing == [8, 4, 0]
    assert encoded == {"1/3": {0}, "2/3": {1}, "3/3": {2}}
    check_equal(bucket, whole)


def test_two_machines_make_the_same_objects_at_once(
    into: Distill, whole: Path, bucket: Bucket, tmp_path: Path
) -> None:
    results: list[DistilledDataset] = []
    threads = [
        threading.Thread(target=lambda one=one: results.append(into(bucket.url, cache_dir=tmp_path / one)))
        for one in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(result) for result in results] == [12, 12]
    check_equal(bucket, whole)


def test_an_object_of_another_process_stays(into: Distill, whole: Path, bucket: Bucket) -> None:
    """Another kind of device makes other bytes: the manifest tells of those that are there."""
    original = Blocks._tarred

    def tarred(blocks: Blocks, number: int, contents: Any) -> bytes:
        if number == 1 and "images/000001.tar" not in bucket.sizes("images"):
            bucket.create("images/000001.tar", original(blocks, number, contents[::-1]))
        return original(blocks, number, contents)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Blocks, "_tarred", tarred)
        manifest = into(bucket.url).manifest
    assert manifest
    expected = [sha256_of(whole / f"bee/{mode}.png") for mode in (3, 2, 1, 0)]
    assert [image["sha256"] for image in manifest["images"] if image["class"] == "bee"] == expected


def test_each_object_is_written_once(into: Distill, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    for method in ("create", "write"):
        original = getattr(Bucket, method)
        monkeypatch.setattr(
            Bucket, method, lambda *given, do=original: (written.append(given[1]), do(*given))[1]
        )
    into(bucket.url)
    tars = [name for name in written if name.startswith("images/")]
    assert sorted(tars) == [f"images/00000{number}.tar" for number in range(3)]  # classes end in any order


def test_half_an_object_is_made_again(into: Distill, whole: Path, bucket: Bucket) -> None:
    into(bucket.url, shard="1/3")
    bucket.write("images/000001.tar", bucket.read("images/000000.tar")[:3000])
    assert into(bucket.url).made == 8
    check_equal(bucket, whole)


def test_a_full_store_keeps_what_is_there(
    into: Distill, whole: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(
        5, "An error occurred (QuotaExceeded) when calling the PutObject operation: quota exceeded"
    )
    error.__cause__ = Exception()
    error.__cause__.response = {  # type: ignore[attr-defined]
        "Error": {"Code": "QuotaExceeded"},
        "ResponseMetadata": {"HTTPStatusCode": 403},
    }
    line = r"^memory://\S+/images/\S+ has no room left: .*the same command goes on$"
    with interrupted(Bucket, "_create", 3, error), pytest.raises(UserError, match=line):
        into(bucket.url)
    assert 0 < into(bucket.url).made < 12
    check_equal(bucket, whole)


def test_a_finished_run_is_left_alone_and_a_lost_object_made_again(
    into: Distill, whole: Path, bucket: Bucket
) -> None:
    into(bucket.url)
    before = bucket.read("manifest.json")
    assert into(bucket.url).made == 0
    assert bucket.read("manifest.json") == before
    bucket.remove(["images/000001.tar"])
    assert into(bucket.url).made == 4
    check_equal(bucket, whole)
    bucket.remove(["contact_sheet.png"])
    assert into(bucket.url).made == 0
    check_equal(bucket, whole)


def test_other_settings_and_foreign_objects_are_refused(into: Distill, bucket: Bucket) -> None:
    bucket.write("notes.txt", b"mine")
    with pytest.raises(
        UserError, match=rf"^out must be empty or hold a run .* got {bucket.url} with 'notes.txt'"
    ):
        into(bucket.url)
    bucket.remove(["notes.txt"])
    into(bucket.url, shard="1/3")
    with pytest.raises(UserError, match=rf"^{bucket.url} holds a run of other settings, whose seed is 0"):
        into(bucket.url, seed=1)
    assert bucket.read("images/000000.tar")


def test_a_mirror_that_another_run_left_is_forgotten(into: Distill, bucket: Bucket, tmp_path: Path) -> None:
    into(bucket.url, shard="1/3", seed=1)
    bucket.remove(bucket.sizes())
    into(bucket.url)
    into(tmp_path / "out")
    check_equal(bucket, tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["distill", "--format", "parquet"], "format must be imagefolder or numeric with --out {url}"),
        (["distill", "--trace", "ant/0"], "trace must be left out with --out {url}"),
        (["discover"], "out must be a path of this machine, got {url}: only distill writes to a URL"),
    ],
    ids=lambda one: one[0] if isinstance(one, list) else "",
)
def test_what_needs_a_folder_is_refused_at_once(
    words: list[str], line: str, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--dataset", "mnist5k", "--ipc", "1", "--out", bucket.url]) == 2
    assert line.format(url=bucket.url) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "line"),
    [
        ("nothing://b/x", "^nothing://b/x must be a URL that fsspec knows"),
        ("{bucket}", "^{bucket}/.mgd3-fast/probe does not let these credentials in"),
        ("{folder}", "^out must be empty or hold a run of mgd3-fast, got {folder} with 'notes.txt'"),
    ],
    ids=["kind", "read-only", "foreign"],
)
def test_out_is_looked_at_before_anything_is_opened(
    into: Distill,
    bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    out: str,
    line: str,
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("read-only")

    (tmp_path / "notes.txt").write_text("mine")
    places = {"bucket": bucket.url, "folder": str(tmp_path)}
    monkeypatch.setattr(Bucket, "write", lambda one, name, _: one._ask(name, refuse))
    monkeypatch.setattr("mgd3_fast.run.worker.prepare", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(UserError, match=line.format(**places)):
        into(out.format(**places))


@pytest.fixture
def failing_store(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingStore]:
    """The server behind one that fails; connections to the other one are not taken up."""
    s3fs = pytest.importorskip("s3fs")
    with FailingStore(s3_server) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.address)
        s3fs.S3FileSystem.clear_instance_cache()
        yield store
        s3fs.S3FileSystem.clear_instance_cache()


def test_s3_that_fails_now_and_then(
    into: Distill, whole: Path, s3_url: str, failing_store: FailingStore
) -> None:
    failing_store.faults = ["503", "", "reset", "", "500", "", "late", "", "lost answer", ""] * 2
    into(f"{s3_url}/failing")
    assert failing_store.faults == []
    check_equal(Bucket(f"{s3_url}/failing"), whole)


def test_sigkill_on_s3(
    into: Distill, tiny_generator: Path, pictures: Path, s3_url: str, tmp_path: Path
) -> None:
    options = {"ipc": 7, "steps": 40, "batch_size": 3}
    bucket = Bucket(f"{s3_url}/killed")
    words = [
        *("distill", "--quiet", "--dataset", str(pictures), "--generator", str(tiny_generator)),
        *("--ipc", "7", "--steps", "40", "--batch-size", "3", "--out", bucket.url),
    ]
    small = "from mgd3_fast.run import run; run.LEAST_TOGETHER = 1"
    begin = f"{small}; from mgd3_fast.cli import main; main({words})"

    def two_are_there() -> bool:
        time.sleep(0.1)  # the server is in this process
        return len(bucket.sizes("images")) >= 2

    kill_python("-c", begin, once=two_are_there)
    assert 0 < into(bucket.url, **options).made <= 15
    into(tmp_path / "whole", **options)
    check_equal(bucket, tmp_path / "whole")
