"""Mode-guided reverse diffusion of any number of images, in batches of fixed shapes.

Shape letters: N images of a call, B rows of state per batch, R rows of the network's input (2B with
classifier-free guidance, else B), C channels, H W latent size, S respaced steps.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor, nn

from mgd3_engine.backends import BackendRequest, create_backend
from mgd3_engine.denoiser import Denoiser
from mgd3_engine.sampling.batches import BatchBuffers, batch_shapes, plan_batches
from mgd3_engine.sampling.callback import StepCallback
from mgd3_engine.sampling.checks import check_caches, check_finite, check_options, check_output
from mgd3_engine.sampling.coefficients import MULTISTEP_METHODS, NOISY_METHODS, step_table
from mgd3_engine.sampling.conditioning import bind_network
from mgd3_engine.sampling.feature_cache import FeatureCache
from mgd3_engine.sampling.graphs import CaptureError, CudaRecorder, Recorder, why_not
from mgd3_engine.sampling.guidance import GuidanceTerm, ModeGuidance
from mgd3_engine.sampling.inputs import SampleInputs
from mgd3_engine.sampling.noise import NoiseSource, draw_noise
from mgd3_engine.sampling.phases import Phase, cfg_steps, first_step, jumps, plan_cache, split_steps
from mgd3_engine.sampling.schedule import NoiseSchedule
from mgd3_engine.sampling.terms import TermEvaluator
from mgd3_engine.sampling.workspaces import Workspace, Workspaces
from mgd3_kernels import guided_step

DEFAULT_GUIDANCE = ModeGuidance()
MOST_WORKSPACES = 4

_log = logging.getLogger(__name__)


class GuidedSampler:
    """Samples latents from a class-conditional diffusion model, each pulled to its own mode (MGD3).

    Every step is one call of the network and one of `guided_step`. The state is float32. With classifier-free
    guidance the network sees it twice: with the class and with the null class. On CUDA the steps of a phase
    (guided or not, with the null class or without) are one launch of a graph, captured after the first batch.

    At one batch shape, the bytes of an image depend on its class, mode and seed alone. They do not depend on
    what shares its batch, on the order, or on how many calls the images are spread over.

    Args:
        denoiser: The network, see `Denoiser`: (x `[R, C, H, W]` of `dtype`, timestep int64 `[R]`, class_ids
            int64 `[R]`) -> `[R, C or 2C, H, W]`. 2C channels are the prediction, then the learned variance.
        schedule: What the network was trained with.
        method: "ddpm", "ddim", "dpmpp" (DPM-Solver++(2M)) or "dpmpp-sde" (its stochastic form).
        steps: S, from 1 to the schedule's length.
        spacing: "linspace", "ddim" or "leading", see `NoiseSchedule.respaced`.
        steps_offset: First timestep of "leading".
        eta: Noise of ddim, 0..1.
        prediction: "epsilon" or "v".
        variance: "fixed_small" or "fixed_large" for a network with C channels, "learned_range" to insist on
            2C. With 2C channels the learned variance is used; "fixed_large" is then an error.
        cfg_scale: Classifier-free guidance, null + cfg_scale (cond - null); 1 is off and halves the work.
        null_class: Id of the null class; may be None where `cfg_scale` is 1.
        cfg_channels: Guide the first so many channels (3 of 4 as DiT's authors sample); None is all.
        cfg_interval: Lowest and highest timestep (both included, 0..T-1) with classifier-free guidance; on
            the other steps the network runs the conditional rows alone. None is all.
        guidance: Mode guidance; None for a run without.
        cache: Leave the blocks of a DiT out on some steps; None runs all on every step. Backend eager alone.
        terms: Further guidance, added to x_{i-1} beside the mode term.
        start_strength: Begin at the mode, noised to the first of this share of the steps (D4M, Su et al.
            2024), instead of at noise; None is off.
        backend: What runs the network: "auto", "eager", "compiled", "onnxruntime" or "tensorrt"; see
            `backend_names`.
        batch_size: Images per batch, rounded up to a multiple of 8 (1 stays 1). With several sizes, a call is
            cut into batches of the largest, and each batch has the smallest that holds its images.
        device: Where the network runs; None is where a module's parameters are, and the CPU for a function.
        dtype: dtype of the network's input: float32, bfloat16 or float16.
        graphs: "auto" captures where it can and logs why where it cannot, "on" raises instead, "off" never
            captures. The bytes of an image do not depend on it.
        cache_dir: Folder where a backend keeps graphs and engines for later runs; None keeps none.

    Raises:
        ValueError: An option is out of range; the message names it, the rule and the value.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        schedule: NoiseSchedule,
        method: str = "ddpm",
        steps: int = 50,
        spacing: str = "linspace",
        steps_offset: int = 0,
        eta: float = 0.0,
        prediction: str = "epsilon",
        variance: str = "fixed_small",
        cfg_scale: float = 4.0,
        null_class: int | None,
        cfg_channels: int | None = None,
        cfg_interval: tuple[int, int] | None = None,
        guidance: ModeGuidance | None = DEFAULT_GUIDANCE,
        cache: FeatureCache | None = None,
        terms: Sequence[GuidanceTerm] = (),
        start_strength: float | None = None,
        backend: str = "auto",
        batch_size: int | Sequence[int] = 64,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        graphs: str = "auto",
        cache_dir: Path | None = None,
    ) -> None:
        check_options(cfg_scale, null_class, cfg_channels, cfg_interval, len(schedule), dtype, graphs)
        self.batch_shapes = batch_shapes(batch_size)
        self.respaced = schedule.respaced(steps, spacing, offset=steps_offset)
        first = first_step(steps, start_strength)
        self.guidance = guidance = None if guidance is None else guidance.resolve(method, steps)
        self._phases = split_steps(first, guidance, cfg_steps(self.respaced, first, cfg_interval), cache)
        self._plan = plan_cache(self._phases, cache)
        table = step_table(
            self.respaced,
            method=method,
            eta=eta,
            prediction=prediction,
            variance=variance,
            guidance=guidance,
            first_order=jumps(self._phases),
        )
        self.device = _device_of(denoiser) if device is None else torch.device(device)
        self.dtype = dtype
        self.terms = tuple(terms)
        self._variance = variance
        self._cfg_scale, self._cfg_channels = float(cfg_scale), cfg_channels
        self._null_class = None if cfg_scale == 1.0 or cfg_channels == 0 else null_class
        self._noisy = method in NOISY_METHODS or eta > 0.0
        self._multistep = method in MULTISTEP_METHODS
        self._halves = 1 if self._null_class is None else 2
        request = BackendRequest(
            denoiser=denoiser,
            device=self.device,
            dtype=dtype,
            rows=self._halves * self.batch_shape,
            cache_dir=cache_dir,
        )
        self.backend, self._denoiser = create_backend(backend, request)
        if self._plan:
            check_caches(self._denoiser, self.backend, any(term.needs_grad for term in self.terms))
        self._start_level = None if start_strength is None else float(self.respaced.alphas_cumprod[first])
        self._table = table.to(self.device)
        self._steps = torch.arange(steps, device=self.device)  # [S], the counter that guided_step reads
        self._timesteps = torch.from_numpy(self.respaced.timesteps.copy()).to(self.device)  # [S]
        self._graphs = graphs
        self._recorder = self._make_recorder()
        self._workspaces = Workspaces(MOST_WORKSPACES)
        self._busy = Lock()

    @property
    def batch_shape(self) -> int:
        """B of every batch but, with several batch sizes, a call's last."""
        return self.batch_shapes[0]

    @property
    def network_rows(self) -> int:
        """Rows of the network's input that an image takes, all steps whose blocks are run together."""
        return sum(
            self._halves if phase.cfg else 1
            for phase in self._phases
            for step in phase.steps
            if not self._plan.get(step)
        )

    @property
    def preparation(self) -> str:
        """What the first batch of a shape does beside sampling, in words; empty where that is nothing."""
        compiling = "compiling the network" if self.backend == "compiled" else ""
        capturing = "" if self._recorder is None else "capturing CUDA graphs"
        return " and ".join(filter(None, (compiling, capturing)))

    @torch.no_grad()
    def sample(
        self,
        class_ids: Tensor,
        modes: Tensor | None,
        seeds: Tensor | None,
        *,
        latent_shape: tuple[int, int, int] | None = None,
        noise: NoiseSource | None = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """Denoise one latent per class id, from noise to x_0.

        Args:
            class_ids: int64 `[N]`.
            modes: float32 `[N, C, H, W]`, in the units of the latents; None for a run without modes.
            seeds: int64 or uint64 `[N]`: 64-bit key of each image's noise (`image_seed`); None with `noise`.
            latent_shape: (C, H, W); needed where `modes` is None.
            noise: Replaces the counter-based noise, see `NoiseSource`; not called where a step adds none.
            callback: Sees each step, see `StepCallback`; the tensor is the live state, copy it to keep it.

        Returns:
            float32 `[N, C, H, W]`, on the device of `class_ids`.

        Raises:
            ValueError: A shape, dtype or value is wrong, or an image came out as NaN or infinity.
        """
        inputs = SampleInputs.checked(class_ids, modes, seeds, latent_shape, self._null_class)
        if seeds is None and noise is None:
            raise ValueError("seeds must be int64 or uint64 [N] where no noise is given, got None")
        needs_modes = self._phases[0].guided or self._start_level is not None
        if modes is None and needs_modes:
            raise ValueError(
                "modes must be float32 [N, C, H, W] for a guided run, got None; or guidance=None"
            )
        if self._graphs == "on" and (noise is not None or callback is not None):
            raise ValueError("graphs must be auto or off where noise or callback is given, got on")
        if not (needs_modes or self.terms):
            inputs = replace(inputs, modes=None)
        latents = torch.empty(len(class_ids), *inputs.latent_shape, device=class_ids.device)
        keep_groups = any(term.needs_group for term in self.terms)
        with self._busy:
            for image_index in plan_batches(inputs.class_ids, self.batch_shape, keep_groups=keep_groups):
                workspace = self._workspace(inputs, len(image_index))
                workspace.load(inputs, image_index, self._null_class)
                self._denoise(workspace, noise, callback)
                done = workspace.buffers.x[: len(image_index)]
                check_finite(done, image_index, self.dtype)
                latents[image_index.to(latents.device)] = done.to(latents.device)
        return latents

    def warm_up(self, latent_shape: tuple[int, int, int]) -> None:
        """Compile and capture everything for every batch shape, largest first, on images of no meaning.

        Args:
            latent_shape: (C, H, W).

        Raises:
            ValueError: As `sample`.
        """
        for rows in self.batch_shapes:
            class_ids = torch.full((rows,), int(self._null_class == 0))
            self.sample(class_ids, torch.zeros(rows, *latent_shape), torch.arange(rows))

    def _make_recorder(self) -> Recorder | None:
        """Make what captures the phases, or None for phases that run step by step."""
        if self._graphs == "off":
            return None
        reason = why_not(self.device, bool(self.terms))
        if reason and self._graphs == "on":
            raise ValueError(f"graphs must be auto or off where {reason}, got on")
        if reason:
            _log.info("graphs auto is off: %s", reason)
            return None
        return CudaRecorder(self.device)

    def _workspace(self, inputs: SampleInputs, images: int) -> Workspace:
        rows = min(shape for shape in self.batch_shapes if shape >= images)
        network_rows = self._halves * rows

        def make() -> Workspace:
            buffers = BatchBuffers.allocate(
                inputs, rows, network_rows, self.device, self.dtype, multistep=self._multistep
            )
            most_classes = rows + self._halves - 1
            return Workspace(
                buffers,
                bind_network(self._denoiser, self._timesteps, network_rows, most_classes, self._plan),
            )

        return self._workspaces.get(rows, inputs, make)

    def _denoise(
        self, workspace: Workspace, noise: NoiseSource | None, callback: StepCallback | None
    ) -> None:
        """Take one batch from its starting noise to x_0, phase after phase."""
        buffers = workspace.buffers
        buffers.start(draw_noise(len(self.respaced), buffers, noise), self._start_level)
        for phase in self._phases:
            run = partial(self._run_phase, phase, workspace, noise, callback)
            if self._recorder is None or noise is not None or callback is not None:
                run()
                continue
            try:
                workspace.graphs.run(phase, run, self._recorder)
            except CaptureError as error:
                self._go_on_without_graphs(error)

    def _go_on_without_graphs(self, error: CaptureError) -> None:
        reason = str(error).partition("\n")[0]
        if self._graphs == "on":
            raise ValueError(f"graphs must be auto or off for this network, got on: {reason}") from error
        _log.warning("graphs auto is off from now on: %s", reason)
        self._recorder = None

    def _run_phase(
        self, phase: Phase, workspace: Workspace, noise: NoiseSource | None, callback: StepCallback | None
    ) -> None:
        buffers = workspace.buffers
        for step in phase.steps:
            self._run_step(step, workspace, phase, noise)
            if callback is not None:
                callback(step, buffers.image_index, buffers.x[: len(buffers.image_index)])

    def _run_step(self, step: int, workspace: Workspace, phase: Phase, noise: NoiseSource | None) -> None:
        """Advance the batch from x_i to x_{i-1}; what differs between batches is in tensors on the device."""
        buffers, network, delta = workspace.buffers, workspace.network, None
        net_input = buffers.net_input if phase.cfg else buffers.net_input[: len(buffers.x)]
        if self.terms:
            out, delta = self._evaluator(buffers).evaluate(network, buffers, net_input, step)
        else:
            out = network(net_input, step)
        check_output(out, net_input, self._variance)
        same_pass = delta is None and out.dtype == buffers.net_input.dtype
        noisy = self._noisy and step > 0
        guided_step(
            buffers.x,
            out,
            self._table,
            self._steps[step],
            cfg_scale=self._cfg_scale,
            cfg_channels=self._channels(buffers),
            modes=buffers.modes if phase.guided else None,
            seeds=buffers.seeds if noisy and noise is None else None,
            noise=draw_noise(step, buffers, noise) if noisy and noise is not None else None,
            net_input=buffers.net_input if same_pass else None,
            history=buffers.history,
        )
        if delta is not None:
            buffers.x[: len(delta)] += delta
        if not same_pass:
            buffers.write_net_input()

    def _channels(self, buffers: BatchBuffers) -> int:
        return buffers.x.shape[1] if self._cfg_channels is None else self._cfg_channels

    def _evaluator(self, buffers: BatchBuffers) -> TermEvaluator:
        return TermEvaluator(self.terms, self.respaced, self._table, self._cfg_scale, self._channels(buffers))


def _device_of(denoiser: Denoiser) -> torch.device:
    if isinstance(denoiser, nn.Module):
        for parameter in denoiser.parameters():
            return parameter.device
    return torch.device("cpu")
