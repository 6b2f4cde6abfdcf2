"""What the main job is asked to do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mgd3_fast.config.checks import check_whole
from mgd3_fast.config.discover import DiscoverConfig
from mgd3_fast.config.documented import documented
from mgd3_fast.config.fields import auto_or_int, folder, heads_option, number, option, path, whole
from mgd3_fast.config.methods import FOREIGN, GENERATED_METHODS, REAL_METHODS, SAMPLING
from mgd3_fast.config.sampling import SamplingDefaults
from mgd3_fast.config.sharding import read_shard, shard_option
from mgd3_fast.config.tracing import read_images, read_stops, trace_option, trace_stops_option
from mgd3_fast.errors import UserError

SAMPLERS = ("ddpm", "ddim", "dpmpp", "dpmpp-sde")
SPACINGS = ("linspace", "ddim", "leading")
PRESETS = ("paper", "fast")
SYNONYMS = ("first", "all")
GUIDANCE_FORMS = ("auto", "posterior", "epsilon", "x0")
BACKENDS = ("auto", "eager", "compiled", "tensorrt", "onnxruntime")
FLOAT8_BACKENDS = ("auto", "eager", "compiled")
FORMATS_ON_STORE = ("imagefolder", "numeric")
CACHING_BACKENDS = ("auto", "eager")
FORMATS = ("imagefolder", "numeric", "tensor", "parquet", "webdataset")


def _check_auto_or_whole(name: str, value: object) -> None:
    if value != "auto":
        check_whole(name, value, 1)


def _check_workers(name: str, value: object) -> None:
    if not isinstance(value, str):
        check_whole(name, value, 1)
    elif value not in ("auto", "ray"):
        raise UserError(f"{name} must be auto, ray or a whole number of at least 1, got {value!r}")


def _interval(text: str) -> tuple[int, int]:
    low, high = text.split(",")
    return int(low), int(high)


def _check_interval(name: str, value: object) -> None:
    match value:
        case (int(low), int(high)) if 0 <= low <= high:
            pass
        case other:
            raise UserError(f"{name} must be LOW,HIGH, two timesteps from 0 up, got {other!r}")


@documented
@dataclass(frozen=True, kw_only=True)
class DistillConfig(DiscoverConfig):
    """What `distill` is asked to do. None stands for the generator's own default."""

    out: Path | str = folder(
        "folder that receives the result, or its URL, such as s3://bucket/folder", on_store=True
    )
    method: str = option(
        "mgd3; to compare with: unguided (the generator alone), d4m (start at the noised mode), or real"
        " images, chosen without a generator: random, herding, kmeans-closest",
        default=GENERATED_METHODS[0],
        choices=(*GENERATED_METHODS, *REAL_METHODS),
    )
    preset: str | None = option(
        "paper: what is not given is as in MGD3's own code, which for Stable Diffusion is another sampler,"
        " prompt, latent and image size than the defaults; fast: a fifth of the work for a DiT, other images"
        " (default: the generator's defaults)",
        default=None,
        choices=PRESETS,
    )
    generator_classes: Path | str | None = path(
        "file of the generator's class names in the order of its ids, line k being id k (default: those it"
        " states, or a list that lies beside it)",
        default=None,
        metavar="FILE",
    )
    generator_heads: int | None = heads_option()
    start_strength: float | None = number(
        "share of the steps that d4m takes from the noised mode (default: 0.7)", default=None, highest=1.0
    )
    modes: Path | str | None = path(
        "modes.safetensors of an earlier run or of `discover` (default: the one in --out, if any)",
        default=None,
    )
    sampler: str | None = option(
        "reverse process; dpmpp is DPM-Solver++(2M), for about 20 steps, dpmpp-sde its form with noise"
        " (default: the generator's)",
        default=None,
        choices=SAMPLERS,
    )
    steps: int | None = whole("denoising steps (default: the generator's, 50 for DiT)", default=None)
    spacing: str | None = option(
        "which of the timesteps are visited (default: linspace)", default=None, choices=SPACINGS
    )
    steps_offset: int | None = whole("first timestep of spacing leading (default: 0)", default=None, lowest=0)
    eta: float = number("noise of ddim, from 0 (none) to 1", default=0.0, highest=1.0)
    cfg_scale: float | None = number(
        "classifier-free guidance (default: the generator's, 4.0 for DiT)", default=None
    )
    cfg_interval: tuple[int, int] | None = option(
        "timesteps, lowest and highest, with classifier-free guidance; without it the network has half the"
        " work (default: all)",
        default=None,
        parse=_interval,
        metavar="LOW,HIGH",
        check=_check_interval,
        span="two timesteps from 0 up, the lower one first",
    )
    mode_scale: float | None = number(
        "strength of mode guidance, 0 is off (default: the generator's, 0.1 for DiT)", default=None
    )
    t_stop: int | None = option(
        "guide while the step index is above this (default: the generator's, half of the steps for DiT)",
        default=None,
        parse=int,
        metavar="N",
        span="a whole number from 0 to the steps that it counts in",
    )
    t_stop_of: int | None = whole(
        "steps that --t-stop counts in: with 50, guidance stops at the noise level where 50 steps stop,"
        " whatever --steps is (default: the steps of the run)",
        default=None,
    )
    guidance_form: str = option(
        "form of mode guidance; auto is posterior for ddpm and epsilon for the others",
        default="auto",
        choices=GUIDANCE_FORMS,
    )
    cache_steps: int | None = whole(
        "run the blocks of a DiT on every N-th step alone, once mode guidance has ended, and forecast what"
        " they add on the others (default: 1)",
        default=None,
    )
    cache_order: int | None = whole(
        "0 reuses what the blocks added last, 1 and 2 continue it (default: 0)",
        default=None,
        lowest=0,
        highest=2,
    )
    cache_from: int | None = whole(
        "highest step index that may be forecast (default: that of --t-stop; all without mode guidance)",
        default=None,
        lowest=0,
    )
    prompts: Path | str | None = path(
        "file of what Stable Diffusion calls the classes: lines of class, tab and prompt, or a line for each"
        " class in label order (default: their names)",
        default=None,
    )
    prompt_template: str | None = option(
        "prompt with {} where the class goes, such as 'a photo of a {}' (default: {})",
        default=None,
        metavar="TEXT",
    )
    synonyms: str | None = option(
        "what the prompt calls a class of ImageNet: the first of its synonyms, or all (default: first)",
        default=None,
        choices=SYNONYMS,
    )
    negative_prompt: str | None = option(
        "what Stable Diffusion is led away from (default: an empty prompt)", default=None, metavar="TEXT"
    )
    image_size: int | None = whole(
        "side that images are resized to before they are written (default: the generator's, not resized; of"
        " real images that of --generator where it is given, else 256 for ImageNet's names, 32 for mnist5k,"
        " the power of two from 32 to 256 that they have pixels for)",
        default=None,
        metavar="PX",
    )
    backend: str = option("what runs the network", default="auto", choices=BACKENDS)
    batch_size: int | str = option(
        "images per batch; auto depends on the whole run and the device only",
        default="auto",
        parse=auto_or_int,
        metavar="N|auto",
        check=_check_auto_or_whole,
        span="auto, or a whole number of at least 1",
    )
    shard: str = shard_option(
        "do the I-th of N parts; parts may run at the same time, on any machines, into one --out"
    )
    workers: int | str = option(
        "processes of this machine that share the work; auto is one for every GPU, one on a CPU; ray is one"
        " for every GPU of a Ray cluster, or processor where it has none",
        default="auto",
        parse=auto_or_int,
        metavar="N|auto|ray",
        check=_check_workers,
        span="auto, ray, or a whole number of at least 1",
    )
    ray_address: str | None = option(
        "HOST:PORT of the head of the Ray cluster (default: $RAY_ADDRESS, the cluster that this machine is a"
        " node of, or a Ray of this machine alone)",
        default=None,
        metavar="HOST:PORT",
    )
    format: str = option(
        "imagefolder names folders by class, numeric by label; the others are made of an imagefolder, in"
        " OUT/FORMAT",
        default="imagefolder",
        choices=FORMATS,
    )
    trace: str | None = trace_option()
    trace_stops: str | None = trace_stops_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_workers()
        if "://" in str(self.out):
            self._check_on_store()
        self._check_sampling()
        if self.precision == "fp8":
            self._check_backend(FLOAT8_BACKENDS, "precision fp8")
        if self.cache_steps is None and (self.cache_order, self.cache_from) != (None, None):
            raise UserError("cache_order and cache_from must come with cache_steps")
        if self.caches:
            self._check_backend(CACHING_BACKENDS, "--cache-steps")
        if self.trace is None and self.trace_stops is not None:
            raise UserError(f"trace_stops must come with trace, got {self.trace_stops!r} alone")
        for name in FOREIGN[self.method]:
            if getattr(self, name) is not None:
                raise UserError(
                    f"{name} must be left out with method {self.method}, which does not have it,"
                    f" got {getattr(self, name)}"
                )

    def _check_workers(self) -> None:
        if self.workers == "ray" and self.device.startswith("cuda:"):
            raise UserError(f"device must be auto, cpu or cuda with --workers ray, got {self.device!r}")
        if re.fullmatch(r"cuda:\d+", self.device) and self.workers not in ("auto", 1):
            raise UserError(
                f"workers must be 1 with --device {self.device}, which is one GPU, got {self.workers}: give"
                " --device cuda, and they take the GPUs in turn"
            )
        if self.ray_address is not None and self.workers != "ray":
            raise UserError(f"ray_address must come with --workers ray, got {self.ray_address!r} alone")

    def _check_sampling(self) -> None:
        """Refuse settings of the sampler that do not go together."""
        if self.t_stop is not None:
            check_whole("t_stop", self.t_stop, 0, self.t_stop_of or self.steps)
        if self.cfg_interval is not None and self.cfg_scale == 1.0:
            raise UserError("cfg_interval must be left out with cfg_scale 1, which is no guidance")
        if self.eta > 0 and self.sampler not in (None, "ddim"):
            why = "which has its own noise" if self.sampler == "ddpm" else "it is an option of ddim"
            raise UserError(f"eta must be 0 with sampler {self.sampler}, {why}, got {self.eta:g}")
        if self.preset is None:
            self._check_offset()

    def _check_backend(self, backends: Sequence[str], asked: str) -> None:
        if self.backend not in backends:
            raise UserError(
                f"backend must be one of {', '.join(backends)} with {asked}, got {self.backend!r}"
            )

    def _check_on_store(self) -> None:
        """Refuse what is made of a folder of images."""
        if self.format not in FORMATS_ON_STORE:
            raise UserError(
                f"format must be {' or '.join(FORMATS_ON_STORE)} with --out {self.out}, where images lie in"
                f" tar files of WebDataset, got {self.format!r}"
            )
        if self.trace is not None:
            raise UserError(
                f"trace must be left out with --out {self.out}, got {self.trace!r}: it needs a folder"
            )

    @property
    def caches(self) -> bool:
        """Whether steps are left out by `cache_steps`."""
        return (self.cache_steps or 1) > 1

    def completed(self, presets: Mapping[str, Mapping[str, Any]]) -> DistillConfig:
        """Fill what was not given from the settings of `preset`.

        Args:
            presets: A generator's options by name, of each preset that it has.

        Returns:
            The configuration; a `t_stop` of the preset keeps its share of the steps.

        Raises:
            UserError: What was given does not fit what was filled in.
        """
        if self.preset is None:
            return self
        if self.preset == "fast":
            self._check_fast(presets)
        foreign, chosen = FOREIGN[self.method], presets.get(self.preset, {})
        filled = {
            name: value
            for name, value in chosen.items()
            if name not in foreign and getattr(self, name) is None
        }
        counted = self.t_stop_of or self.steps
        if counted is not None and "t_stop" in filled:
            filled["t_stop"] = round(filled["t_stop"] * counted / chosen["steps"])
        if self.cfg_scale == 1.0:
            filled.pop("cfg_interval", None)
        if "steps_offset" in filled and self.spacing not in (None, "leading"):
            del filled["steps_offset"]
        completed = replace(self, **filled)
        completed._check_offset()
        return completed

    def _check_offset(self) -> None:
        """Refuse an offset where the spacing, which a preset may give, has none."""
        if self.steps_offset and self.spacing != "leading":
            raise UserError(f"steps_offset must come with spacing leading, got {self.steps_offset} alone")

    def _check_fast(self, presets: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse "fast" for a generator without it, and beside steps that its mode scale is not for."""
        if "fast" not in presets:
            raise UserError("--preset must be paper for this generator: fast is for a DiT of 50 DDPM steps")
        for name in ("sampler", "steps"):
            value, own = getattr(self, name), presets["fast"][name]
            unscaled = "mode_scale" not in FOREIGN[self.method] and self.mode_scale is None
            if value not in (None, own) and unscaled:
                raise UserError(
                    f"--mode-scale must be given with --{name} {value} and --preset fast; that is for {own}"
                )

    def traced(self) -> list[tuple[str, int]]:
        """Read `trace`: class name and number of each image to trace; none by default."""
        return [] if self.trace is None else read_images(self.trace)

    def stops_traced(self, steps: int, t_stop: int) -> list[int]:
        """Read `trace_stops`.

        Args:
            steps: S, of the run.
            t_stop: Of the run.

        Returns:
            Each t_stop to trace, ascending.

        Raises:
            UserError: If one is not a whole number from 0 to S.
        """
        return read_stops(self.trace_stops, steps) if self.trace_stops else sorted({0, t_stop, steps})

    def shard_of(self) -> tuple[int, int]:
        """Read `shard`: the number of this part, from 1, and how many parts there are."""
        return read_shard(self.shard)

    def sampling(self, defaults: SamplingDefaults) -> SamplingDefaults:
        """Fill every `None` from a generator's defaults.

        Args:
            defaults: The generator's. Its `t_stop` keeps its share of the steps that it counts in; with few
                steps it is lowered, so that the first of them is guided.

        Returns:
            The settings of the run.

        Raises:
            UserError: If what was given does not fit what was filled in.
        """
        given = {name: getattr(self, name) for name in SAMPLING if getattr(self, name) is not None}
        steps = given.get("steps", defaults.steps)
        counted = self.t_stop_of or steps
        share = round(defaults.t_stop * counted / defaults.steps)
        chosen = replace(defaults, **{"t_stop": max(0, min(share, counted - 2)), **given})
        filled = {name: getattr(chosen, name) for name in SAMPLING}
        replace(self, method="mgd3", start_strength=None, **filled)  # checks them against each other
        return chosen
