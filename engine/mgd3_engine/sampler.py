"""Mode-guided reverse diffusion of any number of images, in batches of one fixed shape.

Shape letters: N images of a call, B rows of state per batch, R rows of the network's input (2B with
classifier-free guidance, else B), C channels, H W latent size, S respaced steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from mgd3_engine.backends import BackendRequest, Denoiser, create_backend
from mgd3_engine.batches import BatchBuffers, padded_rows, plan_batches
from mgd3_engine.coefficients import step_table
from mgd3_engine.guidance import GuidanceTerm, ModeGuidance
from mgd3_engine.inputs import LatentShape, SampleInputs
from mgd3_engine.schedule import NoiseSchedule
from mgd3_engine.terms import TermEvaluator
from mgd3_kernels import guided_step, philox_normal

NoiseSource = Callable[[int, int], Tensor]
"""(step, image_index) -> float32 `[C, H, W]`: the starting noise at step S, the noise added at step i > 0."""

StepCallback = Callable[[int, Tensor, Tensor], None]
"""(step i, image_index int64 `[n]` on the CPU, x_{i-1} float32 `[n, C, H, W]`) of one batch, after step i."""

DEFAULT_GUIDANCE = ModeGuidance()


class GuidedSampler:
    """Samples latents from a class-conditional diffusion model, each pulled to its own mode (MGD3).

    The state is float32 and holds the conditional rows only; the network sees them twice, with the class
    and with the null class. Every step is one call of the network and one of `guided_step`.

    At one `batch_shape` the bytes of an image depend on its class, mode and seed alone: not on what shares
    its batch, on order, or on how many calls the images are spread over.

    Args:
        denoiser: (x `[R, C, H, W]` of `dtype`, timestep int64 `[R]`, class_ids int64 `[R]`) ->
            `[R, C or 2C, H, W]`; 2C channels are the prediction, then the learned variance. A row of the
            output must depend on that row of the input alone.
        schedule: What the network was trained with.
        method: "ddpm" or "ddim".
        steps: S, from 1 to the schedule's length.
        spacing: "linspace" or "ddim", see `NoiseSchedule.respaced`.
        eta: Noise of ddim, 0..1.
        prediction: "epsilon" or "v".
        variance: "fixed_small" or "fixed_large" for a network with C channels, "learned_range" to insist on
            2C. With 2C channels the learned variance is used; "fixed_large" is then an error.
        cfg_scale: Classifier-free guidance, null + cfg_scale (cond - null); 1 is off and halves the work.
        null_class: Id of the null class; may be None where `cfg_scale` is 1.
        cfg_channels: Guide the first so many channels (3 of 4 as DiT's authors sample); None is all.
        guidance: Mode guidance; None for a run without.
        terms: Further guidance, added to x_{i-1} beside the mode term.
        backend: What runs the network: "auto", "eager" or "compiled".
        batch_size: Images per batch, rounded up to a multiple of 8 (1 stays 1).
        device: Where the network runs; None is where a module's parameters are, and the CPU for a function.
        dtype: dtype of the network's input: float32, bfloat16 or float16.

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
        eta: float = 0.0,
        prediction: str = "epsilon",
        variance: str = "fixed_small",
        cfg_scale: float = 4.0,
        null_class: int | None,
        cfg_channels: int | None = None,
        guidance: ModeGuidance | None = DEFAULT_GUIDANCE,
        terms: Sequence[GuidanceTerm] = (),
        backend: str = "auto",
        batch_size: int = 64,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _check_options(cfg_scale, null_class, cfg_channels, dtype)
        self.batch_shape = padded_rows(batch_size)
        self.respaced = schedule.respaced(steps, spacing)
        table = step_table(
            self.respaced, method=method, eta=eta, prediction=prediction, variance=variance, guidance=guidance
        )
        self.guidance = None if guidance is None else guidance.resolve(method)
        self.device = _device_of(denoiser) if device is None else torch.device(device)
        self.dtype = dtype
        self.terms = tuple(terms)
        self._variance = variance
        self._cfg_scale, self._cfg_channels = float(cfg_scale), cfg_channels
        self._null_class = None if cfg_scale == 1.0 or cfg_channels == 0 else null_class
        self._noisy = method == "ddpm" or eta > 0.0
        network_rows = self.batch_shape * (1 if self._null_class is None else 2)
        self.backend, self._denoiser = create_backend(
            backend,
            BackendRequest(denoiser=denoiser, device=self.device, dtype=dtype, rows=network_rows),
        )
        self._table = table.to(self.device)
        self._steps = torch.arange(steps, device=self.device)  # [S], the counter that guided_step reads
        timesteps = torch.from_numpy(self.respaced.timesteps.copy()).to(self.device)
        self._timesteps = timesteps[:, None].repeat(1, network_rows)  # [S, R]

    @torch.no_grad()
    def sample(
        self,
        class_ids: Tensor,
        modes: Tensor | None,
        seeds: Tensor | None,
        *,
        latent_shape: LatentShape | None = None,
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
        if modes is None and self._last_guided_step() is not None:
            raise ValueError(
                "modes must be float32 [N, C, H, W] for a guided run, got None; or guidance=None"
            )
        latents = torch.empty(len(class_ids), *inputs.latent_shape, device=class_ids.device)
        if not len(class_ids):
            return latents
        buffers = BatchBuffers.allocate(inputs, self.batch_shape, self._null_class, self.device, self.dtype)
        keep_groups = any(term.needs_group for term in self.terms)
        for image_index in plan_batches(class_ids.cpu(), self.batch_shape, keep_groups=keep_groups):
            buffers.load(inputs, image_index)
            self._denoise(buffers, noise, callback)
            done = buffers.x[: len(image_index)]
            _check_finite(done, image_index, self.dtype)
            latents[image_index.to(latents.device)] = done.to(latents.device)
        return latents

    def _last_guided_step(self) -> int | None:
        """Return the smallest guided index, t_stop + 1, or None where no step is guided."""
        guidance, S = self.guidance, len(self.respaced)
        if guidance is None or guidance.scale == 0.0 or guidance.t_stop >= S - 1:
            return None
        return guidance.t_stop + 1

    def _denoise(
        self, buffers: BatchBuffers, noise: NoiseSource | None, callback: StepCallback | None
    ) -> None:
        """Take one batch from its starting noise to x_0: the guided phase, then the unguided one."""
        S = len(self.respaced)
        buffers.start(self._noise(S, buffers, noise))
        last_guided = self._last_guided_step()
        first_unguided = S - 1 if last_guided is None else last_guided - 1
        self._run_phase(range(S - 1, first_unguided, -1), buffers, buffers.modes, noise, callback)
        self._run_phase(range(first_unguided, -1, -1), buffers, None, noise, callback)

    def _run_phase(
        self,
        steps: Iterable[int],
        buffers: BatchBuffers,
        modes: Tensor | None,
        noise: NoiseSource | None,
        callback: StepCallback | None,
    ) -> None:
        for step in steps:
            self._run_step(step, buffers, modes, noise)
            if callback is not None:
                callback(step, buffers.image_index, buffers.x[: len(buffers.image_index)])

    def _run_step(
        self, step: int, buffers: BatchBuffers, modes: Tensor | None, noise: NoiseSource | None
    ) -> None:
        """Advance the batch from x_i to x_{i-1}; every number that differs between steps is on the device."""
        timestep, delta = self._timesteps[step], None
        if self.terms:
            out, delta = self._evaluator(buffers).evaluate(self._denoiser, buffers, timestep, step)
        else:
            out = self._denoiser(buffers.net_input, timestep, buffers.class_ids)
        _check_output(out, buffers, self._variance)
        same_pass = delta is None and out.dtype == buffers.net_input.dtype
        noisy = self._noisy and step > 0
        guided_step(
            buffers.x,
            out,
            self._table,
            self._steps[step],
            cfg_scale=self._cfg_scale,
            cfg_channels=self._channels(buffers),
            modes=modes,
            seeds=buffers.seeds if noisy and noise is None else None,
            noise=self._noise(step, buffers, noise) if noisy and noise is not None else None,
            net_input=buffers.net_input if same_pass else None,
        )
        if delta is not None:
            buffers.x[: len(delta)] += delta
        if not same_pass:
            buffers.write_net_input()

    def _noise(self, step: int, buffers: BatchBuffers, noise: NoiseSource | None) -> Tensor:
        """Draw float32 `[B, C, H, W]` noise from the given source or the images' seeds."""
        B, *shape = buffers.x.shape
        if noise is None:
            assert buffers.seeds is not None
            return philox_normal(buffers.seeds, step, shape)
        drawn = []
        for index in buffers.image_index.tolist():
            drawn.append(noise(step, index))
            if list(drawn[-1].shape) != shape:
                raise ValueError(f"noise must return {shape}, got {list(drawn[-1].shape)} at step {step}")
        drawn += drawn[-1:] * (B - len(drawn))
        return torch.stack(drawn).to(device=self.device, dtype=torch.float32)

    def _channels(self, buffers: BatchBuffers) -> int:
        return buffers.x.shape[1] if self._cfg_channels is None else self._cfg_channels

    def _evaluator(self, buffers: BatchBuffers) -> TermEvaluator:
        return TermEvaluator(self.terms, self.respaced, self._table, self._cfg_scale, self._channels(buffers))


def _device_of(denoiser: Denoiser) -> torch.device:
    if isinstance(denoiser, nn.Module):
        for parameter in denoiser.parameters():
            return parameter.device
    return torch.device("cpu")


def _check_options(
    cfg_scale: float, null_class: int | None, cfg_channels: int | None, dtype: torch.dtype
) -> None:
    if not math.isfinite(cfg_scale) or cfg_scale < 0.0:
        raise ValueError(f"cfg_scale must be a finite number of at least 0, got {cfg_scale}")
    if cfg_channels is not None and cfg_channels < 0:
        raise ValueError(f"cfg_channels must be at least 0, or None for all, got {cfg_channels}")
    if null_class is None and cfg_scale != 1.0:
        raise ValueError(f"null_class must be the id of the null class for cfg_scale {cfg_scale}, got None")
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be float32, bfloat16 or float16, got {dtype}")


def _check_output(out: Tensor, buffers: BatchBuffers, variance: str) -> None:
    R, C, H, W = buffers.net_input.shape
    if tuple(out.shape) not in ((R, C, H, W), (R, 2 * C, H, W)):
        raise ValueError(
            f"denoiser must return [{R}, {C} or {2 * C}, {H}, {W}] for an input of {[R, C, H, W]},"
            f" got {list(out.shape)}"
        )
    learned = out.shape[1] == 2 * C
    if learned and variance == "fixed_large":
        raise ValueError(f"variance must be fixed_small or learned_range for a network of {2 * C} channels")
    if variance == "learned_range" and not learned:
        raise ValueError(f"variance must be fixed_small or fixed_large for a network of {C} channels")


def _check_finite(latents: Tensor, image_index: Tensor, dtype: torch.dtype) -> None:
    finite = torch.isfinite(latents).flatten(1).all(dim=1).cpu()
    if not finite.all():
        image = int(image_index[int((~finite).long().argmax())])
        raise ValueError(
            f"latents must be finite, got NaN or infinity for image {image}:"
            f" the network overflows in {dtype}, or mode_scale or cfg_scale is too large"
        )
