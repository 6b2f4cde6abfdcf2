"""Kill a run with SIGKILL at random moments, resume it each time, and compare with an uninterrupted run.

python -m bench.rehearsals.kill_and_resume --kills 4 --dataset mnist5k --ipc 10 --batch-size 8

The first kill comes after a random part of the time that the uninterrupted run took (it too starts with an
empty cache), the others up to 20 ms after the journal holds a random number of images. Prints one JSON
object and fails if a run was not killed, a file differs or a temporary one is left.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mgd3_fast.versions import versions


def command(options: list[str], folder: Path, name: str) -> list[str]:
    out, cache = folder / name, folder / f"cache of {name}"
    distill = [sys.executable, "-m", "mgd3_fast", "distill", "--quiet", *options]
    return [*distill, "--out", str(out), "--cache-dir", str(cache)]


def kill_and_resume(options: list[str], kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run to the end once undisturbed and once with kills, and compare.

    Args:
        options: Options of `distill`, without `--out` and `--cache-dir`.
        kills: Number of SIGKILLs.
        seed: Of the moments.
        folder: Empty folder for everything.

    Returns:
        Figures, JSON values only.
    """
    started = time.perf_counter()
    subprocess.run(command(options, folder, "whole"), check=True)
    whole_s = time.perf_counter() - started
    moments, images = random.Random(seed), images_in(folder / "whole")
    targets = sorted(moments.sample(range(1, images - 1), kills - 1))
    killed = []
    for target in [0, *targets]:
        process = subprocess.Popen(command(options, folder, "killed"))
        started = time.perf_counter()
        if target == 0:
            time.sleep(moments.uniform(0.2, 0.8) * whole_s)
        else:
            wait_for_images(process, folder / "killed", target)
            time.sleep(moments.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        ended_by = process.wait()
        killed.append(
            {
                "after_s": round(time.perf_counter() - started, 2),
                "images": images_in(folder / "killed"),
                "killed": ended_by == -signal.SIGKILL,
            }
        )
    subprocess.run(command(options, folder, "killed"), check=True)
    differing = compare(folder / "whole", folder / "killed")
    left = leftovers(folder)
    return {
        "options": options,
        "uninterrupted_s": round(whole_s, 2),
        "kills": killed,
        "images": images_in(folder / "killed"),
        "files_compared": len(files(folder / "whole")),
        "differing": differing,
        "left_over": left,
        "versions": versions(),
    }


def wait_for_images(process: subprocess.Popen[bytes], out: Path, images: int) -> None:
    """Wait until the journal holds so many images, and one more than when this process started."""
    journal = out / ".mgd3-fast" / "journal-1-of-1.jsonl"

    def lines() -> int:
        return journal.read_bytes().count(b'"image":') if journal.exists() else 0

    images = max(images, lines() + 1)
    while process.poll() is None and lines() < images:
        time.sleep(0.001)


def files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def images_in(folder: Path) -> int:
    return len(list(folder.glob("*/*.png")))


def compare(first: Path, second: Path) -> list[str]:
    """Name the files that differ; of the manifests, the record of the sessions is left out."""
    ones, others = files(first), files(second)
    return sorted(
        name
        for name in ones.keys() | others.keys()
        if name not in ones or name not in others or content(ones[name]) != content(others[name])
    )


def content(path: Path) -> Any:
    if path.name != "manifest.json":
        return path.read_bytes()
    manifest = json.loads(path.read_text(encoding="utf-8"))
    return {name: section for name, section in manifest.items() if name != "sessions"}


def leftovers(folder: Path) -> list[str]:
    """Name whatever looks unfinished, in the output folders and in the caches."""
    return sorted(
        name for name, path in files(folder).items() if path.name.startswith(".") or ".mgd3-fast" in name
    )


def report(figures: dict[str, Any], differs: str) -> None:
    """Print what came out, and fail where a file differs or is left over."""
    print(json.dumps(figures, indent=2))
    if figures["differing"] or figures["left_over"]:
        sys.exit(differs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=4, help="number of SIGKILLs (default: 4)")
    parser.add_argument("--moments-seed", type=int, default=0, help="seed of the moments (default: 0)")
    arguments, options = parser.parse_known_args()
    options = options or ["--dataset", "mnist5k", "--ipc", "10", "--batch-size", "8"]
    with tempfile.TemporaryDirectory() as folder:
        figures = kill_and_resume(options, arguments.kills, arguments.moments_seed, Path(folder))
    report(figures, "the resumed run differs from the uninterrupted one")
    if not all(kill["killed"] for kill in figures["kills"]):
        sys.exit("a run ended before it was killed: draw other moments")


if __name__ == "__main__":
    main()
