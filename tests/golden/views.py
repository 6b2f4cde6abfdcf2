"""What a golden record keeps of a run: bytes as sha256, pictures also as levels; no times, no places."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
import struct
import tarfile
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mgd3_fast.cli import main
from tests.golden.store import HERE, LEVELS

VARYING = frozenset({"id", "started", "versions", "wall_s", "cpu_s", "seconds", "path", "bytes"})
"""Names whose values are of one run, one machine or one version of a library."""

TIED = frozenset({"source_image", "source_index"})
"""The image nearest to a mode: of a cluster of two both are as near, and the last bits choose."""

_SESSIONS = re.compile(r'(?s)\n  "sessions": \[.*?\n  \]')


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def levels_of(image: Image.Image) -> str:
    """Means over a grid of 4 by 4, in levels: enough to see another picture, too coarse for last bits."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    rows = [part.mean(axis=0) for part in np.array_split(pixels, 4, axis=0)]
    cells = [part.mean(axis=0) for row in rows for part in np.array_split(row, 4, axis=0)]
    return LEVELS + bytes(round(float(value)) for cell in cells for value in cell).hex()


def picture(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        return {"sha256": sha256(path.read_bytes()), "size": image.size, "shown": levels_of(image)}


def files_in(folder: Path) -> list[str]:
    """Every file and every empty folder below a folder, hidden ones too."""
    kept = (path for path in folder.rglob("*") if path.is_file() or not any(path.iterdir()))
    return sorted(path.relative_to(folder).as_posix() for path in kept)


def tensors(path: Path) -> dict[str, Any]:
    """A safetensors file: its bytes, and the type and shape of each tensor."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    stated = sorted(header.pop("__metadata__", {}))
    held = {name: [one["dtype"], one["shape"]] for name, one in sorted(header.items())}
    return {"sha256": sha256(content), "metadata": stated, "tensors": held}


def steady(tree: Any) -> Any:
    """A JSON tree without what varies: such values become their type's name, timings the names of stages."""
    if isinstance(tree, dict):
        return {name: _steady_value(name, value) for name, value in tree.items()}
    if isinstance(tree, str) and tree.startswith("/"):
        return "PLACE/" + re.sub("[0-9a-f]{16,}", "DIGEST", Path(tree).name)
    return [steady(value) for value in tree] if isinstance(tree, list) else tree


def _steady_value(name: str, value: Any) -> Any:
    if name == "timings_s" and value:
        return list(value)
    if name in VARYING:
        return type(value).__name__
    return HERE + str(value) if name in TIED else steady(value)


def manifest(path: Path) -> dict[str, Any]:
    """A manifest without times, versions and ids; what is left is also pinned as text."""
    text = path.read_text()
    return {"text": sha256(_SESSIONS.sub("", text).encode()), **steady(json.loads(text))}


def run_folder(out: Path) -> dict[str, Any]:
    """An output folder of `distill`: all that is in it."""
    images = sorted(out.glob("*/*.png"))
    found: dict[str, Any] = {
        "files": files_in(out),
        "images": {path.relative_to(out).as_posix(): picture(path) for path in images},
        "manifest": manifest(out / "manifest.json"),
        "contact_sheet": picture(out / "contact_sheet.png"),
    }
    if (out / "modes.safetensors").exists():
        found["modes"] = tensors(out / "modes.safetensors")
    return found


def images_of(out: Path) -> list[list[str]]:
    """Of a run that is like another one but for its images: these, and how its guidance is recorded."""
    shown = (picture(path) for path in sorted(out.glob("*/*.png")))
    return [[one["sha256"], one["shown"]] for one in shown]


def said(text: str, places: Mapping[str, str]) -> list[str]:
    """Lines of a message without the places, times and rates of one run; lines of progress are left out."""
    for place, name in places.items():
        text = text.replace(place, name)
    text = re.sub(r"\d[\d.,]*(?= (s|MiB|images/s)\b)", "N", text)
    return [line for line in text.splitlines() if not re.search(r": [\d,]+/[\d,]+ ", line)]


def command(*words: object) -> tuple[int, str, str]:
    """Run the command line in this process: its exit status, what it printed, and what it complained of."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(word) for word in words])
    return status, out.getvalue(), err.getvalue()


def done(*words: object) -> str:
    """Run a command that must succeed without a word, and return what it printed."""
    status, out, err = command(*words, "--quiet")
    assert (status, err) == (0, ""), err
    return out


def done_json(*words: object) -> dict[str, Any]:
    """Run a command that must succeed, and return its result without what varies."""
    result: dict[str, Any] = steady(json.loads(done(*words, "--json")))
    return result


def rows_of_parquet(path: Path) -> list[Any]:
    """Rows with the names and the sha256 of their images in place of the bytes."""
    import pyarrow.parquet as pq

    table = pq.read_table(path).to_pylist()
    return [[row["image"]["path"], sha256(row.pop("image")["bytes"]), steady(row)] for row in table]


def exported(folder: Path) -> dict[str, Any]:
    """A folder that `convert` wrote: bytes of all but JSON, which holds times, and what the files hold."""
    found: dict[str, Any] = {}
    for name in files_in(folder):
        path = folder / name
        found[name] = [sha256(path.read_bytes())]
        if path.suffix == ".json":
            content = steady(json.loads(path.read_text()))
            content.get("files", {}).pop("manifest.json", None)
            found[name] = [content]
        elif path.suffix == ".parquet":
            found[name].append(rows_of_parquet(path))
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                found[name].append([[member.name, member.mtime, member.mode] for member in tar])
        elif path.suffix == ".safetensors":
            found[name].append(tensors(path)["tensors"])
        elif path.suffix == ".pt":
            loaded = torch.load(path, weights_only=True)
            found[name].append([str(loaded.dtype), list(loaded.shape), float(loaded.double().mean())])
    return found


class Page(HTMLParser):
    """The skeleton of a page: headings, how often each element occurs, and the pictures on it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.headings: list[str] = []
        self.pictures: list[str] = []
        self._heading = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self._heading = tag in ("h1", "h2", "h3")
        if tag == "img":
            content = base64.b64decode(str(dict(attrs)["src"]).partition(";base64,")[2])
            self.pictures.append(levels_of(Image.open(io.BytesIO(content))))

    def handle_endtag(self, tag: str) -> None:
        self._heading = False

    def handle_data(self, text: str) -> None:
        if self._heading:
            self.headings.append(text.strip())
