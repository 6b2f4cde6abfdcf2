"""Configurations: what they refuse, what they fill in, and that their words are the engine's words."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from importlib.metadata import version
from pkgutil import iter_modules
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import mgd3_fast
from mgd3_engine import NoiseSchedule, backend_names
from mgd3_engine.sampling.coefficients import METHODS
from mgd3_engine.sampling.guidance import FORMS
from mgd3_fast import compare, evaluate, export, formats, judge, metrics, publish, report, train
from mgd3_fast.config import DiscoverConfig, DistillConfig, EncodeConfig
from mgd3_fast.config import discover as discover_config
from mgd3_fast.config import distill as distill_config
from mgd3_fast.config.sharding import read_shard
from mgd3_fast.errors import UserError
from mgd3_fast.generators import SamplingDefaults
from mgd3_fast.modes import METHOD_NAMES, RUNNER_NAMES
from mgd3_fast.run.sampler import chosen_sampling

PAPER = SamplingDefaults(sampler="ddpm", steps=50, cfg_scale=4.0, mode_scale=0.1, t_stop=25)


def config(**changes: Any) -> DistillConfig:
    return DistillConfig(**{"dataset": "mnist5k", "ipc": 10, "out": "out", **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"dataset": ""}, "dataset must not be empty, got ''", id="no dataset"),
        pytest.param({"out": ""}, "out must not be empty, got ''", id="no out"),
        pytest.param({"cache_dir": ""}, "cache_dir must not be empty, got ''", id="no cache_dir"),
        pytest.param({"ipc": 0}, "ipc must be a whole number of at least 1, got 0", id="ipc 0"),
        pytest.param({"ipc": 2.5}, "ipc must be a whole number", id="ipc 2.5"),
        pytest.param({"ipc": True}, "ipc must be a whole number", id="ipc True"),
        pytest.param({"ipc": "ten"}, "ipc must be a whole number of at least 1, got 'ten'", id="ipc word"),
        pytest.param({"seed": -1}, "seed must be a whole number from 0 to 4294967295", id="seed -1"),
        pytest.param({"seed": 2**32}, "seed must be", id="seed 2**32"),
        pytest.param({"steps": 0}, "steps must be", id="steps 0"),
        pytest.param({"t_stop": -1}, "t_stop must be a whole number of at least 0, got -1", id="t_stop -1"),
        pytest.param(
            {"t_stop": 51, "steps": 50}, "t_stop must be a whole number from 0 to 50", id="t_stop 51"
        ),
        pytest.param({"cfg_scale": float("nan")}, "cfg_scale must be a finite number", id="cfg nan"),
        pytest.param({"mode_scale": float("inf")}, "mode_scale must be a finite number", id="mode inf"),
        pytest.param(
            {"mode_scale": -0.1}, "mode_scale must be a finite number of at least 0", id="mode -0.1"
        ),
        pytest.param({"eta": 1.5}, "eta must be a finite number from 0 to 1, got 1.5", id="eta 1.5"),
        pytest.param({"eta": 0.5, "sampler": "ddpm"}, "eta must be 0 with sampler ddpm", id="eta of ddpm"),
        pytest.param({"eta": 0.5, "sampler": "dpmpp"}, "eta must be 0 with sampler dpmpp", id="eta of dpmpp"),
        pytest.param(
            {"sampler": "euler"}, "sampler must be one of ddpm, ddim, dpmpp, dpmpp-sde", id="sampler"
        ),
        pytest.param({"cfg_interval": (5, 1)}, "cfg_interval must be LOW,HIGH, two", id="interval down"),
        pytest.param({"cfg_interval": "5"}, "cfg_interval must be LOW,HIGH, two", id="interval word"),
        pytest.param(
            {"cfg_interval": (1, 5), "cfg_scale": 1.0}, "cfg_interval must be left out", id="interval of none"
        ),
        pytest.param({"t_stop_of": 0}, "t_stop_of must be a whole number of at least 1", id="t_stop_of 0"),
        pytest.param(
            {"t_stop": 51, "t_stop_of": 50, "steps": 80},
            "t_stop must be a whole number from 0 to 50",
            id="t_stop beyond",
        ),
        pytest.param({"method": "d4m", "t_stop_of": 50}, "t_stop_of must be left out", id="t_stop_of of d4m"),
        pytest.param({"spacing": "even"}, "spacing must be one of linspace, ddim", id="spacing"),
        pytest.param({"guidance_form": "eps"}, "guidance_form must be one of auto, posterior", id="form"),
        pytest.param(
            {"discovery": "magic"}, "discovery must be one of kmeans, kmeans-closest, ", id="discovery"
        ),
        pytest.param({"backend": "onnx"}, "backend must be one of auto, eager, compiled", id="backend"),
        pytest.param(
            {"precision": "fp8", "backend": "tensorrt"},
            "backend must be one of auto, eager, compiled with precision fp8, got 'tensorrt'",
            id="fp8 exported",
        ),
        pytest.param({"precision": "fp4"}, "precision must be one of auto, fp32, bf16,", id="precision"),
        pytest.param({"format": "zip"}, "format must be one of imagefolder, numeric", id="format"),
        pytest.param({"on_bad_image": "hide"}, "on_bad_image must be one of error, skip", id="bad image"),
        pytest.param({"batch_size": 0}, "batch_size must be a whole number of at least 1", id="batch 0"),
        pytest.param({"batch_size": "big"}, "batch_size must be a whole number", id="batch word"),
        pytest.param({"device": "gpu"}, "device must be auto, cpu, cuda or cuda:N, got 'gpu'", id="device"),
        pytest.param({"shard": "0/2"}, "shard must be I/N with I from 1", id="shard 0/2"),
        pytest.param({"shard": "3/2"}, "shard must be I/N", id="shard 3/2"),
        pytest.param({"shard": "one"}, "shard must be I/N", id="shard word"),
        *(
            pytest.param(
                {"workers": n}, f"workers must be a whole number of at least 1, got {n!r}", id=str(n)
            )
            for n in (0, -1, 1.5)
        ),
        pytest.param(
            {"workers": 4, "device": "cuda:1"},
            "workers must be 1 with --device cuda:1, which is one GPU, got 4",
            id="four workers on one GPU",
        ),
        pytest.param(
            {"workers": "sun"},
            "workers must be auto, ray or a whole number of at least 1, got 'sun'",
            id="sun",
        ),
        pytest.param(
            {"workers": "ray", "device": "cuda:1"},
            "device must be auto, cpu or cuda with --workers ray, got 'cuda:1'",
            id="Ray on one GPU",
        ),
        pytest.param(
            {"ray_address": "head:6379"},
            "ray_address must come with --workers ray, got 'head:6379' alone",
            id="address without Ray",
        ),
    ],
)
def test_refuses_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refusal:
        config(**changes)
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value)


def test_is_frozen_and_keyword_only() -> None:
    with pytest.raises(FrozenInstanceError):
        config().ipc = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        DistillConfig("mnist5k", 10, "out")  # type: ignore[misc]


def test_defaults_come_from_the_generator() -> None:
    assert config().sampling(PAPER) == PAPER


def test_what_is_given_wins() -> None:
    chosen = config(sampler="ddim", steps=20, cfg_scale=1.5, mode_scale=0.0, t_stop=3).sampling(PAPER)
    assert chosen == SamplingDefaults(sampler="ddim", steps=20, cfg_scale=1.5, mode_scale=0.0, t_stop=3)


@pytest.mark.parametrize(
    ("steps", "t_stop"), [(50, 25), (20, 10), (25, 12), (100, 50), (3, 1), (2, 0), (1, 0)]
)
def test_t_stop_keeps_its_share_of_the_steps_and_one_of_them_guided(steps: int, t_stop: int) -> None:
    assert config(steps=steps).sampling(PAPER).t_stop == t_stop


def test_t_stop_of_counts_in_other_steps() -> None:
    schedule = SimpleNamespace(defaults=PAPER, schedule=NoiseSchedule.linear())
    for given in ({}, {"t_stop": 25}):
        chosen = chosen_sampling(config(steps=20, t_stop_of=50, **given), schedule)
        assert chosen.t_stop == 9  # ten of 20 steps are noisier than timestep 510
    assert chosen_sampling(config(steps=20, t_stop=7), schedule).t_stop == 7
    with pytest.raises(UserError, match="t_stop_of must be a whole number from 1 to 1000, got 1001"):
        chosen_sampling(config(t_stop_of=1001), schedule)


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        (None, []),
        ("3/0", [("3", 0)]),
        ("bee/1, ant/12", [("bee", 1), ("ant", 12)]),
        ("tench, Tinca tinca/0,a,b/2", [("tench, Tinca tinca", 0), ("a,b", 2)]),
    ],
)
def test_trace(trace: str | None, expected: list[tuple[str, int]]) -> None:
    assert config(trace=trace).traced() == expected


def test_t_stop_is_checked_against_the_generators_steps() -> None:
    with pytest.raises(UserError, match="t_stop must be a whole number from 0 to 50, got 60"):
        config(t_stop=60).sampling(PAPER)


def test_eta_is_checked_against_the_generators_sampler() -> None:
    with pytest.raises(UserError, match="eta must be 0 with sampler ddpm"):
        config(eta=0.5).sampling(PAPER)
    assert config(eta=0.5).sampling(replace(PAPER, sampler="ddim")).sampler == "ddim"


@pytest.mark.parametrize(("shard", "expected"), [("1/1", (1, 1)), ("2/3", (2, 3)), ("10/10", (10, 10))])
def test_shard(shard: str, expected: tuple[int, int]) -> None:
    assert config(shard=shard).shard_of() == expected


ARRAY = {
    "SLURM_ARRAY_TASK_ID": "12",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "4",
}
STEP = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}


@pytest.mark.parametrize(
    ("shard", "environment", "expected"),
    [
        ("auto", {"RANK": "3", "WORLD_SIZE": "8"}, (4, 8)),
        ("auto", {"RANK": "0", "WORLD_SIZE": "1", **ARRAY}, (1, 1)),
        ("auto", ARRAY, (2, 4)),
        ("auto", STEP, (6, 8)),
        ("auto", {**ARRAY, **STEP}, (14, 32)),
        ("auto", {**ARRAY, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, (2, 4)),
        ("auto/16", {"JOB_COMPLETION_INDEX": "15"}, (16, 16)),
        ("auto/100", {"SLURM_ARRAY_TASK_ID": "41", "SLURM_ARRAY_TASK_MIN": "41"}, (42, 100)),  # again, alone
    ],
)
def test_shard_of_a_launcher(shard: str, environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert read_shard(shard, environment) == expected


@pytest.mark.parametrize(
    ("shard", "environment", "words"),
    [
        ("auto", {}, "shard must be I/N here: auto needs RANK and WORLD_SIZE .* got none of them"),
        ("auto", {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, "got none of them"),  # a batch script, no srun
        ("auto", {"JOB_COMPLETION_INDEX": "2"}, "got none of them"),
        ("auto", {"RANK": "x", "WORLD_SIZE": "8"}, "needs RANK to be a whole number, got 'x'"),
        ("auto/4", {"JOB_COMPLETION_INDEX": "4"}, "got 'auto/4', which is 5/4 here"),
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_ID": "30"}, "got 'auto', which is 11/4 here"),
        ("auto/0", {"JOB_COMPLETION_INDEX": "0"}, "got none of them"),
        ("3", {}, "shard must be I/N with I from 1 to N, auto or auto/N, got '3'"),
    ],
)
def test_a_shard_that_nobody_names(shard: str, environment: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_shard(shard, environment)


def test_words_are_those_of_the_modules_that_use_them() -> None:
    assert ("auto", *backend_names()) == distill_config.BACKENDS
    assert distill_config.SAMPLERS == METHODS
    assert ("auto", *FORMS) == distill_config.GUIDANCE_FORMS
    assert discover_config.DISCOVERIES == METHOD_NAMES
    assert ("auto", *RUNNER_NAMES) == discover_config.KMEANS_RUNNERS


def test_every_field_has_help_and_stages_share_their_fields() -> None:
    names = {}
    for stage in (EncodeConfig, DiscoverConfig, DistillConfig):
        assert all(one.metadata["help"] for one in fields(stage))
        names[stage] = [one.name for one in fields(stage)]
    assert names[DiscoverConfig][: len(names[EncodeConfig])] == names[EncodeConfig]
    assert names[DistillConfig][: len(names[DiscoverConfig])] == names[DiscoverConfig]


def test_version_is_the_distributions() -> None:
    assert mgd3_fast.__version__ == version("mgd3-fast")


def test_public_names_load_on_first_use() -> None:
    assert mgd3_fast.DistillConfig is DistillConfig
    assert callable(mgd3_fast.distill)
    assert set(mgd3_fast.__all__) <= set(dir(mgd3_fast))
    assert all(hasattr(mgd3_fast, name) for name in mgd3_fast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'destill'"):
        mgd3_fast.destill  # noqa: B018


ROOMS = [compare, evaluate, export, formats, judge, metrics, publish, report, train]


@pytest.mark.parametrize("package", [mgd3_fast, *ROOMS], ids=lambda one: one.__name__)
def test_no_public_name_is_a_rooms(package: ModuleType) -> None:
    """Importing a room replaces what `__getattr__` gives for its name."""
    assert not {room.name for room in iter_modules(package.__path__)} & set(package.__all__)
