"""The fused step as one Triton kernel; `guided_step` documents it and checks its arguments.

Shape letters: B images, C channels, H W latent size, D = C*H*W.

Imported only by a launch: importing it needs Triton.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from mgd3_kernels.coefficients import Coefficient
from mgd3_kernels.triton_philox import philox_normal_tile

_X0_FROM_X = tl.constexpr(int(Coefficient.X0_FROM_X))
_X0_FROM_OUT = tl.constexpr(int(Coefficient.X0_FROM_OUT))
_X0_SHIFT = tl.constexpr(int(Coefficient.X0_SHIFT))
_NEXT_FROM_X0 = tl.constexpr(int(Coefficient.NEXT_FROM_X0))
_NEXT_FROM_X = tl.constexpr(int(Coefficient.NEXT_FROM_X))
_PUSH = tl.constexpr(int(Coefficient.PUSH))
_LOG_VAR_MIN = tl.constexpr(int(Coefficient.LOG_VAR_MIN))
_LOG_VAR_MAX = tl.constexpr(int(Coefficient.LOG_VAR_MAX))
_NOISE_SIGMA = tl.constexpr(int(Coefficient.NOISE_SIGMA))
_NOISE_STD = tl.constexpr(int(Coefficient.NOISE_STD))
_NEXT_FROM_PREVIOUS = tl.constexpr(int(Coefficient.NEXT_FROM_PREVIOUS))
_COLUMNS = tl.constexpr(len(Coefficient))

# Values of the constexpr NOISE.
NO_NOISE, GIVEN_NOISE, COUNTER_NOISE = range(3)
_GIVEN_NOISE = tl.constexpr(GIVEN_NOISE)
_COUNTER_NOISE = tl.constexpr(COUNTER_NOISE)

# Elements of one image for each program: 4 warps x 32 threads x one Philox block. On an H200 the best of
# sixteen at 256 images within 0.4% (8.20 us; 256 x 2 warps takes 8.17), 8% behind the best at 8 (2.35, 2.18).
BLOCK = 512
NUM_WARPS = 4


@triton.jit
def _load_prediction(
    out_ptr, image, B, offs, mask, offs_out, stride_row, cfg_scale, cfg_end, CFG: tl.constexpr
):
    """Network output of an image's conditional half, mixed with its null half below element `cfg_end`."""
    cond = tl.load(out_ptr + image * stride_row + offs_out, mask=mask).to(tl.float32)
    if CFG:
        guided = offs < cfg_end
        null_ptr = out_ptr + (image + B) * stride_row
        null = tl.load(null_ptr + offs_out, mask=mask & guided, other=0.0).to(tl.float32)
        cond = tl.where(guided, null + cfg_scale * (cond - null), cond)
    return cond


@triton.jit(do_not_specialize=["stream"])
def _guided_step_kernel(
    x_ptr,
    out_ptr,
    table_ptr,
    step_ptr,
    modes_ptr,
    seeds_ptr,
    noise_ptr,
    net_input_ptr,
    history_ptr,
    cfg_scale,
    cfg_end,
    stream,
    B,
    D,
    HW,
    variance_start,
    stride_row,
    stride_channel,
    stride_pixel,
    W,
    stride_patch_row,
    stride_patch_column,
    stride_line,
    PATCH: tl.constexpr,
    DENSE: tl.constexpr,
    CFG: tl.constexpr,
    LEARNED_VARIANCE: tl.constexpr,
    GUIDED: tl.constexpr,
    NOISE: tl.constexpr,
    INPUT_HALVES: tl.constexpr,
    HISTORY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    offs = tile * BLOCK + tl.arange(0, BLOCK)
    mask = offs < D
    if DENSE:
        offs_out = offs
    else:
        offs_out = (offs // HW).to(tl.int64) * stride_channel
        pixel = offs % HW
        if PATCH == 0:
            offs_out += pixel.to(tl.int64) * stride_pixel
        else:
            line, place = pixel // W, pixel % W
            offs_out += (line // PATCH).to(tl.int64) * stride_patch_row
            offs_out += (place // PATCH).to(tl.int64) * stride_patch_column
            offs_out += (line % PATCH) * stride_line + (place % PATCH) * stride_pixel

    step = tl.load(step_ptr)
    row_ptr = table_ptr + step.to(tl.int64) * _COLUMNS
    log_var = tl.load(row_ptr + _LOG_VAR_MIN)

    x = tl.load(x_ptr + image * D + offs, mask=mask)
    pred = _load_prediction(out_ptr, image, B, offs, mask, offs_out, stride_row, cfg_scale, cfg_end, CFG)
    if LEARNED_VARIANCE:
        variance_ptr = out_ptr + image * stride_row + variance_start
        fraction = (tl.load(variance_ptr + offs_out, mask=mask).to(tl.float32) + 1.0) * 0.5
        log_var = fraction * tl.load(row_ptr + _LOG_VAR_MAX) + (1.0 - fraction) * log_var
    sigma = tl.exp(0.5 * log_var)

    x0 = tl.load(row_ptr + _X0_FROM_X) * x + tl.load(row_ptr + _X0_FROM_OUT) * pred
    next_x = tl.load(row_ptr + _NEXT_FROM_X) * x
    if GUIDED:
        gap = tl.load(modes_ptr + image * D + offs, mask=mask) - x0
        next_x += tl.load(row_ptr + _PUSH) * sigma * gap
        x0 += tl.load(row_ptr + _X0_SHIFT) * gap
    next_x += tl.load(row_ptr + _NEXT_FROM_X0) * x0
    if HISTORY:
        previous = tl.load(history_ptr + image * D + offs, mask=mask)
        next_x += tl.load(row_ptr + _NEXT_FROM_PREVIOUS) * previous
        tl.store(history_ptr + image * D + offs, x0, mask=mask)

    if NOISE != 0:
        if NOISE == _GIVEN_NOISE:
            z = tl.load(noise_ptr + image * D + offs, mask=mask)
        else:
            seed = tl.load(seeds_ptr + image)
            z = philox_normal_tile(tile * (BLOCK // 4), seed, step.to(tl.uint32), stream.to(tl.uint32), BLOCK)
        next_x += (tl.load(row_ptr + _NOISE_SIGMA) * sigma + tl.load(row_ptr + _NOISE_STD)) * z

    tl.store(x_ptr + image * D + offs, next_x, mask=mask)
    for half in tl.static_range(INPUT_HALVES):
        input_ptr = net_input_ptr + (image + half * B) * D + offs
        tl.store(input_ptr, next_x.to(net_input_ptr.dtype.element_ty), mask=mask)


def launch(
    x: Tensor,
    out: Tensor,
    table: Tensor,
    step: Tensor,
    *,
    cfg_scale: float,
    cfg_channels: int,
    stream: int,
    modes: Tensor | None,
    seeds: Tensor | None,
    noise: Tensor | None,
    net_input: Tensor | None,
    history: Tensor | None,
) -> None:
    """Launch the kernel on arguments that `guided_step` has checked, on the device of x."""
    B, C, H, W = x.shape
    HW = H * W
    stride_row, stride_channel, *grid = out.stride()
    patch = 0 if out.ndim == 4 else out.shape[3]
    stride_patch_row, stride_line, stride_patch_column, stride_pixel = grid if patch else (0, 0, 0, grid[1])
    given_or_none = NO_NOISE if noise is None else GIVEN_NOISE
    noise_mode = COUNTER_NOISE if noise is None and seeds is not None else given_or_none
    with torch.cuda.device_of(x) if x.is_cuda else nullcontext():
        _guided_step_kernel[(B, triton.cdiv(C * HW, BLOCK))](
            x,
            out,
            table,
            step,
            modes,
            None if seeds is None else seeds.view(torch.int64),
            noise,
            net_input,
            history,
            float(cfg_scale),
            cfg_channels * HW,
            stream,
            B,
            C * HW,
            HW,
            C * stride_channel,
            stride_row,
            stride_channel,
            stride_pixel,
            W,
            stride_patch_row,
            stride_patch_column,
            stride_line,
            PATCH=patch,
            DENSE=out.ndim == 4 and stride_channel == HW and stride_pixel == 1,
            CFG=len(out) == 2 * B,
            LEARNED_VARIANCE=out.shape[1] == 2 * C,
            GUIDED=modes is not None,
            NOISE=noise_mode,
            INPUT_HALVES=0 if net_input is None else len(net_input) // B,
            HISTORY=history is not None,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
            enable_fp_fusion=True,
        )
