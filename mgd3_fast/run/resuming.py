"""What an earlier call has left to do, and what an interrupted one keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mgd3_fast.errors import Interrupted
from mgd3_fast.run.run import ImageSource, Run
from mgd3_fast.writers import OutState, RunFolder, file_digest, read_manifest, state_of

if TYPE_CHECKING:
    from mgd3_fast.progress import Progress


@dataclass(frozen=True)
class Left:
    """What is left to do of a run.

    Args:
        images: Numbers of the images that this shard has still to make.
        manifest: Of a run that was finished before, else None.
        whole: Whether that run is as it was: nothing is left.
        digests: sha256 of the images that need not be made again, by number.
    """

    images: list[int]
    manifest: dict[str, Any] | None
    whole: bool
    digests: dict[int, str]


def what_is_left(run: Run[ImageSource]) -> Left:
    """Find out what is left to do; of a finished run that is whole the working state is cleared.

    Args:
        run: The run; its folder need not be there.

    Returns:
        What is left.

    Raises:
        UserError: The folder holds a run of other settings, or files that are not ours.
    """
    folder, config = run.folder, run.source.config
    finished = state_of(folder.out, run.source.settings()) is OutState.FINISHED
    manifest = read_manifest(folder.out) if finished else None
    block = run.layout.block(*config.shard_of())
    if manifest is None:
        done = folder.intact(folder.finished()[0], block, run.progress)
    else:
        done, damaged = _compared(folder, manifest, run.progress)
        if not damaged:
            folder.clear()
            return Left([], manifest, True, done)
        run.progress.note(f"made again, because missing or damaged: {len(damaged)} files ({damaged[0]}, ...)")
    return Left([image for image in block if image not in done], manifest, False, done)


def _compared(
    folder: RunFolder, manifest: dict[str, Any], progress: Progress
) -> tuple[dict[int, str], list[str]]:
    """sha256 of the intact images of a finished run by number; files missing or damaged, others removed."""
    recorded = {image: record["sha256"] for image, record in enumerate(manifest["images"])}
    intact = folder.intact(recorded, range(len(folder.layout)), progress)
    damaged = [folder.layout.file(image) for image in recorded if image not in intact]
    for name, sha256 in manifest["files"].items():
        if file_digest(folder.out / name) != sha256:
            damaged.append(name)
            (folder.out / name).unlink(missing_ok=True)
    return intact, damaged


@contextmanager
def saying_what_is_kept(run: Run[ImageSource]) -> Iterator[None]:
    """Tell on Ctrl-C what the next call finds.

    Raises:
        Interrupted: In place of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        kept = len(run.folder.finished()[0])
        raise Interrupted(
            f"{kept:,} of {len(run.layout):,} images are kept in {run.folder.out}, and so are"
            f" {run.source.kept}; the same command goes on from here"
        ) from None
