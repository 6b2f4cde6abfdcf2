"""Settings that call the network less often, each what `distill` is asked beside dataset, seed and IPC.

Guidance of form `posterior` moves an image by the sum of sigma over the guided steps, which falls with their
number: `SCALES` keeps that sum times the scale about where the demo model's 50 steps have it.
"""

from __future__ import annotations

from typing import Any

SCALES = {50: 0.2, 25: 0.31, 20: 0.36, 15: 0.45, 12: 0.5, 10: 0.55}
"""Mode scale of form `posterior` by steps, t_stop 0."""

HALF = {"mode_scale": 0.1, "t_stop": 25}
UNGUIDED = {"method": "unguided"}
BASES: dict[str, dict[str, Any]] = {"exact": {}, "stopped at half": HALF, "unguided": UNGUIDED}
"""What others of 50 DDPM steps are compared with, on the same noise."""


def _steps(sampler: str, steps: int, **others: Any) -> dict[str, Any]:
    form = {} if sampler == "ddpm" else {"guidance_form": "posterior"}
    return {"sampler": sampler, "steps": steps, "mode_scale": SCALES[steps], **form, **others}


def _cached(base: dict[str, Any], interval: int, order: int, start: int | None = None) -> dict[str, Any]:
    beginning = {} if start is None else {"cache_from": start}
    return {**base, "cache_steps": interval, "cache_order": order, **beginning}


SCREENED: dict[str, dict[str, Any]] = {
    **BASES,
    **{f"ddpm {steps}": _steps("ddpm", steps) for steps in (25, 20, 15, 12, 10)},
    "ddpm 50, cfg 200-800": {"cfg_interval": (200, 800)},
    "ddpm 15, cfg 200-800": _steps("ddpm", 15, cfg_interval=(200, 800)),
    "ddpm 12, cfg 100-700": _steps("ddpm", 12, cfg_interval=(100, 700)),
    "ddpm 10, cfg 100-700": _steps("ddpm", 10, cfg_interval=(100, 700)),
    "dpmpp 20": _steps("dpmpp", 20),
    "dpmpp 15": _steps("dpmpp", 15),
    "dpmpp 15, cfg 200-800": _steps("dpmpp", 15, cfg_interval=(200, 800)),
    "dpmpp-sde 15, cfg 200-800": _steps("dpmpp-sde", 15, cfg_interval=(200, 800)),
    "ddim 50, epsilon 0.6": {"sampler": "ddim", "steps": 50, "mode_scale": 0.6},
    "ddim 15": _steps("ddim", 15),
    "stopped at half, dpmpp 20": {
        "sampler": "dpmpp",
        "steps": 20,
        "mode_scale": 0.3,
        "t_stop": 25,
        "t_stop_of": 50,
    },
    "unguided, dpmpp 20": {**UNGUIDED, "sampler": "dpmpp", "steps": 20},
}
CACHED: dict[str, dict[str, Any]] = {
    f"{name}, cache {interval}, order {order}": _cached(BASES[name], interval, order, start)
    for name, start in (("exact", 40), ("stopped at half", None), ("unguided", 25))
    for interval in (2, 3, 4)
    for order in (0, 1, 2)
    if name != "unguided" or (interval < 4 and order < 2)
}
SETTINGS = {
    **SCREENED,
    **CACHED,
    "ddpm 20, cfg 100-700, cache 2": _steps(
        "ddpm", 20, cfg_interval=(100, 700), cache_steps=2, cache_from=13
    ),
    "ddpm 12, cfg 100-700, cache 2": _steps("ddpm", 12, cfg_interval=(100, 700), cache_steps=2, cache_from=8),
}
FINALISTS = ("exact", "ddpm 12, cfg 100-700")
"""Exact, and the quickest of the screened that recovers every mode."""
