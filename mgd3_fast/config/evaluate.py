"""What an evaluation is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.config.checks import check_options, check_whole
from mgd3_fast.config.documented import documented
from mgd3_fast.config.fields import (
    argument,
    background_option,
    bad_image_option,
    classes_option,
    data_dir_option,
    device_option,
    fit_option,
    folder,
    folders_of,
    number,
    option,
    path,
    seed_option,
    whole,
)
from mgd3_fast.errors import UserError

# Stand here and not beside their code, which needs torch: the command line reads them for its help.
PROTOCOLS = ("hard", "soft", "cross")
PRESETS = ("auto", "imagenet", "small", "quick", "mnist5k")
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


def check_epochs(name: str, value: object) -> None:
    """Refuse what is neither the name of a rule nor a whole number."""
    if isinstance(value, int):
        check_whole(name, value, 1)
    elif value not in EPOCH_RULES:
        raise UserError(f"{name} must be code, paper or a whole number, got {value!r}")


@documented
@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `evaluate_folders` is asked to do. None stands for what the protocol and the preset say."""

    folders: tuple[Path | str, ...] = argument(
        "distilled folders or their URLs, compared with the first", metavar="DIR", nargs="+", parse=folders_of
    )
    dataset: str = option(
        "mnist5k, an ImageNet subset's name as for distill, the path of a folder with train/ and val/,"
        " hf:owner/name, or wds:pattern",
        metavar="NAME|PATH|hf:...|wds:...",
    )
    data_dir: Path | str | None = data_dir_option()
    classes: str | None = classes_option()
    protocol: str = option(
        "hard: labels and CutMix (MinMax, MGD3); soft: a teacher labels every batch (RDED);"
        " cross: AlexNet, VGG11, ResNet18, ViT (GLaD)",
        default="hard",
        choices=PROTOCOLS,
    )
    preset: str = option(
        "sizes, networks and epochs; auto: mnist5k for mnist5k, imagenet for its subsets; of other datasets"
        " small up to 64 px and imagenet above, where nothing is enlarged; quick: one narrow ConvNet at 64 px"
        " at most, for a processor",
        default="auto",
        choices=PRESETS,
    )
    networks: tuple[str, ...] | None = option(
        "classifiers, separated by commas (default: the protocol's)",
        default=None,
        parse=names_of,
        metavar="NAME,..",
    )
    all_real: str = option(
        "also train on all real training images, as what the distilled ones stand for",
        default="off",
        choices=SWITCH,
    )
    repeats: int = whole("trainings of each network on each folder, with seeds SEED, SEED+1, ...", default=3)
    seed: int = seed_option("seed of the first repeat, the same for every folder")
    ipc: int | None = whole(
        "use only the first N images of each class, by name as the authors do (default: all)", default=None
    )
    eval_split: str = option(
        "test: the dataset's test images or, where these have no labels, its validation images; val: images"
        " held out of its train split, to tune on; validation, or any other split by its name",
        default="test",
        metavar="test|val|NAME",
    )
    background: str | None = background_option("what the first distilled folder records, else ")
    fit: str | None = fit_option("what the first distilled folder records, else ")
    on_bad_image: str = bad_image_option()
    out: Path | str = folder(
        "folder of results; trainings found there are not done again", default="evaluation"
    )

    size: int | None = whole(
        "side of the images that the network sees, in pixels (default: the preset's, or the smallest set's)",
        default=None,
        lowest=8,
        highest=LARGEST_SIZE,
        metavar="PX",
    )
    stored_size: int | None = whole(
        "side that training images are brought to before augmentation (default: --size; their own for soft)",
        default=None,
        lowest=8,
        highest=LARGEST_SIZE,
        metavar="PX",
    )
    epochs: int | str = option(
        "code: what the authors' code does; paper: what the MGD3 paper states; or a number",
        default="code",
        parse=epochs_of,
        metavar="code|paper|N",
        check=check_epochs,
    )
    batch_size: int | None = whole("images of a step", default=None)
    lr: float | None = number("highest learning rate", default=None, above_zero=True)
    tests: int | None = whole(
        "how often accuracy is measured, at equal distances; the best of them is kept beside the last",
        default=None,
    )
    augment: str | None = option(
        "imagenet: crop, jitter, lighting; patches: RDED's; shift: by an eighth; siamese: GLaD's DSA",
        default=None,
        choices=AUGMENTATIONS,
    )
    flip: str | None = option("mirror training images (off for digits)", default=None, choices=SWITCH)
    crop_area: float | None = number(
        "smallest share of an image that a random crop takes", default=None, highest=1.0, above_zero=True
    )
    mix: str | None = option("how images of a batch are mixed", default=None, choices=MIXES)
    mix_probability: float | None = number("share of the batches that are mixed", default=None, highest=1.0)
    large_rule: str = option(
        "when hard takes lr 0.1, weight decay 1e-4, batch 128: minmax above 100 classes, idc from 100",
        default="minmax",
        choices=LARGE_RULES,
    )
    cross_recipe: str = option(
        "how cross trains: glad, or hard as MGD3 says", default="glad", choices=("glad", "hard")
    )

    teacher: Path | str | None = path(
        "weights of the teacher of soft: a torchvision checkpoint, .pth or .safetensors",
        default=None,
        metavar="FILE",
    )
    teacher_network: str | None = option(
        "the teacher's architecture (default: resnet18; a smaller one for small images)",
        default=None,
        metavar="NAME",
    )
    temperature: float | None = number(
        "of the soft labels (default: 20 for cutmix, 4 for mixup)", default=None, above_zero=True
    )
    patches: int | None = whole("patches a side that soft shuffles, 1 for none (RDED's factor)", default=None)
    bn_updates: int | None = whole(
        "updates of batch norm's statistics a step: RDED's code does 2 (default for soft), others 1",
        default=None,
        highest=2,
        metavar="1|2",
    )

    device: str = device_option()
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
        if self.networks is not None and not self.networks:
            raise UserError("networks must be names separated by commas, got none")
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
