"""An engine as a denoiser: torch's tensors by their addresses, on torch's stream, also into a CUDA graph.

Shape letters: R rows of a batch, C channels, H W latent size, O output channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from mgd3_engine.export import NetworkIdentity
from mgd3_engine.export.onnx_graph import INPUT_NAMES, OUTPUT_NAME
from mgd3_engine.tensorrt.flavour import Flavour


class Streams(Protocol):
    """What running an engine needs to know of torch's streams."""

    def ordered(self) -> AbstractContextManager[int]:
        """Give the handle of a stream that runs after torch's work so far and before what comes next."""
        ...

    def capturing(self) -> bool:
        """Tell whether what is enqueued now goes into a CUDA graph."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done everything."""
        ...


class CudaStreams:
    """Torch's current stream, and a stream of our own where that is the default one.

    Args:
        device: The CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def ordered(self) -> Iterator[int]:
        """Give torch's stream; on the default one TensorRT would wait for the device at every call."""
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.device(self._device):
            if current != torch.cuda.default_stream(self._device):
                yield current.cuda_stream
                return
            self._side.wait_stream(current)
            yield self._side.cuda_stream
            current.wait_stream(self._side)

    def capturing(self) -> bool:
        """Ask torch."""
        return torch.cuda.is_current_stream_capturing()

    def synchronize(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self._device)


class Engine(Protocol):
    """A loaded engine."""

    def make_context(self) -> Any:
        """Make an execution context, TensorRT's `IExecutionContext`, or None."""
        ...

    def reason(self) -> str:
        """Tell the library's last complaint."""
        ...


class TensorRTDenoiser:
    """A denoiser that enqueues an engine.

    There is one execution context for each number of rows: a CUDA graph that was captured from a context is
    no longer valid once the context's shapes change.

    Args:
        engine: The engine.
        identity: Of the network: its shapes and dtype.
        device: Where the engine runs.
        streams: Torch's streams.
    """

    def __init__(
        self, engine: Engine, identity: NetworkIdentity, device: torch.device, streams: Streams
    ) -> None:
        self._engine, self._device, self._streams = engine, device, streams
        self._dtype, config = identity.dtype, identity.config
        self._latent_shape = (config.in_channels, config.input_size, config.input_size)
        self._output_shape = (config.out_channels, config.input_size, config.input_size)
        self._contexts: dict[int, Any] = {}

    def __call__(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        """Run the network: a `Denoiser` of the rows that the engine was built for.

        Args:
            x: The engine's dtype, `[R, C, H, W]`.
            timestep: int64 `[R]`.
            class_ids: int64 `[R]`.

        Returns:
            `[R, O, H, W]` of the engine's dtype, memory of its own.

        Raises:
            ValueError: A shape, dtype or device is wrong, or x requires a gradient.
            RuntimeError: TensorRT refuses, or a CUDA graph is captured before the first call with R rows.
        """
        R = len(x)
        inputs = dict(zip(INPUT_NAMES, (x, timestep, class_ids), strict=True))
        self._check(inputs)
        tensors = {name: tensor.contiguous() for name, tensor in inputs.items()}
        context = self._contexts.get(R)
        if context is not None:
            return self._run(context, tensors)
        if self._streams.capturing():
            raise RuntimeError(f"an engine must have run once with {R} rows before it is captured")
        context = self._shaped_context(R)
        output = self._run(context, tensors)
        # The first call sets up what a capture may not: its success is known before there is a graph.
        self._streams.synchronize()
        self._contexts[R] = context
        return output

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        """Refuse what would be read as other numbers: an address tells neither shape nor dtype."""
        R = len(inputs["x"])
        expected = {"x": ([R, *self._latent_shape], self._dtype)}
        for name, tensor in inputs.items():
            shape, dtype = expected.get(name, ([R], torch.int64))
            if (list(tensor.shape), tensor.dtype, tensor.device) != (shape, dtype, self._device):
                raise ValueError(
                    f"{name} must be {dtype} {shape} on {self._device} for backend tensorrt,"
                    f" got {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
                )
        if inputs["x"].requires_grad and torch.is_grad_enabled():
            raise ValueError("x must not require a gradient on backend tensorrt; use backend eager")

    def _shaped_context(self, rows: int) -> Any:
        context = self._engine.make_context()
        if context is None:
            raise RuntimeError(f"TensorRT makes no execution context: {self._engine.reason()}")
        shapes = {"x": (rows, *self._latent_shape)}
        for name in INPUT_NAMES:
            if not context.set_input_shape(name, shapes.get(name, (rows,))):
                raise ValueError(f"rows must be among those the engine was built for, got {rows}")
        return context

    def _run(self, context: Any, tensors: Mapping[str, Tensor]) -> Tensor:
        # Memory of its own for every output: one that is shared would change under whoever still holds it.
        output = torch.empty(len(tensors["x"]), *self._output_shape, dtype=self._dtype, device=self._device)
        for name, tensor in {**tensors, OUTPUT_NAME: output}.items():
            if not context.set_tensor_address(name, tensor.data_ptr()):
                raise RuntimeError(f"TensorRT refuses the address of {name}: {self._engine.reason()}")
        with self._streams.ordered() as stream:
            accepted = context.execute_async_v3(stream)
        if not accepted:  # a refused call leaves a hole in a graph, whose replays would show old numbers
            raise RuntimeError(f"TensorRT does not enqueue the engine: {self._engine.reason()}")
        return output


class LoadedEngine:
    """An engine on a GPU, and the library's objects that must live as long as it.

    Args:
        flavour: The library that built it.
        serialised: The engine.
        device: The GPU.

    Raises:
        ValueError: The library refuses the engine.
    """

    def __init__(self, flavour: Flavour, serialised: bytes, device: torch.device) -> None:
        self._flavour, self._device = flavour, device
        self._log = flavour.make_log()
        self._runtime = flavour.api.Runtime(self._log)
        with torch.cuda.device(device):
            self._engine = self._runtime.deserialize_cuda_engine(serialised)
        if self._engine is None:
            raise ValueError(f"{flavour.name} {flavour.version} cannot load the engine: {self.reason()}")

    def make_context(self) -> Any:
        """Make an execution context whose kernels are settled before it first runs."""
        with torch.cuda.device(self._device):
            if not self._flavour.builds_ahead:
                return self._engine.create_execution_context()
            # By default TensorRT-RTX compiles kernels for a shape while it runs and swaps them in when they
            # are ready: an image's bytes would depend on when that is, and a graph would keep the slow ones.
            config = self._engine.create_runtime_config()
            strategies = self._flavour.api.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
            return self._engine.create_execution_context(config)

    def reason(self) -> str:
        """Tell the library's last complaint."""
        return str(self._log.reason())
