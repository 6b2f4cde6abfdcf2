"""`mgd3-fast tune`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.cli.table import table_lines
from mgd3_fast.config.tune import TuneConfig
from mgd3_fast.progress import Progress

CONFIG = TuneConfig
EXAMPLES = {
    "mgd3-fast tune my-generator --dataset photos/train --ipc 10 --budget 30m": (
        "the best settings within half an hour, written into the generator"
    ),
    "mgd3-fast tune my-generator --dataset photos/train --ipc 10 --dry-run": "only say what it would try",
}


def run(config: TuneConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Choose how strongly a generator is guided."""
    with loading():
        from mgd3_fast.tune.tuning import RESULT, tune_generator

    result = tune_generator(config, progress)
    lines = [*_table(result), "", _sentence(result)]
    return result, "\n".join([*lines, _outcome(config, result), f"everything: {Path(config.out) / RESULT}"])


def _outcome(config: TuneConfig, result: dict[str, Any]) -> str:
    """What became of the generator's settings."""
    changed, folder = result["chosen"] != result["present"], result["written_to"]
    if folder is None:
        use = f"; to use this: {_command(config, result)}" if changed else ""
        return f"the generator is left as it is{use}"
    if changed:
        return f"written into {folder}: distill takes it from there"
    return f"the settings of {folder} are unchanged; the table is written into it"


def _table(result: dict[str, Any]) -> list[str]:
    rows = [("candidate", "rounds", "accuracy", "less the present, 95% interval", "mode recovery")]
    ranked = sorted(result["candidates"], key=lambda row: (-row["rounds"], -(row["accuracy"] or 0)))
    for row in ranked:
        paired, recovery = row["difference"], row["mode_recovery"]
        accuracy = "failed" if row["failed"] else "-" if row["accuracy"] is None else f"{row['accuracy']:.2f}"
        difference = "present" if row["name"] == result["present"] else "-"
        if paired is not None:
            difference = f"{paired['mean']:+.2f}"
            if paired["ci95"] is not None:
                difference += " ({:+.2f} to {:+.2f})".format(*paired["ci95"])
        shown = "-" if recovery is None else f"{recovery:.0%}"
        rows.append((row["name"], str(row["rounds"]), accuracy, difference, shown))
    return table_lines(rows)


def _sentence(result: dict[str, Any]) -> str:
    """The choice, fit to be quoted."""
    where = (
        f"on held-out training images of {result['dataset']}, {result['ipc']} images a class,"
        f" {len(result['seeds'])} paired seeds, {result['epochs']} epochs"
    )
    if result["chosen"] == result["present"]:
        return f"the present settings stay ({result['chosen']}): none is better by more than chance {where}"
    row = next(row for row in result["candidates"] if row["name"] == result["chosen"])
    low, high = row["difference"]["ci95"]
    return (
        f"chosen: {row['name']}, {row['difference']['mean']:+.2f} points above {result['present']}"
        f" ({low:+.2f} to {high:+.2f}) {where}"
    )


def _command(config: TuneConfig, result: dict[str, Any]) -> str:
    chosen = result["defaults"]
    options = {"generator": config.generator, "dataset": config.dataset, "ipc": config.ipc}
    options |= {"cfg-scale": chosen["cfg_scale"], "mode-scale": chosen["mode_scale"]}
    if chosen["mode_scale"]:
        options["t-stop"] = chosen["t_stop"]
    said = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in options.items())
    return f"mgd3-fast distill {said} --out distilled"
