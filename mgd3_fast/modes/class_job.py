"""What is wanted of a class, and the small file that its modes are kept in.

Shape letters: n images of a class, D = C*h*w.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mgd3_fast.datasets import ImageClass
from mgd3_fast.errors import UserError
from mgd3_fast.latents import ClassLatents, LatentStore
from mgd3_fast.modes.method import ModeDiscovery, Modes
from mgd3_fast.modes.spec import Discovery
from mgd3_fast.storage.tensor_files import open_if_whole, save_tensors

_FORMAT = "mgd3-fast class modes 2"


@dataclass(frozen=True)
class ClassJob:
    """What is wanted of a class, and where its result is kept.

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
        """Read an earlier result; None where there is none, or a damaged one."""
        file = None if self.workdir is None else open_if_whole(self._path(cls, self.workdir))
        return None if file is None else Modes(**file.tensors)

    def latents(self, cls: ImageClass) -> ClassLatents:
        """Map the latents of a class, which were there when the run began."""
        latents = self.store.open(cls)
        if latents is None:
            raise UserError(f"latents of class {cls.name} must stay during a run, got deleted")
        return latents

    def run(self, cls: ImageClass, method: ModeDiscovery) -> Modes:
        """Find the modes of a class, and keep them."""
        features = self.latents(cls).latents.flatten(1).float()  # [n, D]
        check_finite([cls], [features])
        return self.keep(cls, method.fit(features, self.discovery.ipc, self.discovery.seed))

    def keep(self, cls: ImageClass, fitted: Modes) -> Modes:
        """Count source images in the class instead of in its latents, and write the result down."""
        assert bool(fitted.centers.isfinite().all()), f"modes of class {cls.name} are not finite"
        modes = Modes(fitted.centers, fitted.weights, self.latents(cls).index[fitted.source_index])
        if self.workdir is not None:
            tensors = {"centers": modes.centers, "weights": modes.weights, "source_index": modes.source_index}
            save_tensors(self._path(cls, self.workdir), tensors, {"format": _FORMAT, "class": cls.name})
        return modes

    def _path(self, cls: ImageClass, workdir: Path) -> Path:
        return workdir / f"{self.key(cls)}.safetensors"


def check_finite(classes: Sequence[ImageClass], features: Sequence[Tensor]) -> None:
    """Refuse latents that are infinite or undefined.

    Args:
        classes: Classes, for the message.
        features: [n, D] of each, on any device.

    Raises:
        UserError: Naming the first class that has some.
    """
    # One infinite or undefined number makes the sum so: a pass over the latents, and a few numbers back.
    finite = torch.stack([latents.sum(dtype=torch.float64) for latents in features]).isfinite()
    for cls, is_finite in zip(classes, finite.tolist(), strict=True):
        if not is_finite:
            raise UserError(
                f"latents of class {cls.name} must be finite, got infinite or undefined numbers:"
                " encode again with precision fp32"
            )
