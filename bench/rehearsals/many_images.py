"""How soon a run of 50,000 images goes on, and what its driver holds in memory, at 1,000 classes.

python -m bench.rehearsals.many_images --classes 1000 --ipc 50

A made-up folder of tiny pictures is distilled by two workers, or `--workers ray`, killed with SIGKILL shortly
before its end, gone on with, and started once more when nothing is left. Times are of whole commands. The
peak memory of the driver, and of its workers after it, is read when so many classes are begun. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench.machine import describe_machine
from bench.rehearsals.kill_and_resume import images_in
from bench.rehearsals.scale import measure
from bench.tiny_generator import make_tiny_generator
from tests.fakes.pictures import photo

LEFT = 2  # classes that are not begun when the driver is killed
PATTERN = "*/0.png"


def make_source(folder: Path, classes: int, per_class: int) -> None:
    """Write class folders whose pictures are the same few files, by hard links."""
    for number in range(per_class):
        photo(number, 16, 16).save(folder / f"{number}.png")
    for label in range(classes):
        of_class = folder / "pictures" / f"class{label:04d}"
        of_class.mkdir(parents=True)
        for number in range(per_class):
            (of_class / f"{number}.png").hardlink_to(folder / f"{number}.png")


def rehearse(folder: Path, classes: int, ipc: int, workers: str, options: list[str]) -> dict[str, Any]:
    """Run, kill, go on, and start again; JSON values only."""
    make_source(folder, classes, ipc)
    make_tiny_generator(folder / "generator", classes)
    out = folder / "out"
    words = ["distill", "--dataset", str(folder / "pictures"), "--ipc", str(ipc), "--out", str(out)]
    words += ["--generator", str(folder / "generator"), "--cache-dir", str(folder / "cache"), *options]
    marks = [classes * part // 10 for part in (1, 5, 9)]
    killed = measure([*words, "--workers", workers], out, PATTERN, marks, kill_at=classes - LEFT)
    left = classes * ipc - images_in(out)
    resumed = measure(words, out, PATTERN, [])
    again = measure(words, out, PATTERN, [])
    return {
        "options": options,
        "classes": classes,
        "images": classes * ipc,
        "workers": workers,
        "killed": {"wall_s": killed.wall_s, "images_left": left, "peaks_mib": killed.peaks_mib},
        "resumed by one process": {"wall_s": resumed.wall_s, "made": resumed.printed["made"]},
        "nothing left": {"wall_s": again.wall_s, "made": again.printed["made"]},
        "machine": describe_machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=1000, help="(default: 1000)")
    parser.add_argument("--ipc", type=int, default=50, help="images of each, made and real (default: 50)")
    parser.add_argument("--workers", default="2", help="of the run that is killed (default: 2)")
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(rehearse(Path(folder), **vars(arguments), options=options), indent=2))


if __name__ == "__main__":
    main()
