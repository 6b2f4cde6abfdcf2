"""What a run leaves behind, for Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgd3_fast.writers import CONTACT_SHEET


@dataclass(frozen=True)
class DistilledDataset:
    """A folder of distilled images.

    Iterating yields (path, label) of every image, class after class in label order.

    Args:
        folder: Output folder.
        manifest: Content of `manifest.json`; None while images of other shards are missing.
        made: Images made by this call.
        missing: Images that other shards have still to make.
        timings_s: Seconds of this call per stage, and in total.
        export: Folder of the converted images, if `format` asks for them, once the run is complete.
    """

    folder: Path
    manifest: dict[str, Any] | None
    made: int
    missing: int
    timings_s: dict[str, float]
    export: Path | None = None

    @property
    def contact_sheet(self) -> Path | None:
        """The contact sheet, once the run is complete."""
        return self.folder / CONTACT_SHEET if self.manifest else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(one["name"] for one in self.manifest["classes"]) if self.manifest else ()

    def __len__(self) -> int:
        return len(self.manifest["images"]) if self.manifest else 0

    def __iter__(self) -> Iterator[tuple[Path, int]]:
        for image in self.manifest["images"] if self.manifest else ():
            yield self.folder / image["file"], image["label"]
