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
from mgd3_fast.evaluate.results import differences, majority, pool_means, sum_up
from mgd3_fast.evaluate.store import RESULT, TrainingStore, training_key
from mgd3_fast.evaluate.timing import TrainingTimes
from mgd3_fast.evaluate.training import Job, train_classifier
from mgd3_fast.progress import SILENT, Bar, Progress, duration
from mgd3_fast.storage.json_results import write_json
from mgd3_fast.versions import versions
from mgd3_fast.writers.fetching import local_runs

FORMAT = "mgd3-fast evaluation"
FORMAT_VERSION = 1

Outcomes = dict[Pair, dict[int, dict[str, Any]]]
"""What came of each training, by network and folder, then by seed."""


def evaluate_folders(config: EvaluateConfig, progress: Progress = SILENT) -> dict[str, Any]:
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
    config = replace(config, folders=local_runs(config.folders, "each of folders", progress))
    return carry_out(make_plan(config, progress), progress)


def carry_out(plan: Plan, progress: Progress, times: TrainingTimes | None = None) -> dict[str, Any]:
    """Do what is left of a plan; see `evaluate_folders`.

    Args:
        plan: What is trained on what.
        progress: Receives bars and notes.
        times: Knows the networks that were timed already.
    """
    store = TrainingStore(plan.out)
    progress.note(plan.describe())
    epochs = sum(job.recipe.epochs for job in plan.jobs.values())
    costs = [] if progress.quiet else _costs(plan, store, times or TrainingTimes(), progress)
    try:
        with progress.stage(
            "evaluate", total=len(plan.seeds) * epochs, unit="epoch", costs=costs * len(plan.seeds)
        ) as bar:
            # Seed by seed, so that what is finished when the run is stopped can be compared.
            for seed in plan.seeds:
                for (_, folder), job in plan.jobs.items():
                    _train(plan, store, folder, replace(job, seed=seed), bar, progress)
    except KeyboardInterrupt:
        _write_result(plan, store)
        done, wanted = sum(map(len, _outcomes(plan, store).values())), len(plan.seeds) * len(plan.jobs)
        raise Interrupted(
            f"{done} of {wanted} trainings are finished in {store.out}, and the state of the running one is"
            " kept; the same command goes on from here"
        ) from None
    return _write_result(plan, store)


def seconds_left(plan: Plan, store: TrainingStore, times: TrainingTimes) -> dict[tuple[Pair, int], float]:
    """What each training that is not finished will take, by network, folder and seed."""
    return {
        (pair, seed): times.seconds(job)
        for seed in plan.seeds
        for pair, job in plan.jobs.items()
        if _finished(plan, store, pair[1], replace(job, seed=seed)) is None
    }


def _costs(plan: Plan, store: TrainingStore, times: TrainingTimes, progress: Progress) -> list[float]:
    """Say how long it will take, and return the seconds of every epoch of one repeat."""
    with progress.activity("timing a few steps of each network"):
        left = seconds_left(plan, store, times)
    if not left:
        return []
    wanted = len(plan.seeds) * len(plan.jobs)
    of_all, plural = "" if len(left) == wanted else f" of {wanted}", "s" if wanted > 1 else ""
    progress.note(f"about {duration(sum(left.values()))}: {len(left)}{of_all} training{plural} to do")
    return [
        times.seconds(job) / job.recipe.epochs for job in plan.jobs.values() for _ in range(job.recipe.epochs)
    ]


def _finished(plan: Plan, store: TrainingStore, folder: str, job: Job) -> dict[str, Any] | None:
    """The outcome of a training, if it is finished and its weights are there where they are to be kept."""
    key = training_key(_identity(plan, job))
    finished = store.finished(key)
    kept = plan.config.keep_weights == "off" or _weights_file(store, key, folder, job).exists()
    return finished if kept else None


def _weights_file(store: TrainingStore, key: str, folder: str, job: Job) -> Path:
    return store.weights_file(key, f"{job.network}-{Path(folder).name}-{job.seed}")


def _train(plan: Plan, store: TrainingStore, folder: str, job: Job, bar: Bar, progress: Progress) -> None:
    """Do a training that is not finished, and store what came of it."""
    if _finished(plan, store, folder, job) is not None:
        bar.skip(job.recipe.epochs)
        return
    identity = _identity(plan, job)
    key = training_key(identity)
    outcome, state = train_classifier(job, store.checkpoint(key), bar)
    outcome |= {
        "device": device_name(plan.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if plan.config.keep_weights == "on":
        described = {"network": job.network, "classes": ",".join(plan.dataset.class_names)}
        # Folders of one name are told apart by their paths.
        store.put_weights(_weights_file(store, key, folder, job), state, described)
    store.put(key, identity, outcome)
    progress.note(
        f"{job.network}, {folder}, seed {job.seed}: best {outcome['best']:.2f}%"
        f" (epoch {outcome['best_epoch']}), last {outcome['last']:.2f}%, {outcome['wall_s']:.1f} s"
    )


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


def _outcomes(plan: Plan, store: TrainingStore) -> Outcomes:
    """What is finished, whenever it was done."""
    outcomes: Outcomes = {pair: {} for pair in plan.jobs}
    for pair, job in plan.jobs.items():
        for seed in plan.seeds:
            finished = _finished(plan, store, pair[1], replace(job, seed=seed))
            if finished is not None:
                outcomes[pair][seed] = finished
    return outcomes


def _write_result(plan: Plan, store: TrainingStore) -> dict[str, Any]:
    """Sum up what is finished."""
    outcomes = _outcomes(plan, store)
    rows = [
        sum_up(network, folder, plan.sets[folder].ipc, by_seed)
        for (network, folder), by_seed in outcomes.items()
        if by_seed
    ]
    if plan.config.protocol == "cross":
        rows += pool_means(rows)
    for row in rows:
        row["score"] = plan.first.recipe.score
    dataset, tested = plan.dataset, plan.first.test
    images = torch.bincount(tested.labels.cpu(), minlength=len(dataset.classes)).tolist()
    counts = dict(zip(dataset.class_names, images, strict=True))
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
            "images": len(tested),
            "skipped": len(dataset) - len(tested),
            **dataset.framing.options(),
            "images_by_class": counts,
            "majority": majority(counts),
            "fingerprint": dataset.fingerprint,
            "class_list_hash": dataset.class_list_hash,
            "notes": list(dataset.notes),
        },
        "teacher": plan.teacher,
        "rows": rows,
        "differences": differences(rows),
        "folders": {name: _folder_record(plan, name) for name in plan.sets},
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
    write_json(store.out / RESULT, result, shared=True)
    return result


def _folder_record(plan: Plan, name: str) -> dict[str, Any]:
    of_name = plan.sets[name]
    train = next(job.train for (_, trained), job in plan.jobs.items() if trained == name)
    return {
        "path": of_name.source,
        "images": len(train),
        "ipc": of_name.ipc,
        "digest": train.digest,
        "settings": of_name.settings,
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
