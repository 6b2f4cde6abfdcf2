"""Settings that the ablations compare: tables of cells, each what `distill` is asked beyond dataset, seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DECODED_MODE = {"method": "d4m", "start_strength": 0.02}
"""One of 50 steps from the mode, noised by 0.01: the mode itself, decoded."""

TUNED = {"mode_scale": 0.2, "t_stop": 0}
"""The best of all guided settings on the held-out images, at IPC 10."""

METHODS: dict[str, dict[str, Any]] = {
    "random real images": {"method": "random"},
    "herding": {"method": "herding"},
    "K-means, nearest real images": {"method": "kmeans-closest"},
    "unguided (DiT)": {"method": "unguided"},
    "start at the noised mode (D4M)": {"method": "d4m"},
    "MGD3, never stopped": {"t_stop": 0},
    "MGD3": {},
    "MGD3, tuned": TUNED,
}
LADDER: dict[str, dict[str, Any]] = {
    "random real images": {"method": "random"},
    "random real images, through the autoencoder": {**DECODED_MODE, "discovery": "random"},
    "nearest real images to K-means of pixels": {"method": "kmeans-closest"},
    "nearest real images to K-means of latents, through the autoencoder": {
        **DECODED_MODE,
        "discovery": "kmeans-closest",
    },
    "K-means centres, decoded": DECODED_MODE,
    "MGD3 to nearest real latents, never stopped": {"discovery": "kmeans-closest", "t_stop": 0},
    "MGD3, never stopped": {"t_stop": 0},
    "MGD3": {},
    "unguided (DiT)": {"method": "unguided"},
}
DISCOVERIES = ("random", "dbscan", "spectral", "kmeans-closest", "kmeans", "kmeans-pooled", "gmm")

PAPER = {"t_stop": 25, "mode_scale": 0.1}
NEVER_GUIDED = 50
"""Guidance where a row says nothing else; the demo model's own is what these ablations found."""

# A row that names what holds anyway is the same cell as one that does not.
_DEFAULTS: Mapping[str, Any] = {**PAPER, "discovery": "kmeans", "cfg_scale": 2.0}


@dataclass(frozen=True)
class Cell:
    """One setting.

    Args:
        options: What `distill` is asked beyond `base`.
        ipc: Images of each class.
        tuned_on: "val", the held-out part of the training images, or "test".
        base: The guidance of MGD3 where `options` say nothing else.
        epochs: Of the classifier's training; "code" is what the protocol says.
    """

    options: dict[str, Any] = field(hash=False)
    ipc: int = 10
    tuned_on: str = "val"
    base: Mapping[str, Any] = field(default_factory=lambda: PAPER, hash=False)
    epochs: int | str = "code"

    @property
    def asked(self) -> dict[str, Any]:
        """What `distill` is asked; methods other than MGD3 have no guidance to set, and t_stop 50 is none."""
        asked = self.options if "method" in self.options else {**self.base, **self.options}
        return asked | {"mode_scale": 0.0} if asked.get("t_stop") == NEVER_GUIDED else asked

    @property
    def name(self) -> str:
        """Of its folders: readable, and another one for other settings."""
        other = [] if self.epochs == "code" else [self.epochs]
        text = json.dumps([self.options, self.ipc, self.tuned_on, *other], sort_keys=True)
        words = "-".join(f"{key}-{value}" for key, value in sorted(self.options.items())) or "default"
        return f"{words}-ipc{self.ipc}-{self.tuned_on}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Table:
    """Rows to compare.

    Args:
        rows: Cells by label.
        reference: The cell that differences are taken from, seed by seed.
        against: What it is called.
        seeds: How many each row is run with, unless another table wants more of it.
    """

    rows: dict[str, Cell]
    reference: Cell
    against: str
    seeds: int = 5


def tables() -> dict[str, Table]:
    """Every table by title; tables share cells of equal settings."""
    found = {}
    for ipc in (10, 1, 50):
        first = next(iter(METHODS))
        rows = {name: Cell(options, ipc, "test") for name, options in METHODS.items()}
        found[f"Methods, IPC {ipc}"] = Table(rows, rows[first], first)
    found |= {
        "t_stop": _by_value("t_stop", range(0, 51, 5)),
        "Mode scale": _by_value("mode_scale", (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0)),
        "Mode scale, never stopped": _by_value("mode_scale", (0.03, 0.1, 0.2, 0.3, 0.5), seeds=3, t_stop=0),
        "Discovery": _by_value("discovery", DISCOVERIES),
        "Discovery, never stopped": _by_value(
            "discovery", ("random", "kmeans-closest", "kmeans", "gmm"), seeds=3, t_stop=0
        ),
        "Sampler": _beside_default({"ddpm": {}, "ddim": {"sampler": "ddim"}}),
        "Guidance form, equal scale": _beside_default(
            {"posterior": {}, **{form: {"guidance_form": form} for form in ("epsilon", "x0")}}
        ),
        "Guidance form, equal strength": _beside_default(
            {
                "posterior": {},
                **{
                    f"{form}, scale {scale:g}": {"guidance_form": form, "mode_scale": scale}
                    for form, scale in equal_strengths().items()
                },
            }
        ),
        "CFG scale": _by_value("cfg_scale", (1.0, 1.5, 2.0, 3.0, 4.0)),
        "CFG scale, unguided": _by_value("cfg_scale", (1.0, 1.5, 2.0, 4.0), seeds=3, method="unguided"),
        "From real images to MGD3": _beside_default(LADDER, seeds=3),
        "The generator at IPC 100": Table(
            {name: Cell(METHODS[name], 100) for name in ("random real images", "unguided (DiT)")},
            Cell(METHODS["random real images"], 100),
            "random real images",
            seeds=3,
        ),
    }
    return found


def _by_value(option: str, values: Any, seeds: int = 5, **others: Any) -> Table:
    return _beside_default({_shown(value): {option: value, **others} for value in values}, seeds)


def _beside_default(rows: Mapping[str, Mapping[str, Any]], seeds: int = 5) -> Table:
    def cell(options: Mapping[str, Any]) -> Cell:
        told = {key: value for key, value in options.items() if _DEFAULTS.get(key) != value}
        return Cell(told)

    return Table(
        {label: cell(options) for label, options in rows.items()}, Cell({}), "the paper's settings", seeds
    )


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def equal_strengths() -> dict[str, float]:
    """Scale of each form at which the guided steps push x_(i-1) as far in sum as `posterior` does at 0.1.

    Per unit of m - x0 a step adds scale * sigma (posterior; sigma half-way between its bounds) or the mean's
    coefficient of x0 times the form's shift of x0.
    """
    import torch

    from mgd3_engine import ModeGuidance, NoiseSchedule, step_table
    from mgd3_kernels import Coefficient

    respaced = NoiseSchedule.linear().respaced(50)

    def push(form: str) -> float:
        guidance = ModeGuidance(scale=1.0, t_stop=25, form=form)
        table = step_table(respaced, method="ddpm", guidance=guidance)[26:].double()
        low, high = table[:, Coefficient.LOG_VAR_MIN], table[:, Coefficient.LOG_VAR_MAX]
        posterior = table[:, Coefficient.PUSH] * torch.exp(0.25 * (low + high))
        shifted = table[:, Coefficient.NEXT_FROM_X0] * table[:, Coefficient.X0_SHIFT]
        return float((posterior + shifted).sum())

    return {form: round(0.1 * push("posterior") / push(form), 4) for form in ("epsilon", "x0")}
