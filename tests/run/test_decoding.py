"""Decoding behind the sampler: every image once and in order, bounded, and nothing finished is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mgd3_fast.generators import load_generator
from mgd3_fast.run.decoding import BATCHES_AHEAD, DecodeQueue

CPU = torch.device("cpu")
WAIT_S = 20
THREADED = pytest.mark.parametrize("threaded", [False, True], ids=["inline", "thread"])


class StandIn:
    """Decodes two latents a batch into pixels of their first value, when it is let."""

    def __init__(self, *, open_gate: bool = True) -> None:
        self.gate, self.entered = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []
        if open_gate:
            self.gate.set()

    def decode_batches(self, latents: Tensor) -> Iterator[Tensor]:
        for batch in latents.split(2):
            self.entered.set()
            assert self.gate.wait(WAIT_S)
            self.batches.append(batch[:, 0, 0, 0].int().tolist())
            yield batch[:, :1].expand(-1, 3, -1, -1).to(torch.uint8)


class Images:
    """A sink that keeps what it gets, when it is let."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.got: dict[int, tuple[str, int]] = {}
        self._fail_at = fail_at
        self.files: list[Future[None]] = []

    def put(self, image: int, file: str, pixels: np.ndarray) -> Future[None]:
        if image == self._fail_at:
            raise OSError(28, "No space left on device")
        assert pixels.dtype == np.uint8
        assert pixels.shape == (8, 8, 3)
        self.got[image] = (file, int(pixels[0, 0, 0]))
        self.files.append(Future())
        return self.files[-1]

    def check(self) -> None:
        """Nothing fails later than in `put`."""


def batch_of(start: int, count: int) -> tuple[list[tuple[int, str]], Tensor]:
    numbers = range(start, start + count)
    values = torch.tensor(list(numbers), dtype=torch.float32)
    return [(number, f"{number}.png") for number in numbers], values[:, None, None, None].expand(-1, 4, 8, 8)


def queue_of(autoencoder: Any, sink: Any, threaded: bool | None) -> DecodeQueue:
    return DecodeQueue(autoencoder, sink, CPU, threaded=threaded)


@THREADED
def test_every_image_arrives_once_and_in_order(threaded: bool) -> None:
    autoencoder, sink = StandIn(), Images()
    with queue_of(autoencoder, sink, threaded) as decoding:
        for start, count in ((0, 5), (5, 4), (9, 1)):
            decoding.put(*batch_of(start, count))
    assert sink.got == {number: (f"{number}.png", number) for number in range(10)}
    assert list(sink.got) == list(range(10))
    assert autoencoder.batches == [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9]]


@THREADED
def test_a_batch_is_done_when_its_last_file_is(threaded: bool) -> None:
    sink, seconds = Images(), []
    with queue_of(StandIn(), sink, threaded) as decoding:
        wait = decoding.put(*batch_of(0, 3))
        waiting = threading.Thread(target=lambda: seconds.append(wait()))
        waiting.start()
        while len(sink.files) < 3:
            waiting.join(0.01)
        for file in sink.files:
            waiting.join(0.05)
            assert waiting.is_alive()
            file.set_result(None)
        waiting.join(WAIT_S)
    ((decode, write),) = ((of["decode"], of["write"]) for of in seconds)
    assert decode > 0
    assert write > 0.1


def test_the_sampler_waits_only_for_the_third_batch() -> None:
    autoencoder, sink = StandIn(open_gate=False), Images()
    with queue_of(autoencoder, sink, True) as decoding:
        for number in range(BATCHES_AHEAD):
            decoding.put(*batch_of(number, 1))
        assert not sink.got
        third = threading.Thread(target=decoding.put, args=batch_of(BATCHES_AHEAD, 1))
        third.start()
        third.join(0.1)
        assert third.is_alive()
        autoencoder.gate.set()
        third.join(WAIT_S)
        assert not third.is_alive()
    assert list(sink.got) == list(range(BATCHES_AHEAD + 1))


def test_on_a_cpu_a_batch_is_with_the_sink_when_put_returns() -> None:
    sink = Images()
    with queue_of(StandIn(), sink, None) as decoding:
        decoding.put(*batch_of(0, 3))
        assert list(sink.got) == [0, 1, 2]


@THREADED
def test_a_failing_sink_reaches_the_sampler(threaded: bool) -> None:
    sink = Images(fail_at=3)

    def run() -> None:
        with queue_of(StandIn(), sink, threaded) as decoding:
            for start in range(0, 40, 4):
                decoding.put(*batch_of(start, 4))

    with pytest.raises(OSError, match="No space left on device"):
        run()
    assert list(sink.got) == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_a_failure_in_the_last_batch_is_raised_at_the_end() -> None:
    decoding = queue_of(StandIn(), Images(fail_at=0), True)
    decoding.put(*batch_of(0, 1))
    with pytest.raises(OSError, match="No space left on device"):
        decoding.close()


def test_an_interruption_keeps_what_is_decoded_and_drops_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder, sink = StandIn(open_gate=False), Images()

    def run() -> None:
        with queue_of(autoencoder, sink, True) as decoding:
            decoding.put(*batch_of(0, 6))
            decoding.put(*batch_of(6, 2))
            assert autoencoder.entered.wait(WAIT_S)
            stop = decoding._stopping.set
            monkeypatch.setattr(decoding._stopping, "set", lambda: (stop(), autoencoder.gate.set()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert list(sink.got) == [0, 1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def decoded_by(queue: DecodeQueue, sink: Images, latents: Tensor) -> list[np.ndarray]:
    kept: list[np.ndarray] = []
    sink.put = lambda image, file, pixels: kept.append(pixels.copy())  # type: ignore[method-assign,assignment]
    with queue as decoding:
        for batch in latents.split(23):
            decoding.put([(number, "") for number in range(len(batch))], batch)
    return kept


@THREADED
def test_pixels_are_those_of_decode(tiny_generator: Path, threaded: bool) -> None:
    autoencoder = load_generator(str(tiny_generator)).autoencoder
    latents = torch.randn(70, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    sink = Images()
    got = decoded_by(queue_of(autoencoder, sink, threaded), sink, latents)
    assert np.array_equal(np.stack(got), autoencoder.decode(latents).permute(0, 2, 3, 1).numpy())


@pytest.mark.gpu
def test_pixels_from_a_gpu_are_those_of_decode(tiny_generator: Path) -> None:
    device = torch.device("cuda:0")
    autoencoder = load_generator(str(tiny_generator)).autoencoder.to(device)
    latents = torch.randn(300, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    sink = Images()
    got = decoded_by(DecodeQueue(autoencoder, sink, device), sink, latents)
    assert np.array_equal(np.stack(got), autoencoder.decode(latents).permute(0, 2, 3, 1).numpy())
