"""Classifiers by name.

The suffix says whose definition it is: `-in` IDC's (and so MinMax's and MGD3's) with instance norm, `-bn` the
same ConvNet with batch norm as RDED has it, `-glad` GLaD's, none torchvision's. RDED's `_modified` networks
are torchvision's with a 3x3 stem of stride 1 and no pooling after it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mgd3_fast.errors import UserError

if TYPE_CHECKING:
    from torch import nn

_CONVNET = re.compile(r"convnet(\d+)(?:w(\d+))?-(in|bn)")
FIXED_NAMES = (
    "resnetap10-in",
    "resnet18-in",
    "resnet18",
    "resnet50",
    "resnet101",
    "resnet18_modified",
    "resnet101_modified",
    "alexnet",
    "vgg11",
    "vit_b_16",
    "alexnet-glad",
    "vgg11-glad",
    "resnet18-glad",
    "vit-glad",
)


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
    if convnet:
        from mgd3_fast.evaluate.networks.convnet import ConvNet

        norm = "instance" if convnet[3] == "in" else "batch"
        return ConvNet(num_classes, size, depth=int(convnet[1]), width=int(convnet[2] or 128), norm=norm)
    build = _build_resnet if name.startswith("resnet") else _build_other
    return build(name, num_classes, size)


def _build_resnet(name: str, num_classes: int, size: int) -> nn.Module:
    from mgd3_fast.evaluate.networks.resnet import ResNet, stem_of

    if name in ("resnetap10-in", "resnet18-in"):
        ap = name == "resnetap10-in"
        depth = 10 if ap else 18
        return ResNet(num_classes, depth=depth, norm="instance", stem=stem_of(size), average_pooled=ap)
    if name == "resnet18-glad":
        return ResNet(num_classes, depth=18, norm="instance", stem="small", scaled_weights=False)
    depth = int(name.removeprefix("resnet").removesuffix("_modified"))
    return ResNet(num_classes, depth=depth, stem="small" if name.endswith("_modified") else "large")


def _build_other(name: str, num_classes: int, size: int) -> nn.Module:
    from mgd3_fast.evaluate.networks.alexnet import AlexNet, GladAlexNet
    from mgd3_fast.evaluate.networks.vgg import VGG11, GladVGG11
    from mgd3_fast.evaluate.networks.vit import GladViT, VisionTransformer

    smallest = {"alexnet": 63, "vgg11": 32, "alexnet-glad": 8, "vgg11-glad": 16}.get(name, 1)
    if size < smallest:
        raise UserError(f"size must be at least {smallest} for {name}, got {size}")
    if name == "alexnet":
        return AlexNet(num_classes)
    if name == "vgg11":
        return VGG11(num_classes)
    made = {
        "vit_b_16": VisionTransformer,
        "alexnet-glad": GladAlexNet,
        "vgg11-glad": GladVGG11,
        "vit-glad": GladViT,
    }
    return made[name](num_classes, size)
