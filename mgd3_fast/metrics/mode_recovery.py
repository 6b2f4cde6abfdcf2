"""Whether images end where guidance pulled them: nearest to their own mode among those of the class.

Shape letters: m synthetic images of a class, K modes of it, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.evaluate.distilled import DistilledFolder
from mgd3_fast.metrics.neighbours import nearest
from mgd3_fast.modes import ModeSet
from mgd3_fast.writers import MODES

Points = NDArray[np.float64]


def mode_recovery(points: Points, modes: Points, own: NDArray[np.int64]) -> float:
    """Share of images whose nearest mode is the one they were pulled to; 1 / K by chance.

    Args:
        points: `[m, D]`.
        modes: `[K, D]`.
        own: `[m]`, each image's mode, from 0 to K - 1.

    Returns:
        0..1; NaN for a single mode, which every image is nearest to.
    """
    return float((nearest(points, modes) == own).mean()) if len(modes) > 1 else float("nan")


@dataclass(frozen=True)
class RunModes:
    """The modes of a run, and which of them each of its images was pulled to.

    Args:
        folder: The run.
        modes: Of its classes.
        own: By the path of an image in the folder.
    """

    folder: Path
    modes: ModeSet
    own: dict[str, int]

    def recovery(self, class_name: str, files: Sequence[Path], points: Points) -> float:
        """`mode_recovery` of images of a class: their files, and their latents `[m, D]`."""
        own = [self.own[file.relative_to(self.folder).as_posix()] for file in files]
        modes = self.modes.of_class(class_name).flatten(1).double().numpy()  # [K, D]
        return mode_recovery(points, modes, np.array(own, dtype=np.int64))


def open_run_modes(folder: DistilledFolder, autoencoder_digest: str | None) -> RunModes | None:
    """Open the modes of a run.

    Args:
        folder: The run, or any folder of images.
        autoencoder_digest: Of the autoencoder in whose latents images are compared; None elsewhere.

    Returns:
        The modes; None where the folder has none, or has those of another autoencoder.

    Raises:
        UserError: The file of modes is damaged.
    """
    manifest, path = folder.manifest, folder.path / MODES
    if manifest is None or autoencoder_digest is None or not path.is_file():
        return None
    if manifest["generator"].get("autoencoder_digest") != autoencoder_digest:
        return None
    own = {one["file"]: one["mode"] for one in manifest["images"]}
    return RunModes(folder.path, ModeSet.load(path), own)
