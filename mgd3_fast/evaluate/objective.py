"""What a step minimises, and what minimises it.

Shape letters: B images, N classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from mgd3_fast.evaluate.mixing import Mix
    from mgd3_fast.evaluate.recipe import Recipe


@torch.no_grad()
def taught_logits(teacher: nn.Module, images: Tensor) -> Tensor:
    """What the teacher says of a batch, float32 `[B, N]`, without a gradient."""
    logits: Tensor = teacher(images)
    return logits.float()


def batch_loss(
    logits: Tensor, labels: Tensor, mixed: Mix | None, taught: Tensor | None, temperature: float | None
) -> Tensor:
    """Cross entropy with shares of two labels, or divergence from the teacher.

    lam CE(z, y) + (1 - lam) CE(z, y') for a mixed batch (CutMix); KL(softmax(t/T) || softmax(z/T)) averaged
    over images, without the usual factor T^2 (RDED's code).

    Args:
        logits: float32 `[B, N]`.
        labels: int64 `[B]`.
        mixed: How the batch was mixed, if it was.
        taught: The teacher's logits for the same images, float32 `[B, N]`.
        temperature: T of both.

    Returns:
        Scalar.
    """
    if taught is not None and temperature is not None:
        log_student = F.log_softmax(logits / temperature, 1)
        return F.kl_div(log_student, F.softmax(taught / temperature, 1), reduction="batchmean")
    if mixed is None:
        return F.cross_entropy(logits, labels)
    own, other = F.cross_entropy(logits, labels), F.cross_entropy(logits, labels[mixed.partner])
    return mixed.share * own + (1 - mixed.share) * other


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the recipe's optimiser.

    Args:
        network: Its parameters are trained.
        recipe: "sgd" decays all of them, "adamw" those named "weight" with two axes or more.

    Returns:
        SGD with momentum 0.9, or AdamW.
    """
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay
        )
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        (decayed if "weight" in name and parameter.ndim > 1 else free).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.999), weight_decay=recipe.weight_decay)
