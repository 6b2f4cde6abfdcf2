"""What an earlier call, or other shards, have left to do of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mgd3_fast.datasets import shards_of
from mgd3_fast.run.generated import GeneratedImages
from mgd3_fast.run.run import Run
from mgd3_fast.run.units import Damaged, Left


def survey(run: Run) -> Left:
    """Find out what this shard has to do; clear the working state of a run that is whole.

    Raises:
        UserError: The folder holds something else or cannot be written, or given modes do not fit.
    """
    folder, block = run.folder, run.layout.block(*run.config.shard_of())
    guided = isinstance(run, GeneratedImages) and run.guidance is not None
    left = Left(run.layout, run.kept, guided)
    manifest = folder.finished_manifest()
    if manifest is None:
        whole = folder.intact(folder.finished()[0], block, run.progress)
    else:
        whole, is_damaged = _look_at_finished(run, manifest)
        if not is_damaged:
            folder.clear()
            return replace(left, is_finished=True)
        left = replace(left, damaged=Damaged(manifest["sessions"], whole))
    folder.check_writable()
    images = [image for image in block if image not in whole]
    lacking = run.lacking(run.layout.classes_of(images))
    shards = shards_of(run.dataset.at(lacking)) if lacking else ()
    return replace(
        left,
        blocks=tuple(run.blocks(images)),
        bar=run.bar_of(images),
        lacking=tuple(lacking),
        shards=len(shards),
        rows=sum(shard.count or 0 for shard in shards),
    )


def _look_at_finished(run: Run, manifest: dict[str, Any]) -> tuple[dict[int, str], bool]:
    """The sha256 of the images of a finished run that are whole, and whether any file of it is not."""
    folder = run.folder
    recorded = {image: record["sha256"] for image, record in enumerate(manifest["images"])}
    whole = folder.intact(recorded, range(len(run.layout)), run.progress)
    damaged = [run.layout.file(image) for image in recorded if image not in whole]
    damaged += folder.damaged(manifest["files"])
    if damaged:
        run.progress.note(f"made again, because missing or damaged: {len(damaged)} files ({damaged[0]}, ...)")
    return whole, bool(damaged)
