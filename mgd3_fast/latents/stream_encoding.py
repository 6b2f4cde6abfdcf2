"""A stream's images to latents in one reading, in bounded memory, by one process or several.

Every process takes shards that no other has taken, and stores latents in parts, in the order of the stream.
When all shards are read, one process sorts the parts into the files of the classes (`stream_classes`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mgd3_engine.renaming import renamed
from mgd3_fast.datasets import Dataset, ImageStream, bad_image_error
from mgd3_fast.datasets.class_names import plain_names
from mgd3_fast.datasets.selector import select_classes
from mgd3_fast.datasets.streams import (
    StreamIndex,
    index_path,
    indexed_dataset,
    read_index,
    write_index,
)
from mgd3_fast.errors import UserError
from mgd3_fast.latents.disk_room import check_room
from mgd3_fast.latents.job import WAIT_S, Encoded, EncodeJob
from mgd3_fast.latents.shard_encoder import ShardEncoder
from mgd3_fast.latents.stream_classes import sort_into_classes
from mgd3_fast.latents.stream_parts import StreamParts
from mgd3_fast.progress import Bar

_CHOSEN = "chosen.json"


@dataclass(frozen=True)
class StreamShare:
    """Which shards of a stream a process reads: every N-th, from the I-th.

    Args:
        part: I, from 1.
        parts: N.
    """

    part: int = 1
    parts: int = 1

    def shards(self, count: int) -> range:
        """Numbers of the shards among `count`."""
        return range(self.part - 1, count, self.parts)


def encode_stream(
    stream: ImageStream,
    job: EncodeJob,
    *,
    classes: str | None = None,
    split: str = "train",
    share: StreamShare | None = None,
) -> tuple[Dataset | None, Encoded]:
    """Read a stream that was never read, encode what is chosen, and make it a dataset.

    Args:
        stream: The stream.
        job: How to encode; its store's root also receives the stream's index.
        classes: Selector of `--classes`: others are read and passed over.
        split: "train", "val" or "test".
        share: The shards of this process; by default all that no other process has taken, and it waits for
            the others.

    Returns:
        The dataset, or None while shards of other shares are missing; and what this process has encoded.

    Raises:
        UserError: A bad image with `on_bad_image="error"`, a label out of range, a class without images, or
            the stream broke off; what was encoded is kept.
    """
    started = time.monotonic()
    chosen = None
    if classes is not None and stream.class_names is not None:
        chosen = frozenset(select_classes(classes, plain_names(stream.class_names)))
    reading = _Reading(stream, job, chosen)
    finished = reading.run(share)
    index = read_index(reading.index_path) if finished else None
    reading.encoded.seconds = time.monotonic() - started
    dataset = None if index is None else indexed_dataset(stream, index, classes, split)
    return dataset, reading.encoded


def encode_stream_again(
    dataset: Dataset, missing: Sequence[int], job: EncodeJob, share: StreamShare | None = None
) -> Encoded:
    """Read a stream once more, for classes whose latents are not there.

    Args:
        dataset: A stream that was read before.
        missing: Places of the classes in `dataset.classes`.
        job: How to encode.
        share: As of `encode_stream`.

    Returns:
        What this process has encoded.

    Raises:
        UserError: As `encode_stream`, or the stream is not as it was.
    """
    assert dataset.stream is not None
    classes = [dataset.classes[place] for place in missing]
    reading = _Reading(dataset.stream, job, frozenset(cls.label for cls in classes))
    if reading.run(share) and not all(job.store.has(cls) for cls in classes):
        raise UserError(
            f"{dataset.stream.location} must be as it was when it was first read, got other images: "
            "run again to take them as they are now"
        )
    return reading.encoded


class _Reading:
    """One reading of a stream for some of its classes, None for all."""

    def __init__(self, stream: ImageStream, job: EncodeJob, chosen: frozenset[int] | None) -> None:
        self.stream, self.job, self.chosen = stream, job, chosen
        self.index_path = index_path(stream, job.store.root)
        self._key = hashlib.sha256(f"{stream.identity}\n{job.store.settings_key}".encode()).hexdigest()[:20]
        self._parts = StreamParts(self._parts_folder())
        self._shards = ShardEncoder(stream, job, chosen, self._parts)
        self.encoded = self._shards.encoded

    def run(self, share: StreamShare | None) -> bool:
        """Encode shards until all are read; returns whether the classes are made."""
        job, stream = self.job, self.stream
        job.store.prepare()
        self._parts.prepare()
        index = read_index(self.index_path)
        if index is not None and self._has_classes(index):
            # Another process has finished since this one looked.
            self._parts.remove()
            return True
        self._note_chosen()
        job.progress.note(f"encode: {stream.location} is read in {len(stream.shards):,} shards")
        total = stream.num_images if index is None else len(index.files)
        if total is not None and self.chosen is None:
            # The parts and the classes' files lie side by side while the one is sorted into the other.
            check_room(job.store, total, job.encoder.shape, job.progress, copies=2)
        mine = (share or StreamShare()).shards(len(stream.shards))
        self._refuse_bad(mine)
        stored = {shard: self._rows_of(shard) for shard in mine}
        while True:
            with job.bar(total=total, initial=sum(stored.values())) as bar:
                self._read_shards(mine, stored, bar)
            finished = self._finish()
            # Alone responsible, this process reads again what was damaged meanwhile.
            if finished or share is not None:
                return finished

    def _read_shards(self, shards: Sequence[int], stored: dict[int, int], bar: Bar) -> None:
        """Read what is missing of some shards; waits for those that others are reading."""
        left = list(shards)
        while left and self._parts.folder.exists():
            held_by_others = []
            for shard in left:
                claim = self.job.store.claim_work(f"stream-{self._key}-{shard}")
                if claim is None:
                    held_by_others.append(shard)
                    continue
                try:
                    # Whoever sorts the parts removes their folder.
                    if not self._parts.folder.exists():
                        return
                    next_row = self._parts.next_row(shard)
                    bar.advance(self._rows_of(shard) - stored[shard])
                    if next_row is not None:
                        self._shards.run(shard, next_row, bar)
                finally:
                    claim.release()
            left = held_by_others
            if left:
                time.sleep(WAIT_S)

    def _rows_of(self, shard: int) -> int:
        return sum(len(part) for part in self._parts.of_shard(shard))

    def _finish(self) -> bool:
        """Sort the parts into classes once all shards are read, unless another process does it."""
        shards = range(len(self.stream.shards))
        while self._parts.folder.exists():
            claim = self.job.store.claim_work(f"stream-{self._key}-finish")
            if claim is None:
                time.sleep(WAIT_S)
                continue
            try:
                if not self._parts.folder.exists():
                    break
                lacking = [shard for shard in shards if self._parts.next_row(shard) is not None]
                if lacking:
                    self.job.progress.note(
                        f"{len(shards) - len(lacking):,} of {len(shards):,} shards are encoded: the classes"
                        " are made by whoever encodes the last one"
                    )
                    return False
                self._sort()
            finally:
                claim.release()
        return True

    def _refuse_bad(self, shards: Sequence[int]) -> None:
        """Under "error", parts that were stored under "skip" must not hide a bad image."""
        if self.job.on_bad_image == "skip":
            return
        for shard in shards:
            for part in self._parts.of_shard(shard):
                for bad in part.bad:
                    raise bad_image_error(f"{self.stream.location}: {bad.name}", bad.reason)

    def _sort(self) -> None:
        self._refuse_bad(range(len(self.stream.shards)))
        index = sort_into_classes(self.stream, self._parts, self.chosen, self.job)
        # The index is written last: it tells later runs that the classes are there.
        write_index(self.index_path, index)
        self._parts.remove()

    def _has_classes(self, index: StreamIndex) -> bool:
        dataset = indexed_dataset(self.stream, index, None, "train", allow_empty=True)
        return all(
            self.job.store.has(cls)
            for cls in dataset.classes
            if len(cls) and (self.chosen is None or cls.label in self.chosen)
        )

    def _note_chosen(self) -> None:
        # The folder may be gone again: another process has finished.
        with suppress(FileNotFoundError), renamed(self._parts.folder / _CHOSEN, shared=True) as unfinished:
            unfinished.write_text(_listed_labels(self.chosen), encoding="utf-8")

    def _parts_folder(self) -> Path:
        """The folder of these classes, or one whose reading is complete and covers them."""
        root = self.job.store.folder / "streams" / self._key
        for folder in sorted(root.glob(f"*/{_CHOSEN}")):
            labels = json.loads(folder.read_text(encoding="utf-8"))
            covers = labels is None or (self.chosen is not None and self.chosen <= set(labels))
            parts = StreamParts(folder.parent)
            if covers and all(parts.is_complete(shard) for shard in range(len(self.stream.shards))):
                return folder.parent
        return root / hashlib.sha256(_listed_labels(self.chosen).encode()).hexdigest()[:16]


def _listed_labels(chosen: frozenset[int] | None) -> str:
    return json.dumps(None if chosen is None else sorted(chosen))
