"""Counting, while images are made, whether they end at their modes; and what `distill` says of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mgd3_engine import GuidedSampler
from mgd3_fast.cli.distill import _recovery
from mgd3_fast.config import DistillConfig
from mgd3_fast.modes.recovery import RecoveryCount, mode_recovery
from mgd3_fast.run.distillation import distill


def test_counting_one_by_one_is_the_share_of_all():
    generator = torch.Generator().manual_seed(0)
    modes = torch.randn(5, 4, 2, 2, generator=generator)
    own = np.arange(40) % 5
    latents = modes[own] + 2 * torch.randn(40, 4, 2, 2, generator=generator)
    counted = RecoveryCount()
    for latent, mode in zip(latents, own, strict=True):
        counted.add(latent, modes, int(mode))
    points, centres = (t.flatten(1).double().numpy() for t in (latents, modes))
    assert counted.share == mode_recovery(points, centres, own)
    assert 0.2 < counted.share < 1.0


def test_a_single_mode_is_not_counted():
    counted = RecoveryCount()
    assert counted.share is None
    counted.add(torch.zeros(4, 2, 2), torch.ones(1, 4, 2, 2), 0)
    assert counted.share is None


@pytest.mark.parametrize(
    ("share", "guided", "words"),
    [
        (
            0.46,
            True,
            "mode recovery 46% (10% by chance): guidance hardly decides what is drawn; `mgd3-fast",
        ),
        (0.9, True, "mode recovery 90% (10% by chance)"),
        (0.1, False, ""),
        (None, True, ""),
    ],
)
def test_weak_guidance_is_told(share, guided, words):
    said = _recovery(SimpleNamespace(mode_recovery=share, guided=guided), 10)
    assert said.strip().startswith(words)
    assert ("tune" in said) == ("tune" in words)
    assert bool(said) == bool(words)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("turned", "share"), [(0, 1.0), (1, 0.0)])
def test_each_image_is_held_against_its_own_mode(
    tiny_generator: Path, pictures: Path, tmp_path: Path, monkeypatch, turned, share
):
    """A sampler that returns modes, its own or the next one of the class."""
    monkeypatch.setattr(
        GuidedSampler,
        "sample",
        lambda _, class_ids, modes, seeds: modes.unflatten(0, (3, 3)).roll(turned, 1).flatten(0, 1),
    )
    config = DistillConfig(
        dataset=str(pictures), generator=str(tiny_generator), ipc=3, out=tmp_path / "out", batch_size=16
    )
    assert distill(config).mode_recovery == share
    again = distill(config)
    assert (again.made, again.mode_recovery) == (0, None)
