"""Buckets for tests: in memory, and of a server that speaks S3."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgd3_fast.storage.remote import Bucket


def bucket_in_memory() -> Bucket:
    """An empty place of this process."""
    return Bucket(f"memory://{uuid.uuid4().hex}/run")


def copied(folder: Path, bucket: Bucket) -> str:
    """Copy the files of a folder into a place, and tell its URL."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        bucket.write(path.relative_to(folder).as_posix(), path.read_bytes())
    return bucket.url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server with no buckets, named to every process by the environment."""
    pytest.importorskip("s3fs", reason="tests of S3 need pip install -e '.[s3-test]'")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}".replace("0.0.0.0", "127.0.0.1")
    named = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {**named, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            environment.setenv(name, value)
        yield address
    server.stop()


@pytest.fixture(scope="session")
def s3_url(s3_server: str) -> str:
    """A bucket of that server."""
    import boto3

    boto3.client("s3").create_bucket(Bucket="images")
    return "s3://images"
