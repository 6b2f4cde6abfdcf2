"""How long trainings will take on this machine, told by a few timed steps of each network."""

from __future__ import annotations

from mgd3_fast.evaluate.recipe import Recipe
from mgd3_fast.evaluate.training import Job, time_parts


class TrainingTimes:
    """Seconds of whole trainings; each network is timed once for each recipe."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, Recipe], tuple[float, float]] = {}

    def seconds(self, job: Job) -> float:
        """What a training will take: its steps, and its tests of all test images."""
        recipe = job.recipe
        key = (job.network, recipe)
        if key not in self._parts:
            self._parts[key] = time_parts(job)
        step_s, image_s = self._parts[key]
        steps = recipe.epochs * -(-len(job.train) // recipe.batch_size)
        tests = sum(map(recipe.is_tested, range(1, recipe.epochs + 1)))
        return steps * step_s + tests * len(job.test) * image_s
