"""What stays at one place in memory between batches of one shape: buffers, network and captured phases.

Shape letters: B rows of state, R rows of the network's input, C channels, H W latent size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from mgd3_engine.sampling.batches import BatchBuffers, pad
from mgd3_engine.sampling.conditioning import StepNetwork
from mgd3_engine.sampling.graphs import PhaseGraphs
from mgd3_engine.sampling.inputs import LatentShape, SampleInputs


@dataclass
class Workspace:
    """The tensors of batches of one shape, and the graphs captured over them.

    Args:
        buffers: State, network input, modes and seeds.
        network: The network, its classes loaded with each batch.
        graphs: The captured phases.
    """

    buffers: BatchBuffers
    network: StepNetwork
    graphs: PhaseGraphs = field(default_factory=PhaseGraphs)

    def load(self, inputs: SampleInputs, image_index: Tensor, null_class: int | None) -> None:
        """Copy the images of one batch in, padded.

        Args:
            inputs: The images of the call.
            image_index: int64 `[1..B]` on the CPU.
            null_class: Class of the second half of the network's input; None for no second half.
        """
        B, R = len(self.buffers.x), len(self.buffers.net_input)
        self.buffers.load(inputs, image_index)
        row_classes = inputs.class_ids[pad(image_index, B)].tolist()
        if null_class is not None:
            row_classes += [null_class] * (R - B)
        if self.network.load(row_classes):
            self.graphs.clear()


WorkspaceKey = tuple[int, LatentShape, bool, bool]
"""B, (C, H, W), whether there are modes, whether there are seeds."""


class Workspaces:
    """The workspaces used last; the one unused for longest is dropped with its graphs.

    Args:
        most: Kept at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[WorkspaceKey, Workspace] = OrderedDict()

    def get(self, rows: int, inputs: SampleInputs, make: Callable[[], Workspace]) -> Workspace:
        """Return the workspace for B = `rows` and inputs of this kind, made by `make` where there is none."""
        key = (rows, inputs.latent_shape, inputs.modes is not None, inputs.seeds is not None)
        if key not in self._kept:
            while len(self._kept) >= self._most:
                self._kept.popitem(last=False)
            self._kept[key] = make()
        self._kept.move_to_end(key)
        return self._kept[key]
