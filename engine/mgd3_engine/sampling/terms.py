"""Evaluation of guidance terms beside the fused step, in plain torch.

Shape letters: B images of the batch without padding, C channels, H W latent size, R rows of the network's
input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mgd3_engine.sampling.batches import BatchBuffers
from mgd3_engine.sampling.conditioning import StepNetwork
from mgd3_engine.sampling.guidance import GuidanceTerm, StepState
from mgd3_engine.sampling.schedule import RespacedSchedule
from mgd3_kernels import Coefficient
from mgd3_kernels.guided_step import clean_latent


@dataclass(frozen=True)
class TermEvaluator:
    """Runs the network once for the step and the terms alike, and adds up the terms' deltas.

    Args:
        terms: At least one term.
        respaced: The schedule of the run.
        table: float32 `[S, len(Coefficient)]` of the run.
        cfg_scale: Scale of classifier-free guidance.
        cfg_channels: Channels it acts on.
    """

    terms: Sequence[GuidanceTerm]
    respaced: RespacedSchedule
    table: Tensor
    cfg_scale: float
    cfg_channels: int

    def evaluate(
        self, network: StepNetwork, buffers: BatchBuffers, net_input: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Call the network, with gradients if a term needs them, then every term.

        Args:
            network: The network, the batch's classes loaded.
            buffers: The batch.
            net_input: The rows of `buffers.net_input` that this step runs, `[B or 2B, C, H, W]`.
            step: Respaced index i.

        Returns:
            The network's output, detached, and the sum of the deltas, float32 `[B, C, H, W]`.

        Raises:
            ValueError: A term returned something that is not a delta on x_{i-1}.
        """
        images = len(buffers.image_index)
        x_t = buffers.x[:images].clone()
        with torch.set_grad_enabled(any(term.needs_grad for term in self.terms)):
            if torch.is_grad_enabled():
                x_t.requires_grad_()
                state_rows = torch.cat([x_t, buffers.x[images:]])  # [B + padding, C, H, W]
                net_input = state_rows.repeat(len(net_input) // len(state_rows), 1, 1, 1).to(net_input.dtype)
            out = network(net_input, step)
            state = self._state(x_t, out, buffers, step)
            delta = torch.zeros_like(buffers.x[:images])
            for term in self.terms:
                delta = delta + _checked_delta(term, state)
        return out.detach(), delta.detach()

    def _state(self, x_t: Tensor, out: Tensor, buffers: BatchBuffers, step: int) -> StepState:
        images = len(x_t)
        k = dict(zip(Coefficient, self.table[step].unbind(), strict=True))
        real = torch.cat([half[:images] for half in torch.split(out, len(buffers.x))])  # [B or 2B, ..]
        x0, sigma = clean_latent(x_t, real, k, self.cfg_scale, self.cfg_channels)
        abar = float(self.respaced.alphas_cumprod[step])
        mean = k[Coefficient.NEXT_FROM_X0] * x0 + k[Coefficient.NEXT_FROM_X] * x_t
        if buffers.history is not None:
            mean = mean + k[Coefficient.NEXT_FROM_PREVIOUS] * buffers.history[:images]
        return StepState(
            x_t=x_t,
            x0=x0,
            eps=(x_t - math.sqrt(abar) * x0) / math.sqrt(1.0 - abar),
            mean=mean,
            sigma=sigma.expand_as(x_t),
            step=step,
            timestep=int(self.respaced.timesteps[step]),
            class_ids=buffers.class_ids[:images],
            modes=None if buffers.modes is None else buffers.modes[:images],
            image_index=buffers.image_index,
        )


def _checked_delta(term: GuidanceTerm, state: StepState) -> Tensor:
    delta = term(state)
    if not isinstance(delta, Tensor) or delta.shape != state.x_t.shape:
        got = list(delta.shape) if isinstance(delta, Tensor) else type(delta).__name__
        raise ValueError(
            f"guidance term {type(term).__name__} must return a delta on x_(i-1) of shape"
            f" {list(state.x_t.shape)}, got {got}"
        )
    return delta
