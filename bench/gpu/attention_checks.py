"""What a GPU must show of attention with heads of 72 numbers; `checks.py` runs it.

Shape letters: N rows of a batch, T tokens, d hidden size, h heads, e numbers of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.gpu.checking import Setting, relative_rms, require
from bench.gpu.sampler_checks import TINY, random_dit, timed
from mgd3_engine.dit import dit_config
from mgd3_engine.dit.layers import Attention

# Relative root mean square against the layer as it is, all in bfloat16: another kernel rounds elsewhere.
BOUND = 0.01
IMPLEMENTATIONS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def padded_attention(layer: Attention, head: int) -> Callable[[Tensor], Tensor]:
    """The layer with zeros beside the numbers of each head: rows of qkv and columns of proj are added."""
    h = layer.num_heads
    d = layer.proj.in_features
    zeros = head - d // h
    qkv = F.pad(layer.qkv.weight.view(3, h, d // h, d), (0, 0, 0, zeros)).reshape(-1, d)
    bias = F.pad(layer.qkv.bias.view(3, h, d // h), (0, zeros)).reshape(-1)
    proj = F.pad(layer.proj.weight.view(d, h, d // h), (0, zeros)).reshape(d, -1)

    def forward(tokens: Tensor) -> Tensor:
        N, T, _ = tokens.shape
        query, key, value = split_heads(F.linear(tokens, qkv, bias), h)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=(d // h) ** -0.5)  # [N, h, T, e]
        return F.linear(mixed.transpose(1, 2).reshape(N, T, h * head), proj, layer.proj.bias)

    return forward


def split_heads(qkv: Tensor, h: int) -> tuple[Tensor, ...]:
    """`[N, T, 3 h e]` to three of `[N, h, T, e]`, views as in `Attention`."""
    N, T, width = qkv.shape
    return qkv.view(N, T, 3, h, width // (3 * h)).permute(2, 0, 3, 1, 4).unbind(0)


def times_by_implementation(setting: Setting, rows: int, tokens: int, h: int, head: int) -> dict[str, Any]:
    """Milliseconds of the attention alone by each of torch's implementations, or why it does not run."""
    qkv = torch.randn(rows, tokens, 3 * h * head, device=setting.device).bfloat16()
    found: dict[str, Any] = {}
    for name, implementation in IMPLEMENTATIONS.items():
        try:
            with sdpa_kernel([implementation]):
                found[name] = milliseconds(
                    setting, lambda: F.scaled_dot_product_attention(*split_heads(qkv, h))
                )
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0][:100]
    return found


def milliseconds(setting: Setting, function: Callable[[], object]) -> float:
    return round(1e3 * timed(setting, function, setting.size(20, 1)), 4)


@torch.no_grad()
def check_head_padding(setting: Setting) -> dict[str, Any]:
    """DiT-XL/2's heads of 72 numbers as they are, and with zeros beside them up to 80, 96 and 128.

    Timed are the attention alone, by each of torch's implementations, and the whole layer, whose projections
    grow with the padding. The zeros must not change the result; which is fastest is a finding, not a claim.
    """
    config = replace(dit_config("DiT-XL/2") if setting.on_gpu else TINY, depth=1)
    rows, h = setting.size(256, 2), config.num_heads
    layer = random_dit(config, setting.device, torch.bfloat16).blocks[0].attn
    tokens = torch.randn(rows, config.num_tokens, config.hidden_size, device=setting.device).bfloat16()
    want = layer(tokens).float()
    figures: dict[str, Any] = {"rows": rows, "as_it_is_ms": milliseconds(setting, lambda: layer(tokens))}
    worst = 0.0
    head = config.hidden_size // h
    for padded in (head, *((80, 96, 128) if setting.on_gpu else (24,))):
        forward = padded_attention(layer, padded)
        worst = max(worst, relative_rms(forward(tokens), want))
        figures[str(padded)] = {
            "layer_ms": milliseconds(setting, lambda forward=forward: forward(tokens)),
            "attention_ms": times_by_implementation(setting, rows, config.num_tokens, h, padded),
        }
    return require(worst < BOUND, f"beyond {BOUND}", {"relative_rms": worst, **figures})


CHECKS = {"head-padding": check_head_padding}
