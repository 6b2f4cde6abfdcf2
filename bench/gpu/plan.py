"""Which checks need the GPU for themselves, and how 15 minutes of a card are divided into two calls."""

from __future__ import annotations

from collections.abc import Iterable

QUIET: dict[str, int] = {
    "launches": 1,
    "bandwidth": 1,
    "launch-parameters": 1,
    "adaln-bandwidth": 1,
    "head-padding": 1,
    "network-rate": 1,
    "gelu-epilogue": 1,
    "patch-product": 1,
    "step-in-patches": 1,
    "token-tiles": 1,
    "kmeans-goal": 1,
    "kmeans-tiles": 1,
    "kmeans-cuml": 1,
    "evaluation-augmentation": 1,
    "graphs-at-batch-1": 1,
    "decode-choice": 2,
    "decode-beside-sampling": 2,
    "autoencoder-throughput": 2,
    "encode-pipeline": 2,
    "sampler-throughput": 2,
    "fast-throughput": 2,
    "sampler-against-diffusers": 2,
    "auto-start": 2,
    "tensorrt-throughput": 2,
}
"""Checks that measure speed, and the part that runs them; all others run side by side, first in part 1."""

BUDGET_S = {1: 420.0, 2: 300.0, None: 720.0}
"""Seconds of a part, and of both in one call."""

SIDE_PROCESSES = {"cuda": 6, "cpu": 1}
"""On a CPU checks share one process: the packages that they import cost more than they do."""


def side_by_side(names: Iterable[str], part: int | None) -> list[str]:
    return [name for name in names if name not in QUIET] if part != 2 else []


def one_by_one(names: Iterable[str], part: int | None) -> list[str]:
    return [name for name in names if name in QUIET and part in (None, QUIET[name])]
