"""What a run is asked to do: frozen configurations, checked when they are made.

Each stage needs what the stage before it needs and a little more, so `EncodeConfig` grows into
`DiscoverConfig` and that into `DistillConfig`. The command line reads its options, defaults and help from
these fields.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mgd3_fast.errors import UserError
from mgd3_fast.fields import LARGEST_SEED, auto_or_int, check_number, check_options, check_whole, option

if TYPE_CHECKING:
    from mgd3_fast.generators import SamplingDefaults

GENERATED_METHODS = ("mgd3", "unguided", "d4m")
REAL_METHODS = ("random", "herding", "kmeans-closest")
TRAIN_PARTS = ("train", "fit")
SAMPLERS = ("ddpm", "ddim")
SPACINGS = ("linspace", "ddim")
GUIDANCE_FORMS = ("auto", "posterior", "epsilon", "x0")
DISCOVERIES = ("kmeans", "kmeans-closest", "kmeans-pooled", "gmm", "gmm-pca", "dbscan", "spectral", "random")
PROJECTIONS = ("tsne", "pca")
KMEANS_ENGINES = ("auto", "sklearn", "cuml", "triton")
BACKENDS = ("auto", "eager", "compiled", "tensorrt", "onnxruntime")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "fp8")
FLOAT8_BACKENDS = ("auto", "eager", "compiled")
FORMATS = ("imagefolder", "numeric", "tensor", "parquet", "webdataset")
ON_BAD_IMAGE = ("error", "skip")
FLIPS = ("none", "random", "both")
STORAGES = ("fp32", "fp16")


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """What the encode stage needs: a dataset and the autoencoder of a generator.

    Raises:
        UserError: If a field is out of range; the message names the field, the rule and the value.
    """

    dataset: str = option(
        "mnist5k, imagenet1k, imagenet100, imagenette, imagewoof, imageidc, imagenet-a .. imagenet-e,"
        " the path of a folder with one folder of images per class, hf:owner/name[:config][@revision]"
        " (Hugging Face, streamed; also hf:./folder of parquet files), or wds:pattern (WebDataset shards)",
        metavar="NAME|PATH|hf:...|wds:...",
    )
    data_dir: Path | str | None = option(
        "ILSVRC tree that the imagenet names are class lists over, or the folder of its tar files as"
        " downloaded (default: $IMAGENET_DIR)",
        default=None,
        parse=Path,
        metavar="PATH",
    )
    classes: str | None = option(
        "only these classes: names separated by commas (default: all)", default=None, metavar="NAMES"
    )
    split: str = option(
        "train: all training images; fit: without those that `evaluate --eval-split val` tests on",
        default="train",
        choices=TRAIN_PARTS,
    )
    generator: str = option(
        "auto (demo-mnist5k for mnist5k, else dit-xl-2-256), demo-mnist5k, dit-xl-2-256, dit-xl-2-512,"
        " stable-diffusion-1-5, a checkpoint file, a generator folder, a diffusers folder or a hub id",
        default="auto",
        metavar="NAME|PATH|ID",
    )
    vae: str | None = option(
        "another autoencoder than the generator's own: a diffusers folder or hub id",
        default=None,
        metavar="PATH|ID",
    )
    on_bad_image: str = option(
        "what to do about an image that cannot be read", default="error", choices=ON_BAD_IMAGE
    )
    precision: str = option(
        "number format of the networks; auto is fp32 on a CPU, bf16 on a GPU that has it; fp8 is bf16 with"
        " 8-bit linear maps in the blocks of a DiT, for GPUs of capability 8.9 and later",
        default="auto",
        choices=PRECISIONS,
    )
    device: str = option("auto, cpu, cuda or cuda:N", default="auto", metavar="NAME")
    cache_dir: Path | str | None = option(
        "where latents are kept for later runs (default: $MGD3_CACHE or ~/.cache/mgd3-fast)",
        default=None,
        parse=Path,
        metavar="PATH",
    )
    flip: str = option(
        "mirror images before they are encoded: random mirrors half of them, the same half in every run;"
        " both keeps each image and its mirror image",
        default="none",
        choices=FLIPS,
    )
    storage: str = option(
        "number format of latents on disk; fp16 takes half the room", default="fp32", choices=STORAGES
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}")


def read_shard(shard: str) -> tuple[int, int]:
    """Read "I/N".

    Args:
        shard: What `--shard` was given.

    Returns:
        The number of this part, from 1, and how many parts there are.

    Raises:
        UserError: If it is not I/N with 1 <= I <= N.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise UserError(f"shard must be I/N with I from 1 to N, got {shard!r}")
    return part, parts


@dataclass(frozen=True, kw_only=True)
class EncodeShareConfig(EncodeConfig):
    """What the encode command is asked to do."""

    shard: str = option(
        "encode the I-th of N parts of the classes, or of a stream's shards; parts may run at the same time,"
        " on any machines, into one --cache-dir",
        default="1/1",
        metavar="I/N",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        read_shard(self.shard)


@dataclass(frozen=True, kw_only=True)
class DiscoverConfig(EncodeConfig):
    """What the discover stage needs besides latents: how many modes per class, found how, written where."""

    ipc: int = option("images per class, and so modes per class", parse=int, metavar="N")
    out: Path | str = option("folder that receives the result", parse=Path, metavar="PATH")
    discovery: str = option("how modes are found in the latents", default="kmeans", choices=DISCOVERIES)
    kmeans: str = option(
        "what runs K-means; auto is triton (all classes at once) on a GPU, else sklearn; their modes differ",
        default="auto",
        choices=KMEANS_ENGINES,
    )
    seed: int = option("seed of the run: of the modes and of every image", default=0, parse=int, metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("ipc", self.ipc, 1)
        check_whole("seed", self.seed, 0, LARGEST_SEED)


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """How the modes of a run are drawn."""

    projection: str = option(
        "plane that --plot maps latents and modes to; tsne takes seconds a class",
        default="tsne",
        choices=PROJECTIONS,
    )
    plot_classes: str | None = option(
        "classes that --plot draws, as for --classes (default: the first 10)", default=None, metavar="NAMES"
    )

    def __post_init__(self) -> None:
        check_options(self)


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
    sampler: str | None = option("reverse process (default: the generator's)", default=None, choices=SAMPLERS)
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
    guidance_form: str = option(
        "form of mode guidance; auto is posterior for ddpm and epsilon for ddim",
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
        if self.t_stop is not None:
            check_whole("t_stop", self.t_stop, 0, self.steps)
        for name in ("cfg_scale", "mode_scale"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0.0)
        check_number("eta", self.eta, 0.0, 1.0)
        if self.eta > 0 and self.sampler == "ddpm":
            raise UserError(f"eta must be 0 with sampler ddpm, which has its own noise, got {self.eta:g}")
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
        guidance = ("mode_scale", "t_stop")
        prompting = ("prompts", "prompt_template", "negative_prompt")
        sampling = ("sampler", "steps", "cfg_scale", *guidance, "start_strength")
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
        """Fill every `None` from a generator's defaults; `t_stop` keeps its share of the steps.

        Args:
            defaults: What the generator is sampled with unless told otherwise.

        Returns:
            Sampler, steps, scales and `t_stop` of this run.

        Raises:
            UserError: If what was given does not fit what was filled in.
        """
        names = ("sampler", "steps", "cfg_scale", "mode_scale", "t_stop")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        steps = given.get("steps", defaults.steps)
        chosen = replace(defaults, **{"t_stop": round(defaults.t_stop * steps / defaults.steps), **given})
        filled = {name: getattr(chosen, name) for name in names}
        replace(self, method="mgd3", start_strength=None, **filled)  # checks them against each other
        return chosen
