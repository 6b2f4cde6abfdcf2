"""The layers of a block that map tokens: linear maps, attention, MLP.

Shape letters: N rows of a batch, T tokens, d hidden size, h heads, i and o features in and out of a linear
map.

Each layer computes the same formula in one of two ways. While a gradient is recorded or a graph is traced it
is torch's usual operations; otherwise what is fastest on the device.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of the attention scores that a CPU computes at once: what is larger leaves its cache.
SCORE_BYTES = 4 * 2**20


class TokenLinear(nn.Linear):
    """A linear map of tokens, with or without a GELU behind it; zero bias and Xavier-uniform weights."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `[N, T, i]` to `[N, T, o]`."""
        return map_tokens(tokens, self.weight, self.bias)

    def gelu(self, tokens: Tensor) -> Tensor:
        """Map `[N, T, i]` to `[N, T, o]` and apply GELU in its tanh form."""
        if uses_onednn(tokens, self.weight):
            return _onednn_linear(tokens, self.weight, self.bias, "gelu", "tanh")
        if uses_gelu_epilogue(tokens, self.weight):
            rows = tokens.reshape(-1, self.in_features)  # [N T, i]
            mapped = torch._addmm_activation(self.bias, rows, self.weight.t(), use_gelu=True)
            return mapped.view(*tokens.shape[:-1], self.out_features)
        return F.gelu(F.linear(tokens, self.weight, self.bias), approximate="tanh")


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values."""

    reads_float8 = False

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = TokenLinear(hidden_size, 3 * hidden_size)
        self.proj = TokenLinear(hidden_size, hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix `[N, T, d]` tokens over T."""
        mixed = attend(self.qkv(tokens), self.num_heads)  # [N, h, T, d/h]
        merged: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return merged


class Mlp(nn.Module):
    """Two linear layers around a GELU in its tanh form."""

    reads_float8 = False

    def __init__(self, hidden_size: int, mlp_ratio: float) -> None:
        super().__init__()
        inner_size = int(hidden_size * mlp_ratio)
        self.fc1 = TokenLinear(hidden_size, inner_size)
        self.fc2 = TokenLinear(inner_size, hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map each of the `[N, T, d]` tokens by itself."""
        mapped: Tensor = self.fc2(self.fc1.gelu(tokens))
        return mapped


def attend(qkv: Tensor, num_heads: int) -> Tensor:
    """Attend over the tokens of `[N, T, 3 d]` queries, keys and values, which lie side by side.

    Returns:
        `[N, h, T, d/h]`, in the layout that the device's kernel leaves.
    """
    N, T, width = qkv.shape
    heads = qkv.view(N, T, 3, num_heads, width // (3 * num_heads))
    query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)  # each [N, h, T, d/h]
    if runs_plain(qkv) and qkv.is_cpu and qkv.dtype == torch.bfloat16:
        return _attention_of_slices(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)


def runs_kernels(*tensors: Tensor) -> bool:
    """Tell whether this package's kernels compute with these tensors: on a GPU, and only computed with."""
    return tensors[0].is_cuda and runs_plain(*tensors)


def runs_plain(*tensors: Tensor) -> bool:
    """Tell whether these tensors are only to be computed with: no gradient, no tracing, no autocast."""
    device = tensors[0].device.type
    if torch.compiler.is_compiling() or (device != "meta" and torch.is_autocast_enabled(device)):
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def map_tokens(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map `[N, T, i]` to `[N, T, o]` by a weight `[o, i]` and a bias `[o]`."""
    if uses_onednn(tokens, weight):
        return _onednn_linear(tokens, weight, bias, "none", "")
    return F.linear(tokens, weight, bias)


def uses_gelu_epilogue(tokens: Tensor, weight: Tensor) -> bool:
    """Tell whether a linear map and the GELU behind it are one launch: a product of cuBLASLt.

    On an H200 DiT-XL/2's first MLP layer takes 1.18 ms that way at 256 rows in bfloat16, not 1.05 + 0.40, and
    is 0.17%, not 0.25%, from exact: it rounds once. Torch's function is GELU's tanh form on CUDA alone (on a
    CPU it is erf's), and in float32 it was not timed.
    """
    return (
        runs_plain(tokens, weight)  # first: what follows cannot be traced
        and tokens.is_cuda
        and torch.version.hip is None
        and tokens.numel() > 0
        and tokens.dtype == weight.dtype
        and tokens.dtype in (torch.bfloat16, torch.float16)
    )


def uses_onednn(tokens: Tensor, weight: Tensor) -> bool:
    """Tell whether a linear map is oneDNN's.

    Torch gives float32 products to MKL, adds the bias in a pass of its own beforehand, and GELU in one
    afterwards. oneDNN does all in one: on 2 EPYC cores DiT-S/2's first MLP layer takes 36 ms, not 55, in
    float32 (16 rows), and 18, not 27, in bfloat16. Neither needs the weight in another layout.
    """
    return (
        runs_plain(tokens, weight)  # first: what follows cannot be traced
        and tokens.is_cpu
        and tokens.numel() > 0
        and tokens.dtype == weight.dtype
        and tokens.dtype in _onednn_dtypes()
    )


@cache
def _onednn_dtypes() -> tuple[torch.dtype, ...]:
    if not (torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return ()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32, torch.bfloat16
    return (torch.float32,)


def _onednn_linear(tokens: Tensor, weight: Tensor, bias: Tensor | None, activation: str, form: str) -> Tensor:
    mapped: Tensor = torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, activation, [], form)
    return mapped


def _attention_of_slices(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend in bfloat16 on a CPU, a few rows at a time, by two batched products and a softmax.

    Torch's own kernel there converts to float32: 2.95 against 1.74 ms for two rows of DiT-S/2, one core.

    Args:
        query: bfloat16 `[N, h, T, d/h]`, likewise `key` and `value`.

    Returns:
        bfloat16 `[N, h, T, d/h]`, whose transposed `[N, T, h, d/h]` is contiguous.
    """
    N, h, T, e = query.shape
    most = max(1, SCORE_BYTES // (h * T * T * query.element_size()))
    rows = math.gcd(N, 1 << (most.bit_length() - 1))  # equal slices: a row's bytes do not tell its place
    mixed = query.new_empty(N, T, h, e).transpose(1, 2)  # [N, h, T, d/h]
    zero = query.new_zeros(()).expand(rows * h, T, T)
    for start in range(0, N, rows):
        q, k, v = (one[start : start + rows].reshape(-1, T, e) for one in (query, key, value))
        scores = torch.baddbmm(zero, q, k.transpose(1, 2), beta=0, alpha=e**-0.5)  # [rows h, T, T]
        mixed[start : start + rows] = torch.bmm(scores.softmax(-1), v).view(rows, h, T, e)
    return mixed
