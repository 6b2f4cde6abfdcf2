"""Write the last column of GPU_CHECKS.md from the committed results, print it, or check it.

python -m bench.gpu.last_results            # print the page
python -m bench.gpu.last_results --write
python -m bench.gpu.last_results --check    # exit 1 if the page shows anything else
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.figures import main_figure
from bench.gpu.results import Sitting, read_sittings

BENCH = Path(__file__).parent.parent
PAGE, RESULTS = BENCH / "GPU_CHECKS.md", BENCH / "results"
NEVER = "never run"

GOALS_THEN = {
    ("96adfe7", "kmeans-goal"): "5 s",
    ("96adfe7", "autoencoder-throughput"): "500 and 1,000",
    ("96adfe7", "sampler-throughput"): "28",
}
"""Goals that a result was judged by, where they have been changed since."""

_OURS = ("ours_eager", "ours_compiled")


def last_result(name: str, sittings: Sequence[Sitting]) -> str:
    """Say what the newest sitting with a check found.

    Args:
        name: Of the check.
        sittings: Oldest first.

    Returns:
        Date, device, commit, status and main figure; or that it was never run.
    """
    for sitting in reversed(sittings):
        commit = str(sitting.machine["commit"])[:7]
        found = _judged(name, sitting) or _measured(name, sitting)
        if found:
            device = str(sitting.machine["device"]).removeprefix("NVIDIA ")
            then = GOALS_THEN.get((commit, name))
            goal = f" (goal then {then})" if then else ""
            return f"{str(sitting.machine['when'])[:10]}, {device}, {commit}: {found}{goal}"
    return NEVER


def _judged(name: str, sitting: Sitting) -> str | None:
    result = sitting.checks.get(name, {})
    if result.get("status") not in ("passed", "failed"):
        return None
    return f"{result['status']}, {main_figure(name, result)}"


def _measured(name: str, sitting: Sitting) -> str | None:
    """What was timed before there was a check for it."""
    figures: dict[str, float] = {}
    if name == "sampler-throughput":
        figures = {f"{n}_images_per_s": rate for n, rate in sitting.rates.items() if n in _OURS}
    if name == "sampler-against-diffusers":
        figures = {f"speedup_over_{rival}": ratio for rival, ratio in sitting.speedups.items()}
    if not figures:
        return None
    return f"{main_figure(name, {'figures': figures})} by `sampler_and_peers.json`, not by this check"


def filled(page: str, sittings: Sequence[Sitting]) -> str:
    """Fill the last column of a page's table.

    Args:
        page: GPU_CHECKS.md.
        sittings: Oldest first.

    Returns:
        The page; rows whose name stands in parentheses are not from `checks.py` and stay as they are.
    """
    lines = page.split("\n")
    heading = next(place for place, line in enumerate(lines) if line.startswith("| check |"))
    for place, line in enumerate(lines):
        if place > heading + 1 and line.startswith("| ") and not line.startswith("| ("):
            *cells, _ = line.removesuffix(" |").split(" | ")
            name = cells[0].removeprefix("| ")
            lines[place] = " | ".join([*cells, last_result(name, sittings)]) + " |"
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="write the page")
    action.add_argument("--check", action="store_true", help="exit 1 if the page shows other results")
    args = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    wanted = filled(page, read_sittings(RESULTS))
    if args.write:
        PAGE.write_text(wanted, encoding="utf-8")
    elif not args.check:
        print(wanted, end="")
    elif wanted != page:
        print(
            "GPU_CHECKS.md differs from bench/results; run python -m bench.gpu.last_results --write",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
