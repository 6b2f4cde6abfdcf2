"""What the main job is asked to do."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from mgd3_fast.config.discover import DiscoverConfig
from mgd3_fast.config.encode import read_shard
from mgd3_fast.config.fields import auto_or_int, check_number, check_whole, option
from mgd3_fast.config.sampling import SamplingDefaults
from mgd3_fast.errors import UserError

GENERATED_METHODS = ("mgd3", "unguided", "d4m")
REAL_METHODS = ("random", "herding", "kmeans-closest")
SAMPLERS = ("ddpm", "ddim", "dpmpp", "dpmpp-sde")
SPACINGS = ("linspace", "ddim")
GUIDANCE_FORMS = ("auto", "posterior", "epsilon", "x0")
BACKENDS = ("auto", "eager", "compiled", "tensorrt", "onnxruntime")
FLOAT8_BACKENDS = ("auto", "eager", "compiled")
FORMATS = ("imagefolder", "numeric", "tensor", "parquet", "webdataset")


def _interval(text: str) -> tuple[int, int]:
    low, high = text.split(",")
    return int(low), int(high)


@dataclass(frozen=True, kw_only=True)
class DistillConfig(DiscoverConfig):
    """Everything the main job is asked to do; `None` stands for the generator's own default."""

    method: str = option(
        "mgd3; to compare with: unguided (the generator alone), d4m (start at the noised mode), or real"
        " images, chosen without a generator: random, herding, kmeans-closest",
        default=GENERATED_METHODS[0],
        choices=(*GENERATED_METHODS, *REAL_METHODS),
    )
    start_strength: float | None = option(
        "share of the steps that d4m takes from the noised mode (default: 0.7)",
        default=None,
        parse=float,
        metavar="X",
    )
    modes: Path | str | None = option(
        "modes.safetensors of an earlier run or of `discover` (default: the one in --out, if any)",
        default=None,
        parse=Path,
        metavar="PATH",
    )
    sampler: str | None = option(
        "reverse process; dpmpp is DPM-Solver++(2M), for about 20 steps, dpmpp-sde its form with noise"
        " (default: the generator's)",
        default=None,
        choices=SAMPLERS,
    )
    steps: int | None = option(
        "denoising steps (default: the generator's, 50 for DiT)", default=None, parse=int, metavar="N"
    )
    spacing: str = option("which of the timesteps are visited", default="linspace", choices=SPACINGS)
    eta: float = option("noise of ddim, from 0 (none) to 1", default=0.0, parse=float, metavar="X")
    cfg_scale: float | None = option(
        "classifier-free guidance (default: the generator's, 4.0 for DiT)",
        default=None,
        parse=float,
        metavar="X",
    )
    cfg_interval: tuple[int, int] | None = option(
        "timesteps, lowest and highest, with classifier-free guidance; without it the network has half the"
        " work (default: all)",
        default=None,
        parse=_interval,
        metavar="LOW,HIGH",
    )
    mode_scale: float | None = option(
        "strength of mode guidance, 0 is off (default: the generator's, 0.1 for DiT)",
        default=None,
        parse=float,
        metavar="X",
    )
    t_stop: int | None = option(
        "guide while the step index is above this (default: the generator's, half of the steps for DiT)",
        default=None,
        parse=int,
        metavar="N",
    )
    t_stop_of: int | None = option(
        "steps that --t-stop counts in: with 50, guidance stops at the noise level where 50 steps stop,"
        " whatever --steps is (default: the steps of the run)",
        default=None,
        parse=int,
        metavar="N",
    )
    guidance_form: str = option(
        "form of mode guidance; auto is posterior for ddpm and epsilon for the others",
        default="auto",
        choices=GUIDANCE_FORMS,
    )
    prompts: Path | str | None = option(
        "file of what Stable Diffusion calls the classes: lines of class, tab and prompt, or a line for each"
        " class in label order (default: their names)",
        default=None,
        parse=Path,
        metavar="PATH",
    )
    prompt_template: str | None = option(
        "prompt with {} where the class goes, such as 'a photo of a {}' (default: {})",
        default=None,
        metavar="TEXT",
    )
    negative_prompt: str | None = option(
        "what Stable Diffusion is led away from (default: an empty prompt)", default=None, metavar="TEXT"
    )
    backend: str = option("what runs the network", default="auto", choices=BACKENDS)
    batch_size: int | str = option(
        "images per batch; auto depends on the whole run and the device only",
        default="auto",
        parse=auto_or_int,
        metavar="N|auto",
    )
    shard: str = option(
        "do the I-th of N parts; parts may run at the same time, on any machines, into one --out",
        default="1/1",
        metavar="I/N",
    )
    format: str = option(
        "imagefolder names folders by class, numeric by label; the others are made of an imagefolder, in"
        " OUT/FORMAT",
        default="imagefolder",
        choices=FORMATS,
    )
    trace: str | None = option(
        "also draw the denoising of these images, CLASS/NUMBER,.., into OUT/trace.png",
        default=None,
        metavar="IMAGES",
    )
    trace_stops: str | None = option(
        "values of t_stop to draw it for, separated by commas (default: 0, the run's own and none)",
        default=None,
        metavar="N,..",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None:
            check_whole("steps", self.steps, 1)
        if self.t_stop_of is not None:
            check_whole("t_stop_of", self.t_stop_of, 1)
        if self.t_stop is not None:
            check_whole("t_stop", self.t_stop, 0, self.t_stop_of or self.steps)
        self._check_interval()
        for name in ("cfg_scale", "mode_scale"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0.0)
        check_number("eta", self.eta, 0.0, 1.0)
        if self.eta > 0 and self.sampler == "ddpm":
            raise UserError(f"eta must be 0 with sampler ddpm, which has its own noise, got {self.eta:g}")
        if self.eta > 0 and self.sampler not in (None, "ddim"):
            raise UserError(
                f"eta must be 0 with sampler {self.sampler}, it is an option of ddim, got {self.eta:g}"
            )
        if self.batch_size != "auto":
            check_whole("batch_size", self.batch_size, 1)
        if self.precision == "fp8" and self.backend not in FLOAT8_BACKENDS:
            backends = ", ".join(FLOAT8_BACKENDS)
            raise UserError(f"backend must be one of {backends} with precision fp8, got {self.backend!r}")
        self.shard_of()
        self.traced()
        if self.trace is None and self.trace_stops is not None:
            raise UserError(f"trace_stops must come with trace, got {self.trace_stops!r} alone")
        self._check_method()

    def _check_method(self) -> None:
        """Refuse options that the method does not have."""
        guidance = ("mode_scale", "t_stop", "t_stop_of")
        prompting = ("prompts", "prompt_template", "negative_prompt")
        sampling = ("sampler", "steps", "cfg_scale", "cfg_interval", *guidance, "start_strength")
        generation = ("modes", "vae", *prompting, *sampling, "trace")
        foreign = {
            "mgd3": ("start_strength",),
            "unguided": (*guidance, "start_strength"),
            "d4m": guidance,
        }.get(self.method, generation)
        for name in foreign:
            if getattr(self, name) is not None:
                raise UserError(
                    f"{name} must be left out with method {self.method}, which does not have it,"
                    f" got {getattr(self, name)}"
                )
        if self.start_strength is not None:
            check_number("start_strength", self.start_strength, 0.0, 1.0)

    def _check_interval(self) -> None:
        """Refuse an interval that is no two timesteps, or that limits nothing."""
        if self.cfg_interval is None:
            return
        match self.cfg_interval:
            case (int(low), int(high)) if 0 <= low <= high:
                pass
            case other:
                raise UserError(f"cfg_interval must be LOW,HIGH, two timesteps from 0 up, got {other!r}")
        if self.cfg_scale == 1.0:
            raise UserError("cfg_interval must be left out with cfg_scale 1, which is no guidance")

    def traced(self) -> list[tuple[str, int]]:
        """Read `trace`.

        Returns:
            Class name and number of each image to trace; none by default.

        Raises:
            UserError: If it is not CLASS/NUMBER,...
        """
        if self.trace is None:
            return []
        if not re.fullmatch(r"[^/]+/\d+\s*(,[^/]+/\d+\s*)*", self.trace):
            raise UserError(f"trace must be CLASS/NUMBER, several separated by commas, got {self.trace!r}")
        images = re.findall(r"([^/]+)/(\d+)\s*,?", self.trace)  # class names may hold commas
        return [(name.strip(), int(number)) for name, number in images]

    def stops_traced(self, steps: int, t_stop: int) -> list[int]:
        """Read `trace_stops`.

        Args:
            steps: S of the run.
            t_stop: Its own t_stop.

        Returns:
            Each t_stop to trace, ascending.

        Raises:
            UserError: If one is not a whole number from 0 to S.
        """
        if self.trace_stops is None:
            return sorted({0, t_stop, steps})
        stops = self.trace_stops.split(",")
        if not all(stop.strip().isdecimal() and int(stop) <= steps for stop in stops):
            raise UserError(f"trace_stops must be numbers from 0 to {steps}, got {self.trace_stops!r}")
        return sorted({int(stop) for stop in stops})

    def shard_of(self) -> tuple[int, int]:
        """Read `shard`.

        Returns:
            The number of this part, from 1, and how many parts there are.

        Raises:
            UserError: If it is not I/N with 1 <= I <= N.
        """
        return read_shard(self.shard)

    def sampling(self, defaults: SamplingDefaults) -> SamplingDefaults:
        """Fill every `None` from a generator's defaults; `t_stop` keeps its share of the steps it counts in.

        Args:
            defaults: What the generator is sampled with unless told otherwise.

        Returns:
            Sampler, steps, scales and `t_stop` of this run, `t_stop` still in steps of `t_stop_of`.

        Raises:
            UserError: If what was given does not fit what was filled in.
        """
        names = ("sampler", "steps", "cfg_scale", "mode_scale", "t_stop")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        steps = given.get("steps", defaults.steps)
        counted = self.t_stop_of or steps
        chosen = replace(defaults, **{"t_stop": round(defaults.t_stop * counted / defaults.steps), **given})
        filled = {name: getattr(chosen, name) for name in names}
        replace(self, method="mgd3", start_strength=None, **filled)  # checks them against each other
        return chosen
