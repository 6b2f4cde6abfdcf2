"""Rehearse `encode` and `discover` at the scale of ImageNet's class list, without ImageNet and a GPU.

    python -m bench.rehearsals.scale --classes 1000 --per-class 200 --out results

A made-up ILSVRC2012_img_train.tar of small JPEG files (or, with `--source wds` or `pipe`, WebDataset shards
that each hold an image of every class) goes through the two commands as a user calls them, with the demo's
autoencoder. `encode` is killed with SIGKILL in the middle and started again; both commands
then run once more and must find everything done. Of every process the peak of its resident memory is read
when so many classes (shards) are finished. Some are encoded anew elsewhere: their files must be the same
bytes. Writes and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.rehearsals.make_ilsvrc_tree import make_ilsvrc_tar, make_web_shards
from mgd3_fast.datasets import imagenet_classes
from mgd3_fast.versions import versions

SIDES = (32, 48)
POLL_S = 0.05
COMPARED = 3


@dataclass
class Measured:
    """A command from its start to its end.

    Args:
        wall_s: Seconds.
        status: Exit status, -9 where it was killed.
        printed: What it printed, if it ended by itself.
        finished: Classes that were finished when it ended.
        peaks_mib: By class count, the peak resident memory of every process when so many classes were
            finished; "end" is at the end.
    """

    wall_s: float = 0.0
    status: int = 0
    printed: dict[str, Any] = field(default_factory=dict)
    finished: int = 0
    peaks_mib: dict[str, list[float]] = field(default_factory=dict)


def measure(
    words: Sequence[str], done: Path, pattern: str, marks: Sequence[int], kill_at: int = 0
) -> Measured:
    """Run one command of the product and watch it.

    Args:
        words: The command and its options.
        done: Folder that receives a file for each finished class.
        pattern: Matches these files in it.
        marks: Class counts at which to read the memory.
        kill_at: Finished classes at which to send SIGKILL; 0 lets it end.

    Returns:
        What was measured.
    """
    measured, started = Measured(), time.perf_counter()
    process = psutil.Popen(
        [sys.executable, "-m", "mgd3_fast", *words, "--json", "--quiet"], stdout=subprocess.PIPE, text=True
    )
    first = count_files(done, pattern)
    left = [mark for mark in marks if mark > first]
    while process.poll() is None:
        peaks = peaks_of(process)
        if peaks:
            measured.peaks_mib["end"] = peaks
        finished = count_files(done, pattern)
        while left and finished >= left[0]:
            measured.peaks_mib[str(left.pop(0))] = peaks
        if kill_at and finished >= kill_at:
            process.send_signal(signal.SIGKILL)
        time.sleep(POLL_S)
    printed = process.stdout.read()
    measured.wall_s = round(time.perf_counter() - started, 2)
    measured.status = process.returncode
    measured.finished = count_files(done, pattern)
    for mark in left:
        if measured.finished >= mark:
            measured.peaks_mib[str(mark)] = measured.peaks_mib["end"]
    measured.printed = json.loads(printed) if printed.strip() else {}
    return measured


def count_files(folder: Path, pattern: str) -> int:
    return sum(1 for _ in folder.glob(pattern))


def peaks_of(process: psutil.Process) -> list[float]:
    """Peak resident memory in MiB of a process and of those it started, as the system keeps it."""
    peaks = []
    try:
        for one in [process, *process.children(recursive=True)]:
            status = Path(f"/proc/{one.pid}/status").read_text()
            peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), None)
            if peak is not None:
                peaks.append(round(int(peak) / 1024, 1))
    except (psutil.Error, OSError):
        return []
    return peaks


def make_source(folder: Path, source: str, classes: int, per_class: int) -> tuple[list[str], int, list[str]]:
    """Write the images.

    Returns:
        Options that name them, the number of files that their latents will be, and options that name a few
        of these alone: classes of the tar, the first shard.
    """
    wnids = imagenet_classes("imagenet1k")[:classes]
    if source == "tar":
        make_ilsvrc_tar(folder / "ilsvrc", wnids, per_class, sides=SIDES)
        few = ",".join(str(classes * part // COMPARED - 1) for part in range(1, COMPARED + 1))
        words = ["--dataset", "imagenet1k", "--data-dir", str(folder / "ilsvrc"), "--classes"]
        return [*words, f"0-{classes - 1}"], classes, [*words, few]
    make_web_shards(folder / "shards", wnids, per_class, sides=SIDES)
    command, names = ("pipe:cat ", "#classes=" + str(folder / "shards" / "classes.txt"))
    kind = "wds:" + (command if source == "pipe" else "") + f"{folder}/shards/"
    all_of_them = f"{kind}{{000000..{per_class - 1:06d}}}.tar{names}"
    return ["--dataset", all_of_them], per_class, ["--dataset", f"{kind}000000.tar{names}"]


def rehearse(
    folder: Path, source: str, classes: int, per_class: int, ipc: int, marks: Sequence[int]
) -> dict[str, Any]:
    """Make the source in `folder`, encode, kill, resume, discover, repeat, compare.

    Args:
        folder: Empty folder for everything.
        source: "tar", "wds" or "pipe".
        classes: Classes of the list to take.
        per_class: Images of each.
        ipc: Modes of each.
        marks: Class counts at which memory is read.

    Returns:
        Figures, JSON values only.
    """
    started = time.perf_counter()
    named, num_files, few = make_source(folder, source, classes, per_class)
    made_s = time.perf_counter() - started
    latents, out = folder / "cache" / "latents-2", folder / "out"
    cache = ["--generator", "demo-mnist5k", "--cache-dir", str(folder / "cache")]
    encode = ["encode", *named, *cache]
    discover = ["discover", *named, *cache, "--ipc", str(ipc), "--out", str(out)]
    stored, modes = "*/*.safetensors", "modes/*.safetensors"
    runs = {
        "encode, killed": measure(encode, latents, stored, marks, kill_at=max(1, num_files * 3 // 10)),
        "encode, resumed": measure(encode, latents, stored, marks),
        "encode, again": measure(encode, latents, stored, marks),
        "discover": measure(discover, out / ".mgd3-fast", modes, marks),
        "discover, again": measure(discover, out / ".mgd3-fast", modes, marks),
    }
    compared = same_bytes(folder, few, latents)
    killed, resumed, again = list(runs.values())[:3]
    images = classes * per_class
    return {
        "source": source,
        "classes": classes,
        "images": images,
        "ipc": ipc,
        "made_s": round(made_s, 2),
        "runs": {
            name: {
                "wall_s": run.wall_s,
                "status": run.status,
                "encoded": run.printed.get("encoded"),
                "reused": run.printed.get("reused"),
                "finished_files": run.finished if name.startswith("encode") else None,
                "peaks_mib": run.peaks_mib,
            }
            for name, run in runs.items()
        },
        "encoded_images_per_s": round(resumed.printed["encoded"] / resumed.printed["seconds"], 1),
        "discovered_classes_per_s": round(classes / runs["discover"].wall_s, 1),
        "compared_files": len(compared),
        "holds": {
            "it was killed": killed.status == -signal.SIGKILL and killed.finished < num_files,
            "finished files were reused": resumed.printed["reused"] == killed.finished * images // num_files,
            "second run reused everything": again.printed["reused"] == images,
            "other runs ended well": not any(run.status for run in list(runs.values())[1:]),
            "same bytes as a run of its own": all(compared),
        },
        "versions": versions(),
    }


def same_bytes(folder: Path, few: Sequence[str], latents: Path) -> list[bool]:
    """Encode a few classes, the last one among them, or a shard into another cache and compare the files."""
    other = ["--generator", "demo-mnist5k", "--cache-dir", str(folder / "other")]
    measure(["encode", *few, *other], folder, "none", [])
    return [
        path.read_bytes() == (latents / path.parent.name / path.name).read_bytes()
        for path in sorted((folder / "other" / "latents-2").glob("*/*.safetensors"))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", choices=("tar", "wds", "pipe"), default="tar", help="(default: tar)")
    parser.add_argument("--classes", type=int, default=1000, help="classes of imagenet1k (default: 1000)")
    parser.add_argument("--per-class", type=int, default=200, help="images of each class (default: 200)")
    parser.add_argument("--ipc", type=int, default=10, help="modes of each class (default: 10)")
    parser.add_argument("--marks", type=int, nargs="+", default=[100, 500, 1000], help="read memory at these")
    parser.add_argument("--out", type=Path, help="folder for rehearsal_scale.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = rehearse(
            Path(folder),
            arguments.source,
            arguments.classes,
            arguments.per_class,
            arguments.ipc,
            arguments.marks,
        )
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "rehearsal_scale.json").write_text(text + "\n", encoding="utf-8")
    if not all(figures["holds"].values()):
        sys.exit(f"does not hold: {', '.join(name for name, holds in figures['holds'].items() if not holds)}")


if __name__ == "__main__":
    main()
