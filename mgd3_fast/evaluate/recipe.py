"""How one network is trained and tested: a row of the protocols' table with the options that were given.

`docs/evaluation.md` names the sources of the rules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.networks import convnet_blocks
from mgd3_fast.evaluate.presets import MANY_CLASSES, ByIpc, Defaults, Preset

if TYPE_CHECKING:
    from mgd3_fast.config.evaluate import EvaluateConfig

_OPTIONS = (
    "size",
    "augment",
    "crop_area",
    "patches",
    "mix",
    "mix_probability",
    "lr",
    "batch_size",
    "tests",
    "bn_updates",
)
_BN_MOMENTUM = 0.1
_MIXUP_ALPHA = 0.8
# RDED's validation looks at every tenth epoch after four fifths of them.
_LATE_TEST_EVERY, _LATE_TEST_SHARE = 10, 0.8


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
        preset: The rows of its protocols.
        network: Its name.
        ipc: Images per class.
        num_classes: Number of classes.
        side: Side of the distilled images in pixels.

    Raises:
        UserError: The protocol says nothing for this case and the option is not given, or options do not fit.
    """
    row = _row(config, preset, network, num_classes)
    size = row.size or side
    crops = row.augment in ("imagenet", "patches")
    stored_size = config.stored_size or (None if crops and row.keeps_size else size)
    if not crops and stored_size != size:
        raise UserError(f"stored_size must be {size}, the size, for augment {row.augment}, got {stored_size}")
    numerator, denominator = row.test_resize
    epochs = _epochs(row, config.epochs, ipc, num_classes)
    return Recipe(
        size=size,
        stored_size=stored_size,
        test_resize=size // denominator * numerator,
        augmentation=row.augment,
        flip=row.flip if config.flip is None else config.flip == "on",
        crop_area=(row.crop_area or 1 / row.patches, 1.0) if crops else (1.0, 1.0),
        patches=row.patches,
        mix=row.mix,
        mix_alpha=_MIXUP_ALPHA if row.mix == "mixup" else 1.0,
        mix_probability=0.0 if row.mix == "none" else row.mix_probability,
        temperature=config.temperature or row.temperatures.get(row.mix),
        optimizer=row.optimizer,
        lr=row.lr,
        weight_decay=row.weight_decay,
        schedule=row.schedule,
        batch_size=_batch_size(row, ipc, num_classes),
        epochs=epochs,
        test_every=_LATE_TEST_EVERY if row.tests is None else max(1, epochs // row.tests),
        test_after=_LATE_TEST_SHARE * epochs if row.tests is None else -1.0,
        ema=row.ema,
        # Two updates with the same batch, m <- 0.9 m + 0.1 b, are one of momentum 1 - 0.9^2.
        bn_momentum=_BN_MOMENTUM if row.bn_updates is None else 1 - (1 - _BN_MOMENTUM) ** row.bn_updates,
        score="best",
    )


def _row(config: EvaluateConfig, preset: Preset, network: str, num_classes: int) -> Defaults:
    """The protocol's row for this network and number of classes, with the options that were given."""
    name = config.protocol if config.cross_recipe == "glad" else "hard"
    row = preset.rows[name]
    changes: dict[str, Any] = {"lr": row.network_lrs.get(network, row.lr)}
    if row.convnet_size and {convnet_blocks(network), convnet_blocks(config.teacher_network or "")} & {5, 6}:
        changes["size"] = row.convnet_size
    if name == "hard" and num_classes >= (100 if config.large_rule == "idc" else 101):
        changes |= MANY_CLASSES
    given = {option: getattr(config, option) for option in _OPTIONS}
    return replace(row, **changes | {option: value for option, value in given.items() if value is not None})


def _epochs(row: Defaults, asked: int | str, ipc: int, num_classes: int) -> int:
    """A number that was asked for, or what the authors' code does, or what the MGD3 paper states."""
    if isinstance(asked, int):
        return asked
    stated = _at(row.paper_epochs, ipc) if asked == "paper" else None
    epochs = stated or _at(row.epochs, ipc)
    assert epochs is not None
    fewer = row.fewer_at_100 and num_classes == 100 and stated is None
    return epochs * 2 // 3 // 100 * 100 if fewer else epochs


def _at(values: ByIpc, ipc: int) -> int | None:
    return next((value for most, value in values if ipc <= most), None)


def _batch_size(row: Defaults, ipc: int, num_classes: int) -> int:
    size = row.batch_size
    if size is None:
        if ipc not in row.ipc_batch_sizes:
            known = ", ".join(map(str, row.ipc_batch_sizes))
            raise UserError(
                f"batch_size must be given for soft at {ipc} images per class: RDED has one for {known}"
            )
        size = row.ipc_batch_sizes[ipc] * (2 if num_classes in (100, 1000) else 1)
    return min(size, ipc * num_classes) if row.ipc_batch_sizes else size
