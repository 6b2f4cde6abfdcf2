"""The splits that a dataset has, and a walk over all their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mgd3_fast.check.look import Seen, see
from mgd3_fast.check.pictures import Pictures
from mgd3_fast.config.check import CheckConfig
from mgd3_fast.datasets import (
    Dataset,
    Framing,
    ImageStream,
    Shard,
    open_source,
    run_ahead,
    shards_of,
)
from mgd3_fast.datasets.batches import threads_for
from mgd3_fast.datasets.class_names import plain_names
from mgd3_fast.datasets.selector import select_classes
from mgd3_fast.datasets.shard_index import stream_shards
from mgd3_fast.errors import UnlabelledError, UserError
from mgd3_fast.progress import Progress

_NAMES = ("train", "test", "val", "validation")
_LOOKAHEAD = 64


@dataclass(frozen=True)
class Split:
    """One split, opened.

    Args:
        name: "train", "test", or as its folder is called.
        source: Its images.
        class_names: Those to look at, in label order; None where only reading tells.
    """

    name: str
    source: Dataset | ImageStream
    class_names: tuple[str, ...] | None

    @property
    def identity(self) -> tuple[str | None, str]:
        """Place and content: "test" and "val" may be two names of one split."""
        if isinstance(self.source, Dataset):
            return self.source.root, self.source.fingerprint
        return self.source.location, self.source.identity


def open_splits(config: CheckConfig, progress: Progress) -> tuple[list[Split], list[str]]:
    """Open the splits that there are, "train" first; and say why others cannot be opened.

    Raises:
        UserError: There is no such dataset, or nothing to train on in it.
    """
    splits, refusals = [_open(config, _NAMES[0], progress)], []
    for name in _NAMES[1:]:
        try:
            split = _open(config, name, progress)
        except UserError as error:
            refusals.append(str(error))
            continue
        if split.identity not in [known.identity for known in splits]:
            splits.append(split)
    return splits, refusals if len(splits) == 1 else []


def _open(config: CheckConfig, name: str, progress: Progress) -> Split:
    source = open_source(
        config.dataset,
        data_dir=config.data_dir,
        classes=config.classes,
        split=name,
        progress=progress,
        cache_dir=config.cache_dir,
    )
    if isinstance(source, Dataset):
        folder = Path(source.root or "").name  # "test" may be read from val/
        known = name if name == _NAMES[0] or folder not in _NAMES else folder
        return Split(known, source, source.class_names)
    names = None if source.class_names is None else plain_names(source.class_names)
    if config.classes is not None:
        if names is None:
            raise UserError(
                f"classes must be left out, got {config.classes!r}: the classes of {config.dataset} are known"
                " after `mgd3-fast encode`"
            )
        names = tuple(names[label] for label in select_classes(config.classes, names))
    return Split(name, source, names)


def see_all(splits: list[Split], framing: Framing, progress: Progress) -> Pictures:
    """Decode and frame every picture of some splits once, on threads, a bounded number at a time.

    Raises:
        UserError: A stream breaks off, or a training image has no label.
    """
    pictures = Pictures([split.name for split in splits], splits[0].class_names or ())
    for number, split in enumerate(splits):
        total = len(split.source) if isinstance(split.source, Dataset) else split.source.num_images
        with progress.stage(f"look at {split.name}", total=total, unit="img") as bar:
            try:
                for seen in run_ahead(_jobs(split, framing), threads_for(_shards(split)), _LOOKAHEAD):
                    pictures.add(number, *seen)
                    bar.advance()
            except UnlabelledError:
                if number == 0:
                    raise
    return pictures


def _jobs(split: Split, framing: Framing) -> Iterator[Callable[[], Seen]]:
    wanted = None if split.class_names is None else frozenset(split.class_names)
    for shard in _shards(split):
        for row in shard.rows():
            if wanted is None or row.class_name in wanted:
                yield partial(see, row.class_name, row.name, row.read, framing)


def _shards(split: Split) -> Sequence[Shard]:
    return shards_of(split.source) if isinstance(split.source, Dataset) else stream_shards(split.source)
