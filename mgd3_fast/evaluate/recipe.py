"""How one network is trained and tested: every number a protocol fixes, and every one it leaves open.

The three protocols as their authors' code has them; `docs/evaluation.md` names the sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.presets import Preset, code_epochs, paper_epochs

if TYPE_CHECKING:
    from mgd3_fast.config.evaluate import EvaluateConfig

_SOFT_EPOCHS = 300
_SOFT_BATCHES = {1: 10, 10: 50, 50: 100}
_SOFT_LRS = {"vgg11": 5e-4, "alexnet": 1e-4, "vit_b_16": 1e-4}
_SOFT_TEMPERATURES = {"cutmix": 20.0, "mixup": 4.0, "none": 20.0}
_MIXUP_ALPHA = 0.8
_BN_MOMENTUM = 0.1
_GLAD_EPOCHS = 1000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one network is trained and tested.

    Args:
        size: Side of the images that the network sees, in pixels.
        stored_size: Side of the training images before augmentation; None: their own.
        test_resize: Shorter side of a test image before its centre of `size` pixels is cut out.
        augmentation: "imagenet", "patches", "shift", "siamese" or "none".
        flip: Whether training images are mirrored with probability 1/2.
        crop_area: Smallest and largest share of the area that a random crop takes.
        patches: Patches a side that "patches" shuffles.
        mix: "cutmix", "mixup" or "none".
        mix_alpha: Parameter of its Beta distribution.
        mix_probability: Share of the batches that are mixed.
        temperature: Of teacher and student in the soft-label loss; None: cross entropy with hard labels.
        optimizer: "sgd" (momentum 0.9) or "adamw" (betas 0.9, 0.999).
        lr: Highest learning rate.
        weight_decay: Of all parameters for "sgd", of "weight" tensors of two or more axes for "adamw".
        schedule: "steps": times 0.2 at 2/3 and 5/6; "half-cosine": from lr to lr/2; "warmup-cosine": linear
            over the first half, cosine to 0 over the second.
        batch_size: Images of a step; the last batch of an epoch may have fewer.
        epochs: Passes over the images.
        test_every: Epochs between tests; the last epoch is always tested.
        test_after: No test before this many epochs.
        ema: Decay of the weights averaged once an epoch, which are then what is tested; None: none.
        bn_momentum: Batch norm's.
        score: Which accuracy the protocol reports: "best" or "last".
    """

    size: int
    stored_size: int | None
    test_resize: int
    augmentation: str
    flip: bool
    crop_area: tuple[float, float]
    patches: int
    mix: str
    mix_alpha: float
    mix_probability: float
    temperature: float | None
    optimizer: str
    lr: float
    weight_decay: float
    schedule: str
    batch_size: int
    epochs: int
    test_every: int
    test_after: float
    ema: float | None
    bn_momentum: float
    score: str

    def is_tested(self, epoch: int) -> bool:
        """Whether accuracy is measured after `epoch` epochs."""
        return epoch == self.epochs or (epoch % self.test_every == 0 and epoch - 1 > self.test_after)


def make_recipe(
    config: EvaluateConfig, preset: Preset, network: str, *, ipc: int, num_classes: int, side: int
) -> Recipe:
    """Decide how a network is trained.

    Args:
        config: What was asked for.
        preset: Sizes and epochs.
        network: Its name.
        ipc: Images per class.
        num_classes: Number of classes.
        side: Side of the distilled images in pixels.

    Returns:
        The recipe.

    Raises:
        UserError: The protocol says nothing for this case and the option is not given, or options do not fit.
    """
    if config.protocol == "soft":
        recipe = _soft(config, preset, network, ipc, num_classes, side)
    elif config.protocol == "cross" and config.cross_recipe == "glad":
        recipe = _glad(config, preset, network, side)
    else:
        recipe = _hard(config, preset, ipc, num_classes, side)
    if recipe.augmentation in ("shift", "siamese", "none") and recipe.stored_size != recipe.size:
        raise UserError(
            f"stored_size must be {recipe.size}, the size, for augment {recipe.augmentation},"
            f" got {recipe.stored_size}"
        )
    return recipe


def _hard(config: EvaluateConfig, preset: Preset, ipc: int, num_classes: int, side: int) -> Recipe:
    """MinMax's and MGD3's code, which is IDC's."""
    size = config.size or preset.size or side
    large = num_classes > 100 or (num_classes == 100 and config.large_rule == "idc")
    augmentation = config.augment or preset.hard_augmentation
    epochs = config.epochs
    if epochs == "code":
        epochs = code_epochs(preset, ipc, num_classes)
    elif epochs == "paper":
        epochs = paper_epochs(preset, ipc, num_classes)
    assert isinstance(epochs, int)
    mix, probability = _mix(config, "cutmix", preset.hard_mix_probability)
    return Recipe(
        size=size,
        stored_size=config.stored_size or size,
        test_resize=size,
        augmentation=augmentation,
        flip=_flip(config, preset),
        crop_area=_crop_area(config, augmentation, 0.5),
        patches=config.patches or 1,
        mix=mix,
        mix_alpha=_MIXUP_ALPHA if mix == "mixup" else 1.0,
        mix_probability=probability,
        temperature=None,
        optimizer="sgd",
        lr=config.lr or (0.1 if large else 0.01),
        weight_decay=1e-4 if large else 5e-4,
        schedule="steps",
        batch_size=config.batch_size or (128 if large else 64),
        epochs=epochs,
        test_every=max(1, epochs // (config.tests or preset.hard_tests)),
        test_after=-1.0,
        ema=None,
        bn_momentum=_BN_MOMENTUM,
        score="best",
    )


def _soft(
    config: EvaluateConfig, preset: Preset, network: str, ipc: int, num_classes: int, side: int
) -> Recipe:
    """RDED's validation."""
    size = config.size or preset.size or side
    augmentation = config.augment or "patches"
    patches = config.patches or preset.soft_patches
    epochs = config.epochs if isinstance(config.epochs, int) else _SOFT_EPOCHS
    mix, probability = _mix(config, "cutmix", 1.0)
    native = augmentation in ("patches", "imagenet")
    updates = config.bn_updates or 2
    return Recipe(
        size=size,
        stored_size=config.stored_size or (None if native else size),
        test_resize=size // 7 * 8,
        augmentation=augmentation,
        flip=_flip(config, preset),
        crop_area=_crop_area(config, augmentation, preset.soft_crop_area or 1 / patches),
        patches=patches,
        mix=mix,
        mix_alpha=_MIXUP_ALPHA if mix == "mixup" else 1.0,
        mix_probability=probability,
        temperature=config.temperature or _SOFT_TEMPERATURES[mix],
        optimizer="adamw",
        lr=config.lr or _SOFT_LRS.get(network, 1e-3),
        weight_decay=0.01,
        schedule="half-cosine",
        batch_size=_soft_batch(config, ipc, num_classes),
        epochs=epochs,
        test_every=10 if config.tests is None else max(1, epochs // config.tests),
        test_after=0.8 * epochs if config.tests is None else -1.0,
        ema=None,
        # Two updates with the same batch, m <- 0.9 m + 0.1 b, are one of momentum 1 - 0.9^2.
        bn_momentum=1 - (1 - _BN_MOMENTUM) ** updates,
        score="best",
    )


def _glad(config: EvaluateConfig, preset: Preset, network: str, side: int) -> Recipe:
    """GLaD's evaluation of images on networks that did not see their making."""
    size = config.size or preset.cross_size or side
    epochs = config.epochs if isinstance(config.epochs, int) else _GLAD_EPOCHS
    augmentation = config.augment or "siamese"
    mix, probability = _mix(config, "none", 1.0)
    return Recipe(
        size=size,
        stored_size=config.stored_size or size,
        test_resize=size,
        augmentation=augmentation,
        flip=_flip(config, preset),
        crop_area=_crop_area(config, augmentation, 0.5),
        patches=config.patches or 1,
        mix=mix,
        mix_alpha=_MIXUP_ALPHA if mix == "mixup" else 1.0,
        mix_probability=probability,
        temperature=None,
        optimizer="sgd",
        lr=config.lr or (1e-4 if network.startswith("vgg11") else 1e-3),
        weight_decay=5e-4,
        schedule="warmup-cosine",
        batch_size=config.batch_size or 256,
        epochs=epochs,
        test_every=max(1, epochs // (config.tests or 1)),
        test_after=-1.0,
        ema=0.995,
        bn_momentum=_BN_MOMENTUM,
        score="best",
    )


def _soft_batch(config: EvaluateConfig, ipc: int, num_classes: int) -> int:
    if config.batch_size is not None:
        return min(config.batch_size, ipc * num_classes)
    if ipc not in _SOFT_BATCHES:
        known = ", ".join(map(str, _SOFT_BATCHES))
        raise UserError(
            f"batch_size must be given for soft at {ipc} images per class: RDED has one for {known}"
        )
    doubled = 2 if num_classes in (100, 1000) else 1
    return min(_SOFT_BATCHES[ipc] * doubled, ipc * num_classes)


def _mix(config: EvaluateConfig, kind: str, probability: float) -> tuple[str, float]:
    """How and how often batches are mixed."""
    kind = config.mix or kind
    if config.mix_probability is not None:
        probability = config.mix_probability
    return kind, 0.0 if kind == "none" else probability


def _flip(config: EvaluateConfig, preset: Preset) -> bool:
    return preset.flip if config.flip is None else config.flip == "on"


def _crop_area(config: EvaluateConfig, augmentation: str, smallest: float) -> tuple[float, float]:
    if augmentation not in ("imagenet", "patches"):
        return (1.0, 1.0)
    return (config.crop_area or smallest, 1.0)
