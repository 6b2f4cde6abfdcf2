"""Which calls launch a kernel, and the way to it: Triton is imported by the first of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module

from torch import Tensor


def launches(tensor: Tensor) -> bool:
    """Tell whether an operation on this tensor is a kernel: on a GPU, or where Triton interprets."""
    return tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


def kernel_launcher(module: str) -> Callable[..., None]:
    """Import `launch` of one of this package's modules.

    Raises:
        ValueError: Triton is missing.
    """
    try:
        launch: Callable[..., None] = import_module(f"mgd3_kernels.{module}").launch
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "triton":
            raise
        raise ValueError(
            "a CUDA device needs Triton, which is not installed: pip install 'triton>=3.2'"
        ) from error
    return launch
