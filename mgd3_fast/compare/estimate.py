"""How long the trainings of a comparison will take, before and after its images are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mgd3_fast.compare.tables import folder_name
from mgd3_fast.config.compare import ALL_REAL
from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.datasets import Dataset
from mgd3_fast.devices import resolve_device
from mgd3_fast.evaluate.evaluation import seconds_left
from mgd3_fast.evaluate.images import ImageSet
from mgd3_fast.evaluate.plan import Plan, job_of, make_recipes, preset_of
from mgd3_fast.evaluate.sets import mean_ipc
from mgd3_fast.evaluate.store import TrainingStore
from mgd3_fast.evaluate.timing import TrainingTimes


def seconds_to_come(
    config: EvaluateConfig,
    methods: Sequence[str],
    ipcs: Sequence[int],
    *,
    tested: Dataset,
    real: Dataset | None,
    side: int,
    times: TrainingTimes,
) -> dict[str, list[float]]:
    """Time trainings on images that need not be there yet.

    Args:
        config: How classifiers are trained.
        methods: What they are trained on.
        ipcs: Images per class.
        tested: The test images.
        real: All training images, if they are one of the methods.
        side: Of the images in pixels.
        times: Keeps what is timed.

    Returns:
        Seconds of each repeat of each method, all networks and numbers of images together.
    """
    classes = len(tested.classes)
    counts = {str(ipc): ipc * classes for ipc in ipcs}
    of_class = {str(ipc): ipc for ipc in ipcs}
    if real is not None:
        counts[ALL_REAL], of_class[ALL_REAL] = len(real), mean_ipc(real)
    recipes = make_recipes(config, preset_of(config, tested, side), of_class, tested, side)
    seconds = dict.fromkeys(counts, 0.0)
    for (network, name), recipe in recipes.items():
        job = job_of(
            config,
            network,
            recipe,
            train=_blank(counts[name], recipe.size),
            test=_blank(len(tested), recipe.size),
            num_classes=classes,
            device=resolve_device(config.device),
        )
        seconds[name] += times.seconds(job)
    small = sum(seconds[str(ipc)] for ipc in ipcs)
    return {method: [seconds.get(method, small)] * config.repeats for method in methods}


def seconds_of_plan(
    plan: Plan, methods: Sequence[str], ipcs: Sequence[int], times: TrainingTimes
) -> dict[str, list[float]]:
    """Seconds of each repeat of each method whose images are there, 0 for what is finished."""
    left = seconds_left(plan, TrainingStore(plan.out), times)
    names = {method: {folder_name(method, ipc) for ipc in ipcs} for method in methods}
    return {method: [_seconds(left, names[method], seed) for seed in plan.seeds] for method in methods}


def _seconds(left: Mapping[tuple[tuple[str, str], int], float], names: set[str], seed: int) -> float:
    return sum(s for ((_, name), of_seed), s in left.items() if name in names and of_seed == seed)


def _blank(count: int, side: int) -> ImageSet:
    """So many black images of class 0, which take the room of one."""
    pixels = torch.zeros(1, 3, side, side, dtype=torch.uint8).expand(count, -1, -1, -1)
    return ImageSet(pixels, torch.zeros(count, dtype=torch.int64))
