"""What fewer network calls cost a distilled set: mnist5k, the demo model, one thread; docs/fast.md.

    python -m bench.studies.fewer_calls sample --work DIR     # work, speed, latents, modes of every setting
    python -m bench.studies.fewer_calls screen --work DIR     # a short training each
    python -m bench.studies.fewer_calls finals --work DIR     # paired seeds of the finalists
    python -m bench.studies.fewer_calls table --work DIR --out bench/results/fast/mnist5k.json

A seed is that of the modes, of every image and of the classifier (the hard protocol, accuracy after the last
epoch). Settings are chosen on images held out of the training split ("val"). DIR keeps what is done: a run
that was stopped goes on, and `table` shows what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.studies.ablation_settings import Cell
from bench.studies.ablations import METRICS, run_cell, scores_of
from bench.studies.fewer_calls_settings import BASES, FINALISTS, SCREENED, SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

    from mgd3_fast.run.generated import GeneratedImages

Round = tuple[str, int, int]
"""What is scored on, images of a class, epochs of a training; 600 steps but for one image a class."""

SCREEN: Round = ("val", 10, 75)
FINALS: dict[Round, int] = {
    ("val", 10, 300): 5,
    ("val", 50, 75): 10,
    ("test", 10, 300): 5,
    ("test", 50, 75): 10,
    ("val", 1, 300): 5,
}
"""With the seeds of each: of five, the interval at 50 images a class is wider than what is asked for."""
SCREEN_SEEDS = 1
TIMED_ROUNDS = 2


def cell_of(name: str, scored: Round) -> Cell:
    scored_on, ipc, epochs = scored
    return Cell(SETTINGS[name], ipc, scored_on, base={}, epochs=epochs)


def score(names: tuple[str, ...], rounds: dict[Round, int], work: Path) -> None:
    for scored, seeds in rounds.items():
        for seed in range(seeds):
            for name in names:
                run_cell(cell_of(name, scored), seed, work, tests=1)


def sample(work: Path) -> None:
    """Sample 40 images by every setting in turn, in this one process; the fastest of the rounds counts."""
    runs = {name: _open(options, work / "samples") for name, options in SETTINGS.items()}
    modes = next(iter(runs.values())).find_modes(range(10))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    latents: dict[str, Tensor] = {}
    for _ in range(TIMED_ROUNDS):
        for name, run in runs.items():
            inputs = run.inputs(range(len(run.layout)), modes)
            begin = time.process_time()  # of this process: other work on the machine does not count
            latents[name] = run.sampler.sample(*inputs)
            seconds[name].append(time.process_time() - begin)
    rows = {name: _sampled(name, run, latents, min(seconds[name]), modes) for name, run in runs.items()}
    for row in rows.values():
        row["speed"] = round(row["images_per_cpu_s"] / rows["exact"]["images_per_cpu_s"], 2)
    (work / "samples.json").write_text(json.dumps(rows, indent=1) + "\n")


def _open(options: dict[str, Any], out: Path) -> GeneratedImages:
    from mgd3_fast import DistillConfig
    from mgd3_fast.progress import SILENT
    from mgd3_fast.run.generated import GeneratedImages
    from mgd3_fast.run.preparing import prepare

    run = prepare(DistillConfig(dataset="mnist5k", ipc=4, split="fit", out=out, **options), SILENT)
    assert isinstance(run, GeneratedImages)
    return run


def _sampled(
    name: str, run: GeneratedImages, latents: dict[str, Tensor], seconds: float, modes: Any
) -> dict[str, Any]:
    from mgd3_fast.modes.recovery import RecoveryCount

    recovery, here = RecoveryCount(), latents[name]
    for image, latent in enumerate(here):
        class_index, mode = run.layout.place(image)
        recovery.add(latent, modes.modes[class_index], mode)
    base = next((base for base in BASES if name.startswith(f"{base},")), "exact")
    same_noise = (run.sampling.sampler, run.sampling.steps) == ("ddpm", 50) and name not in BASES
    gap = here - latents[base]
    return {
        "network_rows": run.sampler.network_rows,
        "images_per_cpu_s": round(len(here) / seconds, 1),
        "mode_recovery": recovery.share,
        "latent_error": round(float(gap.norm() / latents[base].norm()), 4) if same_noise else None,
        "error_against": base if same_noise else None,
    }


def accuracies(name: str, scored: Round, work: Path) -> dict[int, float]:
    found = scores_of(cell_of(name, scored), work)
    return {seed: value for seed, row in found.items() if (value := row["last"]) is not None}


def compared(name: str, scored: Round, work: Path) -> dict[str, Any] | None:
    """A setting's accuracies and their paired differences from exact; None where nothing was scored."""
    from bench.studies.precision_quality import interval

    own, exact = accuracies(name, scored, work), accuracies("exact", scored, work)
    if not own:
        return None
    pairs = [own[seed] - exact[seed] for seed in own if seed in exact]
    metrics = scores_of(cell_of(name, scored), work)
    return {
        "seeds": list(own),
        "accuracy": list(own.values()),
        "mean": round(statistics.fmean(own.values()), 2),
        "difference": round(statistics.fmean(pairs), 2) if pairs and name != "exact" else None,
        "interval_95": interval(pairs) if len(pairs) > 1 and name != "exact" else None,
        **{metric: _mean([metrics[seed][metric] for seed in own]) for metric in METRICS},
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), 3) if known else None


def write_table(work: Path, out: Path) -> None:
    from mgd3_fast.versions import versions

    sampled = json.loads((work / "samples.json").read_text())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    content = {
        "command": "python -m bench.studies.fewer_calls sample, screen, finals",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "device": "cpu, one thread",
        "versions": versions(),
        "sampled": [{"label": name, "options": SETTINGS[name], **row} for name, row in sampled.items()],
        "screen": {name: found for name in SCREENED if (found := compared(name, SCREEN, work))},
        "finals": {
            "{}, IPC {}, {} epochs".format(*scored): {
                name: found for name in FINALISTS if (found := compared(name, scored, work))
            }
            for scored in FINALS
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n")
    print(markdown(content))


def markdown(content: dict[str, Any]) -> str:
    """Tables as docs/fast.md shows them."""
    lines = [
        "| setting | rows an image | images/s | times exact | latent error | mode recovery | accuracy, % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in content["sampled"]:
        error = "-" if row["latent_error"] is None else f"{row['latent_error']:.3f}"
        screened = content["screen"].get(row["label"])
        accuracy = f"{screened['mean']:.1f}" if screened else "-"
        lines.append(
            f"| {row['label']} | {row['network_rows']} | {row['images_per_cpu_s']:.1f} | {row['speed']:.2f}"
            f" | {error} | {row['mode_recovery']:.2f} | {accuracy} |"
        )
    lines += ["", "| scored on | setting | accuracy, % | difference, 95% interval | seeds | coverage |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for title, rows in content["finals"].items():
        for name, row in rows.items():
            low, high = row["interval_95"] or (None, None)
            gap = "-" if low is None else f"{row['difference']:+.2f} ({low:+.2f} to {high:+.2f})"
            counts = f"{len(row['seeds'])} | {row['coverage']:.2f}"
            lines.append(f"| {title} | {name} | {row['mean']:.1f} | {gap} | {counts} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=("sample", "screen", "finals", "table"))
    parser.add_argument("--work", type=Path, required=True, help="folder of images and scores; taken up")
    parser.add_argument("--out", type=Path, default=Path("bench/results/fast/mnist5k.json"))
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.stage == "sample":
        sample(args.work)
    elif args.stage == "screen":
        score(tuple(SCREENED), {SCREEN: SCREEN_SEEDS}, args.work)
    elif args.stage == "finals":
        score(FINALISTS, FINALS, args.work)
    else:
        write_table(args.work, args.out)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    sys.exit(main())
