"""`mgd3-fast judge`."""

from __future__ import annotations

from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.cli.table import table_lines
from mgd3_fast.config.judge import JudgeConfig
from mgd3_fast.progress import Progress

CONFIG = JudgeConfig
BY_PLACE = ("generator",)
EXAMPLES = {
    "mgd3-fast judge my-generator --dataset photos/train": "good, usable or poor",
}


def run(config: JudgeConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Judge a generator."""
    with loading():
        from mgd3_fast.judge import judge_generator

    quality = judge_generator(config, progress)
    return quality, "\n".join([*_table(quality["measures"]), quality["line"]])


def _table(measures: dict[str, float]) -> list[str]:
    """What samples and as many real images come to, side by side."""
    rows = [("", "samples", "real images")]
    for name in ("accuracy", "coverage", "density"):
        rows.append((name, f"{measures[name]:.3f}", f"{measures[f'{name}_real']:.3f}"))
    rows += [
        ("novelty", f"{measures['novelty']:.3f}", "1"),
        ("largest class", f"{measures['majority']:.3f}", ""),
        ("autoencoder", f"{measures['psnr_db']:.1f} dB", f"{measures['l1_levels']:.1f} levels"),
    ]
    return table_lines(rows)
