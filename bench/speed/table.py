"""Print the README's table of benchmark figures from bench/results/, write it, or check it.

    python -m bench.speed.table            # print
    python -m bench.speed.table --write    # put it between the README's two marker comments
    python -m bench.speed.table --check    # exit 1 if the README shows anything else

Each row is one figure of the newest committed run on its kind of device that has it. A row without a run is
left out, so no figure can be shown that nobody measured; runs of smoke size or of uncommitted code are not
taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gpu.results import read_sittings, records_of
from bench.speed.table_rows import ROWS, Row

BENCH = Path(__file__).parent.parent
RESULTS, README = BENCH / "results", BENCH.parent / "README.md"
BEGIN, END = "<!-- bench/speed/table.py: begin -->", "<!-- bench/speed/table.py: end -->"

Record = Mapping[str, Any]


def read_results(folder: Path) -> list[Record]:
    """Read the records of every run of full size whose code was committed, oldest first."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    runs += [list(records_of(sitting)) for sitting in read_sittings(folder)]
    records = [record for run in runs for record in run]
    taken = [r for r in records if r["bench_size"] == "full" and not r["uncommitted_changes"]]
    return sorted(taken, key=lambda record: str(record["when"]))


def render(rows: Sequence[Row], records: Sequence[Record]) -> str:
    """Write the table and, below it, the runs its figures come from.

    Args:
        rows: What to show.
        records: Of all runs, oldest first.

    Returns:
        Markdown; empty where no row has its figures.
    """
    lines, runs = [], {}
    for row in rows:
        found = {name: newest(records, row.kind, *wanted) for name, wanted in row.figures.items()}
        if None in found.values():
            continue
        figures = {name: record for name, record in found.items() if record is not None}
        lines.append(f"| {row.what} | {row.text.format_map({n: shown(r) for n, r in figures.items()})} |")
        runs.update({(r["when"], r["commit"], r["command"]): r for r in figures.values()})
    if not lines:
        return ""
    table = ["| measured by `bench/` | |", "| --- | --- |", *lines, ""]
    for key in sorted(runs):
        run = runs[key]
        threads = "" if run["threads"] is None else f", {run['threads']} threads"
        table.append(
            f"{run['device']}{threads}; {run['versions']};"
            f" commit {run['commit'][:7]}, {run['when'][:10]}: `{run['command']}`."
        )
    return "\n".join(table) + "\n"


def newest(
    records: Sequence[Record], kind: str, op: str, provider: str, metric: str, dtype: str, size: str
) -> Record | None:
    """Find the newest figure; of one run's backends ("ours eager", "ours compiled") the best.

    Args:
        records: Oldest first.
        kind: "cpu" or "cuda".
        op: Of the benchmark.
        provider: What the provider's name begins with.
        metric: Of the figure.
        dtype: Of the figure.
        size: What the size begins with.

    Returns:
        The record, or None.
    """
    matching = [
        record
        for record in records
        if (record["kind"], record["op"], record["metric"], record["dtype"]) == (kind, op, metric, dtype)
        and record["provider"].split()[0] == provider.split()[0]
        and record["provider"].startswith(provider)
        and record["size"].startswith(size)
    ]
    last = [record for record in matching if record["when"] == matching[-1]["when"]]
    return max(last, key=lambda record: float(record["value"])) if last else None


def shown(record: Record) -> str:
    """Write a figure with its unit, to three digits."""
    value, unit = float(record["value"]), record["unit"]
    if record["metric"].rpartition(".")[2].startswith("share"):
        return f"{100 * value:.0f}%"
    digits = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return digits if unit == "1" else f"{digits} {unit}"


def replaced(readme: str, table: str) -> str:
    """Put the table between the markers.

    Args:
        readme: The whole text.
        table: What stands between; empty only where there are no markers.

    Returns:
        The text with the table in its place.

    Raises:
        ValueError: There is a table but not exactly one pair of markers.
    """
    if not table and BEGIN not in readme and END not in readme:
        return readme
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"README must hold the lines {BEGIN} and {END} once each, in this order")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="put the table into the README")
    action.add_argument("--check", action="store_true", help="exit 1 if the README shows another one")
    args = parser.parse_args()
    table = render(ROWS, read_results(RESULTS))
    if not (args.write or args.check):
        print(table, end="")
        return 0
    readme = README.read_text(encoding="utf-8")
    try:
        wanted = replaced(readme, table)
    except ValueError as error:
        print(f"table: {error}", file=sys.stderr)
        return 1
    if args.write:
        README.write_text(wanted, encoding="utf-8")
    elif wanted != readme:
        print(
            "table: README differs from bench/results; run python -m bench.speed.table --write",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
