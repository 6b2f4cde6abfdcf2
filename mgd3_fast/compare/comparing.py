"""`compare`: a dataset in, images of every method made, classifiers trained on all of them, a verdict out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mgd3_fast.compare.budget import TimeLimit, choose_methods, choose_repeats, time_limit
from mgd3_fast.compare.estimate import seconds_of_plan, seconds_to_come
from mgd3_fast.compare.tables import COMPARISON, FORMAT, FORMAT_VERSION, folder_name, make_tables
from mgd3_fast.config import DistillConfig
from mgd3_fast.config.compare import ALL_REAL, CompareConfig
from mgd3_fast.config.distill import GENERATED_METHODS
from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.datasets import Dataset, chosen_framing, describe
from mgd3_fast.devices import resolve_device
from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.evaluate.evaluation import carry_out
from mgd3_fast.evaluate.plan import make_plan
from mgd3_fast.evaluate.presets import affordable_preset
from mgd3_fast.evaluate.sets import training_part
from mgd3_fast.evaluate.store import RESULT
from mgd3_fast.evaluate.tested import check_covered, open_split
from mgd3_fast.evaluate.timing import TrainingTimes
from mgd3_fast.generators import load_generator
from mgd3_fast.modes import check_ipc
from mgd3_fast.progress import SILENT, Progress, duration
from mgd3_fast.run.distillation import distill
from mgd3_fast.run.real_images import side_beside
from mgd3_fast.storage.json_results import write_json
from mgd3_fast.writers import check_own, check_writable, read_manifest


def compare_methods(config: CompareConfig, progress: Progress = SILENT) -> dict[str, Any]:
    """Compare MGD3 with the generator alone and with real images, all at one size and by one protocol.

    The images lie in `OUT/METHOD-ipcN`, the trainings in OUT. Nothing that is there is made again, and a call
    that ran out of time goes on when it is made again.

    Args:
        config: What to compare, in how much time.
        progress: Receives bars, what is left out and why.

    Returns:
        Content of `OUT/compare.json`: "tables", one for each number of images per class, with the verdict;
        what was "left_out"; whether it is "complete".

    Raises:
        UserError: Something named does not exist or does not fit.
        Interrupted: Ctrl-C; what is finished is kept.
    """
    limit = TimeLimit(config.budget_s)
    comparison = _open(config, progress)
    try:
        with time_limit(limit):
            comparison.go_on(limit)
    except KeyboardInterrupt:
        if not limit.reached:
            comparison.write()
            raise Interrupted(
                f"what is finished is kept in {config.out}; the same command goes on from here"
            ) from None
        comparison.leave_out(f"the budget of {config.budget} is spent: the same command goes on")
    return comparison.write()


def _open(config: CompareConfig, progress: Progress) -> _Comparison:
    """Open what is tested on, and decide the split that images are made from, and their side."""
    check_own(Path(config.out), "comparison", COMPARISON, RESULT, "*-ipc*")
    check_writable(Path(config.out))
    evaluation = EvaluateConfig(
        folders=(Path(config.out),),  # those that will be made take its place
        dataset=config.dataset,
        data_dir=config.data_dir,
        classes=config.classes,
        preset=affordable_preset(config.preset, config.dataset, resolve_device(config.device).type),
        networks=config.networks,
        repeats=config.repeats,
        seed=config.seed,
        eval_split=config.eval_split or "test",
        out=config.out,
        size=config.size,
        epochs=config.epochs,
        background=config.background,
        fit=config.fit,
        on_bad_image=config.on_bad_image,
        device=config.device,
    )
    try:
        tested = open_split(evaluation, progress)
    except UserError as error:
        if config.eval_split is not None:
            raise
        evaluation = replace(evaluation, eval_split="val")
        tested = open_split(evaluation, progress)
        progress.note(f"tested on images held out of the training images, because {error}")
    progress.note(describe(tested))
    real = training_part(evaluation, tested, progress)
    if real is not None:
        check_covered(real.class_names, Path(real.root or config.dataset), tested)
        check_ipc(real.counts, max(config.ipc))
    generator = None
    if set(config.methods) & set(GENERATED_METHODS) or config.generator != "auto":
        generator = load_generator(config.generator, dataset_name=tested.name)
    made = {} if generator is None else {generator.name: generator.framing}
    framing = chosen_framing(config, made)
    return _Comparison(
        config,
        replace(evaluation, **framing.options()),
        replace(tested, framing=framing),
        real,
        side_beside(generator, tested),
        progress,
    )


@dataclass
class _Comparison:
    """A comparison under way.

    Args:
        config: What was asked for.
        evaluation: How classifiers are trained.
        tested: The images that are tested on.
        real: All training images; None where they are read from front to back.
        side: Of all images in pixels.
        progress: Receives bars and notes.
        left_out: What is not done, and why.
    """

    config: CompareConfig
    evaluation: EvaluateConfig
    tested: Dataset
    real: Dataset | None
    side: int
    progress: Progress
    left_out: list[str] = field(default_factory=list)
    times: TrainingTimes = field(default_factory=TrainingTimes)

    def go_on(self, limit: TimeLimit) -> None:
        """Make what is left of the images and of the trainings, as far as the time allows."""
        methods = self._choose_methods(limit)
        for ipc in self.config.ipc:
            for method in methods:
                if method != ALL_REAL:
                    distill(self._distillation(method, ipc), self.progress)
        plan = make_plan(self._evaluation(methods), self.progress, self.tested)
        left_s = seconds_of_plan(plan, methods, self.config.ipc, self.times)
        repeats = choose_repeats(left_s, limit.left_s)
        if repeats < self.config.repeats:
            whole = sum(map(sum, left_s.values()))
            self.leave_out(
                f"{repeats} of {self.config.repeats} repeats fit into what is left of the budget of"
                f" {self.config.budget}: all would take about {duration(whole)}"
            )
        carry_out(plan.with_repeats(repeats), self.progress, self.times)

    def leave_out(self, why: str) -> None:
        """Say and record what is not done."""
        self.left_out.append(why)
        self.progress.note(why)

    def write(self) -> dict[str, Any]:
        """Write what is finished as `OUT/compare.json`, and return it."""
        config, out, evaluation = self.config, Path(self.config.out), self._finished()
        result = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "complete": bool(evaluation) and not self.left_out,
            "left_out": self.left_out,
            **{name: evaluation.get(name) for name in ("dataset", "preset", "device", "versions")},
            "side": self.side,
            "networks": list(dict.fromkeys(row["network"] for row in evaluation.get("rows", ()))),
            "repeats": "repeats are trainings on one set of images",
            "tables": make_tables(out, evaluation, config.methods, config.ipc) if evaluation else [],
        }
        if out.is_dir():
            write_json(out / COMPARISON, result, shared=True)
        return result

    def _finished(self) -> dict[str, Any]:
        """The evaluation as far as it came; empty before the first training."""
        path = Path(self.config.out) / RESULT
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found

    def _choose_methods(self, limit: TimeLimit) -> tuple[str, ...]:
        """Leave out methods whose trainings do not fit, before their images are made."""
        config = self.config
        methods = [method for method in config.methods if method != ALL_REAL or self.real is not None]
        if ALL_REAL in config.methods and self.real is None:
            self.leave_out(f"{ALL_REAL} is left out: {config.dataset} is read from front to back")
        with self.progress.activity("timing a few steps of each network"):
            left_s = seconds_to_come(
                self.evaluation,
                methods,
                config.ipc,
                tested=self.tested,
                real=self.real if ALL_REAL in methods else None,
                side=self.side,
                times=self.times,
            )
        if made := [method for method in methods if self._is_made(method)]:
            plan = make_plan(self._evaluation(made), SILENT, self.tested)
            left_s |= seconds_of_plan(plan, made, config.ipc, self.times)
        chosen = choose_methods(left_s, limit.left_s)
        for method in left_s:
            if method not in chosen:
                self.leave_out(
                    f"{method} is left out: its trainings would take about {duration(sum(left_s[method]))},"
                    f" and the budget is {config.budget}"
                )
        return chosen

    def _is_made(self, method: str) -> bool:
        """Whether all images of a method are there; all real images, whether they were trained on before."""
        names = {folder_name(method, ipc) for ipc in self.config.ipc}
        if method == ALL_REAL:
            return names <= set(self._finished().get("folders", ()))
        folders = (Path(self.config.out) / name for name in names)
        return all(folder.is_dir() and read_manifest(folder) is not None for folder in folders)

    def _evaluation(self, methods: Sequence[str]) -> EvaluateConfig:
        small = [method for method in methods if method != ALL_REAL]
        folders = [Path(self.config.out) / folder_name(one, ipc) for ipc in self.config.ipc for one in small]
        all_real = "on" if len(small) < len(methods) else "off"
        return replace(self.evaluation, folders=tuple(folders), all_real=all_real)

    def _distillation(self, method: str, ipc: int) -> DistillConfig:
        config = self.config
        generated = method in GENERATED_METHODS
        return DistillConfig(
            dataset=config.dataset,
            data_dir=config.data_dir,
            classes=config.classes,
            split="fit" if self.evaluation.eval_split == "val" else "train",
            generator=config.generator if generated else "auto",
            image_size=None if generated else self.side,
            background=self.evaluation.background,
            fit=self.evaluation.fit,
            on_bad_image=config.on_bad_image,
            ipc=ipc,
            seed=config.seed,
            method=method,
            device=config.device,
            cache_dir=config.cache_dir,
            out=Path(config.out) / folder_name(method, ipc),
        )
