"""Whether images end where guidance pulled them: nearest to their own mode among those of the class.

Shape letters: m synthetic images of a class, K modes of it, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.modes import ModeSet
from mgd3_fast.modes.recovery import mode_recovery
from mgd3_fast.writers import MODES
from mgd3_fast.writers.labelled import LabelledFolder, LabelledImage

Points = NDArray[np.float64]


def class_recovery(modes: ModeSet, class_name: str, images: Sequence[LabelledImage], points: Points) -> float:
    """`mode_recovery` of m images of a class, listed in their run's manifest, whose latents are `[m, D]`."""
    of_class = modes.of_class(class_name).flatten(1).double().numpy()  # [K, D]
    return mode_recovery(points, of_class, np.array([image.facts["mode"] for image in images], np.int64))


def open_run_modes(folder: LabelledFolder, autoencoder_digest: str | None) -> ModeSet | None:
    """Open the modes of a run.

    Args:
        folder: The run, or any folder of images.
        autoencoder_digest: Of the autoencoder in whose latents images are compared; None elsewhere.

    Returns:
        The modes; None where the folder has none, has those of another autoencoder, or holds images that its
        manifest does not list.

    Raises:
        UserError: The file of modes is damaged.
    """
    manifest, path = folder.manifest, folder.path / MODES
    if not manifest or autoencoder_digest is None or not path.is_file():
        return None
    if manifest["generator"].get("autoencoder_digest") != autoencoder_digest:
        return None
    return ModeSet.load(path) if all(image.sha256 for image in folder.images) else None
