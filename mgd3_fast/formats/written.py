"""What the writer of a format hands back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgd3_fast.formats.config import ConvertConfig
from mgd3_fast.progress import Bar
from mgd3_fast.writers.labelled import LabelledFolder


@dataclass(frozen=True)
class Written:
    """The files of an export.

    Args:
        files: sha256 of each, by its path in the export, in the order they are to appear.
        facts: What the format has to say about itself, for the record.
    """

    files: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)


Writer = Callable[[LabelledFolder, ConvertConfig, Path, Bar], Written]
