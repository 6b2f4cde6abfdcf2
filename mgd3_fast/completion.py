"""The first and the last act of a run: what is done already; modes, contact sheet and manifest at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgd3_engine import image_seed
from mgd3_fast.stages import modes_of
from mgd3_fast.writers import (
    CONTACT_SHEET,
    MANIFEST,
    MODES,
    Layout,
    RunFolder,
    file_digest,
    read_manifest,
    write_contact_sheet,
    write_manifest,
)

if TYPE_CHECKING:
    from mgd3_fast.datasets import Dataset
    from mgd3_fast.modes import ModeSet
    from mgd3_fast.plan import Plan
    from mgd3_fast.progress import Progress
    from mgd3_fast.timings import Timings


def complete(
    plan: Plan, run: RunFolder, modes: ModeSet | None, progress: Progress, timings: Timings
) -> tuple[dict[str, Any] | None, int]:
    """Complete the run if every image of every shard is there; else leave it to the shard that finishes last.

    Args:
        plan: The run.
        run: The output folder, opened by this shard.
        modes: What this shard made its images from; modes of other classes are taken up from their shards.
        progress: Receives notes.
        timings: Receives the seconds of stages that had to be repeated.

    Returns:
        The manifest, or None, and how many images are still missing.
    """
    missing = 0
    with run.completing() as ours:
        if ours:
            digests, sessions = run.finished()
            there = (image for image in digests if (run.out / run.layout.file(image)).is_file())
            missing = len(run.layout) - sum(1 for _ in there)
            if missing == 0:
                if modes is None or modes.class_names != run.layout.class_names:
                    modes = modes_of(plan, run, range(len(run.layout.class_names)), progress, timings)
                modes.save(run.work / MODES)
                (run.work / MODES).replace(run.out / MODES)
                write_contact_sheet(run.out / CONTACT_SHEET, sheet_rows(run), run.work / CONTACT_SHEET)
                content = _manifest(plan, run, modes, digests, sessions)
                write_manifest(run.out / MANIFEST, content, run.work / MANIFEST)
    if missing:
        return None, missing
    run.clear()  # also where another shard was faster: what this one kept is of no more use
    return read_manifest(run.out), 0


def images_done(
    run: RunFolder, manifest: dict[str, Any] | None, block: range, progress: Progress
) -> dict[int, str] | None:
    """Find out which images need not be made again.

    Args:
        run: The output folder.
        manifest: Its manifest if the run is finished, else None.
        block: Image numbers of this shard.
        progress: Receives a bar when there are many images, and what is damaged.

    Returns:
        sha256 of the images that are intact, by image number; None for a finished run that is whole, whose
        working state is cleared.
    """
    if manifest is None:
        return run.intact(run.finished()[0], block, progress)
    done, damaged = finished_digests(run, manifest, progress)
    if not damaged:
        run.clear()
        return None
    progress.note(f"made again, because missing or damaged: {len(damaged)} files ({damaged[0]}, ...)")
    return done


def finished_digests(
    run: RunFolder, manifest: dict[str, Any], progress: Progress
) -> tuple[dict[int, str], list[str]]:
    """Compare a finished run's files with its manifest.

    Args:
        run: The output folder.
        manifest: Its manifest.
        progress: Receives a bar when there are many images.

    Returns:
        sha256 of the images that are intact, by image number, and the files that are missing or damaged.
    """
    recorded = {image: record["sha256"] for image, record in enumerate(manifest["images"])}
    intact = run.intact(recorded, range(len(run.layout)), progress)
    damaged = [run.layout.file(image) for image in recorded if image not in intact]
    for name, sha256 in manifest["files"].items():
        if file_digest(run.out / name) != sha256:
            damaged.append(name)
            (run.out / name).unlink(missing_ok=True)
    return intact, damaged


def sheet_rows(run: RunFolder) -> list[tuple[str, list[Any]]]:
    """Class names and image paths of a complete run, for its contact sheet."""
    layout = run.layout
    return [
        (name, [run.out / layout.file(label * layout.ipc + mode) for mode in range(layout.ipc)])
        for label, name in enumerate(layout.class_names)
    ]


def _manifest(
    plan: Plan,
    run: RunFolder,
    modes: ModeSet,
    digests: dict[int, str],
    sessions: list[dict[str, Any]],
) -> dict[str, Any]:
    """Everything but the sessions follows from the settings: equal runs have equal manifests up to these."""
    dataset, generator = plan.sources.dataset, plan.sources.generator
    return {
        "settings": plan.settings(),
        "guidance": {
            "form": plan.guidance.form if plan.guidance else "none",
            "scale": plan.sampling.mode_scale,
            "t_stop": plan.sampling.t_stop,
            "guided_steps": plan.guided_steps(),
            "steps": plan.sampling.steps,
        },
        "generator": {
            "name": generator.name,
            "source": _portable(generator.source),
            "licence": generator.licence,
            "digest": generator.digest,
            "autoencoder_digest": generator.autoencoder.digest,
            "resolution": generator.resolution,
        },
        **({"prompts": generator.prompts.by_class()} if generator.prompts else {}),
        **source_sections(dataset, run.layout, sessions),
        "files": {name: file_digest(run.out / name) for name in (MODES, CONTACT_SHEET)},
        "sessions": [{name: of[name] for name in of if name != "skipped"} for of in sessions],
        "images": [_image_record(plan, modes, image, digests[image]) for image in range(len(run.layout))],
    }


def source_sections(dataset: Dataset, layout: Layout, sessions: list[dict[str, Any]]) -> dict[str, Any]:
    """Describe the images that a run was made from: the sections `dataset` and `classes` of its manifest.

    Args:
        dataset: The classes of the run.
        layout: The run's image list.
        sessions: Of the journal; they tell which images were left out.

    Returns:
        Both sections by name.
    """
    return {
        "dataset": {
            "name": dataset.name,
            "split": dataset.split,
            "fingerprint": dataset.fingerprint,
            "class_list_hash": dataset.class_list_hash,
            "classes_in_list": len(dataset.all_class_names),
            "notes": list(dataset.notes),
            "skipped": skipped_images(sessions),
        },
        "classes": [
            {"name": cls.name, "label": cls.label, "folder": layout.folder(index), "source_images": len(cls)}
            for index, cls in enumerate(dataset.classes)
        ],
    }


def skipped_images(sessions: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Images that some session left out, each once."""
    told = {one["image"]: one for session in sessions for one in session.get("skipped", [])}
    return [told[image] for image in sorted(told)]


def _portable(source: str) -> str:
    """A hub id as it is; of a path of this machine the last part, the digest says the rest."""
    return Path(source).name if Path(source).exists() else source


def _image_record(plan: Plan, modes: ModeSet, image: int, sha256: str) -> dict[str, Any]:
    class_index, mode = plan.layout.place(image)
    cls = plan.sources.dataset.classes[class_index]
    source = int(modes.source_index[class_index, mode])
    return {
        "file": plan.layout.file(image),
        "label": cls.label,
        "class": cls.name,
        "mode": mode,
        "weight": round(float(modes.weights[class_index, mode]), 6),
        "source_image": cls.images.name(source),
        "source_index": source,
        "seed": f"{image_seed(plan.config.seed, cls.name, mode):016x}",
        "sha256": sha256,
    }
