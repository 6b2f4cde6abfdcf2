"""The rounding of GPUs in Triton's interpreter, which cuts bfloat16 off and loses carries of 8-bit numbers.

What a kernel stores in bfloat16 or 8 bits, a GPU rounds to nearest, ties to even, and keeps a NaN. Triton
3.9's interpreter makes 1 of 1.99 in 8 bits, and 384 of a NaN. Torch's own conversions are those of a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def rounding_as_a_gpu() -> Iterator[None]:
    """Lend the interpreter torch's conversions from float32 to bfloat16 and float8_e4m3fn."""
    import triton.language as tl
    from triton.runtime import interpreter

    own = interpreter._convert_float
    targets = {tl.bfloat16: (torch.bfloat16, np.uint16), tl.float8e4nv: (torch.float8_e4m3fn, np.uint8)}

    def convert(numbers: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
        if source != tl.float32 or target not in targets:
            return own(numbers, source, target, rounding_mode)
        dtype, bits = targets[target]
        wide = torch.from_numpy(np.array(numbers).view(np.float32).reshape(-1))
        return wide.to(dtype).view(torch.uint8).numpy().view(bits).reshape(numbers.shape)

    interpreter._convert_float = convert
    try:
        yield
    finally:
        interpreter._convert_float = own
