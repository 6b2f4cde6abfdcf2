"""How large latents will be, told before they are made, and whether the disk has room for them."""

from __future__ import annotations

import math
import shutil

from mgd3_fast.errors import UserError
from mgd3_fast.latents.flipping import rows_per_image
from mgd3_fast.latents.store import LatentStore
from mgd3_fast.progress import Progress

# Left free on the disk beyond the latents themselves.
_MARGIN_BYTES = 64 * 2**20


def check_room(store: LatentStore, images: int, shape: tuple[int, int, int], progress: Progress) -> None:
    """Say how large the latents of some images will be, and refuse a disk without room for them.

    Args:
        store: Where they go.
        images: Images to encode.
        shape: (C, h, w).
        progress: Receives the size.

    Raises:
        UserError: Too little room.
    """
    needed = images * rows_per_image(store.flip) * math.prod(shape) * store.storage_dtype.itemsize
    progress.note(f"encode: {images:,} images, {_size(needed)} of latents into {store.folder}")
    free = shutil.disk_usage(store.folder).free
    if needed + _MARGIN_BYTES > free:
        raise UserError(
            f"cache_dir must have room for {_size(needed)} of latents and {_size(_MARGIN_BYTES)}"
            f" to spare, got {_size(free)} free in {store.folder}"
        )


def _size(count: int) -> str:
    """A number of bytes for people."""
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.3g} {unit}"
