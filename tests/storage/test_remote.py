"""Storage by URL: create-only writes, listings, another try after what may pass, one line for the rest."""

from __future__ import annotations

import errno
import re
import sys
import uuid

import pytest

from mgd3_engine.installing import install_command
from mgd3_fast.errors import UserError
from mgd3_fast.storage import remote
from mgd3_fast.storage.remote import Bucket, ask, connected, is_url
from tests.fakes.buckets import bucket_in_memory, s3_server, s3_url

__all__ = ["s3_server", "s3_url"]


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """Pauses that were asked for; a clock of the test's own takes them."""
    asked: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", asked.append)
    monkeypatch.setattr(remote.time, "monotonic", lambda: sum(asked))
    return asked


@pytest.fixture(params=["memory", "s3"])
def bucket(request) -> Bucket:
    if request.param == "memory":
        return bucket_in_memory()
    return Bucket(f"{request.getfixturevalue('s3_url')}/{uuid.uuid4().hex}")


def answer(status: int, code: str, kind: type[OSError] = OSError, number: int = errno.EIO) -> OSError:
    """What s3fs raises for an answer of a store."""
    error = kind(number, "as the server says")
    error.__cause__ = Exception(code)
    error.__cause__.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return error


def failing(*errors: Exception):
    left = list(errors)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


@pytest.mark.parametrize(
    ("place", "url"), [("s3://b/x", True), ("GS://b", True), ("a/b", False), ("C:/x", False), (None, False)]
)
def test_what_a_url_is(place, url):
    assert is_url(place) is url


def test_objects_are_created_once_listed_and_read(bucket):
    assert bucket.sizes() == {}
    assert bucket.create("images/a.tar", b"first")
    assert not bucket.create("images/a.tar", b"other")
    bucket.write("run.json", b"{}")
    bucket.write("run.json", b"[1]")
    assert bucket.sizes() == {"images/a.tar": 5, "run.json": 3}
    assert bucket.sizes("images") == {"images/a.tar": 5}
    assert bucket.read("images/a.tar") == b"first"
    assert bucket.read("images/a.tar", 1, 3) == b"ir"
    assert bucket.read_all(["images/a.tar", "gone"]) == {"images/a.tar": b"first"}
    bucket.remove(["images/a.tar", "gone"])
    assert bucket.sizes() == {"run.json": 3}
    with pytest.raises(FileNotFoundError):
        bucket.read("images/a.tar")


def test_one_of_several_creates_a_large_object(bucket, monkeypatch):
    monkeypatch.setattr(bucket._files, "pipe_file", in_parts(bucket._files.pipe_file))
    assert bucket.create("large", bytes(11 << 20))
    assert not bucket.create("large", bytes(1))
    assert bucket.sizes() == {"large": 11 << 20}


def in_parts(pipe_file):
    """Write in parts of 5 MiB where the store takes parts."""
    return lambda path, content, mode="overwrite": pipe_file(path, content, mode=mode, chunksize=5 << 20)


def test_a_store_without_conditional_writes_is_looked_at_first(monkeypatch):
    bucket = bucket_in_memory()
    plain = bucket._files.pipe_file

    def pipe_file(path, content, mode="overwrite"):
        if mode == "create":
            raise answer(501, "NotImplemented", number=errno.ENOSYS)
        plain(path, content)

    monkeypatch.setattr(type(bucket._files), "pipe_file", staticmethod(pipe_file))
    assert bucket.create("a", b"1")
    assert not bucket.create("a", b"2")
    assert bucket.read("a") == b"1"


@pytest.mark.parametrize(
    "error",
    [
        answer(503, "SlowDown"),
        answer(500, "InternalError"),
        answer(409, "ConditionalRequestConflict"),
        ConnectionResetError("reset by peer"),
        TimeoutError(),
        OSError(errno.EBUSY, "Please reduce your request rate."),
    ],
    ids=lambda error: f"{type(error).__name__}-{error}",
)
def test_what_may_pass_is_asked_for_again(error, pauses):
    assert ask("s3://b/x", failing(error, error, error)) == "done"
    assert pauses == [0.5, 1, 2]


def test_patience_ends(pauses):
    with pytest.raises(UserError, match=r"^s3://b/x did not answer for 60 s: .*; the same command goes on$"):
        ask("s3://b/x", failing(*[answer(503, "SlowDown")] * 99))
    assert 40 < sum(pauses) <= 60


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (answer(403, "QuotaExceeded"), "has no room left: .* once there is room, the same command goes on"),
        (answer(507, "InsufficientStorage"), "has no room left"),
        (OSError(errno.ENOSPC, "No space left"), "has no room left"),
        (answer(403, "AccessDenied", PermissionError), "does not let these credentials in"),
        (answer(404, "NoSuchBucket", FileNotFoundError), "must lie in a bucket that exists"),
        (RuntimeError("two\nlines"), "cannot be used: two lines"),
    ],
    ids=str,
)
def test_what_stays_wrong_is_told_at_once_in_one_line(error, line, pauses):
    with pytest.raises(UserError, match=f"^s3://b/x {line}"):
        ask("s3://b/x", failing(error))
    assert pauses == []


def test_a_missing_object_and_one_that_is_there_are_for_the_caller(pauses):
    for error in (FileNotFoundError("x"), FileExistsError("x")):
        with pytest.raises(type(error)):
            ask("s3://b/x", failing(error))
    assert pauses == []


@pytest.mark.parametrize(
    ("url", "package", "line"),
    [
        ("s3://b/x", "s3fs", rf"s3://b/x needs a package: {re.escape(install_command('s3'))}"),
        ("gs://b/x", "gcsfs", rf"gs://b/x needs a package: {re.escape(install_command('gcs'))}"),
        ("nothing://b/x", None, "nothing://b/x must be a URL that fsspec knows"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(url, package, line, monkeypatch):
    pytest.importorskip("fsspec")
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url.partition("://")[0], raising=False)
    if package:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"^{line}"):
        connected(url)


def test_a_bucket_that_is_not_there(s3_url):
    for attempt in (lambda one: one.sizes(), lambda one: one.read("x"), lambda one: one.create("x", b"")):
        with pytest.raises(UserError, match=r"^s3://nowhere/x\S* must lie in a bucket that exists: make the"):
            attempt(Bucket("s3://nowhere/x"))


def test_no_credentials(s3_url, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    bucket = Bucket("s3://images/x")
    bucket._files = type(bucket._files)(skip_instance_cache=True)
    with pytest.raises(UserError, match=r"^s3://images/x\S* asks for credentials: set AWS_ACCESS_KEY_ID"):
        bucket.create("x", b"")
