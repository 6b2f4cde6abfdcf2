"""What images are compared by: latents, pixels, or the output of a network in an ONNX file.

Shape letters: B images, R pixels a side, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.errors import UserError, listed
from mgd3_fast.latents.encoder import Encoder

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class FeatureSpace(Protocol):
    """Turns images into points."""

    def features(self, images: Tensor) -> NDArray[np.float32]:
        """Turn uint8 `[B, 3, R, R]` into float32 `[B, D]`."""
        ...


class LatentSpace:
    """Posterior means of an autoencoder, in the generator's units: where modes are found and pulled to.

    Args:
        autoencoder: Already where it is to run.
        device: Where that is.
    """

    def __init__(self, autoencoder: Encoder, device: torch.device) -> None:
        self._autoencoder, self._device = autoencoder, device

    def features(self, images: Tensor) -> NDArray[np.float32]:
        """Encode `[B, 3, R, R]` and flatten."""
        latents = self._autoencoder.encode(images.to(self._device))
        encoded: NDArray[np.float32] = latents.flatten(1).float().cpu().numpy()
        return encoded


class PixelSpace:
    """Pixels, 0..1."""

    def features(self, images: Tensor) -> NDArray[np.float32]:
        """Scale `[B, 3, R, R]` and flatten."""
        pixels: NDArray[np.float32] = images.flatten(1).float().div(255).numpy()
        return pixels


class OnnxSpace:
    """The first output of an ONNX network, flattened.

    Args:
        path: Its file: one input, float32 `[B, 3, R, R]`, B of any size.
        input_range: What the network was trained on; see `MetricsConfig.input_range`.

    Raises:
        UserError: No such file, not an ONNX network of one input, or onnxruntime is missing.
    """

    def __init__(self, path: Path, input_range: str) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise UserError(
                "features of an ONNX network must have onnxruntime, got none: pip install 'mgd3-fast[onnx]'"
            ) from None
        if not path.is_file():
            raise UserError(f"features must be latents, pixels or an existing .onnx file, got {path}")
        try:
            self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's exceptions share no base class
            reason = str(error).splitlines()[0]
            raise UserError(f"features must be an ONNX network, got {path}: {reason}") from None
        inputs = [one.name for one in self._session.get_inputs()]
        if len(inputs) != 1:
            raise UserError(f"features must be an ONNX network of one input, got {listed(inputs)} in {path}")
        self._path, self._input_range = path, input_range

    def features(self, images: Tensor) -> NDArray[np.float32]:
        """Run the network on `[B, 3, R, R]`."""
        inputs = {self._session.get_inputs()[0].name: _scaled(images, self._input_range).numpy()}
        try:
            output = self._session.run(None, inputs)[0]
        except Exception as error:
            reason = str(error).splitlines()[0]
            shape = list(images.shape)
            raise UserError(f"features network {self._path} must take images {shape}: {reason}") from None
        return np.asarray(output, dtype=np.float32).reshape(len(images), -1)


def _scaled(images: Tensor, input_range: str) -> Tensor:
    """Float32 `[B, 3, R, R]` in the range that a network was trained on."""
    pixels = images.float()
    if input_range == "byte":
        return pixels
    if input_range == "symmetric":
        return pixels / 127.5 - 1
    if input_range == "unit":
        return pixels / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_IMAGENET_MEAN, _IMAGENET_STD))
    return (pixels / 255 - mean) / std
