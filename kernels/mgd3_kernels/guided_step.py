"""One mode-guided reverse diffusion step in a single pass over the latents.

Shape letters: B images, C channels, H W latent size, P patch size, S steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mgd3_kernels.coefficients import Coefficient
from mgd3_kernels.launching import kernel_launcher, launches
from mgd3_kernels.philox import philox_normal

_OUT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Of one image: 32-bit offsets within it, and fewer tiles than a grid's second axis holds.
_MAX_ELEMENTS = 2**24


def guided_step_reference(
    x: Tensor,
    out: Tensor,
    table: Tensor,
    step: Tensor,
    *,
    cfg_scale: float = 1.0,
    cfg_channels: int = 0,
    modes: Tensor | None = None,
    seeds: Tensor | None = None,
    noise: Tensor | None = None,
    net_input: Tensor | None = None,
    history: Tensor | None = None,
    stream: int = 0,
) -> Tensor:
    """Advance the state by one reverse step in plain torch, float32.

    Arguments as `guided_step`.

    Returns:
        `x`, updated in place.

    Raises:
        ValueError: As `guided_step`.
    """
    _check_arguments(x, out, table, step, cfg_channels, stream, modes, seeds, noise, net_input, history)
    row = table.index_select(0, step.reshape(1)).reshape(-1)
    k = dict(zip(Coefficient, row.unbind(), strict=True))

    x0, sigma = clean_latent(x, out, k, cfg_scale, cfg_channels)
    push = None
    if modes is not None:
        gap = modes - x0
        x0 = x0 + k[Coefficient.X0_SHIFT] * gap
        push = k[Coefficient.PUSH] * sigma * gap
    next_x = k[Coefficient.NEXT_FROM_X0] * x0 + k[Coefficient.NEXT_FROM_X] * x
    if history is not None:
        next_x += k[Coefficient.NEXT_FROM_PREVIOUS] * history
        history.copy_(x0)
    if push is not None:
        next_x += push
    if noise is None and seeds is not None:
        noise = philox_normal(seeds, step, x.shape[1:], stream)
    if noise is not None:
        next_x += (k[Coefficient.NOISE_SIGMA] * sigma + k[Coefficient.NOISE_STD]) * noise

    x.copy_(next_x)
    if net_input is not None and x.numel():
        net_input.view(-1, *x.shape).copy_(x)  # [2B, C, H, W] as [2, B, C, H, W]
    return x


def clean_latent(
    x: Tensor, out: Tensor, k: Mapping[Coefficient, Tensor], cfg_scale: float, cfg_channels: int
) -> tuple[Tensor, Tensor]:
    """Predict x0 after classifier-free guidance, and sigma, in plain torch, float32; keeps gradients.

    Patches of `out` are put in their places first, in a copy.

    Args:
        x: As `guided_step`.
        out: As `guided_step`.
        k: The step's row of the table.
        cfg_scale: As `guided_step`.
        cfg_channels: As `guided_step`.

    Returns:
        x0 `[B, C, H, W]`, and sigma of that shape where the variance is learned, else `[]`.
    """
    B, C = x.shape[:2]
    out = out.reshape(*out.shape[:2], *x.shape[2:])  # [B or 2B, C or 2C, H, W]
    pred = out[:B, :C].float()  # [B, C, H, W]
    if len(out) == 2 * B:
        null = out[B:, :cfg_channels].float()
        pred = torch.cat([null + cfg_scale * (pred[:, :cfg_channels] - null), pred[:, cfg_channels:]], dim=1)
    log_var = k[Coefficient.LOG_VAR_MIN]
    if out.shape[1] == 2 * C:
        fraction = (out[:B, C:].float() + 1) / 2
        log_var = fraction * k[Coefficient.LOG_VAR_MAX] + (1 - fraction) * k[Coefficient.LOG_VAR_MIN]
    return k[Coefficient.X0_FROM_X] * x + k[Coefficient.X0_FROM_OUT] * pred, torch.exp(0.5 * log_var)


def guided_step(
    x: Tensor,
    out: Tensor,
    table: Tensor,
    step: Tensor,
    *,
    cfg_scale: float = 1.0,
    cfg_channels: int = 0,
    modes: Tensor | None = None,
    seeds: Tensor | None = None,
    noise: Tensor | None = None,
    net_input: Tensor | None = None,
    history: Tensor | None = None,
    stream: int = 0,
) -> Tensor:
    """Advance the state by one mode-guided reverse step: one Triton launch on CUDA, plain torch elsewhere.

    CFG, x0, learned variance, guidance, the DDPM, DDIM or DPM-Solver++(2M) update and the noise are
    `Coefficient`'s formula (MGD3, section 3 and Algorithm 1), evaluated in float32. Nothing is
    read back from the device, so the call can be captured in a CUDA graph and replayed with another `step`.

    Args:
        x: float32 `[B, C, H, W]`, contiguous, C*H*W up to 2**24: the state x_i; overwritten with x_{i-1}.
        out: float32, bfloat16 or float16 `[B or 2B, C or 2C, H, W]`: what the network returned. 2B rows mean
            classifier-free guidance (rows 0..B-1 conditional, B..2B-1 null). 2C channels mean that the
            second C are the learned variance. Batch and channel strides are free, pixels evenly spaced.
            `[.., .., H/P, P, W/P, P]` with any strides is read where it lies: what a network wrote patch
            after patch.
        table: float32 `[S, len(Coefficient)]`, contiguous.
        step: int32 or int64, one element: the respaced index i, 0..S-1, row of `table` and noise counter.
        cfg_scale: out = null + cfg_scale * (cond - null).
        cfg_channels: Guide channels below this, 0..C; the others use the conditional half as it is.
        modes: float32 `[B, C, H, W]`, contiguous; None for an unguided step.
        seeds: int64 or uint64 `[B]`: the noise is drawn from these counters (`philox_normal`).
        noise: float32 `[B, C, H, W]`, contiguous: noise to use instead. With neither, none is added.
        net_input: `out`'s dtype `[B or 2B, C, H, W]`, contiguous: receives x_{i-1}, in both halves of 2B.
        history: float32 `[B, C, H, W]`, contiguous: x0' of the step before, overwritten with this step's;
            must be finite also where NEXT_FROM_PREVIOUS is 0. None for methods of one step.
        stream: noise counter word 2, 0..2**32-1.

    Returns:
        `x`, updated in place.

    Raises:
        ValueError: A shape, dtype, device, layout or range is wrong, or x is on CUDA and Triton is missing.
    """
    options = {"modes": modes, "seeds": seeds, "noise": noise, "net_input": net_input, "history": history}
    if not launches(x):
        return guided_step_reference(
            x, out, table, step, cfg_scale=cfg_scale, cfg_channels=cfg_channels, stream=stream, **options
        )
    _check_arguments(x, out, table, step, cfg_channels, stream, **options)
    if x.numel():
        kernel_launcher("triton_guided_step")(
            x, out, table, step, cfg_scale=cfg_scale, cfg_channels=cfg_channels, stream=stream, **options
        )
    return x


def _check_arguments(
    x: Tensor,
    out: Tensor,
    table: Tensor,
    step: Tensor,
    cfg_channels: int,
    stream: int,
    modes: Tensor | None,
    seeds: Tensor | None,
    noise: Tensor | None,
    net_input: Tensor | None,
    history: Tensor | None,
) -> None:
    """Refuse what the kernel would read or write wrongly; looks at no tensor's values."""
    if x.ndim != 4:
        raise ValueError(f"x must be [B, C, H, W], got {list(x.shape)}")
    B, C, H, W = x.shape
    if C * H * W > _MAX_ELEMENTS:
        raise ValueError(f"x must have at most {_MAX_ELEMENTS} elements an image, got {C * H * W}")
    two = (B, 2 * B)
    grid = _grid(H, W, out)
    f32, ints = (torch.float32,), (torch.int64, torch.uint64)
    _check("x", x, x.device, f32, [(B, C, H, W)])
    _check("out", out, x.device, _OUT_DTYPES, [(n, c, *grid) for n in two for c in (C, 2 * C)], dense=False)
    _check("table", table, x.device, f32, [(table.shape[0] if table.ndim else 0, len(Coefficient))])
    _check("step", step, x.device, (torch.int32, torch.int64), [(), (1,)])
    for name, tensor in (("modes", modes), ("noise", noise), ("history", history)):
        if tensor is not None:
            _check(name, tensor, x.device, f32, [(B, C, H, W)])
    if seeds is not None:
        _check("seeds", seeds, x.device, ints, [(B,)])
    if net_input is not None:
        _check("net_input", net_input, x.device, (out.dtype,), [(n, C, H, W) for n in two])
    if out.ndim == 4 and H > 1 and W > 1 and out.stride(2) != W * out.stride(3):
        raise ValueError(f"out must have evenly spaced pixels, got strides {list(out.stride())}")
    if not 0 <= cfg_channels <= C:
        raise ValueError(f"cfg_channels must be from 0 to {C}, got {cfg_channels}")
    if not 0 <= stream <= 0xFFFFFFFF:
        raise ValueError(f"stream must be from 0 to 2**32-1, got {stream}")


def _grid(height: int, width: int, out: Tensor) -> tuple[int, ...]:
    """What must follow rows and channels of `out`: H and W, or both split into the patches that it has."""
    P = out.shape[3] if out.ndim == 6 else 0
    if P and height % P == 0 and width % P == 0:
        return height // P, P, width // P, P
    return height, width


def _check(
    name: str,
    tensor: Tensor,
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    shapes: list[tuple[int, ...]],
    dense: bool = True,
) -> None:
    if tensor.device != device:
        raise ValueError(f"{name} must be on the device of x, {device}, got {tensor.device}")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} must be {' or '.join(str(d) for d in dtypes)}, got {tensor.dtype}")
    if tuple(tensor.shape) not in shapes:
        allowed = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f"{name} must be {allowed}, got {list(tensor.shape)}")
    if dense and not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {list(tensor.stride())}")
