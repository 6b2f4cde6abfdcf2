"""Latents of many classes brought to a device, the next chunk while the present one is clustered.

Shape letters: N images of a chunk's classes end to end, D = C*h*w.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

LARGEST_CHUNK = 2 * 2**30  # bytes: 100 classes of ImageNet in float32
CHUNK_ON_CPU = 256 * 2**20
CHUNKS_IN_MEMORY = 8  # up to three of features, the rest for distances and float32 copies
READERS = 4


@dataclass(frozen=True)
class Chunk:
    """Latents of the classes at some places among those that are to be read.

    Args:
        places: The places.
        features: float32 or float16 [N, D], on the device.
        offsets: Rows offsets[p]..offsets[p + 1] are of the class at places[p].
    """

    places: range
    features: Tensor
    offsets: tuple[int, ...]


def _chunk_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return CHUNK_ON_CPU
    free, _ = torch.cuda.mem_get_info(device)
    return min(LARGEST_CHUNK, free // CHUNKS_IN_MEMORY)


def split_into_chunks(class_bytes: Sequence[int], most: int) -> list[range]:
    """Group neighbouring classes, given by their bytes, into ranges of `most` bytes or of one class."""
    chunks, begin, held = [], 0, 0
    for place, size in enumerate(class_bytes):
        if place > begin and held + size > most:
            chunks.append(range(begin, place))
            begin, held = place, 0
        held += size
    return [*chunks, range(begin, len(class_bytes))] if class_bytes else []


def read_chunks(
    read: Callable[[int], Tensor],
    rows: Sequence[int],
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    most_bytes: int | None = None,
) -> Iterator[Chunk]:
    """Yield all classes chunk by chunk; while one is used, the next is read in the background.

    Args:
        read: Opens the latents of the class at a place; called from several threads.
        rows: Images of each class.
        width: D.
        dtype: float32 or float16.
        device: Where the features are wanted.
        most_bytes: Of a chunk; by default at most an eighth of the memory that is free on the device.
    """
    row_bytes = width * dtype.itemsize
    chunks = split_into_chunks([n * row_bytes for n in rows], most_bytes or _chunk_bytes(device))
    if not chunks:
        return
    largest = max(sum(rows[place] for place in chunk) for chunk in chunks)
    loader = _Loader(read, rows, width, dtype, device, largest)
    with ThreadPoolExecutor(1, thread_name_prefix="latents") as background:
        coming = background.submit(loader.load, chunks[0])
        for following in [*chunks[1:], None]:
            chunk = coming.result()
            if following is not None:
                coming = background.submit(loader.load, following)
            yield chunk


class _Loader:
    """Copies chunks to the device; on CUDA through one page-locked buffer, on a stream of its own."""

    def __init__(
        self,
        read: Callable[[int], Tensor],
        rows: Sequence[int],
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        largest: int,
    ) -> None:
        self._read, self._rows, self._device = read, rows, device
        self._width, self._dtype = width, dtype
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._staging = torch.empty(largest, width, dtype=dtype, pin_memory=True)

    def load(self, places: range) -> Chunk:
        offsets = tuple(accumulate((self._rows[place] for place in places), initial=0))
        if self._stream is None:
            features = torch.empty(offsets[-1], self._width, dtype=self._dtype)
            self._fill(features, places, offsets)
            return Chunk(places, features, offsets)
        staged = self._staging[: offsets[-1]]
        self._fill(staged, places, offsets)
        # Whoever uses a chunk brings results to the CPU, and so waits for its work on the features, before
        # letting go of them: the allocator may then hand their memory to this stream again.
        with torch.cuda.stream(self._stream):
            features = staged.to(self._device, non_blocking=True)
        self._stream.synchronize()  # the buffer is free for the next chunk
        return Chunk(places, features, offsets)

    def _fill(self, features: Tensor, places: range, offsets: Sequence[int]) -> None:
        def copy(number: int) -> None:
            features[offsets[number] : offsets[number + 1]].copy_(self._read(places[number]).flatten(1))

        with ThreadPoolExecutor(min(READERS, len(places)), thread_name_prefix="read") as readers:
            for _ in readers.map(copy, range(len(places))):
                pass
