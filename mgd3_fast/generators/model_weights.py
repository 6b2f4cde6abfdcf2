"""Reading the weights of a Hugging Face model's folder, and refusing in one line those that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from mgd3_engine.files.weights import read_sharded_weights, read_weights
from mgd3_fast.errors import UserError
from mgd3_fast.generators.hub import DIFFUSERS_STEMS, weight_files


def read_model_weights(folder: Path, stems: tuple[str, str] = DIFFUSERS_STEMS) -> dict[str, Tensor]:
    """Read a model's weights, safetensors where there are any; they are mapped from the files, not copied.

    Args:
        folder: Of the model.
        stems: How its library names the files.

    Returns:
        The tensors by name.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A file is damaged.
    """
    candidates = [name for single, _, index in weight_files(stems) for name in (single, index)]
    found = next((folder / name for name in candidates if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no weights in {folder}: looked for {', '.join(candidates)}")
    return read_sharded_weights(found) if found.suffix == ".json" else read_weights(found)[0]


@contextmanager
def complete_or_refused(folder: Path, class_name: str) -> Iterator[None]:
    """Turn whatever a library says of settings and weights that do not fit together into one line.

    Args:
        folder: Of the model, for the message.
        class_name: What it was to be.

    Raises:
        UserError: The body raised what a library raises then.
    """
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"{folder} must be a complete {class_name}, got: {' '.join(lines[:2])[:300]}"
        ) from None
