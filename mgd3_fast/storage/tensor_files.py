"""Safetensors files that are never half written, whose damage is noticed, and whose bytes are repeatable.

The library's own writer puts metadata in random order and its temporary files under names that cannot be
told from a running process's, so the format (eight bytes of header length, JSON header, tensors end to
end) is written here; reading is the library's, memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_engine.files.renaming import named
from mgd3_fast.errors import printable

_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
}
_CHECKSUM = "sha256"
_TEMPORARY = re.compile(r"\..+\.(\d+)-\d+@([^@]+)\.tmp")
_DAY_S = 86_400.0
_numbers = count()
_being_written: set[Path] = set()


class DamagedFileError(ValueError):
    """A tensor file that is truncated, corrupt or of another kind."""


class TensorFile(NamedTuple):
    """Tensors (memory-mapped: read when they are touched) and string metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file under a temporary name, flush it to disk, and rename it.

    Args:
        path: Target; an existing file is replaced at once or not at all.
        tensors: float32, float16, bfloat16, int64 or uint8, on the CPU.
        metadata: Kept in the header; a checksum of the tensors is added.

    Raises:
        OSError: The folder cannot be written or the disk is full; nothing is left behind.
    """
    header = _header(tensors, {**metadata, _CHECKSUM: _checksum(tensors)})
    with _replacing(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors.values():
            file.write(_bytes_of(tensor))


def save_content(path: Path, content: bytes) -> None:
    """Write a copy of such a file, as `save_tensors` does."""
    with _replacing(path) as file:
        file.write(content)


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write arrays, int64 or uint8, as `save_tensors` does."""
    save_tensors(path, {name: torch.from_numpy(np.array(one)) for name, one in arrays.items()}, metadata)


def write_pickled(path: Path, content: Any) -> None:
    """Write tensors and plain values in torch's own format, not renamed into place, and flush them to disk.

    Raises:
        OSError: The file cannot be written or the disk is full.
    """
    with named(path), path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # Closing its archive, torch hides what the system said behind a complaint about positions.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def open_tensors(path: Path) -> TensorFile:
    """Map a file written by `save_tensors`; header and size are checked, contents are not.

    Raises:
        FileNotFoundError: No such file.
        DamagedFileError: Truncated, or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with _utf8_path(path) as name, safe_open(name, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return TensorFile(tensors, dict(file.metadata() or {}))
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from None


def open_if_whole(path: Path) -> TensorFile | None:
    """Map a file that can be made again, and read it all: a damaged one is as good as none."""
    try:
        file = open_tensors(path)
        check_contents(path, file)
    except (FileNotFoundError, DamagedFileError):
        return None
    return file


def check_contents(path: Path, file: TensorFile) -> None:
    """Compare the tensors of a file at a path with their checksum; reads all of them.

    Raises:
        DamagedFileError: The checksum is missing or differs.
    """
    if file.metadata.get(_CHECKSUM) != _checksum(file.tensors):
        raise DamagedFileError(f"{path} is damaged: its contents differ from their checksum")


def remove_leftovers(folder: Path) -> int:
    """Delete temporary files that no running process is writing, and count them; subfolders are left alone.

    A temporary file names its process and machine. One of a dead process of this machine goes at once;
    one of another machine, whose processes cannot be asked, after a day.
    """
    removed = 0
    for path in folder.glob(".*.tmp"):
        writer = _TEMPORARY.fullmatch(path.name)
        if writer and path not in _being_written and _is_abandoned(path, int(writer[1]), writer[2]):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file under a temporary name, flushed to disk and renamed at the end; nothing is left of a failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}@{_host()}.tmp")
    _being_written.add(temporary)
    try:
        with named(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # The folder is not flushed: a power cut can lose the new name, never leave it with half a file.
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        _being_written.discard(temporary)


@contextmanager
def _utf8_path(path: Path) -> Iterator[Path]:
    """A path that the library takes, which wants UTF-8: an open file has one that is a number."""
    if printable(str(path)) == str(path):
        yield path
        return
    with path.open("rb") as file:
        yield Path("/dev/fd") / str(file.fileno())


def _is_abandoned(path: Path, process: int, host: str) -> bool:
    try:
        old = time.time() - path.stat().st_mtime > _DAY_S
    except FileNotFoundError:
        return False
    if host != _host():
        return old
    # Not being written here, a file under our own number is of an earlier process: containers restart at 1.
    return old or process == os.getpid() or not _is_running(process)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    # Names of files may hold bytes that are no Unicode, which readers of this format refuse.
    texts = {name: printable(text) for name, text in sorted(metadata.items())}
    entries: dict[str, object] = {"__metadata__": texts}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    header = json.dumps(entries, separators=(",", ":")).encode()
    # Tensors start at a multiple of 8 bytes, so that they can be mapped as they are.
    return header + b" " * (-len(header) % 8)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    if tensor.numel() == 0:
        return memoryview(b"")
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "unnamed"
