"""What each backend costs in accuracy and gains in speed, in each number format, on this machine.

Shape letters: N images, C channels, H W latent size.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from mgd3_engine import GuidedSampler, ModeGuidance, backend_names, image_seeds
from mgd3_fast.config.distill import FLOAT8_BACKENDS
from mgd3_fast.config.encode import PRECISIONS
from mgd3_fast.devices import device_name, resolve_device, resolve_precision
from mgd3_fast.errors import UserError
from mgd3_fast.generators import Generator, TextGenerator, load_generator
from mgd3_fast.generators.prompts import ClassPrompts
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.sampler import sampler_of
from mgd3_fast.storage.cache import default_cache_dir
from mgd3_fast.versions import installed_version

REFERENCE = ("eager", "fp32")
FIGURES = ("relative_rms", "largest", "images_per_s", "speedup", "prepared_s")
IMAGES_CPU, IMAGES_CUDA = 16, 64
ROUNDS = 3
SEED = 0
PROMPTS = ("dog", "church", "parachute")  # for a generator that is conditioned on text


def measure_accuracy(
    generator: str = "demo-mnist5k", *, device: str = "auto", progress: Progress = SILENT
) -> dict[str, Any]:
    """Sample the same images by every backend in every number format, and compare with eager in float32.

    The run is guided, with the generator's own settings; its modes are normal noise.

    Args:
        generator: As `load_generator` takes it.
        device: auto, cpu, cuda or cuda:N.
        progress: Receives a line for each backend and format.

    Returns:
        JSON values: what was run, where, and a record for each pair under `results`. It holds `backend`,
        `precision`, `works`, `reason` (why it does not run here; the figures are then None), `relative_rms`
        (root mean square of the final latents' difference from the reference, over the reference's own),
        `largest` (the largest difference, over the same), `images_per_s` (from the fastest of `ROUNDS` runs),
        `speedup` (over the reference, whose runs alternate with these) and `prepared_s` (seconds that making
        the sampler and its first run took beyond a run: loading, compiling, exporting).

    Raises:
        UserError: The generator or the device cannot be had.
    """
    bench = _Bench(load_generator(generator), resolve_device(device))
    results = []
    for backend in backend_names():
        for precision in PRECISIONS[1:]:
            results.append(bench.outcome(backend, precision))
            progress.note(_described(results[-1]))
    defaults = bench.generator.defaults
    return {
        "generator": bench.generator.name,
        "device": device_name(bench.device),
        "threads": torch.get_num_threads(),
        "torch": installed_version("torch"),
        "images": bench.images,
        "sampler": defaults.sampler,
        "steps": defaults.steps,
        "reference": " ".join(REFERENCE),
        "results": results,
    }


def _described(outcome: dict[str, Any]) -> str:
    name = f"{outcome['backend']} {outcome['precision']}"
    if not outcome["works"]:
        return f"{name}: does not run: {outcome['reason']}"
    return (
        f"{name}: relative rms {outcome['relative_rms']:.1e}, largest {outcome['largest']:.1e};"
        f" {outcome['images_per_s']:.3g} images/s, {outcome['speedup']:.2f}x;"
        f" prepared in {outcome['prepared_s']:.1f} s"
    )


class _Bench:
    """One generator on one device, its reference latents, and the images that everybody samples."""

    def __init__(self, generator: Generator, device: torch.device) -> None:
        if isinstance(generator, TextGenerator):
            generator = generator.for_prompts(ClassPrompts(class_names=PROMPTS, texts=PROMPTS))
        self.generator, self.device = generator, device
        self.images = IMAGES_CUDA if device.type == "cuda" else IMAGES_CPU
        class_ids = torch.arange(self.images) % generator.num_classes
        noise = torch.Generator().manual_seed(SEED)
        modes = torch.randn(self.images, *generator.latent_shape, generator=noise)
        seeds = image_seeds(SEED, [(str(int(c)), k) for k, c in enumerate(class_ids)])
        self._arguments = (class_ids, modes, seeds)
        self._reference = self._sampler(*REFERENCE)
        self._want = self._run(self._reference)[0]

    def outcome(self, backend: str, precision: str) -> dict[str, Any]:
        """Run one backend in one format; whatever it raises is the finding."""
        figures, reason = dict.fromkeys(FIGURES), None
        try:
            figures |= self._measured(backend, precision)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        pair = {"backend": backend, "precision": precision, "reason": reason}
        return {**pair, **figures, "works": reason is None}

    def _measured(self, backend: str, precision: str) -> dict[str, float]:
        if precision == "fp8" and backend not in FLOAT8_BACKENDS:
            raise UserError(f"precision must be fp32, bf16 or fp16 for backend {backend}, got fp8")
        started = time.perf_counter()
        sampler = self._sampler(backend, precision)
        latents, _ = self._run(sampler)
        first_s = time.perf_counter() - started
        own, reference = [], []
        for _ in range(ROUNDS):
            reference.append(self._run(self._reference)[1])
            own.append(self._run(sampler)[1])
        difference, scale = latents - self._want, float(self._want.square().mean().sqrt())
        return {
            "relative_rms": float(difference.square().mean().sqrt()) / scale,
            "largest": float(difference.abs().max()) / scale,
            "images_per_s": self.images / min(own),
            "speedup": min(reference) / min(own),
            "prepared_s": max(0.0, first_s - min(own)),
        }

    def _sampler(self, backend: str, precision: str) -> GuidedSampler:
        defaults = self.generator.defaults
        precision = resolve_precision(precision, self.device)
        return sampler_of(self.generator, self.device, precision, defaults)(
            guidance=ModeGuidance(scale=defaults.mode_scale, t_stop=defaults.t_stop),
            backend=backend,
            cache_dir=default_cache_dir(),
            batch_size=self.images,
        )

    def _run(self, sampler: GuidedSampler) -> tuple[Tensor, float]:
        """Sample the images; returns latents on the CPU `[N, C, H, W]` and seconds."""
        started = time.perf_counter()
        latents = sampler.sample(*self._arguments)  # class_ids are on the CPU, and so the result
        return latents, time.perf_counter() - started
