"""The output folder while a run is under way: whose it is, what is finished, and how it is completed.

Working state lives in `OUT/.mgd3-fast/`: `run.json` (the settings every shard must agree on, and the image
list), one journal and one folder of unfinished files per shard, and what the stages keep. It is removed once
the manifest is written: the manifest is there if and only if the run is complete.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.writers.journal import Journal, read_journal
from mgd3_fast.writers.layout import Layout
from mgd3_fast.writers.manifest import MANIFEST, read_manifest
from mgd3_fast.writers.out_files import check_writable, file_digest, unwritable_error

WORK = ".mgd3-fast"
MODES = "modes.safetensors"
MODE_PLOTS = "mode-plots"
CONTACT_SHEET = "contact_sheet.png"
MANY_IMAGES = 2000  # reading more takes seconds


def check_ours(out: Path) -> None:
    """Refuse an output folder, which need not exist, that holds files of somebody else.

    A run of ours, finished or not, is welcome.

    Raises:
        UserError: Naming what is there.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"out must be a folder, got the file {out}")
    if not out.exists() or (out / WORK / "run.json").exists() or read_manifest(out) is not None:
        return
    foreign = sorted(path.name for path in out.iterdir() if path.name not in (WORK, MODES, MODE_PLOTS))
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(f"out must be empty or hold a run of mgd3-fast, got {out} with {foreign[0]!r}{more}")


class RunFolder:
    """The hold that a worker of a shard has on the output folder.

    Args:
        out: Output folder.
        settings: What decides the images of this run, in the order differences are reported.
        layout: The image list.
        part: Number of this shard, from 1.
        parts: Number of shards.
        worker: Number of this worker of the shard, from 1.
    """

    def __init__(
        self,
        out: Path,
        settings: dict[str, Any],
        layout: Layout,
        part: int = 1,
        parts: int = 1,
        *,
        worker: int = 1,
    ) -> None:
        self.name, self.out, self.work = str(out), out, out / WORK
        self.layout, self._settings = layout, settings
        self.shard = f"{part}-of-{parts}" + (f"-worker-{worker}" if worker > 1 else "")
        self.temporary = self.work / f"unfinished-{self.shard}"
        self._journal: Journal | None = None

    def finished_manifest(self) -> dict[str, Any] | None:
        """Look at the folder without touching it: the manifest if this very run was finished, else None.

        Raises:
            UserError: The folder holds a run of other settings, or files that are not ours.
        """
        manifest = read_manifest(self.out)
        started = manifest["settings"] if manifest else self._started()
        if started is None:
            self._check_ours()
        else:
            self._check_same(started)
        return manifest

    @contextmanager
    def open(self) -> Iterator[RunFolder]:
        """Make the folder ours: record the settings, take the shard's journal, clear its unfinished files.

        Yields:
            This object, ready for `record`.

        Raises:
            UserError: If another process has meanwhile started other settings, or holds this shard.
        """
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            self._claim()
        except OSError as error:
            raise unwritable_error(self.out, error) from None
        with Journal(self.work / f"journal-{self.shard}.jsonl", self.name) as self._journal:
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.mkdir()
            yield self
            # A shard that leaves work to others leaves no empty folder behind.
            with suppress(OSError):
                self.temporary.rmdir()

    def record(self, image: int, sha256: str) -> None:
        """Note that an image has its final name."""
        assert self._journal is not None
        self._journal.append({"image": image, "sha256": sha256})

    def record_session(self, session: dict[str, Any]) -> None:
        """Note what this process runs on and has done so far, on disk: the last note of a process counts."""
        assert self._journal is not None
        self._journal.append({"session": session})
        self._journal.sync()

    def finished(self) -> tuple[dict[int, str], list[dict[str, Any]]]:
        """Read the journals of all shards: sha256 by image number, and the sessions noted so far.

        Raises:
            FileNotFoundError: If another shard completed the run meanwhile.
        """
        digests: dict[int, str] = {}
        sessions: dict[str, dict[str, Any]] = {}
        for path in sorted(self.work.glob("journal-*.jsonl")):
            for record in read_journal(path):
                if "session" in record:
                    sessions[record["session"]["id"]] = record["session"]
                else:
                    digests[record["image"]] = record["sha256"]
        return digests, sorted(sessions.values(), key=lambda session: str(session["started"]))

    def intact(self, digests: dict[int, str], images: range, progress: Progress = SILENT) -> dict[int, str]:
        """Keep the entries of `images` whose files are there and have the recorded sha256.

        Args:
            digests: sha256 by image number.
            images: Image numbers to look at.
            progress: Receives a bar when there are many.
        """
        recorded = [image for image in images if image in digests]
        shown = progress if len(recorded) >= MANY_IMAGES else SILENT
        kept = {}
        with shown.stage("verify", total=len(recorded), unit="img") as bar:
            for image in recorded:
                if file_digest(self.out / self.layout.file(image)) == digests[image]:
                    kept[image] = digests[image]
                bar.advance()
        return kept

    def reopen(self, sessions: Sequence[dict[str, Any]], digests: dict[int, str]) -> None:
        """Turn a finished run with missing or damaged files back into an unfinished one.

        Args:
            sessions: Those of the finished run.
            digests: sha256 of the images that are intact.
        """
        for session in sessions:
            self.record_session(session)
        for image, sha256 in digests.items():
            self.record(image, sha256)
        (self.out / MANIFEST).unlink(missing_ok=True)

    @contextmanager
    def completing(self) -> Iterator[bool]:
        """Hold the right to complete the run; several shards may come here at the same time.

        Yields:
            True for the shard that is to write the manifest, False where another one has.
        """
        assert self._journal is not None
        self._journal.close()
        with ExitStack() as held:
            try:
                lock = held.enter_context((self.work / "completing").open("w"))
            except FileNotFoundError:
                yield False
                return
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield not (self.out / MANIFEST).exists()
            except FileNotFoundError:
                # Where locks do not work, the other shard may clear the working state under our hands.
                if not (self.out / MANIFEST).exists():
                    raise

    def clear(self) -> None:
        """Remove the working state, once the manifest is written."""
        shutil.rmtree(self.work, ignore_errors=True)

    def manifest(self) -> dict[str, Any] | None:
        """Read the manifest; None while the run is under way."""
        return read_manifest(self.out)

    def check_writable(self) -> None:
        """Try whether the folder can be written, and leave no trace.

        Raises:
            UserError: With the reason.
        """
        check_writable(self.out)

    def damaged(self, files: Mapping[str, str]) -> list[str]:
        """Name files of a finished run, given with sha256, that are lost or have changed; remove these."""
        names = [name for name, sha256 in files.items() if file_digest(self.out / name) != sha256]
        for name in names:
            (self.out / name).unlink(missing_ok=True)
        return names

    def present(self, digests: Mapping[int, str]) -> int:
        """How many finished images are still there, so that the run can be completed."""
        return sum((self.out / self.layout.file(image)).is_file() for image in digests)

    def place(self, image: int) -> dict[str, Any]:
        """Where an image lies, beside its file name, for its record in the manifest."""
        return {}

    def sections(self) -> dict[str, Any]:
        """What the manifest tells of files that hold many images."""
        return {}

    def _check_ours(self) -> None:
        check_ours(self.out)

    def _claim(self) -> None:
        """Write `run.json` unless it is there; of several processes that start at once, one wins."""
        run = self.work / "run.json"
        if not run.exists():
            draft = self.work / f"run-{self.shard}-{os.getpid()}.json"
            content = {"settings": self._settings, "layout": asdict(self.layout)}
            draft.write_text(json.dumps(content, indent=2), encoding="utf-8")
            try:
                run.hardlink_to(draft)
            except FileExistsError:
                pass
            except OSError:
                draft.replace(run)  # a file system without hard links
            draft.unlink(missing_ok=True)
        started = self._started()
        if started is not None:
            self._check_same(started)

    def _started(self) -> dict[str, Any] | None:
        """Settings of the run that is under way."""
        path = self.work / "run.json"
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            settings = None
        if not isinstance(settings, dict):
            raise UserError(f"{path} is damaged, so the run of {self.name} is not known: remove that file")
        return settings

    def _check_same(self, found: dict[str, Any]) -> None:
        wanted = self._settings
        for name in [*wanted, *found]:
            if found.get(name) != wanted.get(name):
                there, asked = (repr(one[name]) if name in one else "the default" for one in (found, wanted))
                raise UserError(
                    f"{self.name} holds a run of other settings, whose {name} is {there} while {asked} is"
                    " asked for: choose another --out"
                )
