"""A class-conditional latent diffusion model, written from its description, with the original tensors' names.

It shares no code with diffusers: what a converter mixes up shows in the output. Normalisation in 32 groups,
one attention head, cross-attention to one class token, as in the published `cin256-v2`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fakes.random_networks import randomised


class Res(nn.Module):
    def __init__(self, channels: int, out: int, embedding: int) -> None:
        super().__init__()
        first = nn.Conv2d(channels, out, 3, padding=1)
        last = nn.Conv2d(out, out, 3, padding=1)
        self.in_layers = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), first)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out))
        self.out_layers = nn.Sequential(nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0.0), last)
        self.skip_connection = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    def __init__(self, width: int, context_width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return self.to_out((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v)


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gated(width), nn.Dropout(0.0), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, width: int, context_width: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(width, width), Attention(width, context_width)
        self.ff = FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, channels: int, context_width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context_width)])

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x))
        tokens = h.flatten(2).mT
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.mT.reshape(h.shape))


class Down(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


class OriginalUNet(nn.Module):
    """`UNetModel` of the original code; `attended` are the levels with attention, 0 the largest."""

    def __init__(
        self, width: int, multiples: tuple[int, ...], attended: set[int], blocks: int, context_width: int
    ) -> None:
        super().__init__()
        embedding, last = 4 * width, len(multiples) - 1

        def attention(level: int, out: int) -> list[nn.Module]:
            return [SpatialTransformer(out, context_width)] if level in attended else []

        self.width = width
        self.time_embed = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, width, 3, padding=1)])])
        channels, kept = width, [width]
        for level, multiple in enumerate(multiples):
            for _ in range(blocks):
                parts = [Res(channels, channels := width * multiple, embedding), *attention(level, channels)]
                self.input_blocks.append(nn.ModuleList(parts))
                kept.append(channels)
            if level < last:
                self.input_blocks.append(nn.ModuleList([Down(channels)]))
                kept.append(channels)
        middle = [Res(channels, channels, embedding) for _ in range(2)]
        self.middle_block = nn.ModuleList([middle[0], SpatialTransformer(channels, context_width), middle[1]])
        self.output_blocks = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(multiples))):
            for block in range(blocks + 1):
                joined = channels + kept.pop()
                parts = [Res(joined, channels := width * multiple, embedding), *attention(level, channels)]
                parts += [Up(channels)] * (level > 0 and block == blocks)
                self.output_blocks.append(nn.ModuleList(parts))
        self.out = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        half = self.width // 2
        angles = timestep[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        embedding = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        h, kept = self.input_blocks[0][0](x), []
        kept.append(h)
        for block in self.input_blocks[1:]:
            kept.append(h := run(block, h, embedding, context))
        h = run(self.middle_block, h, embedding, context)
        for block in self.output_blocks:
            h = run(block, torch.cat([h, kept.pop()], dim=1), embedding, context)
        return self.out(h)


def run(block: Any, h: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
    for part in block:
        h = part(h, embedding, context)
    return h


class PlainRes(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, channels, eps=1e-6), nn.GroupNorm(32, out, eps=1e-6)
        self.conv1, self.conv2 = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class PlainAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (project(self.norm(x)).flatten(2).mT for project in (self.q, self.k, self.v))
        mixed = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
        return x + self.proj_out(mixed.mT.reshape(x.shape))


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1 = PlainRes(channels, channels), PlainAttention(channels)
        self.block_2 = PlainRes(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, width: int, multiples: tuple[int, ...], blocks: int, latent: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down, channels = nn.ModuleList(), width
        for level, multiple in enumerate(multiples):
            stage = nn.Module()
            stage.block = nn.ModuleList()
            for _ in range(blocks):
                stage.block.append(PlainRes(channels, channels := width * multiple))
            if level < len(multiples) - 1:
                stage.downsample = nn.Module()
                stage.downsample.conv = nn.Conv2d(channels, channels, 3, stride=2)
            self.down.append(stage)
        self.mid = Middle(channels)
        self.norm_out = nn.GroupNorm(32, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for stage in self.down:
            for block in stage.block:
                h = block(h)
            if hasattr(stage, "downsample"):
                h = stage.downsample.conv(F.pad(h, (0, 1, 0, 1)))
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    def __init__(self, width: int, multiples: tuple[int, ...], blocks: int, latent: int) -> None:
        super().__init__()
        channels = width * multiples[-1]
        self.conv_in, self.mid = nn.Conv2d(latent, channels, 3, padding=1), Middle(channels)
        stages = []
        for level, multiple in reversed(list(enumerate(multiples))):
            stage = nn.Module()
            stage.block = nn.ModuleList()
            for _ in range(blocks + 1):
                stage.block.append(PlainRes(channels, channels := width * multiple))
            if level > 0:
                stage.upsample = nn.Module()
                stage.upsample.conv = nn.Conv2d(channels, channels, 3, padding=1)
            stages.append(stage)
        self.up = nn.ModuleList(reversed(stages))
        self.norm_out = nn.GroupNorm(32, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for stage in reversed(self.up):
            for block in stage.block:
                h = block(h)
            if hasattr(stage, "upsample"):
                h = stage.upsample.conv(F.interpolate(h, scale_factor=2.0))
        return self.conv_out(F.silu(self.norm_out(h)))


class OriginalVQ(nn.Module):
    """`VQModelInterface` of the original code: `encode` does not quantise, `decode` does."""

    def __init__(self, width: int, multiples: tuple[int, ...], blocks: int, latent: int, codes: int) -> None:
        super().__init__()
        self.encoder = Encoder(width, multiples, blocks, latent)
        self.decoder = Decoder(width, multiples, blocks, latent)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(codes, latent)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(latent, latent, 1), nn.Conv2d(latent, latent, 1)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(pixels))

    def decode(self, z: Tensor) -> Tensor:
        codebook = self.quantize.embedding.weight
        flat = z.permute(0, 2, 3, 1)
        nearest = (flat[..., None, :] - codebook).square().sum(-1).argmin(-1)
        return self.decoder(self.post_quant_conv(codebook[nearest].permute(0, 3, 1, 2)))


def tiny_unet() -> Any:
    return randomised(OriginalUNet(32, (1, 2), {1}, 2, 16))


def tiny_vq() -> Any:
    return randomised(OriginalVQ(32, (1, 1, 2), 1, 3, 64), seed=1)


def tiny_table(classes: int = 1000) -> Tensor:
    return torch.randn(classes + 1, 16, generator=torch.Generator().manual_seed(2))


def original_weights(unet: nn.Module, vq: nn.Module, table: Tensor) -> dict[str, Tensor]:
    """Name the weights as a `LatentDiffusion` module does, among its buffers and averages of other values."""
    parts = {"model.diffusion_model.": unet, "first_stage_model.": vq}
    weights = {
        prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.state_dict().items()
    }
    averages = {
        "model_ema." + f"diffusion_model.{name}".replace(".", ""): torch.zeros_like(tensor)
        for name, tensor in unet.state_dict().items()
    }
    buffers = {"betas": torch.linspace(0.1, 0.2, 1000), "model_ema.decay": torch.tensor(0.9999)}
    return {**buffers, **weights, **averages, "cond_stage_model.embedding.weight": table}
