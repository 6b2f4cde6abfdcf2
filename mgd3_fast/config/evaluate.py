"""What an evaluation is asked to do: a frozen configuration, checked when it is made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgd3_fast.config.fields import LARGEST_SEED, check_number, check_options, check_whole, option
from mgd3_fast.errors import UserError

# Stand here and not beside their code, which needs torch: the command line reads them for its help.
PROTOCOLS = ("hard", "soft", "cross")
PRESETS = ("auto", "imagenet", "small", "mnist5k")
EPOCH_RULES = ("code", "paper")
AUGMENTATIONS = ("imagenet", "patches", "shift", "siamese", "none")
MIXES = ("cutmix", "mixup", "none")
LARGE_RULES = ("minmax", "idc")
SWITCH = ("off", "on")
LARGEST_SIZE = 8192


def epochs_of(text: str) -> int | str:
    """Read the name of a rule or a whole number."""
    return text if text in EPOCH_RULES else int(text)


def names_of(text: str) -> tuple[str, ...]:
    """Read names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def paths_of(words: list[str]) -> tuple[Path, ...]:
    """Take the positional arguments."""
    return tuple(Path(word) for word in words)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Everything `evaluate` is asked to do; `None` stands for what the protocol and the preset say.

    Args:
        folders: Distilled folders, scored side by side.

    Raises:
        UserError: If a field is out of range; the message names the field, the rule and the value.
    """

    folders: tuple[Path, ...] = field(metadata={"parse": paths_of})
    dataset: str = option(
        "mnist5k, an ImageNet subset's name as for distill, the path of a folder with train/ and val/,"
        " hf:owner/name, or wds:pattern",
        metavar="NAME|PATH|hf:...|wds:...",
    )
    data_dir: Path | str | None = option(
        "ILSVRC tree of the imagenet names (default: $IMAGENET_DIR)", default=None, parse=Path, metavar="PATH"
    )
    classes: str | None = option(
        "only these classes: names separated by commas (default: all)", default=None, metavar="NAMES"
    )
    protocol: str = option(
        "hard: labels and CutMix (MinMax, MGD3); soft: a teacher labels every batch (RDED);"
        " cross: AlexNet, VGG11, ResNet18, ViT (GLaD)",
        default="hard",
        choices=PROTOCOLS,
    )
    preset: str = option(
        "sizes, networks and epochs; auto: mnist5k for mnist5k, imagenet for its subsets, else small for"
        " images up to 64 px, imagenet above",
        default="auto",
        choices=PRESETS,
    )
    networks: tuple[str, ...] | None = option(
        "classifiers, separated by commas (default: the protocol's)",
        default=None,
        parse=names_of,
        metavar="NAME,..",
    )
    repeats: int = option(
        "trainings of each network on each folder, with seeds SEED, SEED+1, ...",
        default=3,
        parse=int,
        metavar="N",
    )
    seed: int = option(
        "seed of the first repeat, the same for every folder", default=0, parse=int, metavar="N"
    )
    ipc: int | None = option(
        "use only the first N images of each class, by name as the authors do (default: all)",
        default=None,
        parse=int,
        metavar="N",
    )
    eval_split: str = option(
        "test: the dataset's test images or, where these have no labels, its validation images; val: images"
        " held out of its train split, to tune on; validation, or any other split by its name",
        default="test",
        metavar="test|val|NAME",
    )
    out: Path | str = option(
        "folder of results; trainings found there are not done again",
        default="evaluation",
        parse=Path,
        metavar="PATH",
    )

    size: int | None = option(
        "side of the images that the network sees, in pixels", default=None, parse=int, metavar="PX"
    )
    stored_size: int | None = option(
        "side that training images are brought to before augmentation (default: --size; their own for soft)",
        default=None,
        parse=int,
        metavar="PX",
    )
    epochs: int | str = option(
        "code: what the authors' code does; paper: what the MGD3 paper states; or a number",
        default="code",
        parse=epochs_of,
        metavar="code|paper|N",
    )
    batch_size: int | None = option("images of a step", default=None, parse=int, metavar="N")
    lr: float | None = option("highest learning rate", default=None, parse=float, metavar="X")
    tests: int | None = option(
        "how often accuracy is measured, at equal distances; the best of them is kept beside the last",
        default=None,
        parse=int,
        metavar="N",
    )
    augment: str | None = option(
        "imagenet: crop, jitter, lighting; patches: RDED's; shift: by an eighth; siamese: GLaD's DSA",
        default=None,
        choices=AUGMENTATIONS,
    )
    flip: str | None = option("mirror training images (off for digits)", default=None, choices=SWITCH)
    crop_area: float | None = option(
        "smallest share of an image that a random crop takes", default=None, parse=float, metavar="X"
    )
    mix: str | None = option("how images of a batch are mixed", default=None, choices=MIXES)
    mix_probability: float | None = option(
        "share of the batches that are mixed", default=None, parse=float, metavar="X"
    )
    large_rule: str = option(
        "when hard takes lr 0.1, weight decay 1e-4, batch 128: minmax above 100 classes, idc from 100",
        default="minmax",
        choices=LARGE_RULES,
    )
    cross_recipe: str = option(
        "how cross trains: glad, or hard as MGD3 says", default="glad", choices=("glad", "hard")
    )

    teacher: Path | str | None = option(
        "weights of the teacher of soft: a torchvision checkpoint, .pth or .safetensors",
        default=None,
        parse=Path,
        metavar="FILE",
    )
    teacher_network: str | None = option(
        "the teacher's architecture (default: resnet18; a smaller one for small images)",
        default=None,
        metavar="NAME",
    )
    temperature: float | None = option(
        "of the soft labels (default: 20 for cutmix, 4 for mixup)", default=None, parse=float, metavar="X"
    )
    patches: int | None = option(
        "patches a side that soft shuffles, 1 for none (RDED's factor)", default=None, parse=int, metavar="N"
    )
    bn_updates: int | None = option(
        "updates of batch norm's statistics a step: RDED's code does 2 (default for soft), others 1",
        default=None,
        parse=int,
        metavar="1|2",
    )

    device: str = option("auto, cpu, cuda or cuda:N", default="auto", metavar="NAME")
    precision: str = option(
        "fp32 as the protocols, or bf16 autocast", default="fp32", choices=("fp32", "bf16")
    )
    compile: str = option("torch.compile the networks", default="off", choices=SWITCH)
    keep_weights: str = option(
        "keep the last weights of each training as safetensors, for use as --teacher",
        default="off",
        choices=SWITCH,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not self.folders:
            raise UserError("folders must be at least one distilled folder, got none")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}")
        if self.networks is not None and not self.networks:
            raise UserError("networks must be names separated by commas, got none")
        self._check_counts()
        self._check_numbers()
        self._check_teacher()

    def _check_counts(self) -> None:
        check_whole("repeats", self.repeats, 1)
        check_whole("seed", self.seed, 0, LARGEST_SEED)
        if self.epochs not in EPOCH_RULES and not isinstance(self.epochs, int):
            raise UserError(f"epochs must be code, paper or a whole number, got {self.epochs!r}")
        optional: tuple[tuple[str, int, int | None], ...] = (
            ("ipc", 1, None),
            ("size", 8, LARGEST_SIZE),
            ("stored_size", 8, LARGEST_SIZE),
            ("batch_size", 1, None),
            ("tests", 1, None),
            ("patches", 1, None),
            ("bn_updates", 1, 2),
        )
        if isinstance(self.epochs, int):
            optional += (("epochs", 1, None),)
        for name, lowest, highest in optional:
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), lowest, highest)

    def _check_numbers(self) -> None:
        for name, highest in (("lr", None), ("temperature", None), ("crop_area", 1.0)):
            value: Any = getattr(self, name)
            if value is None:
                continue
            check_number(name, value, 0.0, *([] if highest is None else [highest]))
            if value == 0:
                raise UserError(f"{name} must be above 0, got {value}")
        if self.mix_probability is not None:
            check_number("mix_probability", self.mix_probability, 0.0, 1.0)

    def _check_teacher(self) -> None:
        soft = self.protocol == "soft"
        if soft and self.teacher is None:
            raise UserError(
                "teacher must be given for protocol soft: the weights file that labels every batch"
            )
        for name in ("teacher", "teacher_network", "temperature", "bn_updates"):
            if not soft and getattr(self, name) is not None:
                raise UserError(f"{name} must be left out unless protocol is soft, got {getattr(self, name)}")
        if self.protocol != "cross" and self.cross_recipe != "glad":
            raise UserError(
                f"cross_recipe must be left out unless protocol is cross, got {self.cross_recipe!r}"
            )
