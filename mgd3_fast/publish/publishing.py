"""`publish`: a finished run in, a dataset of the Hugging Face hub out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mgd3_fast.config.publish import PublishConfig
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.publish.card import hub_card
from mgd3_fast.publish.figures import figure_lines
from mgd3_fast.publish.folder import HubConfig, make_folder, uploaded_files
from mgd3_fast.publish.uploading import find_repository, upload
from mgd3_fast.writers.reader import read_run


@dataclass(frozen=True)
class Published:
    """What was published.

    Args:
        folder: Holds, byte for byte, what is on the hub.
        repo: owner/name.
        url: Address of the commit; None after a dry run.
        images: Images in it.
        classes: Classes in it.
        files: Files.
        bytes: Of all files.
    """

    folder: Path
    repo: str
    url: str | None
    images: int
    classes: int
    files: int
    bytes: int


def publish_run(config: PublishConfig, progress: Progress = SILENT) -> Published:
    """Write a run as a dataset with its card, and put it on the hub.

    Args:
        config: Which run, under which name.
        progress: Receives bars and notes.

    Returns:
        What was published, and where.

    Raises:
        UserError: The run is unfinished or damaged, a result is not about it, or the hub refuses.
        OSError: The folder cannot be written.
        Interrupted: Ctrl-C during the upload; the same command goes on.
    """
    folder = Path(config.folder)
    run = read_run(folder, "folder")
    repository = None if config.dry_run else find_repository(config.repo)
    card = partial(hub_card, run, config.repo, config.source_licence, figure_lines(config.results, run))
    named = folder if folder.name not in ("", "..") else folder.resolve()
    out = named.with_name(f"{named.name}-hub") if config.out is None else Path(config.out)
    conversion = HubConfig(src=folder, out=out, format="parquet", shard_mib=config.shard_mib)
    made = make_folder(run, conversion, card, progress)
    files = uploaded_files(out)
    url = None
    if repository is not None:
        url = upload(files, repository, private=config.private, progress=progress)
    size = sum(path.stat().st_size for path in files.values())
    return Published(out, config.repo, url, made.images, made.classes, len(files), size)
