"""A stand-in for CUDA graphs that works on a CPU: it records every tensor operation and runs them again.

Like a graph it keeps the tensors, not the values: whatever a phase takes from Python is baked in, whatever
it reads from a tensor is read anew. And like a capture it refuses to hand a value to Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

HOST_READS = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal")


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._schema.name in HOST_READS:
            raise RuntimeError(f"operation not permitted while a phase is captured: {function}")
        out = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, out))
        return out


class Recorded:
    """Runs the operations again, into the tensors that they gave when they were recorded."""

    def __init__(self, operations) -> None:
        self.operations, self.replays = operations, 0

    def replay(self) -> None:
        self.replays += 1
        for function, args, kwargs, old in self.operations:
            new = function(*args, **kwargs)
            fresh = all(returned.alias_info is None for returned in function._schema.returns)
            if fresh and isinstance(old, Tensor):
                old.copy_(new)
            elif fresh and isinstance(old, (list, tuple)):
                for kept, value in zip(old, new, strict=True):
                    kept.copy_(value)


class OperationRecorder:
    """A `Recorder` for the CPU; a capture leaves the state as it was, as that of a graph does."""

    def __init__(self, state: Callable[[], list[Tensor]]) -> None:
        self.state, self.warm_ups, self.phases = state, 0, []

    def warm_up(self, function: Callable[[], None]) -> None:
        self.warm_ups += 1
        function()

    def capture(self, function: Callable[[], None]) -> Recorded:
        kept = [tensor.clone() for tensor in self.state()]
        recording = _Recording()
        with recording:
            function()
        for tensor, old in zip(self.state(), kept, strict=True):
            tensor.copy_(old)
        self.phases.append(Recorded(recording.operations))
        return self.phases[-1]


def record_phases(sampler) -> OperationRecorder:
    """Make a sampler on the CPU capture its phases as one on CUDA does."""

    def state() -> list[Tensor]:
        buffers = [workspace.buffers for workspace in sampler._workspaces._kept.values()]
        kept = [tensor for each in buffers for tensor in (each.x, each.net_input, each.history)]
        return [tensor for tensor in kept if tensor is not None]

    sampler._recorder = OperationRecorder(state)
    return sampler._recorder
