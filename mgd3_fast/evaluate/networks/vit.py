"""Vision transformers: torchvision's ViT-B/16, and GLaD's.

Shape letters: B images, N classes, R input side, P patch side, T = (R/P)^2 + 1 tokens, D width, H heads.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd3_fast.errors import UserError


class VisionTransformer(nn.Module):
    """torchvision's ViT-B/16, with its parameter names and starting weights.

    Args:
        num_classes: N.
        size: R, a multiple of 16.

    Raises:
        UserError: Patches do not cover the image.
    """

    def __init__(self, num_classes: int, size: int) -> None:
        super().__init__()
        patch, width = 16, 768
        tokens = _tokens(size, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.conv_proj = nn.Conv2d(3, width, patch, patch)
        self.encoder = _Encoder(tokens, width, depth=12)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(width, num_classes)))
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (3 * patch * patch)))
        for parameter in (self.conv_proj.bias, *self.heads.parameters()):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, R, R]; returns logits [B, N]."""
        tokens = self.encoder(_with_class_token(self.conv_proj(images), self.class_token))  # [B, T, D]
        logits: Tensor = self.heads(tokens[:, 0])
        return logits


class _Encoder(nn.Module):
    def __init__(self, tokens: int, width: int, depth: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, tokens, width).normal_(std=0.02))
        layers = ((f"encoder_layer_{number}", _EncoderLayer(width)) for number in range(depth))
        self.layers = nn.Sequential(OrderedDict(layers))
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        encoded: Tensor = self.ln(self.layers(tokens + self.pos_embedding))
        return encoded


class _EncoderLayer(nn.Module):
    """Pre-norm attention with 12 heads, then a GELU layer of four times the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, 12, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        # torchvision has dropout of rate 0 at places 2 and 4; place 3 must keep its name.
        wide, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(wide, nn.GELU(), nn.Identity(), narrow)
        for linear in (wide, narrow):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.ln_1(tokens)
        tokens = tokens + self.self_attention(normed, normed, normed, need_weights=False)[0]
        changed: Tensor = tokens + self.mlp(self.ln_2(tokens))
        return changed


class GladViT(nn.Module):
    """GLaD's transformer: width 512, 8 heads, hidden width 512, dropout 0.1.

    Above 32 pixels patches of 16, 10 blocks, and no layer norm at all; up to 32 pixels GLaD's CIFAR version:
    patches of 4, 6 blocks, layer norm before each half block and before the last layer.

    Args:
        num_classes: N.
        size: R, a multiple of the patch.

    Raises:
        UserError: Patches do not cover the image.
    """

    def __init__(self, num_classes: int, size: int) -> None:
        super().__init__()
        patch, depth, normed = (4, 6, True) if size <= 32 else (16, 10, False)
        width = 512
        tokens = _tokens(size, patch)
        self.conv_proj = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, width).normal_())
        self.pos_embedding = nn.Parameter(torch.empty(1, tokens, width).normal_())
        self.dropout = nn.Dropout(0.1)
        self.blocks = nn.Sequential(*(_GladBlock(width, 8, normed) for _ in range(depth)))
        self.norm = nn.LayerNorm(width) if normed else nn.Identity()
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, R, R]; returns logits [B, N]."""
        tokens = _with_class_token(self.conv_proj(images), self.class_token) + self.pos_embedding  # [B, T, D]
        tokens = self.blocks(self.dropout(tokens))
        logits: Tensor = self.head(self.norm(tokens[:, 0]))
        return logits


class _GladBlock(nn.Module):
    def __init__(self, width: int, heads: int, normed: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width) if normed else nn.Identity()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.1))
        self.norm2 = nn.LayerNorm(width) if normed else nn.Identity()
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, width), nn.Dropout(0.1)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        B, T, D = tokens.shape
        qkv = self.qkv(self.norm1(tokens)).view(B, T, 3, self.heads, D // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B, H, T, D/H] each
        attended = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.out(attended.transpose(1, 2).reshape(B, T, D))
        changed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return changed


def _tokens(size: int, patch: int) -> int:
    if size % patch:
        raise UserError(f"size must be a multiple of {patch}, the patch of this transformer, got {size}")
    return (size // patch) ** 2 + 1


def _with_class_token(patches: Tensor, class_token: Tensor) -> Tensor:
    """Patches [B, D, R/P, R/P] as tokens behind the class token [B, T, D]."""
    tokens = patches.flatten(2).transpose(1, 2)
    return torch.cat([class_token.expand(len(tokens), -1, -1), tokens], 1)
