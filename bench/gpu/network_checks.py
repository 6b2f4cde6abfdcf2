"""What a GPU must show of the DiT itself; `checks.py` runs these and writes what they return.

Shape letters: N rows of a batch, T tokens, d hidden size.

On the CPU they run tiny networks and judge no speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.gpu.adaln_arguments import KERNEL, REFERENCE, AdaLN, make_adaln
from bench.gpu.checking import Setting, make_replay, median_seconds, relative_rms, require
from bench.gpu.sampler_checks import TINY, matmul_rate, random_dit, timed
from mgd3_engine.backends import BackendRequest, HoistedDenoiser, create_backend
from mgd3_engine.dit import DiT, DiTConfig, dit_config, float8_linears
from mgd3_engine.dit.float8 import missing_float8
from mgd3_kernels import quantise_rows

# max |error| / max |expected| against float64, kernel: it rounds once (2^-9), in float32 about ten times.
ADALN_BOUND = {"fp32": 1e-6, "bf16": 4e-3, "fp16": 5e-4}
# The interpreter adds one number after the other, and cuts bfloat16 off.
ADALN_BOUND_INTERPRETED = {"fp32": 4e-6, "bf16": 8e-3, "fp16": 5e-4}
ADALN_COPY_SHARE_GOAL = 0.95
BF16_SHARE_GOAL, FP8_SPEEDUP_GOAL = 0.75, 1.4
# Relative root mean square of a product of 8-bit operands.
FLOAT8_BOUND = 0.042
XL, XL_DEPTH, ROWS = dit_config("DiT-XL/2"), 8, 256


def expected_adaln(case: AdaLN) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The updated tokens in float64, and the norm of tokens in float64."""
    exact = {name: tensor.double() for name, tensor in vars(case).items()}

    def norm(tokens: Tensor) -> Tensor:
        normed = F.layer_norm(tokens.double(), tokens.shape[-1:], eps=1e-6)
        return normed * (1 + exact["scale"][:, None]) + exact["shift"][:, None]

    return exact["tokens"] + exact["gate"][:, None] * exact["branch"], norm


def check_adaln_against_float64(setting: Setting) -> dict[str, Any]:
    """Both operations of the kernel, every dtype, published and awkward sizes; repeated, the same bytes."""
    shapes = [(64, 256, 1152), (256, 256, 384), (7, 16, 160), (3, 5, 37), (2, 3, 8192)]
    shapes = shapes if setting.on_gpu else [(2, 3, 48), (1, 5, 37)]
    bounds = ADALN_BOUND if setting.on_gpu else ADALN_BOUND_INTERPRETED
    norm, residual = KERNEL
    errors, different = dict.fromkeys(bounds, 0.0), 0
    for shape in shapes:
        for dtype in bounds:
            case, again = (make_adaln(setting.device, shape, dtype) for _ in range(2))
            want, norm_of = expected_adaln(case)
            pairs = [(case.norm(norm), norm_of(case.tokens))]
            normed = case.residual(residual)
            pairs += [(case.tokens, want), (normed, norm_of(case.tokens))]
            worst = max(float((got - exact).abs().max() / exact.abs().max()) for got, exact in pairs)
            errors[dtype] = max(errors[dtype], worst)
            different += not torch.equal(again.residual(residual), normed)
    figures = {"max_relative_error": errors, "runs_that_differ": different}
    holds = not different and all(errors[dtype] < bounds[dtype] for dtype in bounds)
    return require(holds, f"error beyond {bounds}", figures)


def check_adaln_bandwidth(setting: Setting) -> dict[str, Any]:
    """At 256 rows of DiT-XL/2 residual and adaLN move their bytes at 95% of the bandwidth of a copy."""
    figures: dict[str, Any] = {}
    for rows in (256, 16, 2) if setting.on_gpu else (1,):
        case = make_adaln(setting.device, (rows, 256, 1152) if setting.on_gpu else (1, 2, 48))
        traffic = case.residual_bytes()
        source = torch.zeros(traffic // 2, dtype=torch.uint8, device=setting.device)
        target = torch.empty_like(source)
        runs: dict[str, Callable[[], object]] = {
            "kernel": lambda case=case: case.residual(KERNEL[1]),
            "eager": lambda case=case: case.residual(REFERENCE[1]),
            "copy": lambda source=source, target=target: target.copy_(source),
        }
        seconds = {
            name: median_seconds(setting, make_replay(setting, run), setting.size(50, 1))
            for name, run in runs.items()
        }
        figures[str(rows)] = {f"{name}_us": round(1e6 * s, 2) for name, s in seconds.items()} | {
            "gb_per_s": round(traffic / seconds["kernel"] * 1e-9, 1),
            "share_of_copy": round(seconds["copy"] / seconds["kernel"], 3),
        }
    holds = not setting.on_gpu or figures["256"]["share_of_copy"] >= ADALN_COPY_SHARE_GOAL
    return require(holds, f"below {ADALN_COPY_SHARE_GOAL} of a copy's bandwidth", figures)


def check_float8(setting: Setting) -> dict[str, Any]:
    """8-bit linear maps lie within the format's own error of bfloat16, at the shapes of DiT-XL/2."""
    reason = missing_float8(setting.device)
    if reason:
        return {"skipped": f"{setting.device} {reason}"}
    config = replace(XL, depth=1) if setting.on_gpu else TINY
    network = random_dit(config, setting.device, torch.bfloat16)
    quantised = float8_linears(network)
    figures: dict[str, float] = {}
    for layer, name in (("attn", "qkv"), ("attn", "proj"), ("mlp", "fc1"), ("mlp", "fc2")):
        exact, rough = (getattr(getattr(net.blocks[0], layer), name) for net in (network, quantised))
        tokens = torch.randn(4, config.num_tokens, exact.in_features, device=setting.device).bfloat16()
        want = tokens.double() @ exact.weight.double().t()
        figures[name] = relative_rms(rough(quantise_rows(tokens)) - exact.bias, want)
    return require(max(figures.values()) < FLOAT8_BOUND, f"beyond {FLOAT8_BOUND}", figures)


def check_network_rate(setting: Setting) -> dict[str, Any]:
    """TFLOP/s of DiT-XL/2's blocks at 256 rows, bf16 and fp8, eager and compiled; share of the matmul rate.

    Eight blocks of the 28, all alike: compiling them takes a third of the time.
    """
    config = replace(XL, depth=XL_DEPTH) if setting.on_gpu else TINY
    rows, work = setting.size(ROWS, 8), tflop(config, setting.size(ROWS, 8))
    networks = {"bf16": random_dit(config, setting.device, torch.bfloat16)}
    figures: dict[str, Any] = {"rows": rows, "blocks": config.depth, "tflop": round(work, 4)}
    if not missing_float8(setting.device):
        networks["fp8"] = float8_linears(networks["bf16"])
    for precision, network in networks.items():
        figures[f"{precision}_matmul_tflops"] = round(matmul_rate(setting, precision), 5)
        for backend in ("eager", "compiled") if setting.on_gpu else ("eager",):
            name = f"{precision}_{backend}"
            seconds, first_s = forward_seconds(setting, network, backend, rows)
            figures[f"{name}_first_call_s"] = round(first_s, 1)
            figures[f"{name}_tflops"] = round(work / seconds, 2)
            share = work / seconds / figures[f"{precision}_matmul_tflops"]
            figures[f"{name}_matmul_share"] = round(share, 3)
    if not setting.on_gpu:
        return figures
    best = {p: max(figures[f"{p}_{b}_tflops"] for b in ("eager", "compiled")) for p in networks}
    # What 8 bits promise, they promise without compiling.
    best |= {"fp8": figures["fp8_eager_tflops"]} if "fp8" in networks else {}
    holds = best["bf16"] >= BF16_SHARE_GOAL * figures["bf16_matmul_tflops"]
    if "fp8" in best:
        figures["fp8_over_bf16"] = round(best["fp8"] / best["bf16"], 3)
        holds = holds and figures["fp8_over_bf16"] >= FP8_SPEEDUP_GOAL
    reason = f"bf16 below {BF16_SHARE_GOAL} of the matmul rate, or eager fp8 below {FP8_SPEEDUP_GOAL} of bf16"
    return require(holds, reason, figures)


@torch.no_grad()
def forward_seconds(setting: Setting, network: DiT, backend: str, rows: int) -> tuple[float, float]:
    """Seconds of `denoise`, and of its first call."""
    request = BackendRequest(denoiser=network, device=setting.device, dtype=torch.bfloat16, rows=rows)
    _, denoiser = create_backend(backend, request)
    assert isinstance(denoiser, HoistedDenoiser)
    config = network.config
    x = torch.randn(rows, config.in_channels, config.input_size, config.input_size, device=setting.device)
    x, ids = x.bfloat16(), torch.zeros(rows, dtype=torch.int64, device=setting.device)
    modulation = denoiser.modulation(ids, ids)
    started = time.perf_counter()
    denoiser.denoise(x, modulation).sum().item()
    first_s = time.perf_counter() - started
    return timed(setting, lambda: denoiser.denoise(x, modulation), setting.size(10, 1)), first_s


def tflop(config: DiTConfig, rows: int) -> float:
    """Work of the matrix products of one `denoise`, counted on the meta device."""
    with torch.device("meta"):
        network = DiT(config)
        x = torch.empty(rows, config.in_channels, config.input_size, config.input_size)
        modulation = torch.empty(rows, (6 * config.depth + 2) * config.hidden_size)
        with FlopCounterMode(display=False) as counter:
            network.denoise(x, modulation)
    return float(counter.get_total_flops()) * 1e-12


CHECKS = {
    "adaln-against-float64": check_adaln_against_float64,
    "adaln-bandwidth": check_adaln_bandwidth,
    "float8": check_float8,
    "network-rate": check_network_rate,
}
