"""Rehearse `distill --dataset imagenet1k` without ImageNet and a GPU: the whole flow.

python -m bench.rehearsals.imagenet1k --per-class 4 --ipc 2

A made-up ILSVRC tree of 1,000 wnid folders and a DiT of 1,000 classes with random weights go through the
command as a user calls it, in a process of its own. Prints one JSON object: seconds per stage, images/s,
peak memory of that process, and whether labels follow the class list.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.rehearsals.make_ilsvrc_tree import make_ilsvrc_tree
from bench.tiny_generator import make_tiny_generator
from mgd3_fast.datasets import imagenet_classes
from mgd3_fast.versions import versions


def rehearse(folder: Path, per_class: int, ipc: int, steps: int, dataset: str) -> dict[str, Any]:
    """Make tree and generator in `folder`, distil, and measure.

    Args:
        folder: Empty folder for everything.
        per_class: Images of each class of the tree.
        ipc: Images per class to make, at most `per_class`.
        steps: Denoising steps.
        dataset: Name of an ImageNet class list.

    Returns:
        Figures, JSON values only.
    """
    wnids = imagenet_classes(dataset)
    make_ilsvrc_tree(folder / "ilsvrc", wnids, per_class)
    make_tiny_generator(folder / "generator", 1000, steps=steps)
    command = [sys.executable, "-m", "mgd3_fast", "distill", "--json", "--dataset", dataset]
    command += ["--data-dir", str(folder / "ilsvrc"), "--generator", str(folder / "generator")]
    command += ["--ipc", str(ipc), "--out", str(folder / "out"), "--cache-dir", str(folder / "cache")]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    wall_s = time.perf_counter() - started
    printed = json.loads(done.stdout)
    manifest = json.loads((folder / "out" / "manifest.json").read_text(encoding="utf-8"))
    sampling_s = sum(printed["timings_s"][stage] for stage in ("sample", "decode", "write"))
    return {
        "dataset": dataset,
        "classes": printed["classes"],
        "source_images": len(wnids) * per_class,
        "images": printed["images"],
        "steps": steps,
        "wall_s": round(wall_s, 2),
        "stages_s": printed["timings_s"],
        "encoded_images_per_s": round(len(wnids) * per_class / printed["timings_s"]["encode"], 1),
        "images_per_s_of_sampling": round(printed["made"] / sampling_s, 1),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
        "labels_follow_the_list": labels_follow_the_list(folder / "out", manifest, wnids, ipc),
        "versions": versions(),
    }


def labels_follow_the_list(out: Path, manifest: dict[str, Any], wnids: tuple[str, ...], ipc: int) -> bool:
    """Tell whether image n is of class n // ipc of the list, lies in that wnid's folder, and is there."""
    expected = [(f"{wnid}/{k}.png", label) for label, wnid in enumerate(wnids) for k in range(ipc)]
    got = [(image["file"], image["label"]) for image in manifest["images"]]
    return got == expected and all((out / file).is_file() for file, _ in got)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-class", type=int, default=4, help="images of each class (default: 4)")
    parser.add_argument("--ipc", type=int, default=2, help="images per class to make (default: 2)")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps (default: 50)")
    parser.add_argument("--dataset", default="imagenet1k", help="class list (default: imagenet1k)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = rehearse(
            Path(folder), arguments.per_class, arguments.ipc, arguments.steps, arguments.dataset
        )
    print(json.dumps(figures, indent=2))
    if not figures["labels_follow_the_list"]:
        sys.exit("labels do not follow the class list")


if __name__ == "__main__":
    main()
