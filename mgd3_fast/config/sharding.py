"""Which part of the work is this process's: I/N, or as the launcher of the process says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from mgd3_fast.config.fields import option
from mgd3_fast.errors import UserError

_LAUNCHERS = (
    "RANK and WORLD_SIZE (torchrun), SLURM_ARRAY_TASK_ID (sbatch --array), SLURM_STEP_NUM_TASKS (srun), or"
    " JOB_COMPLETION_INDEX (Kubernetes, with --shard auto/N)"
)


def shard_option(what: str) -> Any:
    """Declare which part is done of `what`, a phrase with "the I-th of N parts"."""
    return option(
        f"{what}; auto takes I and N from torchrun, a Slurm array or srun, auto/N takes I alone, as from a"
        " Kubernetes indexed job",
        default="1/1",
        metavar="I/N|auto",
        check=lambda _, shard: read_shard(shard),
    )


def read_shard(shard: str, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Read "I/N", "auto" or "auto/N", as `--shard` was given.

    Args:
        shard: The text.
        environment: Variables of the process, where a launcher says which of its processes this is.

    Returns:
        The number of this part, from 1, and how many parts there are.

    Raises:
        UserError: It is none of these, or no launcher says which part this is.
    """
    if match := re.fullmatch(r"auto(?:/(\d+))?", shard):
        part, parts = _of_launcher(environment, int(match[1] or 0))
    else:
        match = re.fullmatch(r"(\d+)/(\d+)", shard)
        part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        found = f", which is {part}/{parts} here" if shard.startswith("auto") and parts else ""
        raise UserError(f"shard must be I/N with I from 1 to N, auto or auto/N, got {shard!r}{found}")
    return part, parts


def _of_launcher(environment: Mapping[str, str], parts: int) -> tuple[int, int]:
    """Number of this process among those of its launcher, and how many these are, or `parts` if not 0."""

    def whole(name: str, default: int | None = None) -> int:
        text = environment.get(name, "" if default is None else str(default))
        if not text.strip().isdecimal():
            raise UserError(f"shard must be I/N here: auto needs {name} to be a whole number, got {text!r}")
        return int(text)

    if "RANK" in environment and "WORLD_SIZE" in environment:
        place, count = whole("RANK"), whole("WORLD_SIZE")
    elif "SLURM_ARRAY_TASK_ID" in environment or "SLURM_STEP_NUM_TASKS" in environment:
        # Tasks of a step within each job of an array; a step alone is an array of one. Where N is given, some
        # jobs of an array may have been started again: they are numbered from 0 whatever these are.
        first = 0 if parts else whole("SLURM_ARRAY_TASK_MIN", 0)
        step = 1 if parts else max(1, whole("SLURM_ARRAY_TASK_STEP", 1))
        job = (whole("SLURM_ARRAY_TASK_ID", first) - first) // step
        tasks = whole("SLURM_STEP_NUM_TASKS", 1)
        task = whole("SLURM_PROCID", 0) if tasks > 1 else 0
        place, count = job * tasks + task, whole("SLURM_ARRAY_TASK_COUNT", 1) * tasks
    elif "JOB_COMPLETION_INDEX" in environment and parts:
        place, count = whole("JOB_COMPLETION_INDEX"), parts
    else:
        raise UserError(f"shard must be I/N here: auto needs {_LAUNCHERS}, got none of them")
    return place + 1, parts or count
