"""Steps, checkpoints, exact resumption, and Ctrl-C between two steps.

A step whose random numbers are a function of (seed, purpose, step), as those of `step_generator` are, makes a
training that was killed at any moment end with the same weights as one that was not.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mgd3_engine.files.renaming import renamed
from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.interruption import postponed_interrupt, saving
from mgd3_fast.storage.tensor_files import write_pickled

_FORMAT = 2


class Stateful(Protocol):
    """What changes during a training: networks and optimisers of torch are, and what a caller records."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values by name."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> object:
        """Take over what `state_dict` returned."""
        ...


class Fit:
    """A training after some steps, those of an earlier process included.

    Args:
        parts: All that changes from step to step, by name, as it is before the first one.
        steps: Optimiser steps of the whole training.
        checkpoint: File of its state; where there is one, the training goes on from it.

    Raises:
        UserError: The checkpoint is damaged, or of another training.
    """

    def __init__(self, parts: Mapping[str, Stateful], steps: int, checkpoint: Path) -> None:
        self.parts, self.steps, self.checkpoint = parts, steps, checkpoint
        self.step = 0
        self.wall_s = self.cpu_s = 0.0
        state = load_checkpoint(checkpoint)
        if state is not None:
            self._restore(state)
        self._saved_at = time.monotonic()

    def run(self, do_step: Callable[[int], None], is_due: Callable[[], bool]) -> None:
        """Do the steps that are left.

        Args:
            do_step: Does the step of a number, from 0.
            is_due: Asked after each step whether to write a checkpoint.

        Raises:
            Interrupted: After Ctrl-C or SIGTERM, when the running step is finished and saved.
        """
        clock = _clock()
        with postponed_interrupt() as interrupted:
            while self.step < self.steps:
                do_step(self.step)
                self.step += 1
                before, clock = clock, _clock()
                self.wall_s += clock[0] - before[0]
                self.cpu_s += clock[1] - before[1]
                if interrupted():
                    self.save()
                    raise Interrupted(
                        f"training stopped at step {self.step}; the same command goes on from there"
                    )
                if is_due():
                    self.save()

    @property
    def unsaved_s(self) -> float:
        """Seconds since the last checkpoint."""
        return time.monotonic() - self._saved_at

    def save(self) -> None:
        """Write the checkpoint."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        save_checkpoint(self.checkpoint, {"step": self.step, "spent_s": [self.wall_s, self.cpu_s], **state})
        self._saved_at = time.monotonic()

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.wall_s, self.cpu_s = state["spent_s"]
            self.step = state["step"]
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error).split("\n")[0]
            raise UserError(
                f"{self.checkpoint} holds the state of another training ({reason}); remove it to start again"
            ) from None


def descend(
    optimizer: torch.optim.Optimizer, loss: Tensor, lr: float, *, clip_grad: float | None = None
) -> None:
    """Do one optimiser step down a scalar loss, with the gradient's norm clipped to `clip_grad`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip_grad is not None:
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, clip_grad)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers, text and None, whole and flushed or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with saving(), renamed(path) as unfinished:
        write_pickled(unfinished, {"format": _FORMAT, **state})


def steps_done(path: Path) -> int:
    """Steps after which a checkpoint was saved, 0 where there is none; see `load_checkpoint`."""
    state = load_checkpoint(path, mapped=True)
    return 0 if state is None else int(state["step"])


def load_checkpoint(path: Path, *, mapped: bool = False) -> dict[str, Any] | None:
    """Read what `save_checkpoint` wrote, without executing anything.

    Args:
        path: The file.
        mapped: Leave tensors in the file until they are used.

    Returns:
        The state with its tensors on the CPU, or None when there is no such file.

    Raises:
        UserError: The file is damaged, holds something else, or is of an earlier version.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        try:
            state = torch.load(path if mapped else file, "cpu", weights_only=True, mmap=mapped)
        # A cut-off archive shows as any of these; a file that may not be read has raised before.
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
            state = None
    if not isinstance(state, dict) or "step" not in state:
        raise UserError(f"{path} is damaged or no training checkpoint; remove it to start again")
    if state.pop("format", None) != _FORMAT:
        raise UserError(
            f"{path} was written by another version of mgd3-fast; finish that training with it, or remove the"
            " file to start again"
        )
    return state


def _clock() -> tuple[float, float]:
    """Seconds, and processor seconds of this process."""
    return time.perf_counter(), time.process_time()
