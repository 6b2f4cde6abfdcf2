"""Tar files that several tests write."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from tests.fakes.pictures import encoded, photo


def tar_bytes(contents: Mapping[str, bytes], mtime: int = 0) -> bytes:
    """A tar of files, in the mapping's order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), mtime
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write_shards(
    folder: Path, labels: list[list[str]], *, first: int = 0, kind: str = "PNG", json: bool = False
) -> list[Path]:
    """WebDataset shards 000.tar, 001.tar, ...: an image and its label for each label; photo n has seed n."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, of_shard in enumerate(labels):
        contents: dict[str, bytes] = {}
        for label in of_shard:
            key = f"sample{first:04d}"
            contents[f"{key}.{kind.lower()}"] = encoded(photo(first), kind)
            contents[f"{key}.json" if json else f"{key}.cls"] = label.encode()
            first += 1
        shards.append(folder / f"{number:03d}.tar")
        shards[-1].write_bytes(tar_bytes(contents))
    return shards
