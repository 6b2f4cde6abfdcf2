"""Tar files of WebDataset: images, each with its label and what is known about it, in repeatable bytes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, NamedTuple


class TarredImage(NamedTuple):
    """Where an image lies in a tar file.

    Args:
        offset: Of its first byte.
        size: In bytes.
        sha256: Of its bytes, as recorded beside it.
    """

    offset: int
    size: int
    sha256: str


@contextmanager
def new_tar(file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """Open a file for samples; no times, owners or names of this machine will be in it."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        yield archive


def add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file."""
    member = tarfile.TarInfo(name)  # mode 644, time 0, owner 0
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def add_sample(
    archive: tarfile.TarFile, label: int, index: int, about: Mapping[str, Any], suffix: str, content: bytes
) -> None:
    """Add `<label>-<index>` as `.cls` (the label), `.json` (what is known) and the image itself.

    They are what `webdataset.TarWriter` writes, without need of that package.
    """
    key = f"{label:05d}-{index:05d}"
    add_file(archive, f"{key}.cls", str(label).encode())
    add_file(archive, f"{key}.json", json.dumps(about).encode())
    add_file(archive, f"{key}{suffix}", content)


def images_of(content: bytes) -> list[TarredImage]:
    """List the images of a tar file, given its bytes, in their order.

    Raises:
        ValueError: It is damaged, or something else.
    """
    images, sha256 = [], ""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                start, end = member.offset_data, member.offset_data + member.size
                if member.name.endswith(".json"):
                    sha256 = json.loads(content[start:end])["sha256"]
                elif not member.name.endswith(".cls"):
                    images.append(TarredImage(start, member.size, sha256))
    except (tarfile.TarError, KeyError, TypeError) as error:
        raise ValueError(f"no tar file of samples: {error}") from None
    return images
