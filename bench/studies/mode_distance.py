"""How far apart modes must lie for guidance to decide between them: a class that is a mixture of Gaussians.

    python -m bench.studies.mode_distance --out bench/results/ablations/mode_distance.json

The denoiser is the mixture's own, in closed form, so that nothing is owed to a network: K modes whose numbers
have deviation SPREAD, and around them clusters of deviation sqrt(1 - SPREAD^2), so that latents of any size
have variance 1. Printed is the share of images that end nearest to their own mode, by t_stop.

Shape letters: R rows, K modes, C channels, h w latent size, D = C*h*w.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.machine import describe_machine
from mgd3_engine import Denoiser, GuidedSampler, ModeGuidance, NoiseSchedule

MODES, IMAGES, STEPS, SCALE = 10, 1000, 50, 0.1
T_STOPS = (50, 40, 35, 30, 25, 20, 10, 0)
LATENTS = ((8, 0.3), (8, 0.6), (16, 0.3), (32, 0.15), (32, 0.3))
"""Side of the latents, and deviation of the modes."""


def mixture_denoiser(modes: Tensor, spread: float, schedule: NoiseSchedule) -> Denoiser:
    """eps = (x - sqrt(abar) E[x0 | x]) / sqrt(1 - abar) of equal isotropic Gaussians around the modes.

    Args:
        modes: float64 `[K, D]`.
        spread: Deviation of the modes; that of a cluster is sqrt(1 - spread^2).
        schedule: Gives abar.

    Returns:
        The denoiser, on `[R, C, h, w]`.
    """
    alphas, within = torch.from_numpy(schedule.alphas_cumprod.copy()), 1 - spread**2

    def predict(x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        del class_ids  # one class
        abar = alphas[timestep.long()][:, None]  # [R, 1]
        rows = x.flatten(1).double()  # [R, D]
        variance = abar * within + 1 - abar
        # -|x - sqrt(abar) m|^2 / 2 but for |x|^2, which all modes have in common.
        near = abar.sqrt() * rows @ modes.T - abar * modes.square().sum(1) / 2  # [R, K]
        mean = torch.softmax(near / variance, dim=1) @ modes
        x0 = mean + abar.sqrt() * within / variance * (rows - abar.sqrt() * mean)
        eps = (rows - abar.sqrt() * x0) / (1 - abar).sqrt()
        return eps.to(x.dtype).view_as(x)

    return predict


def recovered(side: int, spread: float, t_stop: int, seed: int) -> tuple[float, float]:
    """Share of images nearest to their own mode, and the mean distance between two modes."""
    schedule = NoiseSchedule.linear()
    modes = spread * torch.randn(MODES, 4, side, side, generator=torch.Generator().manual_seed(seed))
    flat = modes.flatten(1).double()
    sampler = GuidedSampler(
        mixture_denoiser(flat, spread, schedule),
        schedule=schedule,
        method="ddpm",
        steps=STEPS,
        cfg_scale=1.0,
        null_class=None,
        guidance=ModeGuidance(scale=SCALE, t_stop=t_stop) if t_stop < STEPS - 1 else None,
        backend="eager",
        batch_size=100,
    )
    own = torch.arange(IMAGES) % MODES
    latents = sampler.sample(torch.zeros(IMAGES, dtype=torch.int64), modes[own], torch.arange(IMAGES))
    nearest = torch.cdist(latents.flatten(1).double(), flat).argmin(1)
    return float((nearest == own).double().mean()), float(torch.pdist(flat).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--seed", type=int, default=0, help="of the modes")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("latents      distance  " + "".join(f"{stop:>6}" for stop in T_STOPS) + "   (t_stop)")
    for side, spread in LATENTS:
        found = {stop: recovered(side, spread, stop, args.seed) for stop in T_STOPS}
        distance = found[T_STOPS[0]][1]
        shares = {str(stop): round(share, 3) for stop, (share, _) in found.items()}
        rows.append({"latents": [4, side, side], "spread": spread, "distance": round(distance, 2)} | shares)
        print(
            f"4x{side}x{side}".ljust(13)
            + f"{distance:8.1f}  "
            + "".join(f"{s:6.2f}" for s in shares.values())
        )
    content = {
        "command": "python -m bench.studies.mode_distance",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "settings": {
            "modes": MODES,
            "images": IMAGES,
            "steps": STEPS,
            "mode_scale": SCALE,
            "seed": args.seed,
        },
        "rows": sorted(rows, key=lambda row: float(row["distance"])),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
