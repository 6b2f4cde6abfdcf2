"""Latents to pixels to the writer, behind the sampler: while a batch is decoded, the next one is sampled.

Shape letters: B images of a sampler's batch, b of a decode batch, C channels, h w latent size, H W pixels.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mgd3_fast.writers import WorkQueue

if TYPE_CHECKING:
    from mgd3_fast.generators import Autoencoder
    from mgd3_fast.writers import PngWriter

BATCHES_AHEAD = 2  # the one that is decoded and one that waits; the sampler pauses when decoding is slower


class DecodeQueue(WorkQueue):
    """Decodes batches of latents and hands every image to a writer, in order.

    On a GPU this happens on a thread with CUDA streams of its own: the sampler's next batch is launched
    without waiting, and pixels cross to pinned memory while the next decode batch is computed. On a CPU,
    where sampler and decoder would only share the same cores, `put` decodes before it returns.

    Args:
        autoencoder: Decodes, on `device`.
        writer: Receives the pixels.
        device: Where the autoencoder runs.
        threaded: Decode on a thread; None is on a GPU only.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        writer: PngWriter,
        device: torch.device,
        *,
        threaded: bool | None = None,
    ) -> None:
        super().__init__("decode", 1, BATCHES_AHEAD)
        self._autoencoder, self._writer, self._device = autoencoder, writer, device
        self._threaded = device.type == "cuda" if threaded is None else threaded
        self._stopping = threading.Event()
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None  # to decode and to copy
        if device.type == "cuda":
            self._streams = torch.cuda.Stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def put(self, images: Sequence[tuple[int, str]], latents: Tensor) -> Callable[[], dict[str, float]]:
        """Take one batch; with a thread, wait only while two others are not yet decoded.

        Args:
            images: Number and file of each image.
            latents: float32 `[B, C, h, w]`, one for each of `images`; not changed afterwards.

        Returns:
            What waits until the images are written, and tells the seconds that it took to decode and write.

        Raises:
            Exception: Whatever decoding or the writer raised, for this batch or an earlier one.
        """
        batch = _Batch(images, latents)
        if self._threaded:
            decoded = self.add(self._decode_beside, batch)
        else:
            decoded = None
            self._decode(batch)

        def wait() -> dict[str, float]:
            if decoded is not None:
                decoded.result()
            started = time.perf_counter()
            for one in batch.written:
                one.result()
            self.check()
            self._writer.check()
            batch.seconds["write"] += time.perf_counter() - started
            return batch.seconds

        return wait

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stopping.set()  # after the decode batch at hand: the writer keeps what it has
        super().__exit__(kind, error, trace)

    def _decode_beside(self, batch: _Batch) -> None:
        if self._stopping.is_set():
            return
        if self._streams is None:
            self._decode(batch)
            return
        with torch.cuda.device(self._device), torch.cuda.stream(self._streams[0]):
            self._decode(batch)

    def _decode(self, batch: _Batch) -> None:
        """Decode one batch; on a GPU pixels are delivered once the next decode batch has been launched."""
        started = time.perf_counter()
        remaining = iter(batch.images)
        on_the_way: deque[tuple[Tensor, Callable[[], object]]] = deque()
        for pixels in self._autoencoder.decode_batches(batch.latents):  # each [b, 3, H, W]
            on_the_way.append(self._to_host(pixels.permute(0, 2, 3, 1).contiguous()))
            if self._streams is None or len(on_the_way) > 1:
                self._deliver(*on_the_way.popleft(), remaining, batch)
            if self._stopping.is_set():
                break
        for arriving in on_the_way:
            self._deliver(*arriving, remaining, batch)
        batch.seconds["decode"] = time.perf_counter() - started - batch.seconds["write"]

    def _to_host(self, pixels: Tensor) -> tuple[Tensor, Callable[[], object]]:
        """Pixels uint8 `[b, H, W, 3]` on their way to host memory; there once the function returns."""
        if self._streams is None:
            return pixels, lambda: None
        copying = self._streams[1]
        host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
        copying.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(copying):
            host.copy_(pixels, non_blocking=True)
            pixels.record_stream(copying)
            return host, copying.record_event().synchronize

    def _deliver(
        self, pixels: Tensor, wait: Callable[[], object], remaining: Iterator[tuple[int, str]], batch: _Batch
    ) -> None:
        wait()
        started = time.perf_counter()
        for one in pixels.numpy():  # [H, W, 3]
            image, file = next(remaining)
            batch.written.append(self._writer.put(image, file, one))
        batch.seconds["write"] += time.perf_counter() - started


@dataclass(frozen=True)
class _Batch:
    """Images and latents `[B, C, h, w]`, the files that are awaited, and seconds that they took."""

    images: Sequence[tuple[int, str]]
    latents: Tensor
    written: list[Future[None]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "write": 0.0})
