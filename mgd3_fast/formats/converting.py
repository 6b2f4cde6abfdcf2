"""A folder of images into another format, all of it or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from mgd3_fast.config.convert import CONVERTED_FORMATS, ConvertConfig
from mgd3_fast.errors import UserError
from mgd3_fast.formats.record import RECORD, Written, conversion_key, is_intact, read_record, write_record
from mgd3_fast.formats.target import draft_in, held, put_in_place
from mgd3_fast.progress import SILENT, Bar, Progress
from mgd3_fast.writers.fetching import local_run
from mgd3_fast.writers.labelled import LabelledFolder
from mgd3_fast.writers.reader import read_labelled

Writer = Callable[[LabelledFolder, ConvertConfig, Path, Bar], Written]
"""Writes images into an empty folder as options say, advancing a bar by each; every format's `write` is one.

It raises `UserError` where an image is missing or has changed, or a package is missing.
"""

_HOMES = {
    "imagefolder": "folders",
    "numeric": "folders",
    "tensor": "tensor",
    "parquet": "parquet",
    "webdataset": "webdataset",
}


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Args:
        folder: The output folder.
        format: Its format.
        images: Images in it.
        classes: Classes in it.
        bytes: Of its files, without the record.
        made: Whether anything was written; False where the very same files were there.
        seconds: How long it took.
    """

    folder: Path
    format: str
    images: int
    classes: int
    bytes: int
    made: bool
    seconds: float


def convert(config: ConvertConfig, progress: Progress = SILENT) -> Conversion:
    """Convert a folder of images; image files are copied byte for byte, never encoded again.

    Args:
        config: Which folder, into what, where.
        progress: Receives bars and notes.

    Returns:
        What was made, or found to be there already.

    Raises:
        UserError: If the source is unfinished, damaged or has no label order, or OUT holds something else.
        OSError: If OUT cannot be written; nothing is left of the attempt.
    """
    check_format(config.format)
    source = read_labelled(local_run(config.src, "src", progress), config.dataset, "src", progress)
    here, there = source.path.resolve(), Path(config.out).resolve()
    if there == here or (not source.manifest and here in there.parents):
        raise UserError(f"out must be another folder than src and outside of it, got {config.out}")
    return _convert(source, config, progress, replace=False)


def convert_run(folder: Path, format: str, progress: Progress = SILENT) -> Conversion:
    """Convert a finished run into `FOLDER/FORMAT`; an older conversion that lies there gives way.

    Args:
        folder: Output folder of the run.
        format: "tensor", "parquet" or "webdataset".
        progress: Receives a bar.

    Raises:
        UserError: If something else lies there, or a package is missing.
        OSError: If it cannot be written.
    """
    config = ConvertConfig(src=folder, out=folder / format, format=format)
    return _convert(read_labelled(folder, None, "src", progress), config, progress, replace=True)


def convert_by(
    write: Writer, source: LabelledFolder, config: ConvertConfig, progress: Progress = SILENT
) -> Conversion:
    """Convert by a writer of the caller's own; an older conversion that lies there gives way.

    Args:
        write: The writer.
        source: Images.
        config: Where they go; its `options()` tell this conversion from others.
        progress: Receives a bar.

    Raises:
        UserError: If OUT holds something else, or a package is missing.
        OSError: If it cannot be written; nothing is left of the attempt.
    """
    return _convert(source, config, progress, replace=True, write=write)


def check_format(format: str, class_names: Sequence[str] = ()) -> None:
    """Refuse what cannot be done before hours of work rather than after them.

    Args:
        format: Any format of `distill` or `convert`.
        class_names: Classes of the run that is to be converted inside its own folder.

    Raises:
        UserError: If a package is missing, or the result would lie in the folder of a class.
    """
    if format == "parquet":
        from mgd3_fast.formats.parquet import check

        check()
    if format in CONVERTED_FORMATS and format in class_names:
        raise UserError(
            f"format must not be the name of a class, got {format}: its files would lie in the folder"
            " of that class"
        )


def _convert(
    source: LabelledFolder,
    config: ConvertConfig,
    progress: Progress,
    *,
    replace: bool,
    write: Writer | None = None,
) -> Conversion:
    started = time.perf_counter()
    out, key = Path(config.out), conversion_key(source, config)
    with held(out):
        record = read_record(out)
        same = record is not None and record.get("key") == key
        if record is not None and not (same or replace):
            raise UserError(
                f"out must be unused or hold this very conversion, got {out}, which was made from other"
                " images or with other options"
            )
        made = record is None or not (same and is_intact(out, record))
        if made:
            write = write or import_module(f"mgd3_fast.formats.{_HOMES[config.format]}").write
            with (
                progress.stage("convert", total=len(source.images), unit="img") as bar,
                draft_in(out) as draft,
            ):
                write_record(draft / RECORD, source, config, write(source, config, draft, bar))
                record = put_in_place(draft, out, keep_card=same)
        assert record is not None
        size = sum((out / name).stat().st_size for name in record["files"])
    seconds = round(time.perf_counter() - started, 3)
    return Conversion(out, config.format, len(source.images), len(source.classes), size, made, seconds)
