"""What a GPU must show of the DiT's fused products and of both its ends; `checks.py` runs these.

Shape letters: N rows of a batch, T tokens, i and o features in and out of a linear map, B images of a batch.

On the CPU they run small sizes and judge no speed; there the plain ways are compared with themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu.checking import Check, Setting, make_replay, median_seconds, relative_rms, require
from bench.gpu.network_checks import ROWS, XL
from bench.gpu.sampler_checks import TINY, make_images, make_sampler, random_dit
from bench.gpu.step_arguments import make_step
from mgd3_engine.dit.layers import uses_gelu_epilogue
from mgd3_kernels import guided_step

# Relative root mean square from float64, of operands that are exact in the dtype: one rounding, or two.
GELU_BOUND = {"bf16": 3e-3, "fp16": 4e-4}
PATCH_BOUND = 4e-3
# Seconds that the first batch of DiT-XL/2 may take more than the second: it compiles kernels and is captured.
START_BOUND_S = 5.0
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def replayed_ms(setting: Setting, function: Callable[[], object]) -> float:
    return round(median_seconds(setting, make_replay(setting, function), setting.size(20, 1)) * 1e3, 4)


@torch.no_grad()
def check_gelu_epilogue(setting: Setting) -> dict[str, Any]:
    """GELU inside the first MLP product: near float64, faster than the pair, the same bytes in any place."""
    config, rows = replace(XL, depth=1) if setting.on_gpu else TINY, setting.size(ROWS, 8)
    figures: dict[str, Any] = {}
    holds = True
    for name, dtype in DTYPES.items():
        layer = random_dit(config, setting.device, dtype).blocks[0].mlp.fc1
        shape = (rows, config.num_tokens, layer.in_features)
        tokens = torch.randn(shape, device=setting.device).to(dtype)

        def pair(layer: Any = layer, tokens: Tensor = tokens) -> Tensor:
            return F.gelu(F.linear(tokens, layer.weight, layer.bias), approximate="tanh")

        some = tokens[:8].double()
        want = F.gelu(F.linear(some, layer.weight.double(), layer.bias.double()), approximate="tanh")
        order = torch.randperm(rows, device=setting.device)
        fused = layer.gelu(tokens)
        found = {
            "fused": uses_gelu_epilogue(tokens, layer.weight),
            "relative_rms": relative_rms(fused[:8], want),
            "pair_relative_rms": relative_rms(pair()[:8], want),
            "equal_in_another_place": torch.equal(layer.gelu(tokens[order]), fused[order]),
            "ms": replayed_ms(setting, lambda layer=layer, tokens=tokens: layer.gelu(tokens)),
            "pair_ms": replayed_ms(setting, pair),
        }
        figures[name] = found
        holds = holds and found["relative_rms"] < GELU_BOUND[name] and found["equal_in_another_place"]
        holds = holds and (not setting.on_gpu or (found["fused"] and found["ms"] < found["pair_ms"]))
    return require(holds, f"error beyond {GELU_BOUND}, another place differs, or slower", figures)


@torch.no_grad()
def check_patch_product(setting: Setting) -> dict[str, Any]:
    """The patch embedding as a product against the convolution in float64; times of both."""
    config, rows = replace(XL, depth=0) if setting.on_gpu else TINY, setting.size(ROWS, 8)
    network = random_dit(config, setting.device, torch.bfloat16)
    embedder, places = network.x_embedder, network.pos_embed
    x = torch.randn(rows, config.in_channels, config.input_size, config.input_size, device=setting.device)
    x = x.bfloat16()
    weight, bias = embedder.proj.weight.double(), embedder.proj.bias.double()
    want = F.conv2d(x[:8].double(), weight, bias, stride=config.patch_size).flatten(2).transpose(1, 2)
    order = torch.randperm(rows, device=setting.device)
    tokens = embedder(x, places)

    def convolution() -> Tensor:
        return embedder.proj(x).flatten(2).transpose(1, 2).contiguous() + places

    figures = {
        "relative_rms": relative_rms(tokens[:8], want + places.double()),
        "equal_in_another_place": torch.equal(embedder(x[order], places), tokens[order]),
        "ms": replayed_ms(setting, lambda: embedder(x, places)),
        "convolution_ms": replayed_ms(setting, convolution),
    }
    holds = figures["relative_rms"] < PATCH_BOUND and figures["equal_in_another_place"]
    holds = holds and (not setting.on_gpu or figures["ms"] < figures["convolution_ms"])
    return require(holds, f"error beyond {PATCH_BOUND}, another place differs, or slower", figures)


def check_step_in_patches(setting: Setting) -> dict[str, Any]:
    """The fused step on the last layer's output where it lies: the same bits, faster than with the copy."""
    figures: dict[str, Any] = {}
    holds = True
    for B in (256, 128, 8) if setting.on_gpu else (1,):
        shape = (B, 4, 32, 32) if setting.on_gpu else (B, 4, 4, 8)
        dense, patches = (make_step(setting.device, shape, layout=name) for name in ("dense", "patches"))
        equal = torch.equal(patches.run(), dense.run())

        def step(out: Tensor, s: Any = patches) -> Tensor:
            return guided_step(s.x, out, s.table, s.step, **s.options)

        def with_copy(s: Any = patches, to: Any = dense.out.shape, step: Any = step) -> Tensor:
            return step(s.out.reshape(to))

        found = {
            "bitwise_equal": equal,
            "us": 1e3 * replayed_ms(setting, lambda s=patches, step=step: step(s.out)),
            "dense_us": 1e3 * replayed_ms(setting, lambda s=dense, step=step: step(s.out, s)),
            "with_copy_us": 1e3 * replayed_ms(setting, with_copy),
        }
        figures[str(B)] = found
        holds = holds and equal and (not setting.on_gpu or found["us"] < found["with_copy_us"])
    return require(holds, "bits differ, or slower than putting the output in its places first", figures)


def check_auto_start(setting: Setting) -> dict[str, Any]:
    """Backend auto does not compile DiT-XL/2; its first batch takes a few seconds more than the second."""
    config = XL if setting.on_gpu else TINY
    network = random_dit(config, setting.device, torch.bfloat16)
    batch = setting.size(128, 1)
    images = make_images(network, batch)
    sampler = make_sampler(network, batch, backend="auto", steps=setting.size(50, 2))
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        sampler.sample(*images)
        seconds.append(round(time.perf_counter() - started, 2))
    figures = {"backend": sampler.backend, "batch": batch, "seconds_of_batches": seconds}
    late = setting.on_gpu and seconds[0] > seconds[1] + START_BOUND_S
    reason = f"not eager, or the first batch takes {START_BOUND_S} s more"
    return require(sampler.backend == "eager" and not late, reason, figures)


CHECKS: dict[str, Check] = {
    "gelu-epilogue": check_gelu_epilogue,
    "patch-product": check_patch_product,
    "step-in-patches": check_step_in_patches,
    "auto-start": check_auto_start,
}
