"""The schedule that a pipeline was trained with: of every kind that diffusers has, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgd3_engine import NoiseSchedule
from mgd3_engine.dit import DiTConfig, save_dit
from mgd3_fast.errors import UserError
from mgd3_fast.generators import load_generator
from mgd3_fast.generators.hub import ModelFiles
from mgd3_fast.generators.trained_schedule import training_of
from tests.fakes.random_networks import random_diffusers_dit, random_dit, random_vae

diffusers = pytest.importorskip("diffusers")

CONFIG = DiTConfig(input_size=8, patch_size=2, hidden_size=16, depth=1, num_heads=2, num_classes=3)
SCHEDULER = "scheduler/scheduler_config.json"
# Of abar, which diffusers multiplies up in float32. Measured: 1.3e-5 for the cosine, 1.2e-6 for the others.
BOUND = 4e-5


@pytest.fixture
def pipeline(tmp_path: Path) -> Callable[..., Path]:
    """Write a DiT pipeline whose scheduler has some settings."""

    def write(scheduler: Any, **changes: Any) -> Path:
        folder = tmp_path / "pipeline"
        random_diffusers_dit(CONFIG).save_pretrained(folder / "transformer")
        random_vae().save_pretrained(folder / "vae")
        scheduler.save_pretrained(folder / "scheduler")
        path = folder / SCHEDULER
        settings = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in settings.items() if value != "left out"}))
        (folder / "model_index.json").write_text('{"_class_name": "DiTPipeline"}')
        return folder

    return write


@pytest.mark.parametrize("timesteps", [1000, 400])
@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "trained"])
def test_schedules_are_diffusers_own(kind: str, timesteps: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_train_timesteps": timesteps, "beta_start": 0.001, "beta_end": 0.015}
    settings |= {"trained_betas": [0.01, 0.02, 0.3]} if kind == "trained" else {"beta_schedule": kind}
    scheduler = diffusers.DDPMScheduler(**settings)
    scheduler.save_pretrained(tmp_path / "scheduler")
    training = training_of(ModelFiles(str(tmp_path), "none"))
    assert training is not None
    got, want = training.schedule.alphas_cumprod, scheduler.alphas_cumprod.double().numpy()
    assert len(got) == len(want)
    assert np.max(np.abs(got / want - 1)) <= BOUND


@pytest.mark.parametrize("source", ["", "transformer", "transformer/diffusion_pytorch_model.safetensors"])
def test_a_dit_is_sampled_as_its_scheduler_says(source: str, pipeline: Callable[..., Path]) -> None:
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        num_train_timesteps=500,
        prediction_type="v_prediction",
        clip_sample=False,
    )
    generator = load_generator(str(pipeline(scheduler) / source))
    assert generator.schedule == NoiseSchedule.scaled_linear(500, 0.00085, 0.012)
    assert generator.prediction == "v"
    assert generator.notes == ()
    assert generator.autoencoder.scaling_factor == 1.5  # the pipeline's own


def test_a_repository_is_sampled_as_its_scheduler_says(
    pipeline: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pipeline(diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False))
    index = {"_class_name": "DiTPipeline", "id2label": {"0": "a", "1": "b", "2": "c"}, "vae": ["d", "A"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo_id, **_: str(folder))
    generator = load_generator("someone/cosine")
    assert generator.schedule.betas[-1] == 0.999
    assert generator.class_names == ("a", "b", "c")
    assert getattr(generator.autoencoder, "source", None) == "someone/cosine"


def test_without_a_scheduler_it_is_the_authors(pipeline: Callable[..., Path], tmp_path: Path) -> None:
    folder = pipeline(diffusers.DDPMScheduler())
    (folder / SCHEDULER).unlink()
    save_dit(tmp_path / "dit.safetensors", random_dit(CONFIG))
    for generator in (
        load_generator(str(folder)),
        load_generator(str(tmp_path / "dit.safetensors"), vae=str(folder / "vae")),
    ):
        assert (generator.schedule, generator.prediction) == (NoiseSchedule.linear(), "epsilon")


def test_what_a_scheduler_does_besides_is_said(pipeline: Callable[..., Path]) -> None:
    folder = pipeline(diffusers.DDPMScheduler(clip_sample=True, thresholding=True))
    assert load_generator(str(folder)).notes == tuple(
        f"{folder}/{SCHEDULER} says {name}, for pixels in -1..1: latents are not clipped here"
        for name in ("clip_sample", "thresholding")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prediction_type": "sample"},
            "prediction_type of .* must be epsilon or v_prediction, got",
        ),
        ({"beta_schedule": "laplace"}, "beta_schedule of .* must be linear, .* or sigmoid, got 'laplace'"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr of .* must be false, got true"),
        ({"beta_end": "left out"}, "must state beta_end, got none"),
        ({"beta_end": 2.0}, "must hold a noise schedule: betas must be above 0 and below 1"),
        ({"num_train_timesteps": "many"}, "must hold a noise schedule: "),
        ({"trained_betas": [[0.1]]}, "must hold a noise schedule: betas must be a sequence"),
    ],
)
def test_schedules_that_are_refused(
    changes: dict[str, Any], message: str, pipeline: Callable[..., Path]
) -> None:
    folder = pipeline(diffusers.DDPMScheduler(), **changes)
    with pytest.raises(UserError, match=message) as refused:
        load_generator(str(folder))
    assert SCHEDULER in str(refused.value)
    assert "\n" not in str(refused.value)
