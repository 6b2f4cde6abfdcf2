"""Classifiers of the evaluation protocols: parameter counts, output shapes, definitions, starting weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.networks import FIXED_NAMES, build_network
from mgd3_fast.evaluate.presets import convnet_depth


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_meta(name: str, num_classes: int, size: int) -> nn.Module:
    with torch.device("meta"):
        return build_network(name, num_classes, size)


# torchvision's own figures (its model pages list them for 1,000 classes).
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("alexnet", 61_100_840),
        ("vgg11", 132_863_336),
        ("vit_b_16", 86_567_656),
    ],
)
def test_torchvision_networks_have_its_parameter_counts(name: str, parameters: int) -> None:
    network = on_meta(name, 1000, 224)
    assert count(network) == parameters
    assert network(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


TORCHVISION_NAMES = {
    "resnet18": {
        "conv1.weight",
        "bn1.running_var",
        "layer2.0.downsample.1.bias",
        "layer4.1.conv2.weight",
        "fc.bias",
    },
    "resnet50": {"layer1.0.conv3.weight", "layer1.0.downsample.0.weight", "layer3.5.bn3.weight", "fc.weight"},
    "alexnet": {"features.0.weight", "features.10.bias", "classifier.1.weight", "classifier.6.bias"},
    "vgg11": {"features.0.weight", "features.18.bias", "classifier.0.weight", "classifier.6.bias"},
    "vit_b_16": {
        "class_token",
        "conv_proj.weight",
        "encoder.pos_embedding",
        "encoder.layers.encoder_layer_11.self_attention.in_proj_weight",
        "encoder.layers.encoder_layer_0.self_attention.out_proj.bias",
        "encoder.layers.encoder_layer_0.mlp.3.weight",
        "encoder.layers.encoder_layer_0.ln_2.weight",
        "encoder.ln.bias",
        "heads.head.weight",
    },
}
TORCHVISION_TENSORS = {"resnet18": 122, "resnet50": 320, "alexnet": 16, "vgg11": 22, "vit_b_16": 152}


@pytest.mark.parametrize("name", sorted(TORCHVISION_NAMES))
def test_torchvision_checkpoints_fit_by_name(name: str) -> None:
    state = on_meta(name, 1000, 224).state_dict()
    assert TORCHVISION_NAMES[name] <= set(state)
    assert len(state) == TORCHVISION_TENSORS[name]


def convolution(channels: int, width: int, kernel: int, bias: bool) -> int:
    return channels * width * kernel**2 + width * bias


def basic_stages(blocks: int) -> int:
    """Convolutions, norms and shortcuts of four stages of basic blocks."""
    total, channels = 0, 64
    for width in (64, 128, 256, 512):
        for _ in range(blocks):
            total += convolution(channels, width, 3, False) + convolution(width, width, 3, False) + 4 * width
            total += 0 if channels == width else convolution(channels, width, 1, False) + 2 * width
            channels = width
    return total


def convnet_parameters(depth: int, width: int, side: int, num_classes: int) -> int:
    first, others = convolution(3, width, 3, True), (depth - 1) * convolution(width, width, 3, True)
    return first + others + 2 * depth * width + (width * side**2 + 1) * num_classes


STEM_7, STEM_3 = convolution(3, 64, 7, False) + 128, convolution(3, 64, 3, False) + 128
VGG = sum(
    convolution(a, b, 3, True) + 2 * b
    for a, b in [(3, 64), (64, 128), (128, 256), (256, 256), (256, 512), *[(512, 512)] * 3]
)
VIT_BLOCK = 512 * 1536 + 3 * (512 * 512 + 512)


@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        # The hard-label protocol: 128 * 3 * 3 = 1152 features at 224 px; the others end in 512.
        ("convnet6-in", 224, convnet_parameters(6, 128, 3, 10)),
        ("resnet18-in", 224, STEM_7 + basic_stages(2) + 513 * 10),
        ("resnetap10-in", 224, STEM_7 + basic_stages(1) + 513 * 10),
        # Small-size rules of the same code.
        ("convnet3-in", 32, convnet_parameters(3, 128, 4, 10)),
        ("convnet3-in", 28, convnet_parameters(3, 128, 3, 10)),
        ("convnet4-in", 64, convnet_parameters(4, 128, 4, 10)),
        ("convnet3w32-in", 32, convnet_parameters(3, 32, 4, 10)),
        ("convnet3w32-bn", 32, convnet_parameters(3, 32, 4, 10)),
        ("resnet18-in", 128, STEM_3 + basic_stages(2) + 513 * 10),
        ("resnet18-in", 28, STEM_3 + basic_stages(2) + 513 * 10),
        ("resnetap10-in", 28, STEM_3 + basic_stages(1) + 513 * 10),
        ("resnetap10-in", 128, STEM_3 + basic_stages(1) + 513 * 10),
        ("resnet18_modified", 64, STEM_3 + basic_stages(2) + 513 * 10),
        # GLaD's four at 128 px and at 32 px.
        ("resnet18-glad", 128, STEM_3 + basic_stages(2) + 513 * 10),
        ("vgg11-glad", 128, VGG + (512 * 49 + 1) * 10),
        ("vgg11-glad", 32, VGG + 513 * 10),
        ("vgg11-glad", 28, VGG + 513 * 10),
        ("vit-glad", 128, 768 * 512 + 512 + 512 * (1 + 65) + 10 * VIT_BLOCK + 513 * 10),
        ("vit-glad", 32, 48 * 512 + 512 + 512 * (1 + 65) + 6 * (VIT_BLOCK + 2 * 1024) + 1024 + 513 * 10),
        (
            "alexnet-glad",
            128,
            convolution(3, 128, 5, True)
            + convolution(128, 192, 5, True)
            + convolution(192, 256, 3, True)
            + convolution(256, 192, 3, True)
            + convolution(192, 192, 3, True)
            + (192 * 16 * 16 + 1) * 10,
        ),
    ],
)
def test_protocol_networks_have_the_counts_of_their_definitions(
    name: str, size: int, parameters: int
) -> None:
    network = on_meta(name, 10, size)
    assert count(network) == parameters
    assert network(torch.empty(2, 3, size, size, device="meta")).shape == (2, 10)


def map_sides(network: nn.Module, size: int) -> list[int]:
    """Sides of the maps that the stages of a ResNet put out."""
    sides: list[int] = []
    for stage in ("maxpool", "layer1", "layer2", "layer3", "layer4"):
        network.get_submodule(stage).register_forward_hook(lambda _, given, out: sides.append(out.shape[-1]))
    network(torch.empty(1, 3, size, size, device="meta"))
    return sides


@pytest.mark.parametrize(
    ("name", "size", "sides"),
    [
        ("resnet18-in", 224, [56, 56, 28, 14, 7]),
        ("resnet18-in", 128, [64, 64, 32, 16, 8]),
        ("resnet18-in", 64, [64, 64, 32, 16, 8]),
        ("resnetap10-in", 224, [56, 56, 28, 14, 7]),
        ("resnetap10-in", 128, [64, 64, 32, 16, 8]),
        ("resnetap10-in", 32, [32, 32, 16, 8, 4]),
        ("resnet18", 224, [56, 56, 28, 14, 7]),
        ("resnet18_modified", 32, [32, 32, 16, 8, 4]),
        ("resnet18-glad", 128, [128, 128, 64, 32, 16]),
    ],
)
def test_stems_and_stages_reduce_the_map_as_defined(name: str, size: int, sides: list[int]) -> None:
    assert map_sides(on_meta(name, 10, size), size) == sides


def test_nothing_in_resnetap_is_strided() -> None:
    network = on_meta("resnetap10-in", 10, 224)
    assert {one.stride for one in network.modules() if isinstance(one, nn.Conv2d)} == {(1, 1)}


def test_resnetap_block_is_the_formula() -> None:
    torch.manual_seed(0)
    block = build_network("resnetap10-in", 10, 32).get_submodule("layer2.0").double()
    maps = torch.randn(2, 64, 8, 8, dtype=torch.float64)

    def norm(values: Tensor) -> Tensor:
        mean, variance = values.mean((2, 3), keepdim=True), values.var((2, 3), correction=0, keepdim=True)
        return (values - mean) / (variance + 1e-5).sqrt()

    def pooled(values: Tensor) -> Tensor:
        return values.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))

    change = pooled(norm(F.conv2d(maps, block.conv1.weight, padding=1)).relu())
    change = norm(F.conv2d(change, block.conv2.weight, padding=1))
    shortcut = norm(pooled(F.conv2d(maps, block.downsample[0].weight)))
    torch.testing.assert_close(block(maps), (change + shortcut).relu(), rtol=1e-10, atol=1e-10)


def test_instance_norm_is_the_same_in_training_and_evaluation() -> None:
    torch.manual_seed(0)
    network, images = build_network("convnet3-in", 10, 32), torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(network.train()(images), network.eval()(images), rtol=0, atol=0)
    alone = network(images[:1])
    torch.testing.assert_close(network(images)[:1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18-in", "resnetap10-in", "resnet18"])
def test_residual_networks_start_from_scaled_normals(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 10, 224)
    weight = network.get_submodule("layer4.0.conv2").weight
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 512)), rel=0.01)
    assert float(network.get_submodule("bn1").weight.detach().min()) == 1


def test_glad_resnet_starts_from_the_default() -> None:
    torch.manual_seed(0)
    weight = build_network("resnet18-glad", 10, 32).get_submodule("layer4.0.conv2").weight
    assert float(weight.abs().max()) <= 1 / math.sqrt(9 * 512)


@pytest.mark.parametrize(("size", "depth"), [(28, 3), (32, 3), (64, 4), (128, 5), (224, 6), (256, 6)])
def test_convnet_depth_follows_the_size(size: int, depth: int) -> None:
    assert convnet_depth(size) == depth


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet19", 32, "networks must be among"),
        ("convnet7-in", 64, "depth of a convnet must be from 1 to 6 for 64 px, got 7"),
        ("alexnet", 32, "size must be at least 63 for alexnet, got 32"),
        ("vit_b_16", 100, "size must be a multiple of 16"),
        ("vit-glad", 30, "size must be a multiple of 4"),
    ],
)
def test_networks_that_cannot_be_are_refused(name: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network(name, 10, size)


@pytest.mark.parametrize("name", [name for name in FIXED_NAMES if "101" not in name])
def test_every_network_learns(name: str) -> None:
    """A gradient reaches every parameter; on the meta device, where only the wiring counts."""
    network = on_meta(name, 3, 64)
    network(torch.empty(2, 3, 64, 64, device="meta")).sum().backward()
    assert [one for one, parameter in network.named_parameters() if parameter.grad is None] == []
