"""The teacher of the soft-label protocol: a trained classifier from a file, cut down to a dataset's classes.

Shape letters: N classes of the dataset, M outputs of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mgd3_engine.files.weights import check_weights, read_weights, rooted
from mgd3_fast.datasets import Dataset, imagenet_classes
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.networks import build_network

if TYPE_CHECKING:
    from torch import nn


def load_teacher(path: Path, network: str, dataset: Dataset, size: int) -> nn.Module:
    """Read a teacher's weights and keep the outputs of the dataset's classes, as RDED does.

    Args:
        path: A file that `mgd3_engine.files.weights.read_weights` knows, such as torchvision's and RDED's.
        network: The teacher's architecture.
        dataset: Classes in label order. A file of M = N outputs is taken to be of these classes, one of as
            many outputs as the full list, of that list; one of 1000, of ILSVRC-2012 in sorted order.
        size: Side of its images in pixels.

    Returns:
        The network in evaluation mode, with N outputs, not to be trained.

    Raises:
        UserError: No such file, unreadable, not of this network, or outputs of other classes.
    """
    with torch.random.fork_rng(devices=[]):
        teacher = build_network(network, len(dataset.classes), size)
    state = _read(path, next(iter(teacher.state_dict())))
    last = _last_layer(state, path)
    outputs = _outputs(len(state[f"{last}.weight"]), dataset, path)
    for name in (f"{last}.weight", f"{last}.bias"):
        state[name] = state[name][outputs]
    try:
        teacher.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n\t")[1:2]) or str(error)
        raise UserError(f"teacher must be weights of {network}, got {path}: {reason}") from None
    return teacher.eval().requires_grad_(False)


def _read(path: Path, first: str) -> dict[str, Tensor]:
    """Read the tensors of a network, the `first` of which may stand below a prefix in the file."""
    if not path.is_file():
        raise UserError(f"teacher must be an existing file, got {path}")
    try:
        state = rooted(read_weights(path)[0], (first,))
    except (OSError, ValueError) as error:
        raise UserError(f"teacher must be a file of plain tensors by name: {error}") from None
    try:
        check_weights(state)
    except ValueError as error:
        raise UserError(f"teacher {path} is damaged: {error}") from None
    return state


def _last_layer(state: dict[str, Tensor], path: Path) -> str:
    """Name of the layer that gives the outputs: the last with a two-axis weight and a bias of its length."""
    for name in reversed(state):
        last = name.removesuffix(".weight")
        bias = state.get(f"{last}.bias")
        if name.endswith(".weight") and state[name].ndim == 2 and bias is not None:
            return last
    raise UserError(f"teacher must be a classifier with a linear last layer, got {path}")


def _outputs(count: int, dataset: Dataset, path: Path) -> list[int]:
    """Rows of the last layer that belong to the dataset's classes."""
    names = dataset.class_names
    if count == len(names):
        return list(range(count))
    if count == len(dataset.all_class_names):
        return [cls.label for cls in dataset.classes]
    wnids = imagenet_classes("imagenet1k")
    if count == len(wnids) and set(names) <= set(wnids):
        return [wnids.index(name) for name in names]
    raise UserError(
        f"teacher must have {len(names)} outputs for {dataset.name}"
        f"{'' if len(names) == len(dataset.all_class_names) else f' or {len(dataset.all_class_names)}'},"
        f" got {count} in {path}"
    )
