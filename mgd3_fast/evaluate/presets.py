"""Image sizes, networks and epochs that belong together.

"imagenet" is what the papers do. "small" follows the same code bases' rules for 28 to 64 pixels. "mnist5k" is
small enough that one training takes about 25 s of one CPU core at 10 images per class.
"""

from __future__ import annotations

from dataclasses import dataclass

# Images per class up to which a number of epochs holds (IDC's `ipc_epoch`).
_CODE_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))
_CODE_MOST_IMAGES = 300
_SMALL_EPOCHS = 1000
_MNIST5K_EPOCHS = ((1, 1000), (10, 300), (50, 100))
_MNIST5K_MOST_IMAGES = 50


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Image sizes, networks and epochs.

    Args:
        name: "imagenet", "small" or "mnist5k".
        size: Side of the images for hard and soft; None: that of the distilled images.
        cross_size: The same for cross with GLaD's recipe.
        hard_networks: Networks of hard; "convnet" stands for the depth that suits the size.
        soft_networks: Students of soft.
        teacher_network: Architecture of the teacher.
        hard_augmentation: Augmentation of hard.
        hard_mix_probability: Share of the batches that hard mixes.
        hard_tests: How often hard measures accuracy.
        soft_patches: Patches a side that soft shuffles.
        soft_crop_area: Smallest share of the area that soft crops; None: 1 / patches.
        flip: Whether a mirrored image still shows its class.
    """

    name: str
    size: int | None = None
    cross_size: int | None = None
    hard_networks: tuple[str, ...] = ("convnet", "resnetap10-in", "resnet18-in")
    soft_networks: tuple[str, ...] = ("resnet18",)
    teacher_network: str = "resnet18"
    hard_augmentation: str = "imagenet"
    hard_mix_probability: float = 1.0
    hard_tests: int = 100
    soft_patches: int = 2
    soft_crop_area: float | None = None
    flip: bool = True


CROSS_NETWORKS = ("alexnet-glad", "vgg11-glad", "resnet18-glad", "vit-glad")
_PRESETS = {
    "imagenet": Preset(name="imagenet", size=224, cross_size=128),
    "small": Preset(
        name="small",
        soft_networks=("resnet18_modified",),
        teacher_network="resnet18_modified",
        hard_augmentation="shift",
        hard_mix_probability=0.5,
        hard_tests=1,
    ),
    "mnist5k": Preset(
        name="mnist5k",
        size=32,
        cross_size=32,
        hard_networks=("convnet3w32-in",),
        soft_networks=("convnet3w32-bn",),
        teacher_network="convnet3w32-bn",
        hard_augmentation="shift",
        hard_mix_probability=0.5,
        hard_tests=10,
        soft_patches=1,
        soft_crop_area=0.5,
        flip=False,
    ),
}


def find_preset(name: str, dataset: str, side: int, imagenet: bool) -> Preset:
    """Choose a preset.

    Args:
        name: "auto", or a preset's name.
        dataset: Name of the dataset.
        side: Side of the distilled images in pixels.
        imagenet: Whether the dataset is an ImageNet class list.

    Returns:
        The preset; auto is mnist5k for mnist5k, imagenet for its class lists and above 64 pixels, else small.
    """
    if name != "auto":
        return _PRESETS[name]
    if dataset == "mnist5k":
        return _PRESETS["mnist5k"]
    return _PRESETS["imagenet" if imagenet or side > 64 else "small"]


def default_networks(preset: Preset, protocol: str, size: int) -> tuple[str, ...]:
    """Networks of a protocol.

    Args:
        preset: The preset.
        protocol: "hard", "soft" or "cross".
        size: Side of the images that the networks see.

    Returns:
        Names for `build_network`.
    """
    if protocol == "cross":
        return CROSS_NETWORKS
    names = preset.hard_networks if protocol == "hard" else preset.soft_networks
    return tuple(f"convnet{convnet_depth(size)}-in" if name == "convnet" else name for name in names)


def convnet_depth(size: int) -> int:
    """Blocks of a ConvNet: 3 up to 32 pixels a side, 4 up to 64, 5 up to 128, 6 above."""
    return 3 + sum(size > largest for largest in (32, 64, 128))


def code_epochs(preset: Preset, ipc: int, num_classes: int) -> int:
    """Epochs of the hard protocol as the code has them.

    Args:
        preset: "imagenet" depends on `ipc`, and takes two thirds, floored to hundreds, for exactly 100
            classes; "small" is 1000.
        ipc: Images per class.
        num_classes: Number of classes.

    Returns:
        Number of epochs.
    """
    if preset.name == "small":
        return _SMALL_EPOCHS
    if preset.name == "mnist5k":
        return _rule(_MNIST5K_EPOCHS, ipc, _MNIST5K_MOST_IMAGES)
    epochs = _rule(_CODE_EPOCHS, ipc, _CODE_MOST_IMAGES)
    return epochs * 2 // 3 // 100 * 100 if num_classes == 100 else epochs


def paper_epochs(preset: Preset, ipc: int, num_classes: int) -> int:
    """Epochs as MGD3's appendix I states them: 2000 for 10, 1500 for 20, 50 and 100 images per class.

    Where it says nothing, up to 10 and above 100 images or for small images, the code's rule holds.

    Args:
        preset: See `code_epochs`.
        ipc: Images per class.
        num_classes: Number of classes.

    Returns:
        Number of epochs.
    """
    if preset.name != "imagenet" or ipc < 10 or ipc > 100:
        return code_epochs(preset, ipc, num_classes)
    return 2000 if ipc == 10 else 1500


def _rule(steps: tuple[tuple[int, int], ...], ipc: int, beyond: int) -> int:
    return next((epochs for most, epochs in steps if ipc <= most), beyond)
