"""Execute the blocks of a page, in order, in one folder, as its reader would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, Block, blocks_of, fixtures_of
from tests.fakes.pictures import photo

TIMEOUT_S = 300


@dataclass(frozen=True)
class Executed:
    """A block and its seconds of processor, which a busy machine does not change; 0 where it was left out."""

    block: Block
    seconds: float


class BlockError(AssertionError):
    """A block that failed: where it is, and the end of what it said."""


class Runner:
    """Runs pages in folders of their own, with one cache for all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        programs = root / "programs"
        programs.mkdir(parents=True)
        shim = programs / "mgd3-fast"
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mgd3_fast "$@"\n')
        shim.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "engine", ROOT / "kernels"))),
            "MGD3_CACHE": str(root / "cache"),
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, page: str) -> list[Executed]:
        """Execute a page's blocks. Raises a `BlockError` at the first that fails."""
        folder = self.root / page.replace("/", "-").removesuffix(".md")
        folder.mkdir()
        for name in fixtures_of(page):
            FIXTURES[name](self, folder)
        names: dict[str, Any] = {"__name__": "__main__"}
        return [Executed(block, self._execute(block, folder, names)) for block in blocks_of(page)]

    def shell(self, code: str, folder: Path) -> None:
        """Run shell code, and complain with the end of its output."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
        if done.returncode:
            raise BlockError(f"exit status {done.returncode}\n{done.stdout[-3000:]}")

    def _execute(self, block: Block, folder: Path, names: dict[str, Any]) -> float:
        if block.left_out:
            return 0.0
        started = _seconds_of_processor()
        try:
            if block.language == "sh":
                self.shell(block.code, folder)
            else:
                with _as_in(folder, self.environment):
                    exec(compile("\n" * block.line + block.code, block.page, "exec"), names)
        except Exception as error:
            raise BlockError(f"{block}: {type(error).__name__}: {error}\n{block.code}") from error
        return _seconds_of_processor() - started


def _seconds_of_processor() -> float:
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system


@contextmanager
def _as_in(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Be in a folder, with other variables of the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


def _photos(runner: Runner, folder: Path) -> None:
    """Pictures of two classes, 12 to train with and 4 to test on."""
    for label, name in enumerate(("cat", "dog")):
        for split, count in (("train", 12), ("val", 4)):
            where = folder / "photos" / split / name
            where.mkdir(parents=True)
            for number in range(count):
                photo(1000 * label + 100 * (split == "val") + number, 40, 48).save(where / f"{number}.png")


def _distilled(runner: Runner, folder: Path) -> None:
    """A finished run, made once."""
    made = runner.root / "made" / "distilled"
    if not made.exists():
        made.parent.mkdir()
        runner.shell("mgd3-fast distill --dataset mnist5k --ipc 2 --out distilled", made.parent)
    shutil.copytree(made, folder / "distilled")


FIXTURES = {"photos": _photos, "distilled": _distilled}
