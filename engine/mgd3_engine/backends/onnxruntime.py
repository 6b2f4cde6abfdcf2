"""The network through ONNX Runtime: on a CPU, and on a GPU where its CUDA provider is installed.

Shape letters: R rows of a batch, C channels, H W latent size, O output channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd3_engine.backends.request import BackendRequest
from mgd3_engine.denoiser import Denoiser
from mgd3_engine.dit import DiTConfig
from mgd3_engine.export import cached_onnx, identify, require_dit
from mgd3_engine.export.onnx_graph import INPUT_NAMES, OUTPUT_NAME
from mgd3_engine.files.keeping import kept_in
from mgd3_engine.installing import install_command

_CUDA_PROVIDER = "CUDAExecutionProvider"
_ELEMENT_TYPES = {torch.float32: 1, torch.int64: 7, torch.float16: 10, torch.bfloat16: 16}  # ONNX's numbers


class OnnxRuntimeDenoiser:
    """A denoiser that hands torch's memory to ONNX Runtime and has it write into torch's.

    Args:
        session: Of a graph that `export_onnx` wrote.
        config: Of the network.
        device: Where the session runs.
    """

    def __init__(self, session: Any, config: DiTConfig, device: torch.device) -> None:
        self._session, self._device = session, device
        self._latent_shape = (config.in_channels, config.input_size, config.input_size)
        self._output_shape = (config.out_channels, config.input_size, config.input_size)

    def __call__(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        """Run the network: a `Denoiser` of any number of rows.

        Args:
            x: The dtype the graph was exported in, `[R, C, H, W]`.
            timestep: int64 `[R]`.
            class_ids: int64 `[R]`.

        Returns:
            `[R, O, H, W]` of x's dtype, memory of its own.

        Raises:
            ValueError: x is not of the latent shape, or requires a gradient.
            RuntimeError: A CUDA graph is being captured.
        """
        if tuple(x.shape[1:]) != self._latent_shape:
            raise ValueError(f"x must be latents of shape [R, {self._latent_shape}], got {list(x.shape)}")
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError("x must not require a gradient on backend onnxruntime; use backend eager")
        on_gpu = self._device.type == "cuda"
        if on_gpu and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("backend onnxruntime waits for the device and cannot be captured")
        inputs = dict(zip(INPUT_NAMES, (x, timestep, class_ids), strict=True))
        inputs = {name: tensor.contiguous() for name, tensor in inputs.items()}
        output = torch.empty(len(x), *self._output_shape, dtype=x.dtype, device=self._device)
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_input(name, *self._bound(tensor))
        binding.bind_output(OUTPUT_NAME, *self._bound(output))
        if on_gpu:  # ONNX Runtime works on a stream of its own
            torch.cuda.current_stream(self._device).synchronize()
        self._session.run_with_iobinding(binding)
        return output

    def _bound(self, tensor: Tensor) -> tuple[str, int, int, list[int], int]:
        device = self._device
        return (
            device.type,
            device.index or 0,
            _ELEMENT_TYPES[tensor.dtype],
            list(tensor.shape),
            tensor.data_ptr(),
        )


def create(request: BackendRequest) -> Denoiser:
    """Export the network, unless its graph was kept, and open it in ONNX Runtime.

    Args:
        request: The network, a `mgd3_engine.dit.DiT`, and how it will be called.

    Returns:
        The denoiser.

    Raises:
        ValueError: The network is no DiT, or ONNX Runtime is missing or cannot run it on the device.
    """
    dit = require_dit(request.denoiser, request.dtype, "backend onnxruntime")
    runtime = _import_runtime()
    providers = _providers(runtime, request.device, request.dtype)
    identity = identify(dit)
    with kept_in(request.cache_dir) as folder:
        session = _open(runtime, cached_onnx(dit, folder, identity=identity), providers)
    return OnnxRuntimeDenoiser(session, identity.config, request.device)


def _providers(runtime: Any, device: torch.device, dtype: torch.dtype) -> list[Any]:
    """Choose what runs the graph's operators, or say why nothing can."""
    if device.type == "cpu":
        if dtype == torch.bfloat16:
            raise ValueError(
                "backend onnxruntime multiplies no bf16 matrices on a CPU: precision must be fp32 or fp16"
            )
        return ["CPUExecutionProvider"]
    available = runtime.get_available_providers()
    if device.type != "cuda" or _CUDA_PROVIDER not in available:
        raise ValueError(
            f"onnxruntime has no provider for {device.type} here, only {', '.join(available)};"
            " for cuda, pip install onnxruntime-gpu in place of onnxruntime"
        )
    # Without its own word ONNX Runtime rounds the factors of float32 products to TF32.
    return [(_CUDA_PROVIDER, {"device_id": device.index or 0, "use_tf32": "0"}), "CPUExecutionProvider"]


def _open(runtime: Any, graph: Path, providers: list[Any]) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Threads that wait in a loop for the next network call would hold the processors against torch's own.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(str(graph), options, providers=providers)
    except Exception as error:  # its exceptions have no base class of their own
        reason = " ".join(str(error).split())
        raise ValueError(
            f"ONNX Runtime {runtime.__version__} cannot open graph {graph};"
            f" if it is damaged, delete it: {reason}"
        ) from error


def _import_runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(
            f"backend onnxruntime needs the package onnxruntime: {install_command('onnx')}"
        ) from None
    return onnxruntime
