"""`mgd3-fast check`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgd3_fast.cli.process import loading
from mgd3_fast.config.check import CheckConfig
from mgd3_fast.errors import printable, shortened
from mgd3_fast.progress import Progress

if TYPE_CHECKING:
    from mgd3_fast.check import Checked, Finding

CONFIG = CheckConfig
EXAMPLES = {
    "mgd3-fast check photos": "a folder with train/ and val/, or with one folder of images per class",
    "mgd3-fast check photos --size 64 --json": "as for images of 64 px, as JSON",
}
_MOST_NAMES = 3


def run(config: CheckConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Look at a dataset, and write what is found if asked to."""
    with loading():
        from mgd3_fast.check import RESULT, check_dataset
        from mgd3_fast.storage.json_results import result_file
        from mgd3_fast.writers import check_writable

    if config.out is not None:
        check_writable(result_file(config.out, RESULT).parent)
    checked = check_dataset(config, progress)
    written = [] if config.out is None else [str(checked.save(Path(config.out)))]
    result = checked.to_json() | {"files": written}
    return result, "\n".join([*_lines(checked), *(f"written: {path}" for path in written)])


def _lines(checked: Checked) -> list[str]:
    from mgd3_fast.check import SEVERITIES

    lines = [_heading(checked)]
    for severity, findings in groupby(checked.findings, key=lambda finding: finding.severity):
        lines += ["", f"{SEVERITIES[severity]}:", *(line for one in findings for line in _of(one))]
    last = f"can be used; go on with: {checked.next_step}"
    if checked.next_step is None:
        last = "cannot be used as it is: deal with the errors, then check again"
    return [*lines, "", f"{checked.dataset} {last}"]


def _heading(checked: Checked) -> str:
    """Counts and sides: "clip: 10 classes; pictures: train 410, val 133; shorter side 64 to 900 px, ..."."""
    splits = ", ".join(f"{name} {sum(counts.values()):,}" for name, counts in checked.counts.items())
    classes = len(next(iter(checked.counts.values())))
    heading = f"{checked.dataset}: {classes} class{'es' * (classes != 1)}; pictures: {splits}"
    if checked.sides:
        least, median, most = checked.sides["shorter"]
        heading += f"; shorter side {least:,.0f} to {most:,.0f} px, median {median:,.0f}"
    return heading


def _of(finding: Finding) -> list[str]:
    """What it is, which pictures unless it is a note, and what deals with it."""
    shown = () if finding.severity == "note" else finding.names[:_MOST_NAMES]
    lines = [f"  {finding.text}", *(f"      {name}" for name in shown)]
    more = max(finding.count, len(finding.names)) - len(shown)
    if shown and more:
        lines.append(f"      and {more:,} more")
    if finding.advice:
        lines.append(f"    -> {finding.advice}")
    return [shortened(printable(line)) for line in lines]
