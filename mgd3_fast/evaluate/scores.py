"""What the tests of a training came to: accuracies over epochs, and counts of each class."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class Scores:
    """Tests so far, and the losses of the running epoch, summed on the device.

    Args:
        labels: Of the test images, int64.
        num_classes: N.
        device: Where losses are computed.
    """

    def __init__(self, labels: Tensor, num_classes: int, device: torch.device) -> None:
        self._labels, self._num_classes = labels.cpu(), num_classes
        self.curve: list[tuple[int, int]] = []
        self.by_class: dict[str, dict[str, list[int]]] = {}
        self.losses = torch.zeros((), device=device)
        self.mean_loss = math.nan

    def end_epoch(self, steps: int) -> float:
        """Take the mean loss of an epoch of so many steps."""
        self.mean_loss = float(self.losses) / steps
        self.losses.zero_()
        return self.mean_loss

    def add_test(self, epoch: int, predicted: Tensor) -> None:
        """Record which class, int64, the network names for each test image after `epoch` epochs."""
        predicted = predicted.cpu()
        right = self._labels[predicted == self._labels]
        counts = {"correct": self._count(right), "predicted": self._count(predicted)}
        self.by_class["last"] = counts
        if all(len(right) > correct for _, correct in self.curve):
            self.by_class["best"] = counts
        self.curve.append((epoch, len(right)))

    def outcome(self) -> dict[str, Any]:
        """Accuracies in percent, and for the best and the last test the counts of each class.

        A training that an earlier version began has no counts of a best test before it was taken up.
        """
        best_epoch, best = max(self.curve, key=lambda point: point[1])
        share = 100 / len(self._labels)
        return {
            "best": best * share,
            "best_epoch": best_epoch,
            "last": self.curve[-1][1] * share,
            "curve": [list(point) for point in self.curve],
            "loss": self.mean_loss,
            "by_class": {"images": self._count(self._labels), **self.by_class},
        }

    def state_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        return {
            "curve": [list(point) for point in self.curve],
            "by_class": self.by_class,
            "losses": self.losses,
            "mean": self.mean_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.curve = [(int(epoch), int(correct)) for epoch, correct in state["curve"]]
        self.by_class = state.get("by_class", {})
        self.losses.copy_(state["losses"])
        self.mean_loss = state["mean"]

    def _count(self, classes: Tensor) -> list[int]:
        return torch.bincount(classes, minlength=self._num_classes).tolist()
