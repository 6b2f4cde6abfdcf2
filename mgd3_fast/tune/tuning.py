"""`tune`: a generator and a dataset in, the settings that its images are worth most with out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from mgd3_fast.config import SamplingDefaults
from mgd3_fast.config.tune import TuneConfig
from mgd3_fast.errors import Interrupted
from mgd3_fast.evaluate.results import summary
from mgd3_fast.generators import load_generator
from mgd3_fast.generators.folder import DESCRIPTION, amend_description
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.storage.json_results import write_json
from mgd3_fast.tune.candidates import Candidate, candidates
from mgd3_fast.tune.halving import Round, Units, cost_s, fitting
from mgd3_fast.tune.journal import JOURNAL, open_journal
from mgd3_fast.tune.trials import Trials
from mgd3_fast.writers import MODES, check_own, check_writable, read_manifest

RESULT = "tuning.json"
TIMED_SHARE = 16  # epochs are timed on a sixteenth of a training
_PACKAGE = Path(__file__).resolve().parents[1]

Scores = dict[Candidate, list[float]]
"""Accuracies in percent on the held-out images, seed by seed."""


def tune_generator(
    config: TuneConfig, progress: Progress = SILENT, *, clock: Callable[[], float] = time.monotonic
) -> dict[str, Any]:
    """Choose mode scale, t_stop and CFG of a generator by successive halving on held-out training images.

    All candidates share modes, seeds of noise and seeds of classifiers. The present defaults stay unless the
    best candidate of the last round is above them by more than the 95% interval of the paired differences.
    Stopped at any moment, the same command goes on.

    Args:
        config: What to tune, on what, how long.
        progress: Receives the plan and a bar.
        clock: Seconds of a clock that only moves on.

    Returns:
        Content of `OUT/tuning.json`; a generator folder of the user's own receives it as "tuning", and
        what was chosen as "defaults", unless `config.dry_run`.

    Raises:
        UserError: The budget holds no plan, the folder holds another tuning, or as `evaluate_folders`.
        Interrupted: Ctrl-C; what is finished is kept.
    """
    out = Path(config.out)
    check_own(out, "tuning", JOURNAL, MODES)
    generator = load_generator(config.generator, dataset_name=config.dataset)
    journal = open_journal(config, generator.defaults)
    check_writable(out)
    trials, tried = Trials(config, journal, clock), candidates(journal.defaults)
    try:
        trials.find_modes(progress)
        if not journal.rounds:
            journal.rounds = _planned(trials, tried, progress)
            journal.save()
        progress.note(_described(journal.rounds))
        scores, history = _play(trials, tried, progress)
    except KeyboardInterrupt:
        raise Interrupted(
            f"finished sets and trainings are kept in {out}; the same command goes on from here"
        ) from None
    result = {**_result(trials, tried, scores, history), **generator.digests}
    write_json(out / RESULT, result)
    if result["written_to"] is not None:
        amend_description(Path(config.generator), tuning=result, defaults=result["defaults"])
    return result


def _planned(trials: Trials, tried: tuple[Candidate, ...], progress: Progress) -> tuple[Round, ...]:
    """Plan what fits the budget, from a set of images and some epochs of the present defaults."""
    config, journal = trials.config, trials.journal
    with progress.activity("timing one set of images and some epochs"):
        epochs, units = _timed(trials, tried[0])
    left_s = config.budget_s - journal.spent_s
    rounds = fitting(len(tried), epochs, units, left_s)
    progress.note(
        f"a set of images takes {units.set_s:.3g} s, a training {units.training_s:.3g} s and"
        f" {units.epoch_s:.3g} s an epoch: about {cost_s(rounds, units) / 60:.0f} min of the"
        f" {left_s / 60:.0f} min left"
    )
    return rounds


def _timed(trials: Trials, present: Candidate) -> tuple[int, Units]:
    """Epochs of a whole training, and the seconds of what trials are made of."""
    journal, seed = trials.journal, trials.config.seed
    started = journal.spent_s
    made = trials.make(present, seed)
    if made is None:
        raise ValueError(journal.failed[present.name])
    with_set = journal.spent_s
    epochs = trials.whole_training(made)
    training_s = journal.spent_s - with_set
    trials.score(present, seed, 1)  # a first training also loads what the others find loaded
    warm = journal.spent_s
    timed = max(2, epochs // TIMED_SHARE)
    trials.score(present, seed, timed)
    trained_s = journal.spent_s - warm
    return epochs, Units(with_set - started, training_s, max(0.0, trained_s - training_s) / timed)


def _described(rounds: tuple[Round, ...]) -> str:
    said = (f"{one.candidates} candidates x {one.seeds} seeds x {one.epochs} epochs" for one in rounds)
    return "plan: " + ", then ".join(said) + "; the present defaults beside them"


def _play(
    trials: Trials, tried: tuple[Candidate, ...], progress: Progress
) -> tuple[Scores, list[dict[str, Any]]]:
    """Play the rounds; the last round's scores, and of every round who was in it with what mean accuracy."""
    present, rounds, seed = tried[0], trials.journal.rounds, trials.config.seed
    running = tried[: rounds[0].candidates]
    total = sum((one.candidates + (one is not rounds[0])) * one.seeds for one in rounds)
    scores: Scores = {}
    history: list[dict[str, Any]] = []
    with progress.stage("tune", total=total, unit="training") as bar:
        for one in rounds:
            if scores and trials.journal.spent_s >= trials.config.budget_s:
                progress.note("the budget is spent: the choice is made on the rounds that are finished")
                break
            running = _best(scores, one.candidates, present) if scores else running
            scores = {}
            for candidate in running:
                found = []
                for offset in range(one.seeds):
                    found.append(trials.score(candidate, seed + offset, one.epochs))
                    bar.advance()
                if None not in found:
                    scores[candidate] = [accuracy for accuracy in found if accuracy is not None]
            means = {candidate.name: round(fmean(of), 4) for candidate, of in scores.items()}
            history.append({"seeds": one.seeds, "epochs": one.epochs, "accuracy": means})
    return scores, history


def _best(scores: Scores, count: int, present: Candidate) -> tuple[Candidate, ...]:
    """The best so many, best first, and the present defaults."""
    ranked = sorted(scores, key=lambda candidate: fmean(scores[candidate]), reverse=True)
    return tuple(dict.fromkeys([*ranked[:count], present]))


def _result(
    trials: Trials, tried: tuple[Candidate, ...], scores: Scores, history: list[dict[str, Any]]
) -> dict[str, Any]:
    config, defaults, present = trials.config, trials.journal.defaults, tried[0]
    rows = [_row(trials, candidate, defaults, scores, history, present) for candidate in tried]
    best = _best(scores, 1, present)[0]
    paired = next(row["difference"] for row in rows if row["name"] == best.name)
    proven = paired is not None and paired["ci95"] is not None and paired["ci95"][0] > 0
    chosen = best if proven else present
    manifest = read_manifest(Path(config.out) / "sets" / f"{present.name}-seed-{config.seed}") or {}
    return {
        "dataset": config.dataset,
        "dataset_fingerprint": manifest["settings"]["dataset_fingerprint"],
        "ipc": config.ipc,
        "seeds": [config.seed + offset for offset in range(history[-1]["seeds"])],
        "epochs": history[-1]["epochs"],
        "network": trials.journal.network,
        "tested_on": "held-out training images",
        "rounds": history,
        "candidates": rows,
        "present": present.name,
        "chosen": chosen.name,
        "defaults": chosen.of(defaults),
        "spent_s": round(trials.journal.spent_s, 1),
        "written_to": str(config.generator) if _is_own(config) else None,
    }


def _row(
    trials: Trials,
    candidate: Candidate,
    defaults: SamplingDefaults,
    scores: Scores,
    history: list[dict[str, Any]],
    present: Candidate,
) -> dict[str, Any]:
    """What became of one candidate; accuracies are of the last round that it was in."""
    means = [one["accuracy"] for one in history if candidate.name in one["accuracy"]]
    difference = None
    if candidate in scores and candidate != present:
        pairs = zip(scores[candidate], scores[present], strict=True)
        difference = summary([ours - theirs for ours, theirs in pairs])
    recovery = trials.recovery(candidate)
    return {
        "name": candidate.name,
        **{key: candidate.of(defaults)[key] for key in ("mode_scale", "t_stop", "cfg_scale")},
        "rounds": len(means),
        "accuracy": means[-1][candidate.name] if means else None,
        "difference": difference,
        "mode_recovery": None if recovery is None else round(recovery, 4),
        "failed": trials.journal.failed.get(candidate.name),
    }


def _is_own(config: TuneConfig) -> bool:
    """Whether the generator is a folder of ours that may be amended: not the installed package's."""
    folder = Path(config.generator)
    shipped = folder.resolve().is_relative_to(_PACKAGE)
    return (folder / DESCRIPTION).is_file() and not shipped and not config.dry_run
