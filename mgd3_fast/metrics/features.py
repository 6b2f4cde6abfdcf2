"""What images are compared by: latents, pixels, or the output of a network in an ONNX file.

Shape letters: B images, R pixels a side, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.errors import UserError, listed, missing
from mgd3_fast.evaluate.colours import normalise
from mgd3_fast.latents.encoder import Encoder

FeatureSpace = Callable[[Tensor], NDArray[np.float32]]
"""Turns images, uint8 `[B, 3, R, R]`, into points, float32 `[B, D]`."""


def latent_space(autoencoder: Encoder, device: torch.device) -> FeatureSpace:
    """Posterior means of an autoencoder on a device, in the generator's units: modes are found among them."""

    def features(images: Tensor) -> NDArray[np.float32]:
        latents: NDArray[np.float32] = autoencoder.encode(images.to(device)).flatten(1).float().cpu().numpy()
        return latents

    return features


def pixel_space(images: Tensor) -> NDArray[np.float32]:
    """Pixels from 0 to 1: a `FeatureSpace`."""
    pixels: NDArray[np.float32] = images.flatten(1).float().div(255).numpy()
    return pixels


def onnx_space(path: Path, input_range: str) -> FeatureSpace:
    """The first output of an ONNX network, flattened.

    Args:
        path: Its file: one input, float32 `[B, 3, R, R]`, B of any size.
        input_range: What the network was trained on; see `MetricsConfig.input_range`.

    Raises:
        UserError: No such file, not an ONNX network of one input, or onnxruntime is missing; when features
            are computed, images of a size that the network does not take.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise missing("features of an ONNX network need the package onnxruntime", "onnx") from None
    if not path.is_file():
        raise UserError(f"features must be latents, pixels or an existing .onnx file, got {path}")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's exceptions share no base class
        reason = str(error).splitlines()[0]
        raise UserError(f"features must be an ONNX network, got {path}: {reason}") from None
    inputs = [one.name for one in session.get_inputs()]
    if len(inputs) != 1:
        raise UserError(f"features must be an ONNX network of one input, got {listed(inputs)} in {path}")

    def features(images: Tensor) -> NDArray[np.float32]:
        try:
            output = session.run(None, {inputs[0]: _scaled(images.float(), input_range).numpy()})[0]
        except Exception as error:
            reason = str(error).splitlines()[0]
            shape = list(images.shape)
            raise UserError(f"the network {path} does not take images {shape}: {reason}") from None
        return np.asarray(output, dtype=np.float32).reshape(len(images), -1)

    return features


def _scaled(pixels: Tensor, input_range: str) -> Tensor:
    """Pixels from 0 to 255 in the range that a network was trained on."""
    if input_range == "byte":
        return pixels
    if input_range == "symmetric":
        return pixels / 127.5 - 1
    return pixels / 255 if input_range == "unit" else normalise(pixels / 255)
