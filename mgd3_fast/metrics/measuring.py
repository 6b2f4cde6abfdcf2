"""Distilled folders to numbers: class by class, all folders on one map.

Shape letters: n real images of a class, m synthetic images of a class, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.config.metrics import MetricsConfig
from mgd3_fast.metrics.frechet import Moments, frechet_distance
from mgd3_fast.metrics.mode_recovery import class_recovery, open_run_modes
from mgd3_fast.metrics.neighbours import cosine_scores, coverage_and_density, mean_of_nearest, nearest_other
from mgd3_fast.metrics.real_images import Comparison, open_comparison
from mgd3_fast.pictures.embedding import joint_map
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.storage.json_results import result_file, write_json
from mgd3_fast.versions import versions
from mgd3_fast.writers.labelled import distinct_names

RESULT = "metrics.json"
SCORES = (
    "diversity",
    "representativeness",
    "cosine_diversity",
    "cosine_representativeness",
    "coverage",
    "density",
    "mode_recovery",
)
"""Scores of a class; larger is more of each. The first two are taken on the t-SNE map."""

SCALED = {f"scaled_{name}": name for name in ("diversity", "representativeness")}
"""The first two between the least, 0, and the most, 1, of all classes of all folders (MGD3, table 9)."""

# A covariance of more features than this takes minutes to decompose.
_MOST_FRECHET_FEATURES = 4096

Points = NDArray[np.float64]


@dataclass(frozen=True)
class ClassMeasures:
    """What one class of a folder scores.

    Args:
        scores: Each of `SCORES` and `SCALED`; NaN where it has no value, such as the diversity of one image.
        image_diversity: Of every image, in the order of file names; empty without a map.
        image_representativeness: Likewise.
    """

    scores: dict[str, float]
    image_diversity: tuple[float, ...]
    image_representativeness: tuple[float, ...]


@dataclass(frozen=True)
class FolderMeasures:
    """What a folder scores.

    Args:
        name: Of the folder.
        path: Where it lies.
        ipc: Images of each class.
        classes: By class name, in label order.
        mean: Mean of each score over the classes that have it.
        frechet: Squared Fréchet distance of all images to all real ones; None for fewer than two images or
            more than 4,096 features. With an Inception network's features it is FID.
    """

    name: str
    path: str
    ipc: int
    classes: dict[str, ClassMeasures]
    mean: dict[str, float]
    frechet: float | None


@dataclass(frozen=True)
class ClassMap:
    """Where the images of a class lie on its map: real `[n, 2]`, and `[m, 2]` of each folder."""

    class_name: str
    real: Points
    synthetic: tuple[Points, ...]


@dataclass(frozen=True)
class Measured:
    """The result of a measurement.

    Args:
        folders: In the order asked for.
        maps: Of every class, empty without t-SNE.
        settings: What the numbers depend on.
    """

    folders: tuple[FolderMeasures, ...]
    maps: tuple[ClassMap, ...]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON values only: settings and folders; what has no value is null."""
        folders = [_without_nan(asdict(folder)) for folder in self.folders]
        return {"settings": self.settings, "folders": folders}

    def save(self, out: Path) -> Path:
        """Write the result as JSON; an older file is replaced when the new one is complete.

        Args:
            out: A file that ends in .json, or a folder, which receives `metrics.json`; it is made.

        Returns:
            The file.

        Raises:
            OSError: It cannot be written.
        """
        target = result_file(out, RESULT)
        write_json(target, self.to_json(), indent=2)
        return target


def measure(
    config: MetricsConfig, progress: Progress = SILENT, *, places: Sequence[int] | None = None
) -> Measured:
    """Measure distilled folders against the dataset they were made from.

    Args:
        config: Folders, dataset, features.
        progress: Receives bars and notes.
        places: Measure only the classes at these places of the dataset; all by default.

    Returns:
        Scores per class, their means, and maps; nothing is written.

    Raises:
        UserError: A folder does not fit the dataset, or something named does not exist.
    """
    comparison = open_comparison(config, progress)
    folders, digest = comparison.folders, comparison.settings.get("autoencoder_digest")
    run_modes = [open_run_modes(folder, digest) for folder in folders]
    classes: list[dict[str, ClassMeasures]] = [{} for _ in folders]
    parts: list[list[NDArray[np.float32]]] = [[] for _ in folders]
    maps: list[ClassMap] = []
    total: Moments | None = None
    places = range(len(comparison.dataset.classes)) if places is None else places
    with progress.stage("measure", total=len(places), unit="class") as bar:
        for place in places:
            name = comparison.dataset.classes[place].name
            real = _thinned(comparison.real(place), config.real_images)  # [n, D]
            if real.shape[1] <= _MOST_FRECHET_FEATURES:
                total = total or Moments(real.shape[1])
                total.add(real)
            images = [folder.by_class[name] for folder in folders]
            made = [comparison.of_images(some) for some in images]  # each [m, D]
            drawn = None
            if config.tsne == "on" and len(real) > 1:
                placed, others = joint_map(real, made, config.seed, reduced=config.tsne_pca == "on")
                drawn = ClassMap(name, placed, tuple(others))
                maps.append(drawn)
            for index, rows in enumerate(made):
                parts[index].append(rows)
                measures = _class_measures(real, rows, drawn, index, config)
                if (modes := run_modes[index]) is not None:
                    recovery = class_recovery(modes, name, images[index], rows.astype(np.float64))
                    measures.scores["mode_recovery"] = recovery
                classes[index][name] = measures
            bar.advance()
    _add_scaled(classes)
    measured = tuple(
        FolderMeasures(name, str(folder.path), folder.ipc, found, _means(found), _frechet(total, rows))
        for name, folder, found, rows in zip(distinct_names(folders), folders, classes, parts, strict=True)
    )
    return Measured(measured, tuple(maps), _settings(comparison, config, len(places)))


def _class_measures(
    real: NDArray[np.float32],
    rows: NDArray[np.float32],
    drawn: ClassMap | None,
    index: int,
    config: MetricsConfig,
) -> ClassMeasures:
    exact_real, exact = real.astype(np.float64), rows.astype(np.float64)
    scores = dict.fromkeys(SCORES, math.nan)
    diversity = representativeness = np.empty(0)
    if drawn is not None:
        diversity = nearest_other(drawn.synthetic[index])
        representativeness = 1.0 - mean_of_nearest(drawn.synthetic[index], drawn.real, config.nearest)
        scores["diversity"] = float(diversity.mean())
        scores["representativeness"] = float(representativeness.mean())
    scores["cosine_diversity"], scores["cosine_representativeness"] = cosine_scores(exact, exact_real)
    if len(real) > 1:
        scores["coverage"], scores["density"] = coverage_and_density(exact, exact_real, config.neighbours)
    return ClassMeasures(scores, tuple(diversity.tolist()), tuple(representativeness.tolist()))


def _add_scaled(folders: Sequence[dict[str, ClassMeasures]]) -> None:
    """Give every class of every folder its `SCALED` scores; NaN where all are alike."""
    together = [one.scores for folder in folders for one in folder.values()]
    for scaled, name in SCALED.items():
        known = [scores[name] for scores in together if not math.isnan(scores[name])]
        low, span = (min(known), max(known) - min(known)) if known else (0.0, 0.0)
        for scores in together:
            scores[scaled] = (scores[name] - low) / span if span else math.nan


def _means(classes: dict[str, ClassMeasures]) -> dict[str, float]:
    means = {}
    for name in (*SCORES, *SCALED):
        values = [one.scores[name] for one in classes.values() if not math.isnan(one.scores[name])]
        means[name] = math.fsum(values) / len(values) if values else math.nan
    return means


def _frechet(real: Moments | None, parts: Sequence[NDArray[np.float32]]) -> float | None:
    """Of all images of a folder, class by class in `parts`."""
    if real is None or min(real.count, sum(len(rows) for rows in parts)) < 2:
        return None
    return frechet_distance(real, np.concatenate(parts))


def _thinned(rows: NDArray[np.float32], most: int | None) -> NDArray[np.float32]:
    if most is None or len(rows) <= most:
        return rows
    thinned: NDArray[np.float32] = rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]
    return thinned


def _settings(comparison: Comparison, config: MetricsConfig, classes: int) -> dict[str, Any]:
    return {
        **comparison.settings,
        "dataset": comparison.dataset.name,
        "dataset_fingerprint": comparison.dataset.fingerprint,
        **comparison.dataset.framing.options(),
        "skipped": len(comparison.bad_images),
        "classes": classes,
        "real_images": config.real_images,
        "tsne": config.tsne == "on",
        "tsne_pca": config.tsne_pca == "on",
        "nearest": config.nearest,
        "neighbours": config.neighbours,
        "seed": config.seed,
        "versions": versions(),
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
