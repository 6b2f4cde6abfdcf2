"""DiT with adaLN-Zero blocks (Peebles & Xie 2023), under the parameter names of the published checkpoints.

Shape letters: N rows of a batch, C channels, H W latent size, P patch size, T = (H/P)(W/P) tokens,
d hidden size, h heads, O output channels (2C with learned variance), M = (6 depth + 2) d numbers of a row's
modulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd3_engine.dit.config import DiTConfig
from mgd3_engine.dit.layers import Attention, Mlp, TokenLinear, map_tokens, runs_kernels, runs_plain
from mgd3_kernels import (
    QuantisedRows,
    gated_residual_norm,
    gated_residual_norm_float8,
    modulated_norm,
    modulated_norm_float8,
    quantise_rows,
)

NUM_SINUSOIDS = 256
MAX_PERIOD = 10_000.0
NORM_EPS = 1e-6
EMBEDDING_STD = 0.02


def timestep_sinusoids(timestep: Tensor, *, shift: int = 0) -> Tensor:
    """Embed timesteps as cosines, then sines, of 128 geometrically spaced frequencies, in float32.

    Ho et al. 2020, section 4, with frequency k = 10000^(-k / (128 - shift)). Float32 whatever the network's
    dtype: bfloat16 cannot tell timestep 750 from 752.

    Args:
        timestep: Integer, float32 or float64 `[N]`, the original (not respaced) timestep.
        shift: See `DiTConfig.frequency_shift`.

    Returns:
        float32 `[N, 256]`.

    Raises:
        ValueError: `timestep` is of a half-precision dtype, which has already lost the timestep.
    """
    if timestep.dtype in (torch.bfloat16, torch.float16):
        raise ValueError(f"timestep must be of an integer dtype, float32 or float64, got {timestep.dtype}")
    half = NUM_SINUSOIDS // 2
    k = torch.arange(half, dtype=torch.float32, device=timestep.device)
    # This order of rounding is the published networks': another moves an angle at t = 999 by up to 1e-4.
    frequency = torch.exp(-math.log(MAX_PERIOD) * k / (half - shift))  # [128]
    angle = timestep.to(torch.float32)[:, None] * frequency  # [N, 128]
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)  # [N, 256]


def position_embedding(hidden_size: int, grid_size: int) -> Tensor:
    """Embed the places of a square grid of tokens by fixed sines and cosines of their two coordinates.

    The first half of the features encodes the column, the second half the row (so in the published
    checkpoints); each half is sines, then cosines, of frequencies 10000^(-k / (d/4)).

    Args:
        hidden_size: d, a multiple of 4.
        grid_size: Tokens along one side.

    Returns:
        float32 `[grid_size^2, d]` on the CPU, tokens in row-major order.
    """
    quarter = hidden_size // 4
    k = torch.arange(quarter, dtype=torch.float64, device="cpu")
    place = torch.arange(grid_size, dtype=torch.float64, device="cpu")
    angle = place[:, None] * MAX_PERIOD ** (-k / quarter)  # [G, d/4]
    one_axis = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)  # [G, d/2]
    column = one_axis.repeat(grid_size, 1)  # [T, d/2]
    row = one_axis.repeat_interleave(grid_size, dim=0)  # [T, d/2]
    return torch.cat([column, row], dim=1).to(torch.float32)


def _normal(weight: Tensor, std: float) -> None:
    """Fill with normal noise; not on the meta device, where the first `normal_` takes 2 s of imports."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


def _linear(in_features: int, out_features: int, *, std: float | None = None) -> nn.Linear:
    """Make a linear map with zero bias and Xavier-uniform weights, or normal ones of deviation `std`."""
    layer = nn.Linear(in_features, out_features)
    if std is None:
        nn.init.xavier_uniform_(layer.weight)
    else:
        _normal(layer.weight, std)
    nn.init.zeros_(layer.bias)
    return layer


class PatchEmbedder(nn.Module):
    """One linear map of every patch; its weight has a convolution's shape, as in the checkpoints."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        patch = config.patch_size
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, kernel_size=patch, stride=patch)
        nn.init.xavier_uniform_(self.proj.weight.view(config.hidden_size, -1))
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, pos_embed: Tensor) -> Tensor:
        """Turn `[N, C, H, W]` into tokens `[N, T, d]`, their places `[1, T, d]` added.

        A convolution writes channels first, which blocks cannot use: on a CPU it takes 1.8 to 6 times as long
        in float32 (demo model, DiT-S/2), on an H200 1.3 ms of a step of 124.
        """
        patches = _patches(x, self.proj.kernel_size[0])  # [N, T, C P P]
        tokens = map_tokens(patches, self.proj.weight.flatten(1), self.proj.bias)
        return tokens.add_(pos_embed) if runs_plain(tokens, pos_embed) else tokens + pos_embed


def _patches(x: Tensor, patch_size: int) -> Tensor:
    """Gather the patches of `[N, C, H, W]` as `[N, T, C*P*P]`, in the order (channel, row, column)."""
    (N, C, H, W), P = x.shape, patch_size
    if x.is_cpu and x.numel() and runs_plain(x):
        # Its own loop on a CPU: 0.26 ms with the copy behind it, not 0.81, for 128 rows of 4x8x8.
        return F.pixel_unshuffle(x, P).flatten(2).transpose(1, 2).contiguous()
    grid = x.view(N, C, H // P, P, W // P, P).permute(0, 2, 4, 1, 3, 5)  # [N, H/P, W/P, C, P, P]
    return grid.reshape(N, (H // P) * (W // P), C * P * P)


class TimestepEmbedder(nn.Module):
    """Sinusoids, then a two-layer MLP."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.shift = config.frequency_shift
        self.mlp = nn.Sequential(
            _linear(NUM_SINUSOIDS, config.hidden_size, std=EMBEDDING_STD),
            nn.SiLU(),
            _linear(config.hidden_size, config.hidden_size, std=EMBEDDING_STD),
        )

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """Embed `[N]` timesteps as `[N, d]`; only the MLP runs in the network's dtype."""
        embedded: Tensor = self.mlp(timestep_sinusoids(timestep, shift=self.shift).to(dtype))
        return embedded


class LabelEmbedder(nn.Module):
    """A table with one row per class and, last, the null label's row."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        rows = torch.empty(config.num_labels, config.hidden_size)
        _normal(rows, EMBEDDING_STD)
        self.embedding_table: nn.Embedding = nn.Embedding.from_pretrained(rows, freeze=False)  # type: ignore[no-untyped-call]

    def forward(self, class_ids: Tensor) -> Tensor:
        """Look up `[N]` int64 ids as `[N, d]`."""
        rows: Tensor = self.embedding_table(class_ids)
        return rows


class DiTBlock(nn.Module):
    """Two branches, attention and MLP, each with a norm and a gate that the conditioning sets (adaLN-Zero).

    It has no `forward`: `DiT.denoise` runs the branches, because the end of one and the start of the next are
    one operation, across blocks too.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.attn = Attention(d, config.num_heads)
        self.mlp = Mlp(d, config.mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), _linear(d, 6 * d, std=0.0))


class FinalLayer(nn.Module):
    """The linear map from a token to its patch of the output, and what sets the norm before it."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.linear = TokenLinear(d, config.patch_size**2 * config.out_channels)
        nn.init.zeros_(self.linear.weight)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), _linear(d, 2 * d, std=0.0))


class DiT(nn.Module):
    """A class-conditional diffusion transformer on latents.

    Args:
        config: The architecture. Weights start as the paper says: Xavier-uniform linear maps, normal
            embeddings of deviation 0.02, and zero for every gate and the last layer, so that a new network
            predicts 0 and each block is the identity.
    """

    pos_embed: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.null_class = config.null_class
        self.x_embedder = PatchEmbedder(config)
        self.t_embedder = TimestepEmbedder(config)
        self.y_embedder = LabelEmbedder(config)
        grid = position_embedding(config.hidden_size, config.input_size // config.patch_size)
        grid = grid[None].to(torch.get_default_device())
        self.pos_embed = nn.Parameter(grid, requires_grad=False)  # [1, T, d]
        self.blocks = nn.ModuleList([DiTBlock(config) for _ in range(config.depth)])
        self.final_layer = FinalLayer(config)

    def forward(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        """Predict noise (and variance) for noisy latents; every row is computed by itself.

        Args:
            x: The network's dtype `[N, C, H, W]`.
            timestep: Integer or float32 `[N]`, in 0..999 for the published networks.
            class_ids: int64 `[N]`, in 0..num_classes, where num_classes is the null label.

        Returns:
            The network's dtype `[N, O, H, W]`.

        Raises:
            ValueError: `x` is not of the latent shape that the network was made for.
        """
        return self.denoise(x, self.modulation(timestep, class_ids))

    def modulation(self, timestep: Tensor, class_ids: Tensor) -> Tensor:
        """Compute all that timestep and class set: the blocks' modulations, then the last layer's.

        They do not depend on `x`, so a sampler may compute those of all its steps beforehand.

        Args:
            timestep: Integer or float32 `[N]`.
            class_ids: int64 `[N]`, in 0..num_classes.

        Returns:
            The network's dtype `[N, M]`, M = (6 depth + 2) d.
        """
        dtype = self.x_embedder.proj.weight.dtype
        conditioning = self.t_embedder(timestep, dtype) + self.y_embedder(class_ids)  # [N, d]
        blocks = cast("Sequence[DiTBlock]", self.blocks)
        layers = [*(block.adaLN_modulation for block in blocks), self.final_layer.adaLN_modulation]
        return torch.cat([layer(conditioning) for layer in layers], dim=1)

    def denoise(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Run `forward` on latents `[N, C, H, W]` from a `[N, M]` modulation that is already there."""
        patches = self.denoise_patches(x, modulation)
        return patches.reshape(*patches.shape[:2], *x.shape[2:])  # [N, O, H, W]

    def denoise_patches(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Run `denoise` and leave its output where the last layer writes it: patch after patch.

        Args:
            x: As `denoise`.
            modulation: As `denoise`.

        Returns:
            A view `[N, O, H/P, P, W/P, P]`, `denoise`'s output with rows and columns split, of memory in
            which the O channels of a pixel lie side by side.
        """
        return self._read_out(self._run_blocks(self._embed(x), modulation)[1])

    def denoise_keeping(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """Run `denoise_patches`, and tell what the blocks have added to the tokens.

        Args:
            x: As `denoise`.
            modulation: As `denoise`.

        Returns:
            What `denoise_patches` returns, to the bit, and the network's dtype `[N, T, d]`.
        """
        tokens = self._embed(x)
        embedded = tokens.clone()  # the blocks may overwrite theirs
        tokens, normed = self._run_blocks(tokens, modulation)
        return self._read_out(normed), tokens - embedded

    def denoise_adding(self, x: Tensor, modulation: Tensor, added: Tensor) -> Tensor:
        """Run `denoise_patches` without the blocks, given what they would add to the tokens.

        Args:
            x: As `denoise`.
            modulation: As `denoise`; the last layer's part is used.
            added: The network's dtype `[N, T, d]`, such as `denoise_keeping` tells.

        Returns:
            As `denoise_patches`.
        """
        shift, scale = modulation[:, -2 * self.config.hidden_size :].chunk(2, dim=1)
        normed = _norm(self._embed(x) + added, shift, scale, False)
        return self._read_out(cast(Tensor, normed))

    def _embed(self, x: Tensor) -> Tensor:
        """Turn latents `[N, C, H, W]` into tokens `[N, T, d]`."""
        config = self.config
        expected = (config.in_channels, config.input_size, config.input_size)
        if tuple(x.shape[1:]) != expected:
            raise ValueError(f"x must be latents of shape [N, {expected}], got {list(x.shape)}")
        tokens: Tensor = self.x_embedder(x, self.pos_embed)
        return tokens

    def _run_blocks(self, tokens: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """Run the blocks on tokens `[N, T, d]`: what they become, and their norm for the last layer."""
        parts = torch.split(modulation, self.config.hidden_size, dim=1)  # 6 depth + 2 of [N, d]
        shifts, scales, gates = parts[0::3], parts[1::3], parts[2::3]
        blocks = cast("Sequence[DiTBlock]", self.blocks)
        branches = [branch for block in blocks for branch in (block.attn, block.mlp)]
        float8 = [*(branch.reads_float8 for branch in branches), False]  # of the reader of each norm
        normed = _norm(tokens, shifts[0], scales[0], float8[0])
        following = zip(branches, gates, shifts[1:], scales[1:], float8[1:], strict=True)
        for branch, gate, shift, scale, eight in following:
            tokens, normed = _add_and_norm(tokens, gate, branch(normed), shift, scale, eight)
        return tokens, cast(Tensor, normed)  # the last layer reads no 8-bit rows

    def _read_out(self, normed: Tensor) -> Tensor:
        """Map normed tokens `[N, T, d]` to the output, patch after patch."""
        config = self.config
        P, O = config.patch_size, config.out_channels  # noqa: E741 - a shape letter
        G = config.input_size // P
        patches: Tensor = self.final_layer.linear(normed).view(normed.shape[0], G, G, P, P, O)
        return patches.permute(0, 5, 1, 3, 2, 4)  # [N, O, G, P, G, P]


def _norm(tokens: Tensor, shift: Tensor, scale: Tensor, float8: bool) -> Tensor | QuantisedRows:
    """adaLN of `[N, T, d]` tokens by `[N, d]` shifts and scales: norm(tokens) (1 + scale) + shift."""
    if runs_kernels(tokens, shift, scale):
        norm = modulated_norm_float8 if float8 else modulated_norm
        return norm(tokens, shift, scale, eps=NORM_EPS)
    normed = F.layer_norm(tokens, tokens.shape[-1:], eps=NORM_EPS)
    normed = torch.addcmul(shift[:, None], normed, 1 + scale[:, None])  # [N, T, d]
    return quantise_rows(normed) if float8 else normed


def _add_and_norm(
    tokens: Tensor, gate: Tensor, branch: Tensor, shift: Tensor, scale: Tensor, float8: bool
) -> tuple[Tensor, Tensor | QuantisedRows]:
    """Return tokens + gate branch, and adaLN of it; `tokens` itself is overwritten where it can be."""
    if runs_kernels(tokens, gate, branch, shift, scale):
        norm = gated_residual_norm_float8 if float8 else gated_residual_norm
        return tokens, norm(tokens, gate, branch, shift, scale, eps=NORM_EPS)
    if runs_plain(tokens, gate, branch, shift, scale):
        tokens.addcmul_(gate[:, None], branch)
    else:
        tokens = torch.addcmul(tokens, gate[:, None], branch)  # [N, T, d]
    return tokens, _norm(tokens, shift, scale, float8)
