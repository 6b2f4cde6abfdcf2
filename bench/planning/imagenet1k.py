"""ImageNet-1K at 50 images a class on 1 to 512 GPUs: where scaling ends, and how large a unit should be.

    python -m bench.planning.imagenet1k --write

writes bench/results/planning/imagenet1k.json and docs/images/scaling.png, in five minutes.

Units take what one H200 was measured to take (`bench/planning/rates.py` names every figure and its source);
stragglers, deaths and storage are drawn from stated rates. How a stage is divided is judged by the seconds of
the whole run over those at the best division, on the number of workers, and with the variation of unit times,
where that is worst.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.planning import rates
from bench.planning.cluster import Cluster, Outcome, Stage, Unit, simulate
from bench.planning.rates import Figure
from mgd3_fast.pictures.style import COLOURS, new_figure, own_style, save_figure

SOURCE_IMAGES, CLASSES, SYNTHETIC = 1_281_167, 1_000, 50_000
WORKERS = (1, 8, 64, 512)
CLASS_IMAGES = SOURCE_IMAGES / CLASSES
PER_WORKER, BATCHES = "units a worker", "batches a unit"
DIVISIONS = {PER_WORKER: (1, 2, 4, 8, 16, 32, 64), BATCHES: (16, 8, 4, 3, 2, 1)}  # the largest units first
JITTERS = (rates.JITTER.value, 0.2, 0.4)  # machines for this alone, shared ones, crowded ones
SEEDS = 10
RESULT = Path(__file__).parents[1] / "results/planning/imagenet1k.json"
PLOT = Path(__file__).parents[2] / "docs/images/scaling.png"
OWN, SPOT = "own machines", "spot machines"
STORAGES = {"file server": rates.FILE_SERVER, "parallel storage": rates.PARALLEL}


def stages(division: Mapping[str, int], workers: int) -> list[Stage]:
    """The whole run: classes to encode and to find modes of, in so many units a worker; batches of images."""

    def encode(classes: int) -> Unit:
        images = classes * CLASS_IMAGES
        seconds = rates.UNIT_OVERHEAD.value + images / rates.ENCODE.value
        return Unit(seconds, images * (rates.JPEG.value + rates.LATENT.value))

    def discover(classes: int) -> Unit:
        seconds = classes * rates.KMEANS_1000.value / 1_000
        return Unit(seconds, classes * CLASS_IMAGES * rates.LATENT.value)

    def sample(batches: int) -> Unit:
        images = batches * rates.BATCH.value  # the last one of the run is padded
        return Unit(images / rates.SAMPLE.value + rates.DRAIN.value / 1_000, images * rates.PNG.value)

    parts = 1 if workers == 1 else min(CLASSES, workers * division[PER_WORKER])
    batches = math.ceil(SYNTHETIC / rates.BATCH.value)
    blocks = math.ceil(batches / division[BATCHES])
    return [
        Stage("encode", tuple(map(encode, divided(CLASSES, parts)))),
        Stage("discover", tuple(map(discover, divided(CLASSES, parts))), rates.FIRST_MODES.value),
        Stage("sample", tuple(map(sample, divided(batches, blocks)))),
    ]


def divided(things: int, parts: int) -> list[int]:
    """Equal parts, up to one thing."""
    return [things * (part + 1) // parts - things * part // parts for part in range(parts)]


def cluster(workers: int, storage: Figure, deaths: Figure) -> Cluster:
    """GPUs, eight a machine, with the rates of `rates`."""
    return Cluster(
        workers=workers,
        start_up_s=rates.START_UP.value,
        weights=rates.WEIGHTS.value,
        stream=rates.STREAM.value,
        storage=storage.value,
        deaths_per_hour=deaths.value,
        replaced_after_s=rates.REPLACED.value,
        slow_share=rates.SLOW_SHARE.value,
        slow_factor=rates.SLOW_FACTOR.value,
        jitter=rates.JITTER.value,
    )


def mean_seconds(division: Mapping[str, int], on: Cluster, seeds: int) -> float:
    """Seconds of the whole run, the mean over seeds."""
    return statistics.fmean(simulate(stages(division, on.workers), on, seed).seconds for seed in range(seeds))


def choose_division(
    on: Sequence[Cluster], seeds: int
) -> tuple[dict[str, int], dict[str, dict[str, list[float]]]]:
    """Choose how stages are divided.

    Args:
        on: Clusters.
        seeds: Runs of each.

    Returns:
        What is chosen, and by choice the seconds of the run over those at the best, on each cluster.
    """
    chosen = {name: choices[len(choices) // 2] for name, choices in DIVISIONS.items()}
    ratios: dict[str, dict[str, list[float]]] = {}
    for name, choices in DIVISIONS.items():
        found = {
            choice: [mean_seconds({**chosen, name: choice}, one, seeds) for one in on] for choice in choices
        }
        best = [min(column) for column in zip(*found.values(), strict=True)]
        over = {choice: [s / b for s, b in zip(row, best, strict=True)] for choice, row in found.items()}
        ratios[name] = {str(choice): [round(one, 4) for one in row] for choice, row in over.items()}
        chosen[name] = least_worst(over)
    return chosen, ratios


def least_worst(over: Mapping[int, Sequence[float]]) -> int:
    """The choice whose worst is the least; of equal ones the first."""
    return min(over, key=lambda choice: max(over[choice]))


def table(division: Mapping[str, int], storage: Figure, deaths: Figure, seeds: int) -> list[dict[str, float]]:
    """Seconds of every stage by workers, and one worker's seconds over those of all together."""
    rows: list[dict[str, float]] = []
    for workers in WORKERS:
        on = cluster(workers, storage, deaths)
        runs = [simulate(stages(division, workers), on, seed) for seed in range(seeds)]
        row = {"workers": float(workers), **_stage_seconds(runs)}
        one = rows[0]["total"] if rows else row["total"]
        rows.append(row | {"efficiency": one / (workers * row["total"]), "deaths": _mean_deaths(runs)})
    return [{name: round(value, 3) for name, value in row.items()} for row in rows]


def _stage_seconds(runs: Sequence[Outcome]) -> dict[str, float]:
    """Mean seconds of each stage, the start among the first's, and of all."""
    ends = {name: statistics.fmean(run.ends[name] for run in runs) for name in runs[0].ends}
    begins = [0.0, *ends.values()]
    spent = {name: end - begin for (name, end), begin in zip(ends.items(), begins, strict=False)}
    return {**spent, "total": begins[-1]}


def _mean_deaths(runs: Sequence[Outcome]) -> float:
    return statistics.fmean(run.deaths for run in runs)


def draw(tables: Mapping[str, Sequence[Mapping[str, float]]], ratios: Mapping[str, Any], path: Path) -> None:
    """Time by workers on machines that stay, and what each division costs where it costs most."""
    with own_style():
        figure = new_figure(11, 4)
        left, right = figure.subplots(1, 2)
        for colour, storage in zip(COLOURS, STORAGES, strict=False):
            minutes = [row["total"] / 60 for row in tables[f"{storage}, {OWN}"]]
            left.plot(WORKERS, minutes, "o-", color=colour, label=storage)
        left.plot(WORKERS, [minutes[0] / one for one in WORKERS], ":", color="grey", label="divided evenly")
        left.set(xlabel="GPUs", ylabel="minutes", xscale="log", yscale="log")
        left.set(xticks=WORKERS, yticks=(0.1, 1, 10, 100))
        for colour, (name, over) in zip(COLOURS[2:], ratios.items(), strict=False):
            worst = [100 * (max(row) - 1) for row in over.values()]
            right.plot([int(choice) for choice in over], worst, "o-", color=colour, label=name)
        right.set(ylabel="% longer than at the best, at worst", xscale="log", ylim=(0, 60))
        right.set(xticks=DIVISIONS[PER_WORKER])
        for axes in (left, right):
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.legend(frameon=False)
        save_figure(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Choose sizes, simulate, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the result and the plot")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each setting")
    args = parser.parse_args(argv)
    swept = [
        replace(cluster(workers, rates.PARALLEL, rates.HARDWARE), jitter=jitter)
        for jitter in JITTERS
        for workers in WORKERS
    ]
    division, ratios = choose_division(swept, args.seeds)
    tables = {
        f"{storage}, {name}": table(division, rate, deaths, args.seeds)
        for storage, rate in STORAGES.items()
        for name, deaths in ((OWN, rates.HARDWARE), (SPOT, rates.SPOT))
    }
    figures = {name: vars(one) for name, one in vars(rates).items() if isinstance(one, Figure)}
    command = f"python -m bench.planning.imagenet1k --seeds {args.seeds}"
    content = {
        "command": command,
        "division": division,
        "ratios": ratios,
        "tables": tables,
        "figures": figures,
    }
    if args.write:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        draw(tables, ratios, PLOT)
    print(f"division: {division}")
    for name, rows in tables.items():
        print(f"\n{name}\n" + "\n".join("  ".join(f"{k} {v:g}" for k, v in row.items()) for row in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
