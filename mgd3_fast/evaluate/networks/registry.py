"""Classifiers by name.

The suffix says whose definition it is: `-in` IDC's (and so MinMax's and MGD3's) with instance norm, `-bn` the
same ConvNet with batch norm as RDED has it, `-glad` GLaD's, none torchvision's. RDED's `_modified` networks
are torchvision's with a 3x3 stem of stride 1 and no pooling after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from torch import nn

from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.networks import plain
from mgd3_fast.evaluate.networks.resnet import ResNet
from mgd3_fast.evaluate.networks.vit import GladViT, VisionTransformer

_CONVNET = re.compile(r"convnet(\d+)(?:w(\d+))?-(in|bn)")
_NORMS = {"in": "instance", "bn": "batch"}


# From the number of classes and the side of the images in pixels to the network.
_BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnetap10-in": partial(ResNet, depth=10, norm="instance", stem="by size", average_pooled=True),
    "resnet18-in": partial(ResNet, depth=18, norm="instance", stem="by size"),
    "resnet18": partial(ResNet, depth=18),
    "resnet50": partial(ResNet, depth=50),
    "resnet101": partial(ResNet, depth=101),
    "resnet18_modified": partial(ResNet, depth=18, stem="small"),
    "resnet101_modified": partial(ResNet, depth=101, stem="small"),
    "alexnet": plain.alexnet,
    "vgg11": plain.vgg11,
    "vit_b_16": VisionTransformer,
    "alexnet-glad": plain.glad_alexnet,
    "vgg11-glad": plain.glad_vgg11,
    "resnet18-glad": partial(ResNet, depth=18, norm="instance", stem="small", scaled_weights=False),
    "vit-glad": GladViT,
}
FIXED_NAMES = tuple(_BUILDERS)


def check_network_name(name: str) -> None:
    """Refuse a name that `build_network` does not know.

    Raises:
        UserError: With the names there are.
    """
    if name not in FIXED_NAMES and not _CONVNET.fullmatch(name):
        raise UserError(
            f"networks must be among convnetD-in, convnetD-bn (D blocks; convnetDwW-in with width W),"
            f" {', '.join(FIXED_NAMES)}, got {name!r}"
        )


def convnet_blocks(name: str) -> int | None:
    """The D of a ConvNet's name, or None for any other network."""
    convnet = _CONVNET.fullmatch(name)
    return int(convnet[1]) if convnet else None


def build_network(name: str, num_classes: int, size: int) -> nn.Module:
    """Make a classifier with starting weights from torch's global generator.

    Args:
        name: See the module's head.
        num_classes: Outputs.
        size: Side of its images in pixels; decides stems and linear layers.

    Returns:
        The network, from float images [B, 3, size, size] to logits [B, num_classes].

    Raises:
        UserError: No such network, or not for images of this size.
    """
    check_network_name(name)
    convnet = _CONVNET.fullmatch(name)
    if convnet is None:
        return _BUILDERS[name](num_classes, size)
    depth, width = int(convnet[1]), int(convnet[2] or 128)
    return plain.convnet(num_classes, size, depth=depth, width=width, norm=_NORMS[convnet[3]])
