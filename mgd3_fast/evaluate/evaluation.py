"""`evaluate`: distilled folders in, accuracies of classifiers trained on them out."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.devices import device_name
from mgd3_fast.errors import Interrupted
from mgd3_fast.evaluate.plan import Pair, Plan, make_plan
from mgd3_fast.evaluate.results import differences, pool_means, sum_up
from mgd3_fast.evaluate.store import RESULT, TrainingStore, training_key, write_json
from mgd3_fast.evaluate.training import Job, train_classifier
from mgd3_fast.progress import SILENT, Bar, Progress
from mgd3_fast.versions import versions

FORMAT = "mgd3-fast evaluation"
FORMAT_VERSION = 1

Outcomes = dict[Pair, dict[int, dict[str, Any]]]
"""What came of each training, by network and folder, then by seed."""


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
    progress.note(plan.describe())
    outcomes: Outcomes = {pair: {} for pair in plan.jobs}
    total = len(plan.seeds) * sum(job.recipe.epochs for job in plan.jobs.values())
    try:
        with progress.stage("evaluate", total=total, unit="epoch") as bar:
            # Seed by seed, so that what is finished when the run is stopped can be compared.
            for seed in plan.seeds:
                for (network, folder), job in plan.jobs.items():
                    found = _outcome(plan, store, folder, replace(job, seed=seed), bar, progress)
                    outcomes[network, folder][seed] = found
    except KeyboardInterrupt:
        _write_result(plan, store, outcomes)
        done, wanted = sum(map(len, outcomes.values())), len(plan.seeds) * len(plan.jobs)
        raise Interrupted(
            f"{done} of {wanted} trainings are finished in {store.out}, and the state of the running one is"
            " kept; the same command goes on from here"
        ) from None
    return _write_result(plan, store, outcomes)


def _outcome(
    plan: Plan, store: TrainingStore, folder: str, job: Job, bar: Bar, progress: Progress
) -> dict[str, Any]:
    """Take a training from the store, or do it."""
    identity = _identity(plan, job)
    key = training_key(identity)
    kept = plan.config.keep_weights == "on"
    # Folders of one name are told apart by their paths.
    weights = store.weights_file(key, f"{job.network}-{Path(folder).name}-{job.seed}")
    finished = store.finished(key)
    if finished is not None and (not kept or weights.exists()):
        bar.skip(job.recipe.epochs)
        return finished
    outcome, state = train_classifier(job, store.checkpoint(key), bar)
    outcome |= {
        "device": device_name(plan.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if kept:
        described = {"network": job.network, "classes": ",".join(plan.dataset.class_names)}
        store.put_weights(weights, state, described)
    store.put(key, identity, outcome)
    progress.note(
        f"{job.network}, {folder}, seed {job.seed}: best {outcome['best']:.2f}%"
        f" (epoch {outcome['best_epoch']}), last {outcome['last']:.2f}%, {outcome['wall_s']:.1f} s"
    )
    return outcome


def _identity(plan: Plan, job: Job) -> dict[str, Any]:
    """All that decides the outcome of a training, up to machine, threads and torch's version."""
    return {
        "network": job.network,
        "recipe": asdict(job.recipe),
        "seed": job.seed,
        "train": job.train.digest,
        "test": job.test.digest,
        "classes": job.num_classes,
        "teacher": plan.teacher["sha256"] if plan.teacher else None,
        "precision": plan.config.precision,
        "compile": plan.config.compile,
    }


def _write_result(plan: Plan, store: TrainingStore, outcomes: Outcomes) -> dict[str, Any]:
    """Sum up what is finished."""
    rows = [
        sum_up(network, folder, plan.folders[folder].ipc, by_seed)
        for (network, folder), by_seed in outcomes.items()
        if by_seed
    ]
    if plan.config.protocol == "cross":
        rows += pool_means(rows)
    for row in rows:
        row["score"] = plan.first.recipe.score
    dataset = plan.dataset
    result = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "complete": all(len(by_seed) == len(plan.seeds) for by_seed in outcomes.values()),
        "protocol": plan.config.protocol,
        "preset": plan.preset,
        "repeats": f"{len(plan.seeds)} trainings on one set of images",
        "dataset": {
            "name": dataset.name,
            "split": dataset.split,
            "classes": len(dataset.classes),
            "images": len(plan.first.test),
            "skipped": len(dataset) - len(plan.first.test),
            **dataset.framing.options(),
            "fingerprint": dataset.fingerprint,
            "class_list_hash": dataset.class_list_hash,
            "notes": list(dataset.notes),
        },
        "teacher": plan.teacher,
        "rows": rows,
        "differences": differences(rows),
        "folders": {name: _folder_record(plan, name) for name in plan.folders},
        "recipes": [
            {
                "network": network,
                "folder": folder,
                **asdict(job.recipe),
                "crop_area": list(job.recipe.crop_area),
            }
            for (network, folder), job in plan.jobs.items()
        ],
        "options": _options(plan.config),
        "device": device_name(plan.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    write_json(store.out / RESULT, result)
    return result


def _folder_record(plan: Plan, name: str) -> dict[str, Any]:
    folder = plan.folders[name]
    train = next(job.train for (_, trained), job in plan.jobs.items() if trained == name)
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
