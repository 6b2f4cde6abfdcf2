"""Manifests that a reader takes for whole."""

from __future__ import annotations

from typing import Any


def whole_manifest(**sections: Any) -> dict[str, Any]:
    """Sections of a run of one image; those given replace them."""
    return {
        "settings": {},
        "guidance": None,
        "generator": {"name": None},
        "dataset": {
            "name": "insects",
            "split": "train",
            "fingerprint": "0" * 64,
            "class_list_hash": "0" * 64,
            "classes_in_list": 1,
        },
        "classes": [{"name": "ant", "label": 0, "folder": "ant", "source_images": 3}],
        "files": {},
        "sessions": [],
        "images": [{"file": "ant/0.png", "label": 0, "class": "ant", "mode": 0, "sha256": "0" * 64}],
        **sections,
    }
