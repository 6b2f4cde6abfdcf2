"""`evaluate`: distilled folders in, accuracies of classifiers trained on them out."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.devices import device_name
from mgd3_fast.errors import Interrupted
from mgd3_fast.evaluate.plan import Plan, Training, describe_plan, make_plan
from mgd3_fast.evaluate.results import differences, pool_means, sum_up
from mgd3_fast.evaluate.store import RESULT, TrainingStore, training_key, write_json
from mgd3_fast.evaluate.training import Job, train_classifier
from mgd3_fast.progress import SILENT, Bar, Progress
from mgd3_fast.versions import versions
from mgd3_fast.writers.labelled import LabelledFolder

FORMAT = "mgd3-fast evaluation"
FORMAT_VERSION = 1

Outcomes = dict[Training, dict[int, dict[str, Any]]]


def evaluate(config: EvaluateConfig, progress: Progress = SILENT) -> dict[str, Any]:
    """Train classifiers on distilled folders and test them on real images.

    Trainings that are finished in `config.out` are taken from there; a stopped one goes on from where it was.

    Args:
        config: What to score, how.
        progress: Receives bars and one line per training.

    Returns:
        Content of `OUT/evaluation.json`: "rows" per network and folder, paired "differences" from the first
        folder, and every setting.

    Raises:
        UserError: Folders and dataset do not fit, or something named does not exist.
        Interrupted: Ctrl-C; finished trainings and the state of the running one are kept.
    """
    plan = make_plan(config, progress)
    store = TrainingStore(Path(config.out))
    progress.note(describe_plan(plan))
    outcomes: Outcomes = {training: {} for training in plan.trainings}
    total = len(plan.seeds) * sum(training.recipe.epochs for training in plan.trainings)
    try:
        with progress.stage("evaluate", total=total, unit="epoch") as bar:
            # Seed by seed, so that what is finished when the run is stopped can be compared.
            for seed in plan.seeds:
                for training in plan.trainings:
                    outcomes[training][seed] = _outcome(plan, store, training, seed, bar, progress)
    except KeyboardInterrupt:
        _write_result(plan, store, outcomes)
        done, wanted = sum(map(len, outcomes.values())), len(plan.seeds) * len(plan.trainings)
        raise Interrupted(
            f"{done} of {wanted} trainings are finished in {store.out}, and the state of the running one is"
            " kept; the same command goes on from here"
        ) from None
    return _write_result(plan, store, outcomes)


def _outcome(
    plan: Plan, store: TrainingStore, training: Training, seed: int, bar: Bar, progress: Progress
) -> dict[str, Any]:
    """Take a training from the store, or do it."""
    identity = _identity(plan, training, seed)
    key = training_key(identity)
    kept = plan.config.keep_weights == "on"
    folder = Path(training.folder).name  # folders of one name are told apart by their paths
    weights = store.weights_file(key, f"{training.network}-{folder}-{seed}")
    finished = store.finished(key)
    if finished is not None and (not kept or weights.exists()):
        bar.skip(training.recipe.epochs)
        return finished
    job = Job(
        network=training.network,
        recipe=training.recipe,
        num_classes=len(plan.dataset.classes),
        seed=seed,
        train=training.train,
        test=training.test,
        teacher=None if plan.teacher is None else plan.teacher.network,
        device=plan.device,
        bf16=plan.config.precision == "bf16",
        compiled=plan.config.compile == "on",
    )
    outcome, state = train_classifier(job, store.checkpoint(key), bar)
    outcome |= {
        "device": device_name(plan.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if kept:
        described = {"network": training.network, "classes": ",".join(plan.dataset.class_names)}
        store.put_weights(weights, state, described)
    store.put(key, identity, outcome)
    progress.note(
        f"{training.network}, {training.folder}, seed {seed}: best {outcome['best']:.2f}%"
        f" (epoch {outcome['best_epoch']}), last {outcome['last']:.2f}%, {outcome['wall_s']:.1f} s"
    )
    return outcome


def _identity(plan: Plan, training: Training, seed: int) -> dict[str, Any]:
    """All that decides the outcome of a training, up to machine, threads and torch's version."""
    return {
        "network": training.network,
        "recipe": asdict(training.recipe),
        "seed": seed,
        "train": training.train.digest,
        "test": training.test.digest,
        "classes": len(plan.dataset.classes),
        "teacher": plan.teacher.record["sha256"] if plan.teacher else None,
        "precision": plan.config.precision,
        "compile": plan.config.compile,
    }


def _write_result(plan: Plan, store: TrainingStore, outcomes: Outcomes) -> dict[str, Any]:
    """Sum up what is finished."""
    rows = [
        sum_up(training.network, training.folder, training.ipc, by_seed)
        for training, by_seed in outcomes.items()
        if by_seed
    ]
    if plan.config.protocol == "cross":
        rows += pool_means(rows)
    for row in rows:
        row["score"] = plan.trainings[0].recipe.score
    dataset, first = plan.dataset, plan.trainings[0]
    result = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "complete": all(len(by_seed) == len(plan.seeds) for by_seed in outcomes.values()),
        "protocol": plan.config.protocol,
        "preset": plan.preset.name,
        "repeats": f"{len(plan.seeds)} trainings on one set of images",
        "dataset": {
            "name": dataset.name,
            "split": dataset.split,
            "classes": len(dataset.classes),
            "images": len(first.test),
            "fingerprint": dataset.fingerprint,
            "class_list_hash": dataset.class_list_hash,
            "notes": list(dataset.notes),
        },
        "teacher": plan.teacher.record if plan.teacher else None,
        "rows": rows,
        "differences": differences(rows),
        "folders": {name: _folder_record(plan, name, folder) for name, folder in plan.folders.items()},
        "recipes": [_recipe_record(training) for training in plan.trainings],
        "options": _options(plan.config),
        "device": device_name(plan.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    write_json(store.out / RESULT, result)
    return result


def _recipe_record(training: Training) -> dict[str, Any]:
    recipe = {**asdict(training.recipe), "crop_area": list(training.recipe.crop_area)}
    return {"network": training.network, "folder": training.folder, **recipe}


def _folder_record(plan: Plan, name: str, folder: LabelledFolder) -> dict[str, Any]:
    train = next(training.train for training in plan.trainings if training.folder == name)
    return {
        "path": folder.path.name,
        "images": len(train),
        "ipc": folder.ipc,
        "digest": train.digest,
        "settings": folder.manifest["settings"] if folder.manifest else None,
    }


def _options(config: EvaluateConfig) -> dict[str, Any]:
    """Every option as it was given, paths cut to their last part."""
    options: dict[str, Any] = {}
    for one in fields(config):
        value = getattr(config, one.name)
        if one.name in ("dataset", "data_dir", "teacher", "out") and value is not None:
            value = Path(value).name
        if one.name != "folders":
            options[one.name] = list(value) if isinstance(value, tuple) else value
    return options
