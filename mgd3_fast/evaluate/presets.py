"""What the protocols do where no option says otherwise: a row each, and what the presets change of it.

"imagenet" is what the papers do. "small" follows the same code bases' rules for 28 to 64 pixels. "mnist5k" is
small enough that one training takes about 25 s of one CPU core at 10 images per class. `docs/evaluation.md`
names the sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

# (most images per class, value): a value holds up to a number of images, None where nothing is said.
ByIpc = tuple[tuple[float, int | None], ...]


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """A row of the table. Fields that an option may replace have its name.

    Args:
        networks: Classifiers; "convnet" stands for the depth that suits the size.
        size: Side of the images that the network sees; None: that of the distilled images.
        keeps_size: Images that are cropped at random keep their own size until then.
        test_resize: (a, b): a test image is the centre of one a / b as large.
        augment: Kind of augmentation.
        flip: Whether a mirrored image still shows its class.
        crop_area: Smallest share of the area that a random crop takes; None: 1 / patches.
        patches: Patches a side that "patches" shuffles.
        mix: "cutmix", "mixup" or "none".
        mix_probability: Share of the batches that are mixed.
        temperatures: Of the soft labels, by mix.
        optimizer: "sgd" or "adamw".
        lr: Highest learning rate.
        network_lrs: The same for some networks.
        weight_decay: The optimiser's.
        schedule: Of the learning rate.
        batch_size: Images of a step; None: `ipc_batch_sizes`, twice as many for 100 and 1000 classes.
        ipc_batch_sizes: Images of a step, by images per class.
        epochs: Passes over the images.
        fewer_at_100: Exactly 100 classes take two thirds of the epochs, floored to hundreds.
        paper_epochs: What the MGD3 paper states instead, None where it says nothing.
        tests: How often accuracy is measured; None: every tenth epoch of the last fifth.
        ema: Decay of weights averaged once an epoch; None: none.
        bn_updates: Updates of batch norm's statistics a step; None: one.
    """

    networks: tuple[str, ...]
    size: int | None = None
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
CROSS_NETWORKS = _GLAD.networks


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Image sizes, networks and epochs that belong together.

    Args:
        name: "imagenet", "small" or "mnist5k".
        hard: Row of the hard protocol, and of cross with its recipe.
        soft: Row of the soft protocol.
        cross: Row of the cross protocol with GLaD's recipe.
    """

    name: str
    hard: Defaults
    soft: Defaults
    cross: Defaults

    @property
    def teacher_network(self) -> str:
        """Architecture of the soft protocol's teacher."""
        return self.soft.networks[0]


_SMALL_HARD = replace(
    _HARD,
    augment="shift",
    mix_probability=0.5,
    epochs=((math.inf, 1000),),
    fewer_at_100=False,
    paper_epochs=(),
    tests=1,
)
_MNIST5K_HARD = replace(
    _SMALL_HARD,
    networks=("convnet3w32-in",),
    size=32,
    flip=False,
    epochs=((1, 1000), (10, 300), (50, 100), (math.inf, 50)),
    tests=10,
)
_MNIST5K_SOFT = replace(_SOFT, networks=("convnet3w32-bn",), size=32, flip=False, crop_area=0.5, patches=1)
_PRESETS = {
    "imagenet": Preset(
        name="imagenet",
        hard=replace(_HARD, size=224),
        soft=replace(_SOFT, size=224),
        cross=replace(_GLAD, size=128),
    ),
    "small": Preset(
        name="small",
        hard=_SMALL_HARD,
        soft=replace(_SOFT, networks=("resnet18_modified",)),
        cross=_GLAD,
    ),
    "mnist5k": Preset(
        name="mnist5k",
        hard=_MNIST5K_HARD,
        soft=_MNIST5K_SOFT,
        cross=replace(_GLAD, size=32, flip=False),
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
    names = {"hard": preset.hard, "soft": preset.soft, "cross": preset.cross}[protocol].networks
    return tuple(f"convnet{convnet_depth(size)}-in" if name == "convnet" else name for name in names)


def convnet_depth(size: int) -> int:
    """Blocks of a ConvNet: 3 up to 32 pixels a side, 4 up to 64, 5 up to 128, 6 above."""
    return 3 + sum(size > largest for largest in (32, 64, 128))
