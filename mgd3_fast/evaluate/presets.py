"""What the protocols do where no option says otherwise: a row each, and what the presets change of it.

"imagenet" is what the papers do. "small" follows the same code bases' rules for 28 to 64 pixels. "mnist5k" is
small enough that one training takes about 25 s of one CPU core at 10 images per class; "quick" is that for
other images. `docs/evaluation.md` names the sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mgd3_fast.datasets.opening import DATASET_NAMES

# (most images per class, value): a value holds up to a number of images, None where nothing is said.
ByIpc = tuple[tuple[float, int | None], ...]


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """A row of the table; a field that `Recipe` or an option has too means what it means there.

    Args:
        networks: Classifiers; "convnet" and "convnetw32" stand for the depth that suits the size.
        size: As of `Recipe`; None: that of the distilled images.
        convnet_size: The same where student or teacher is a ConvNet of 5 or 6 blocks; None: `size`.
        keeps_size: Images that are cropped at random keep their own size until then.
        test_resize: (a, b): a test image is the centre of one a / b as large.
        augment: Kind of augmentation.
        crop_area: Smallest share of the area that a random crop takes; None: 1 / patches.
        temperatures: Of the soft labels, by mix.
        network_lrs: `lr` of some networks.
        batch_size: As of `Recipe`; None: `ipc_batch_sizes`, twice as many for 100 and 1000 classes.
        ipc_batch_sizes: Images of a step, by images per class.
        epochs: Passes over the images.
        fewer_at_100: Exactly 100 classes take two thirds of the epochs, floored to hundreds.
        paper_epochs: What the MGD3 paper states instead, None where it says nothing.
        tests: How often accuracy is measured; None: every tenth epoch of the last fifth.
        bn_updates: Updates of batch norm's statistics a step; None: one.
    """

    networks: tuple[str, ...]
    size: int | None = None
    convnet_size: int | None = None
    keeps_size: bool = False
    test_resize: tuple[int, int] = (1, 1)
    augment: str
    flip: bool = True
    crop_area: float | None = 0.5
    patches: int = 1
    mix: str = "cutmix"
    mix_probability: float = 1.0
    temperatures: Mapping[str, float] = field(default_factory=dict)
    optimizer: str = "sgd"
    lr: float
    network_lrs: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 5e-4
    schedule: str
    batch_size: int | None
    ipc_batch_sizes: Mapping[int, int] = field(default_factory=dict)
    epochs: ByIpc
    fewer_at_100: bool = False
    paper_epochs: ByIpc = ()
    tests: int | None
    ema: float | None = None
    bn_updates: int | None = None


# IDC's code, which MinMax and MGD3 use; epochs are its `ipc_epoch`, those of the paper its appendix I.
_HARD = Defaults(
    networks=("convnet", "resnetap10-in", "resnet18-in"),
    augment="imagenet",
    lr=0.01,
    schedule="steps",
    batch_size=64,
    epochs=((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500), (math.inf, 300)),
    fewer_at_100=True,
    paper_epochs=((9, None), (10, 2000), (100, 1500)),
    tests=100,
)
# What IDC's code takes for many classes.
MANY_CLASSES = {"lr": 0.1, "weight_decay": 1e-4, "batch_size": 128}
# RDED's validation.
_SOFT = Defaults(
    networks=("resnet18",),
    keeps_size=True,
    test_resize=(8, 7),
    augment="patches",
    crop_area=None,
    patches=2,
    temperatures={"cutmix": 20.0, "mixup": 4.0, "none": 20.0},
    optimizer="adamw",
    lr=1e-3,
    network_lrs={"vgg11": 5e-4, "alexnet": 1e-4, "vit_b_16": 1e-4},
    weight_decay=0.01,
    schedule="half-cosine",
    batch_size=None,
    ipc_batch_sizes={1: 10, 10: 50, 50: 100},
    epochs=((math.inf, 300),),
    tests=None,
    bn_updates=2,
)
# GLaD's evaluation of images on networks that did not see their making.
_GLAD = Defaults(
    networks=("alexnet-glad", "vgg11-glad", "resnet18-glad", "vit-glad"),
    augment="siamese",
    mix="none",
    lr=1e-3,
    network_lrs={"vgg11-glad": 1e-4, "vgg11": 1e-4},
    schedule="warmup-cosine",
    batch_size=256,
    epochs=((math.inf, 1000),),
    tests=1,
    ema=0.995,
)
_LARGEST_SMALL = 64  # pixels a side
# Datasets that RDED's code gives its ConvNets at 128 pixels; ImageNet-1K and sets A to E have 224.
_SMALL_FOR_CONVNETS = ("imagenette", "imagewoof", "imagenet100")


@dataclass(frozen=True)
class Preset:
    """Rows that belong together: of "hard" (and of cross with its recipe), "soft" and "cross"."""

    name: str
    rows: Mapping[str, Defaults]


_SMALL_HARD = replace(
    _HARD,
    augment="shift",
    mix_probability=0.5,
    epochs=((math.inf, 1000),),
    fewer_at_100=False,
    paper_epochs=(),
    tests=1,
)
_QUICK_HARD = replace(
    _SMALL_HARD,
    networks=("convnetw32",),
    epochs=((1, 1000), (10, 300), (50, 100), (math.inf, 50)),
    tests=10,
)
_PRESETS = {
    "imagenet": {
        "hard": replace(_HARD, size=224),
        "soft": replace(_SOFT, size=224),
        "cross": replace(_GLAD, size=128),
    },
    "small": {
        "hard": _SMALL_HARD,
        "soft": replace(_SOFT, networks=("resnet18_modified",)),
        "cross": _GLAD,
    },
    "quick": {
        "hard": _QUICK_HARD,
        "soft": replace(_SOFT, networks=("resnet18_modified",)),
        "cross": _GLAD,
    },
    "mnist5k": {
        "hard": replace(_QUICK_HARD, size=32, flip=False),
        "soft": replace(_SOFT, networks=("convnet3w32-bn",), size=32, flip=False, crop_area=0.5, patches=1),
        "cross": replace(_GLAD, size=32, flip=False),
    },
}


def find_preset(name: str, dataset: str, side: int, imagenet: bool) -> Preset:
    """Choose a preset.

    Args:
        name: "imagenet", "small", "quick", "mnist5k", or "auto": mnist5k for mnist5k, imagenet for ImageNet's
            class lists; of any other dataset small up to 64 pixels and imagenet above, where nothing is
            enlarged.
        dataset: Name of the dataset.
        side: Side of the distilled images in pixels.
        imagenet: Whether the dataset is an ImageNet class list.
    """
    chosen = name == "auto"
    if chosen:
        name = "imagenet" if imagenet or side > _LARGEST_SMALL else "small"
        name = "mnist5k" if dataset == "mnist5k" else name
    rows = _PRESETS[name]
    if chosen and name == "imagenet" and not imagenet:
        rows = {key: replace(row, size=row.size and min(row.size, side)) for key, row in rows.items()}
    if name == "quick":
        rows = {key: replace(row, size=min(side, _LARGEST_SMALL)) for key, row in rows.items()}
    if name == "imagenet" and dataset in _SMALL_FOR_CONVNETS:
        rows = rows | {"soft": replace(rows["soft"], convnet_size=128)}
    return Preset(name, rows)


def default_networks(preset: Preset, protocol: str, size: int) -> tuple[str, ...]:
    """Names for `build_network` of the networks of a protocol whose images are `size` pixels a side."""
    sized = {f"convnet{width}": f"convnet{convnet_depth(size)}{width}-in" for width in ("", "w32")}
    return tuple(sized.get(name, name) for name in preset.rows[protocol].networks)


def affordable_preset(name: str, dataset: str, device: str) -> str:
    """Take "quick" for "auto" where many trainings on a processor are of images of one's own.

    Args:
        name: A preset, or "auto".
        dataset: What the images were opened as; those known by name keep their protocol.
        device: Type of the device, such as "cpu".
    """
    return "quick" if name == "auto" and device == "cpu" and dataset not in DATASET_NAMES else name


def convnet_depth(size: int) -> int:
    """Blocks of a ConvNet: 3 up to 32 pixels a side, 4 up to 64, 5 up to 128, 6 above."""
    return 3 + sum(size > largest for largest in (32, 64, 128))
