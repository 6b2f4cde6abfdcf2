"""`judge`: a generator and a dataset in, a verdict with its measures out.

Shape letters: N images, R pixels a side, S side that the classifier sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mgd3_fast.check.counting import majority_share
from mgd3_fast.config.judge import JudgeConfig
from mgd3_fast.datasets import Dataset
from mgd3_fast.datasets.holdout import chosen_images, fit_part, held_out_part, open_held_out
from mgd3_fast.datasets.spreading import spread
from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.evaluate.images import ImageSet
from mgd3_fast.generators import Generator, amend_description, class_ids, for_run
from mgd3_fast.generators.folder import DESCRIPTION
from mgd3_fast.judge.classifier import quick_recipe, shrunk, taught_accuracy
from mgd3_fast.judge.images import read_images
from mgd3_fast.judge.likeness import ClassPoints, Likeness, likeness, reconstruction_error
from mgd3_fast.judge.samples import draw_samples
from mgd3_fast.judge.sheets import RECONSTRUCTIONS, SAMPLES, write_reconstructions, write_samples
from mgd3_fast.judge.verdict import Measures, verdict
from mgd3_fast.metrics.features import latent_space
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.sources import Sources, open_sources
from mgd3_fast.versions import versions
from mgd3_fast.writers import check_writable

MOST_CLASSES = MOST_PER_CLASS = 50
MOST_HELD_OUT = 1000


@dataclass(frozen=True)
class Case:
    """What is compared.

    Args:
        sources: Generator, device and latents.
        train: The judged classes, with all their training images.
        held_out: The same classes, with images that are tested on.
        class_ids: The generator's id of each.
        counts: Samples of each, and training images that stand beside them.
        seen: Whether the generator may have been trained on the held-out images.
    """

    sources: Sources
    train: Dataset
    held_out: Dataset
    class_ids: tuple[int, ...]
    counts: tuple[int, ...]
    seen: bool

    @property
    def resolution(self) -> int:
        """R."""
        return self.sources.generator.resolution


def judge_generator(config: JudgeConfig, progress: Progress = SILENT) -> dict[str, Any]:
    """Judge a generator by a dataset: its autoencoder, its samples, and what they teach.

    Args:
        config: Generator, dataset, how many samples.
        progress: Receives bars and notes.

    Returns:
        "verdict" (good, usable or poor), "line" (why, and what to do), "measures", and what they depend on. A
        generator folder keeps it in `generator.json` as "quality".

    Raises:
        UserError: Something named does not exist or does not fit.
        Interrupted: Ctrl-C; latents that were encoded are kept.
    """
    kept = [Path(config.generator)] if _is_kept(config) else []
    for folder in (*kept, *([Path(config.out)] if config.out is not None else [])):
        check_writable(folder)  # before the work
    case = _open_case(config, progress)
    try:
        measures = _measure(case, config, progress)
    except KeyboardInterrupt:
        raise Interrupted("there is no verdict yet; the same command begins it again") from None
    found = verdict(measures)
    generator = case.sources.generator
    quality = {
        "verdict": found.word,
        "line": found.line,
        "dataset": case.train.name,
        "date": date.today().isoformat(),
        "measures": {name: round(value, 4) for name, value in asdict(measures).items()},
        "settings": _settings(case, config),
        **_subject(generator),
        "versions": versions(),
    }
    for folder in kept:
        amend_description(folder, quality=quality)
    return quality


def is_about(quality: Mapping[str, Any], generator: Generator) -> bool:
    """Whether a verdict that was kept is about a generator as it is: its weights, and how it is sampled."""
    return _subject(generator).items() <= quality.items()


def _subject(generator: Generator) -> dict[str, Any]:
    sampling = {name: getattr(generator.defaults, name) for name in ("sampler", "steps", "cfg_scale")}
    return {**generator.digests, "sampling": sampling}


def _is_kept(config: JudgeConfig) -> bool:
    """Whether the verdict is about a generator folder as it is."""
    return config.vae is None and (Path(config.generator) / DESCRIPTION).is_file()


def _open_case(config: JudgeConfig, progress: Progress) -> Case:
    """Open everything, and choose classes and numbers of images by counts alone."""
    sources = open_sources(config, progress, draws=True)
    whole, generator = sources.dataset, for_run(sources.generator, sources.dataset)
    if whole.stream is not None:
        raise UserError(f"dataset must be a folder or a name to judge by, got the stream {config.dataset}")
    held_out = open_held_out(
        config.dataset,
        config.split,
        data_dir=config.data_dir,
        classes=config.classes,
        cache_dir=config.cache_dir,
    )
    seen = held_out is None
    if held_out is None:
        whole, held_out = _without_a_fifth(whole, progress)
    judged = _judged(whole, held_out)
    train, held_out = whole.subset(judged), replace(held_out.subset(judged), framing=whole.framing)
    most = min(MOST_PER_CLASS, max(2, config.samples // len(judged)))
    counts = tuple(min(most, len(cls)) for cls in train.classes)
    held_out = chosen_images(held_out, max(2, MOST_HELD_OUT // len(judged)))
    ids = class_ids(generator, train, progress)
    return Case(replace(sources, generator=generator), train, held_out, ids, counts, seen)


def _without_a_fifth(whole: Dataset, progress: Progress) -> tuple[Dataset, Dataset]:
    """The classes that have two images and more without a fifth of each, and that fifth."""
    progress.note(
        f"{whole.name} has no val split: judged by a fifth of its training images, which the generator may"
        " know by heart (train and judge with --split fit to leave them out)"
    )
    shared = whole.subset([cls.label for cls in whole.classes if len(cls) > 1])
    return fit_part(shared), held_out_part(shared)


def _judged(train: Dataset, held_out: Dataset) -> Sequence[int]:
    """Labels of the classes to judge by: at most 50, evenly spread, of those with enough images."""
    tested = {cls.label for cls in held_out.classes if len(cls)}
    fit = [cls.label for cls in train.classes if len(cls) and cls.label in tested]
    if len(fit) < 2:
        raise UserError(
            "dataset must have at least 2 classes of training and held-out images to judge by, got"
            f" {len(fit)}"
        )
    return [fit[place] for place in spread(len(fit), MOST_CLASSES)]


def _measure(case: Case, config: JudgeConfig, progress: Progress) -> Measures:
    sources, names = case.sources, case.train.class_names
    sources.encode(case.train, config.on_bad_image, progress)
    drawn = draw_samples(
        sources.generator,
        [one for one, count in zip(case.class_ids, case.counts, strict=True) for _ in range(count)],
        [(name, number) for name, count in zip(names, case.counts, strict=True) for number in range(count)],
        seed=config.seed,
        device=sources.device,
        precision=sources.precision,
        progress=progress,
    )
    samples = ImageSet(drawn, torch.arange(len(names)).repeat_interleave(torch.tensor(case.counts)))
    beside = chosen_images(case.train, max(case.counts))
    real = read_images(beside, case.resolution, config.on_bad_image)
    held_out = read_images(case.held_out, case.resolution, config.on_bad_image)
    autoencoder = sources.generator.autoencoder.to(sources.device, sources.store.dtype)
    with progress.activity(f"encoding and decoding {len(held_out):,} held-out images"):
        decoded = autoencoder.decode(autoencoder.encode(held_out.pixels))
    psnr, l1 = reconstruction_error(held_out.pixels, decoded)
    if config.out is not None:
        write_samples(Path(config.out) / SAMPLES, names, samples)
        write_reconstructions(Path(config.out) / RECONSTRUCTIONS, names, held_out, decoded)
    accuracies = [
        _taught(case, images, held_out, config.seed, name, progress)
        for name, images in (("samples", samples), ("real images", real))
    ]
    return Measures(
        psnr_db=psnr,
        l1_levels=l1,
        accuracy=accuracies[0],
        accuracy_real=accuracies[1],
        majority=majority_share(held_out.labels.bincount().numpy()),
        held_out=len(held_out),
        **_likeness(case, samples, held_out)._asdict(),
    )


def _taught(case: Case, train: ImageSet, test: ImageSet, seed: int, name: str, progress: Progress) -> float:
    small, tested = (replace(images, pixels=shrunk(images.pixels)) for images in (train, test))
    classes = len(case.class_ids)
    recipe = quick_recipe(case.train.name, classes, sum(case.counts), small.pixels.shape[-1])
    return taught_accuracy(
        recipe,
        small,
        tested,
        num_classes=classes,
        seed=seed,
        device=case.sources.device,
        name=name,
        progress=progress,
    )


def _likeness(case: Case, samples: ImageSet, held_out: ImageSet) -> Likeness:
    """Compare in latents, which the training images' store holds already."""
    sources = case.sources
    features = latent_space(sources.generator.autoencoder, sources.device)
    made, unseen = (features(images.pixels).astype(np.float64) for images in (samples, held_out))

    def of_class(place: int) -> ClassPoints:
        stored = sources.store.get(case.train.classes[place])
        assert stored is not None  # they have just been encoded
        train = stored.flatten(1).double().numpy()
        return ClassPoints(made[samples.labels == place], train, unseen[held_out.labels == place])

    return likeness(of_class(place) for place in range(len(case.class_ids)))


def _settings(case: Case, config: JudgeConfig) -> dict[str, Any]:
    """All that decides the measures besides the weights."""
    return {
        "dataset_fingerprint": case.train.fingerprint,
        "held_out": case.held_out.split,
        "held_out_fingerprint": case.held_out.fingerprint,
        "seen_in_training": case.seen,
        "classes": len(case.class_ids),
        "samples": sum(case.counts),
        "seed": config.seed,
        "precision": case.sources.precision,
    }
