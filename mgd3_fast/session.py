"""What one process's share of a run is recorded as."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Any

from mgd3_fast.versions import versions


def new_session(shard: str, device: str) -> dict[str, Any]:
    """What this process runs on; its times are added when it is done.

    Args:
        shard: I/N.
        device: Where, with its name.

    Returns:
        A record for the journal and the manifest.
    """
    return {
        "id": uuid.uuid4().hex[:12],
        "started": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "shard": shard,
        "device": device,
        "versions": versions(),
        "images": None,
        "timings_s": None,
    }
