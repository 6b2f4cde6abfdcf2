"""ImageNet-1K at 50 images a class on 1 to 512 GPUs: where scaling ends, and how large a unit should be.

    python -m bench.planning.imagenet1k --write

writes bench/results/planning/imagenet1k.json and docs/images/scaling.png, in two minutes.

Units take what one H200 was measured to take (`bench/planning/rates.py` names every figure and its source);
stragglers, deaths and storage are drawn from stated rates. A unit size is judged by the seconds of the whole
run over those at the best size, on the number of workers where that is worst. Of sizes within a hundredth of
the best, the largest is taken: fewer files and messages.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.planning import rates
from bench.planning.cluster import Cluster, Outcome, Stage, Unit, simulate
from bench.planning.rates import Figure
from mgd3_fast.pictures.style import COLOURS, new_figure, own_style, save_figure

SOURCE_IMAGES, CLASSES, SYNTHETIC = 1_281_167, 1_000, 50_000
WORKERS = (1, 8, 64, 512)
CLASS_IMAGES = SOURCE_IMAGES / CLASSES
SIZES = {
    "encode": (160, 320, 641, 1_282, 2_563, 5_125, 10_250),  # an eighth of a class to eight classes
    "discover": (1, 2, 5, 10, 20, 50, 125),
    "sample": (128, 256, 384, 512, 1_024, 2_048),
}
NEAR = 1.01
SEEDS = 10
RESULT = Path(__file__).parents[1] / "results/planning/imagenet1k.json"
PLOT = Path(__file__).parents[2] / "docs/images/scaling.png"
UNITS = {"encode": "source images", "discover": "classes", "sample": "images"}
OWN, SPOT = "own machines", "spot machines"
STORAGES = {"file server": rates.FILE_SERVER, "parallel storage": rates.PARALLEL}


def stages(sizes: Mapping[str, int]) -> list[Stage]:
    """The whole run in units of so many source images, classes and synthetic images."""

    def encode(images: int) -> Unit:
        seconds = rates.UNIT_OVERHEAD.value + images / rates.ENCODE.value
        return Unit(seconds, images * (rates.JPEG.value + rates.LATENT.value))

    def discover(classes: int) -> Unit:
        seconds = classes * rates.KMEANS_1000.value / 1_000
        return Unit(seconds, classes * CLASS_IMAGES * rates.LATENT.value)

    def sample(images: int) -> Unit:
        batch = rates.BATCH.value  # the last one of a unit is padded
        seconds = math.ceil(images / batch) * batch / rates.SAMPLE.value + rates.DRAIN.value / 1_000
        return Unit(seconds, images * rates.PNG.value)

    return [
        Stage("encode", tuple(map(encode, split(SOURCE_IMAGES, sizes["encode"])))),
        Stage("discover", tuple(map(discover, split(CLASSES, sizes["discover"]))), rates.FIRST_MODES.value),
        Stage("sample", tuple(map(sample, split(SYNTHETIC, sizes["sample"])))),
    ]


def split(total: int, size: int) -> list[int]:
    """Parts of a size, and what is left over."""
    return [size] * (total // size) + ([total % size] if total % size else [])


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


def mean_seconds(sizes: Mapping[str, int], on: Cluster, seeds: int) -> float:
    """Seconds of the whole run, the mean over seeds."""
    return statistics.fmean(simulate(stages(sizes), on, seed).seconds for seed in range(seeds))


def choose_sizes(
    on: Sequence[Cluster], seeds: int
) -> tuple[dict[str, int], dict[str, dict[str, list[float]]]]:
    """Choose each stage's unit size.

    Args:
        on: Clusters of different numbers of workers.
        seeds: Runs of each.

    Returns:
        The size of each stage, and by size the seconds of the run over those at the best, on each cluster.
    """
    chosen = {name: sizes[len(sizes) // 2] for name, sizes in SIZES.items()}
    ratios: dict[str, dict[str, list[float]]] = {}
    for name, sizes in SIZES.items():
        found = {size: [mean_seconds({**chosen, name: size}, one, seeds) for one in on] for size in sizes}
        best = [min(column) for column in zip(*found.values(), strict=True)]
        over = {size: [s / b for s, b in zip(row, best, strict=True)] for size, row in found.items()}
        ratios[name] = {str(size): [round(one, 4) for one in row] for size, row in over.items()}
        least = min(max(row) for row in over.values())
        chosen[name] = max(size for size, row in over.items() if max(row) <= NEAR * least)
    return chosen, ratios


def table(sizes: Mapping[str, int], storage: Figure, deaths: Figure, seeds: int) -> list[dict[str, float]]:
    """Seconds of every stage by workers, and one worker's seconds over those of all together."""
    rows: list[dict[str, float]] = []
    for workers in WORKERS:
        runs = [simulate(stages(sizes), cluster(workers, storage, deaths), seed) for seed in range(seeds)]
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
    """Time by workers on machines that stay, and what each unit size costs where it costs most."""
    with own_style():
        figure = new_figure(11, 4)
        left, right = figure.subplots(1, 2)
        for colour, storage in zip(COLOURS, STORAGES, strict=False):
            minutes = [row["total"] / 60 for row in tables[f"{storage}, {OWN}"]]
            left.plot(WORKERS, minutes, "o-", color=colour, label=storage)
        left.plot(WORKERS, [minutes[0] / one for one in WORKERS], ":", color="grey", label="divided evenly")
        left.set(xlabel="GPUs", ylabel="minutes", xscale="log", yscale="log")
        left.set(xticks=WORKERS, yticks=(0.1, 1, 10, 100))
        for colour, (name, by_size) in zip(COLOURS[2:], ratios.items(), strict=False):
            shares = [int(size) / SIZES[name][0] for size in by_size]
            worst = [100 * (max(row) - 1) for row in by_size.values()]
            right.plot(shares, worst, "o-", color=colour, label=f"{name}: {SIZES[name][0]} {UNITS[name]}")
        right.set(xlabel="unit size over the smallest", ylabel="% longer than at the best size, at worst")
        right.set(xscale="log", xticks=(1, 10, 100), ylim=(0, 50))
        for axes in (left, right):
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.legend(frameon=False)
        right.get_legend().set_title("smallest unit")
        save_figure(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Choose sizes, simulate, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the result and the plot")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each setting")
    args = parser.parse_args(argv)
    swept = [cluster(workers, rates.PARALLEL, rates.HARDWARE) for workers in WORKERS]
    sizes, ratios = choose_sizes(swept, args.seeds)
    tables = {
        f"{storage}, {name}": table(sizes, rate, deaths, args.seeds)
        for storage, rate in STORAGES.items()
        for name, deaths in ((OWN, rates.HARDWARE), (SPOT, rates.SPOT))
    }
    figures = {name: vars(one) for name, one in vars(rates).items() if isinstance(one, Figure)}
    command = f"python -m bench.planning.imagenet1k --seeds {args.seeds}"
    content = {"command": command, "sizes": sizes, "ratios": ratios, "tables": tables, "figures": figures}
    if args.write:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        draw(tables, ratios, PLOT)
    print(f"unit sizes: {sizes}")
    for name, rows in tables.items():
        print(f"\n{name}\n" + "\n".join("  ".join(f"{k} {v:g}" for k, v in row.items()) for row in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
