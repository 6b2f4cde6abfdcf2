"""An output folder on a store. Images are made in a folder of this machine, the mirror, and carried over.

On the store lie `images/*.tar`, what lies beside the images of every run, and, while it is under way, the
working state: `run.json`, an index for each tar file, a note for each process, and what the stages keep. Only
`run.json`, tar files and the manifest decide anything, and they are created, never replaced.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.storage.remote import Bucket
from mgd3_fast.writers.blocks import Blocks
from mgd3_fast.writers.contact_sheet import MOST_CLASSES, MOST_IMAGES
from mgd3_fast.writers.kept_work import KeptWork, write_whole
from mgd3_fast.writers.layout import Layout
from mgd3_fast.writers.manifest import MANIFEST, parsed_manifest
from mgd3_fast.writers.run_folder import MODES, WORK, RunFolder

RUN = f"{WORK}/run.json"
_INDEXES, _SESSIONS, _KEPT = f"{WORK}/blocks", f"{WORK}/sessions", f"{WORK}/kept"


def mirror_of(url: str, cache: Path) -> Path:
    """The folder of this machine that a run on a store is made in; it holds unfinished work alone."""
    return cache / "out" / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


def check_store(bucket: Bucket) -> None:
    """Ask whether an output folder can be there: one of a finished run, or one that can be written.

    Raises:
        UserError: What the store said.
    """
    try:
        bucket.read(MANIFEST)
    except FileNotFoundError:
        _check_writable(bucket)


def _check_writable(bucket: Bucket) -> None:
    """Write an object and remove it."""
    probe = f"{WORK}/probe"
    bucket.write(probe, b"")
    bucket.remove([probe])


class BucketFolder(RunFolder):
    """The hold that a process has on an output folder of a store.

    Args:
        bucket: The output folder.
        mirror: Folder of this machine, shared by its processes.
        settings: As of `RunFolder`.
        layout: As of `RunFolder`.
        part: As of `RunFolder`.
        parts: As of `RunFolder`.
        worker: As of `RunFolder`.
    """

    def __init__(
        self,
        bucket: Bucket,
        mirror: Path,
        settings: dict[str, Any],
        layout: Layout,
        part: int = 1,
        parts: int = 1,
        *,
        worker: int = 1,
    ) -> None:
        super().__init__(mirror, settings, layout, part, parts, worker=worker)
        self.name = bucket.url
        self._bucket, self._blocks = bucket, Blocks(bucket, layout, _INDEXES)
        self._kept = KeptWork(bucket, self.work, _KEPT)

    def finished_manifest(self) -> dict[str, Any] | None:
        """Look at the store; see `RunFolder`. The mirror takes up what other machines have kept there."""
        self._forget_others()
        for name in (MANIFEST, RUN):
            self._mirror(name)
        manifest = super().finished_manifest()
        if manifest is not None:
            self._blocks.take_up(manifest["images"], manifest["tars"])
        elif (self.out / RUN).exists():
            self._kept.bring()
        return manifest

    def manifest(self) -> dict[str, Any] | None:
        """Read the manifest; see `RunFolder`."""
        try:
            return parsed_manifest(self._bucket.read(MANIFEST), f"{self.name}/{MANIFEST}")
        except FileNotFoundError:
            return None

    def check_writable(self) -> None:
        """Write an object and remove it, and look at the mirror; see `RunFolder`."""
        super().check_writable()
        _check_writable(self._bucket)

    def record(self, image: int, sha256: str) -> None:
        """Note that an image is whole; the last one of a tar file has it carried to the store."""
        super().record(image, sha256)
        self._carry_if_whole(image // self.layout.together)

    def record_session(self, session: dict[str, Any]) -> None:
        """Note what this process runs on; see `RunFolder`."""
        super().record_session(session)
        self._bucket.write(f"{_SESSIONS}/{session['id']}.json", json.dumps(session).encode())

    def finished(self) -> tuple[dict[int, str], list[dict[str, Any]]]:
        """Look at what is on the store; see `RunFolder`."""
        notes = self._bucket.read_all(self._bucket.sizes(_SESSIONS)).values()
        sessions = sorted(map(json.loads, notes), key=lambda session: str(session["started"]))
        self._blocks.finished()
        return self._blocks.digests(), sessions

    def intact(self, digests: dict[int, str], images: range, progress: Progress = SILENT) -> dict[int, str]:
        """Keep the entries of images that are on the store, which keeps their bytes; see `RunFolder`."""
        self._blocks.finished()
        there = self._blocks.digests()
        return {
            image: there[image] for image in images if image in there and there[image] == digests.get(image)
        }

    def damaged(self, files: Mapping[str, str]) -> list[str]:
        """Which files of a finished run are missing; the store keeps their bytes."""
        there = self._bucket.sizes()
        return [name for name in files if name not in there]

    def present(self, digests: Mapping[int, str]) -> int:
        """How many images are on the store; see `RunFolder`."""
        return len(self._blocks.digests())

    def place(self, image: int) -> dict[str, Any]:
        """Where an image lies, for its record in the manifest."""
        tar, place = self._blocks.place(image)
        return {"tar": tar, "offset": place.offset, "size": place.size}

    def sections(self) -> dict[str, Any]:
        """The tar files, for the manifest."""
        blocks = self._blocks.finished()
        tars = (blocks[number] for number in range(self.layout.objects))
        return {"tars": [{"file": one.tar, "size": one.size, "sha256": one.sha256} for one in tars]}

    def reopen(self, sessions: Sequence[dict[str, Any]], digests: dict[int, str]) -> None:
        """Turn a finished run with missing objects back into an unfinished one; see `RunFolder`."""
        for session in sessions:
            self.record_session(session)
        self._bucket.remove([MANIFEST])
        (self.out / MANIFEST).unlink(missing_ok=True)

    @contextmanager
    def completing(self) -> Iterator[bool]:
        """Bring what is needed to complete the run, and carry what was written; see `RunFolder`."""
        with super().completing() as ours:
            self._mirror(MANIFEST)
            if not ours or (self.out / MANIFEST).exists():
                yield False
                return
            self._kept.bring()
            if self.present(self.finished()[0]) == len(self.layout):
                self._bring_shown()
            yield True
            if (self.out / MANIFEST).exists():
                written = json.loads((self.out / MANIFEST).read_bytes())["files"]
                for name in written:
                    self._bucket.upload(name, self.out / name)
                self._bucket.create(MANIFEST, (self.out / MANIFEST).read_bytes())

    def clear(self) -> None:
        """Remove the working state and the mirror."""
        self._bucket.remove(self._bucket.sizes(WORK))
        shutil.rmtree(self.out, ignore_errors=True)

    def _claim(self) -> None:
        """Create `run.json` on the store; of several processes that start at once, one wins."""
        super()._claim()
        if not self._bucket.create(RUN, (self.out / RUN).read_bytes()):
            self._mirror(RUN)
            super()._claim()

    def _check_ours(self) -> None:
        foreign = [name for name in self._bucket.sizes() if not name.startswith((f"{WORK}/", MODES))]
        if foreign:
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            raise UserError(
                f"out must be empty or hold a run of mgd3-fast, got {self.name} with {foreign[0]!r}{more}"
            )

    def _mirror(self, name: str) -> None:
        """Bring a small object into the mirror; a manifest that is not on the store is not there either."""
        target = self.out / name
        try:
            content = self._bucket.read(name)
        except FileNotFoundError:
            if name == MANIFEST:  # left where carrying it failed
                target.unlink(missing_ok=True)
            return
        write_whole(target, content)

    def _forget_others(self) -> None:
        """Remove a mirror that an earlier run of other settings left."""
        with suppress(UserError):
            if self._started() in (None, self._settings):
                return
        shutil.rmtree(self.out, ignore_errors=True)

    def _carry_if_whole(self, number: int) -> None:
        """Carry the images of a tar file once all of them are in the mirror."""
        files = [self.out / self.layout.file(image) for image in self.layout.of_object(number)]
        if not all(file.is_file() for file in files):
            return
        try:
            contents = [file.read_bytes() for file in files]
        except FileNotFoundError:  # another process of this machine was faster
            return
        self._kept.carry()
        self._blocks.finish(number, contents)
        for file in files:
            file.unlink(missing_ok=True)

    def _bring_shown(self) -> None:
        """Bring the images of the contact sheet into the mirror."""
        ipc, classes = self.layout.ipc, len(self.layout.class_names)
        shown = [
            row * ipc + mode
            for row in range(min(classes, MOST_CLASSES))
            for mode in range(min(ipc, MOST_IMAGES))
        ]
        places = [self._blocks.place(image) for image in shown]
        parts = [(tar, place.offset, place.offset + place.size) for tar, place in places]
        for image, content in zip(shown, self._bucket.read_parts(parts), strict=True):
            target = self.out / self.layout.file(image)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
