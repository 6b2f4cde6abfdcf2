"""What the stages of a run keep, carried between the machines that share an output folder on a store.

A class's modes, or its choice of real images, is a small file: many are carried in one object, which is named
by its contents.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from mgd3_engine.files.renaming import renamed
from mgd3_fast.storage.remote import Bucket
from mgd3_fast.writers.tars import add_file, new_tar

STAGES = ("modes", "chosen")
BUNDLE_BYTES = 64 << 20


class KeptWork:
    """The files that stages keep.

    Args:
        bucket: The output folder.
        work: Folder of this machine that has a folder for each stage.
        objects: Where they lie on the store.
    """

    def __init__(self, bucket: Bucket, work: Path, objects: str) -> None:
        self._bucket, self._work, self._objects = bucket, work, objects
        self._brought: set[str] = set()
        self._there: set[str] = set()

    def carry(self) -> None:
        """Carry the files that are not on the store yet."""
        for bundle in self._bundles():
            content = _tarred(self._work, bundle)
            name = f"{self._objects}/{hashlib.sha256(content).hexdigest()[:16]}.tar"
            if name not in self._bucket.sizes(self._objects):  # other workers carry the same
                self._bucket.create(name, content)
            self._brought.add(name)
            self._there.update(bundle)

    def bring(self) -> None:
        """Bring the files that other machines have carried since this was last asked for."""
        new = [name for name in self._bucket.sizes(self._objects) if name not in self._brought]
        for name in new:
            for bundle in self._bucket.read_all([name]).values():  # none once the run is complete
                self._unpack(bundle)
            self._brought.add(name)

    def _unpack(self, bundle: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
            for member in archive:
                stage, _, file = member.name.partition("/")
                content = archive.extractfile(member)
                if stage in STAGES and "/" not in file and content is not None:
                    write_whole(self._work / stage / file, content.read())
                    self._there.add(member.name)

    def _bundles(self) -> Iterator[list[str]]:
        bundle, filled = [], 0
        for path in sorted(path for stage in STAGES for path in (self._work / stage).glob("[!.]*")):
            name = f"{path.parent.name}/{path.name}"
            if name in self._there:
                continue
            bundle.append(name)
            filled += path.stat().st_size
            if filled > BUNDLE_BYTES:
                yield bundle
                bundle, filled = [], 0
        if bundle:
            yield bundle


def _tarred(folder: Path, names: list[str]) -> bytes:
    file = io.BytesIO()
    with new_tar(file) as archive:
        for name in names:
            add_file(archive, name, (folder / name).read_bytes())
    return file.getvalue()


def write_whole(target: Path, content: bytes, *, shared: bool = False) -> None:
    """Write a file, whole or not at all; its folder is made. See `renamed`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with renamed(target, shared=shared) as unfinished:
        unfinished.write_bytes(content)
