"""The modes of single classes: what they depend on, the files they are kept in, and many fitted at once.

Shape letters: n images of a class, D = C*h*w.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from mgd3_fast.datasets import ImageClass
from mgd3_fast.errors import UserError
from mgd3_fast.latents import ClassLatents, LatentStore
from mgd3_fast.modes.class_chunks import read_chunks
from mgd3_fast.modes.kmeans import KMeansDiscovery
from mgd3_fast.modes.method import Discovery, ModeDiscovery
from mgd3_fast.modes.mode_set import Modes
from mgd3_fast.storage.tensor_files import open_if_whole, save_tensors

_FORMAT = "mgd3-fast class modes 2"
_KEEPERS = 4  # threads that wait for the disk


@dataclass(frozen=True)
class ClassModes:
    """The modes of any class: kept already, or to be found.

    Args:
        discovery: How modes are found.
        store: Latents.
        workdir: Folder for results of single classes, or None.
    """

    discovery: Discovery
    store: LatentStore
    workdir: Path | None

    def key(self, cls: ImageClass) -> str:
        """Hex sha256 of all that the modes of a class depend on."""
        # Without times of change: shards on machines with their own copies of the images share their modes.
        content, wanted = self.store.content_key(cls), self.discovery
        settings = [_FORMAT, content, wanted.method, wanted.kmeans, str(wanted.ipc), str(wanted.seed)]
        return hashlib.sha256("\n".join(settings).encode()).hexdigest()

    def kept(self, cls: ImageClass) -> Modes | None:
        """An earlier result; None where there is none, or a damaged one."""
        file = None if self.workdir is None else open_if_whole(self.workdir / self._file_name(cls))
        return None if file is None else Modes(**file.tensors)

    def fit_side_by_side(
        self, classes: Sequence[ImageClass], method: ModeDiscovery, workers: int
    ) -> Generator[tuple[int, Modes], None, None]:
        """Fit several classes at a time on the CPU, each in a thread.

        Args:
            classes: Those to fit.
            method: Shared by all threads.
            workers: Classes at a time.

        Yields:
            Place and modes of each class, as they are done.

        Raises:
            UserError: Latents are gone or not finite.
        """

        def fit(place: int) -> tuple[int, Modes]:
            cls = classes[place]
            features = self._latents(cls).latents.flatten(1).float()  # [n, D]
            _check_finite([cls], [features])
            return place, self._keep(cls, method.fit(features, self.discovery.ipc, self.discovery.seed))

        with ThreadPoolExecutor(workers, thread_name_prefix="discover") as pool:
            try:
                for done in as_completed([pool.submit(fit, place) for place in range(len(classes))]):
                    yield done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def fit_in_chunks(
        self, classes: Sequence[ImageClass], method: KMeansDiscovery, chunk_bytes: int | None
    ) -> Generator[tuple[int, Modes], None, None]:
        """Fit as many classes at a time as their latents fit the device.

        While a chunk is fitted, the next one is read and the results of the one before are written, each of
        which is a flush to disk.

        Args:
            classes: Those to fit.
            method: Gets the features of a chunk.
            chunk_bytes: See `read_chunks`.

        Yields:
            Place and modes of each class, in order.

        Raises:
            UserError: Latents are gone or not finite.
        """
        first, wanted = self._latents(classes[0]), self.discovery
        chunks = read_chunks(
            lambda place: self._latents(classes[place]).latents,
            [len(self._latents(cls)) for cls in classes],
            math.prod(first.item),
            first.dtype,
            wanted.device,
            most_bytes=chunk_bytes,
        )
        with ThreadPoolExecutor(_KEEPERS, thread_name_prefix="keep") as keepers:
            waiting: list[tuple[int, Future[Modes]]] = []
            for chunk in chunks:
                parts = [chunk.features[begin:end] for begin, end in pairwise(chunk.offsets)]
                _check_finite([classes[place] for place in chunk.places], parts)
                fitted = method.fit_many(chunk.features, chunk.offsets, wanted.ipc, wanted.seed)
                yield from ((place, kept.result()) for place, kept in waiting)
                waiting = [
                    (place, keepers.submit(self._keep, classes[place], modes))
                    for place, modes in zip(chunk.places, fitted, strict=True)
                ]
            yield from ((place, kept.result()) for place, kept in waiting)

    def _latents(self, cls: ImageClass) -> ClassLatents:
        """Map the latents of a class, which were there when the run began."""
        latents = self.store.open(cls)
        if latents is None:
            raise UserError(
                f"the latents of class {cls.name} in {self.store.folder} were deleted while the run was using"
                " them: start it again"
            )
        return latents

    def _keep(self, cls: ImageClass, fitted: Modes) -> Modes:
        """Count source images in the class instead of in its latents, and write the result down."""
        assert bool(fitted.centers.isfinite().all()), f"modes of class {cls.name} are not finite"
        modes = Modes(fitted.centers, fitted.weights, self._latents(cls).index[fitted.source_index])
        if self.workdir is not None:
            metadata = {"format": _FORMAT, "class": cls.name}
            save_tensors(self.workdir / self._file_name(cls), vars(modes), metadata)
        return modes

    def _file_name(self, cls: ImageClass) -> str:
        return f"{self.key(cls)}.safetensors"


def _check_finite(classes: Sequence[ImageClass], features: Sequence[Tensor]) -> None:
    """Refuse latents [n, D] of some classes, on any device, that are infinite or undefined."""
    # One infinite or undefined number makes the sum so: a pass over the latents, and a few numbers back.
    finite = torch.stack([latents.sum(dtype=torch.float64) for latents in features]).isfinite()
    for cls, is_finite in zip(classes, finite.tolist(), strict=True):
        if not is_finite:
            raise UserError(
                f"the latents of class {cls.name} hold infinite or undefined numbers: encode again with"
                " precision fp32"
            )
