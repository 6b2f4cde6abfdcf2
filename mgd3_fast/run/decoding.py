"""Latents to pixels to the writer, behind the sampler: while a batch is decoded, the next one is sampled.

Shape letters: B images of a sampler's batch, b of a decode batch, C channels, h w latent size, H W pixels.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mgd3_fast.generators import Autoencoder

BATCHES_AHEAD = 2  # the one that is decoded and one that waits; the sampler pauses when decoding is slower


class Sink(Protocol):
    """What takes finished pixels: `PngWriter`."""

    def put(self, image: int, file: str, pixels: np.ndarray) -> None:
        """Take uint8 [H, W, 3] of one image."""
        ...


@dataclass(frozen=True)
class _Decoded:
    """Pixels on their way to host memory, uint8 [b, H, W, 3]; there once `arrived` returns."""

    pixels: Tensor
    arrived: Callable[[], object]


class DecodeQueue:
    """Decodes batches of latents and hands every image to a sink, in order.

    On a GPU this happens on a thread with CUDA streams of its own: the sampler's next batch is launched
    without waiting, and pixels cross to pinned memory while the next decode batch is computed. On a CPU,
    where sampler and decoder would only share the same cores, `put` decodes before it returns.

    Args:
        autoencoder: Decodes, on `device`.
        sink: Receives the pixels.
        device: Where the autoencoder runs.
        advance: Called with the number of images that the sink has taken.
        threaded: Decode on a thread; None is on a GPU only.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        sink: Sink,
        device: torch.device,
        advance: Callable[[int], None],
        *,
        threaded: bool | None = None,
    ) -> None:
        self._autoencoder, self._sink, self._device, self._advance = autoencoder, sink, device, advance
        self._batches: SimpleQueue[tuple[Sequence[tuple[int, str]], Tensor] | None] = SimpleQueue()
        self._free = threading.BoundedSemaphore(BATCHES_AHEAD)
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._streams = _Streams(device) if device.type == "cuda" else None
        self._thread: threading.Thread | None = None
        self.seconds = {"decode": 0.0, "write": 0.0}
        if device.type == "cuda" if threaded is None else threaded:
            self._thread = threading.Thread(target=self._decode_queued, name="decode")
            self._thread.start()

    def put(self, images: Sequence[tuple[int, str]], latents: Tensor) -> None:
        """Take one batch; with a thread, wait only while two others are not yet decoded.

        Args:
            images: Number and file of each image.
            latents: float32 `[B, C, h, w]`, one for each of `images`; not changed afterwards.

        Raises:
            Exception: Whatever decoding or the sink raised, for this batch or an earlier one.
        """
        if self._thread is None:
            self._decode(images, latents)
            return
        self._free.acquire()
        if self._error is not None:
            self._free.release()
            raise self._error
        self._batches.put((images, latents))

    def close(self) -> None:
        """Wait until the sink has everything.

        Raises:
            Exception: Whatever decoding or the sink raised.
        """
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> DecodeQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            if self._thread is not None and self._thread.is_alive():
                self._stopping.set()  # after the decode batch at hand: the sink keeps what it has
                self._batches.put(None)
                self._thread.join()

    def _decode_queued(self) -> None:
        with ExitStack() as entered:
            if self._streams is not None:
                entered.enter_context(torch.cuda.device(self._device))
                entered.enter_context(torch.cuda.stream(self._streams.decode))
            while (batch := self._batches.get()) is not None:
                try:
                    if self._error is None and not self._stopping.is_set():
                        self._decode(*batch)
                except BaseException as error:
                    self._error = error
                finally:
                    self._free.release()

    def _decode(self, images: Sequence[tuple[int, str]], latents: Tensor) -> None:
        """Decode one batch; on a GPU pixels are delivered once the next decode batch has been launched."""
        started, in_sink = time.perf_counter(), self.seconds["write"]
        remaining = iter(images)
        on_the_way: deque[_Decoded] = deque()
        for pixels in self._autoencoder.decode_batches(latents):  # each [b, 3, H, W]
            on_the_way.append(self._to_host(pixels.permute(0, 2, 3, 1).contiguous()))
            if self._streams is None or len(on_the_way) > 1:
                self._deliver(on_the_way.popleft(), remaining)
            if self._stopping.is_set():
                break
        for decoded in on_the_way:
            self._deliver(decoded, remaining)
        in_sink = self.seconds["write"] - in_sink
        self.seconds["decode"] += time.perf_counter() - started - in_sink

    def _to_host(self, pixels: Tensor) -> _Decoded:
        if self._streams is None:
            return _Decoded(pixels, lambda: None)
        host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
        self._streams.copy.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._streams.copy):
            host.copy_(pixels, non_blocking=True)
            pixels.record_stream(self._streams.copy)
            return _Decoded(host, self._streams.copy.record_event().synchronize)

    def _deliver(self, decoded: _Decoded, remaining: Iterator[tuple[int, str]]) -> None:
        decoded.arrived()
        started = time.perf_counter()
        for pixels in decoded.pixels.numpy():  # [H, W, 3]
            image, file = next(remaining)
            self._sink.put(image, file, pixels)
        self.seconds["write"] += time.perf_counter() - started
        self._advance(len(decoded.pixels))


class _Streams:
    """What decodes beside the sampler, and what copies beside the decoder."""

    def __init__(self, device: torch.device) -> None:
        self.decode = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.copy = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
