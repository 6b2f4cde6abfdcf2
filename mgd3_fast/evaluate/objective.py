"""What a step minimises, what minimises it, and which class a network names.

Shape letters: B images of a batch, N classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd3_fast.evaluate.colours import normalise

if TYPE_CHECKING:
    from mgd3_fast.evaluate.images import ImageSet
    from mgd3_fast.evaluate.mixing import Mix
    from mgd3_fast.evaluate.recipe import Recipe

_LEAST_BATCH, _MOST_BATCH = 32, 250
_BATCH_AREA = 250 * 64 * 64  # pixels; the widest maps of a network are of the image's size


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
    """SGD with momentum 0.9, which decays everything, or AdamW, which decays weights of two axes or more."""
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


@torch.no_grad()
def predict(network: nn.Module, images: ImageSet, device: torch.device, bf16: bool = False) -> Tensor:
    """Name the class with the largest logit of each image; leaves the network in evaluation mode.

    Args:
        network: The classifier, on `device`.
        images: Test images.
        device: Where.
        bf16: Run it under bfloat16 autocast.

    Returns:
        int64, one of each image, on `device`.
    """
    network.eval()
    found = []
    batch = max(_LEAST_BATCH, min(_MOST_BATCH, _BATCH_AREA // images.pixels[0, 0].numel()))
    for indices in torch.split(torch.arange(len(images)), batch):
        pixels, _ = images.batch(indices, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = network(normalise(pixels.float() / 255))
        found.append(logits.argmax(1))
    return torch.cat(found)


def count_correct(network: nn.Module, images: ImageSet, device: torch.device, bf16: bool = False) -> int:
    """Count the images whose label has the largest logit; see `predict`."""
    return int((predict(network, images, device, bf16) == images.labels.to(device)).sum())
