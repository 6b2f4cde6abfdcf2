"""Safetensors files: readable by the library, repeatable, never half written, damage told."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mgd3_fast.storage.tensor_files import (
    DamagedFileError,
    check_contents,
    open_tensors,
    remove_leftovers,
    save_tensors,
    write_pickled,
)
from tests.fakes.full_disks import largest_file
from tests.fakes.killing import kill_python

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "half": torch.ones(3, dtype=torch.float16),
    "brain": torch.full((1,), 1.5, dtype=torch.bfloat16),
    "index": torch.tensor([5, -1]),
    "bytes": torch.tensor([7], dtype=torch.uint8),
    "empty": torch.empty(0, 4),
}


def save(path: Path) -> Path:
    save_tensors(path, TENSORS, {"name": "n01440764", "quoted": '["ä", 1]'})
    return path


def test_library_reads_what_was_written(tmp_path: Path) -> None:
    loaded = load_file(save(tmp_path / "x.safetensors"))
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_open_gives_tensors_and_metadata(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors")
    file = open_tensors(path)
    check_contents(path, file)
    assert torch.equal(file.tensors["a"], TENSORS["a"])
    assert file.metadata["name"] == "n01440764"
    assert file.metadata["quoted"] == '["ä", 1]'


def test_non_contiguous_tensor_is_written_in_order(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x", {"t": TENSORS["a"].T}, {})
    assert torch.equal(open_tensors(tmp_path / "x").tensors["t"], TENSORS["a"].T)


def test_bytes_are_repeatable_and_tensors_aligned(tmp_path: Path) -> None:
    first, second = save(tmp_path / "x").read_bytes(), save(tmp_path / "y").read_bytes()
    assert first == second
    assert int.from_bytes(first[:8], "little") % 8 == 0


@pytest.mark.parametrize("kept", [0, 7, 40, -1], ids=["empty", "in-length", "in-header", "last-byte-gone"])
def test_truncation_is_noticed_on_opening(tmp_path: Path, kept: int) -> None:
    path = save(tmp_path / "x")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DamagedFileError, match="x is damaged: "):
        open_tensors(path)


def test_flipped_bit_is_noticed_by_the_checksum(tmp_path: Path) -> None:
    path = save(tmp_path / "x")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="contents differ from their checksum"):
        check_contents(path, open_tensors(path))


def test_missing_file_is_not_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_tensors(tmp_path / "x")


def test_failed_write_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x")
    before = path.read_bytes()

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_tensors(path, {"t": torch.zeros(9)}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [0, 300, 1000, 30_000, 40_000], ids="{} bytes of room".format)
def test_a_full_disk_is_the_systems_error_with_the_files_name(tmp_path: Path, size: int) -> None:
    weights = torch.zeros(10_000)
    for write in (
        lambda path: write_pickled(path, [weights]),
        lambda path: save_tensors(path, {"t": weights}, {}),
    ):
        with largest_file(size), pytest.raises(OSError, match="File too large") as caught:
            write(tmp_path / "x")
        assert caught.value.filename == str(tmp_path / "x")


def test_pickled_file_reads_back_without_running_anything(tmp_path: Path) -> None:
    write_pickled(tmp_path / "x.pt", TENSORS)
    read = torch.load(tmp_path / "x.pt", weights_only=True)
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x"
    threads = [threading.Thread(target=lambda: [save(path) for _ in range(5)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert remove_leftovers(tmp_path) == 0
    check_contents(path, open_tensors(path))
    assert list(tmp_path.iterdir()) == [path]


HOST = socket.gethostname()
DEAD = subprocess.Popen(["true"])
DEAD.wait()


@pytest.mark.parametrize(
    ("name", "age_days", "goes"),
    [
        pytest.param(f".x.{DEAD.pid}-0@{HOST}.tmp", 0, True, id="dead-process"),
        pytest.param(f".x.{os.getppid()}-0@{HOST}.tmp", 0, False, id="running-process"),
        pytest.param(f".x.{os.getppid()}-0@{HOST}.tmp", 2, True, id="running-process-but-old"),
        pytest.param(f".x.{os.getpid()}-999999@{HOST}.tmp", 0, True, id="own-number-of-an-earlier-life"),
        pytest.param(".x.1-0@elsewhere.example.tmp", 0, False, id="other-machine"),
        pytest.param(".x.1-0@elsewhere.example.tmp", 2, True, id="other-machine-but-old"),
        pytest.param(".somebody-elses.tmp", 2, False, id="not-ours"),
    ],
)
def test_leftovers(tmp_path: Path, name: str, age_days: float, goes: bool) -> None:
    path = tmp_path / name
    path.write_bytes(b"half")
    then = time.time() - age_days * 86_400
    os.utime(path, (then, then))
    assert remove_leftovers(tmp_path) == goes
    assert path.exists() != goes


def test_killed_writer_leaves_only_whole_files_after_cleaning(tmp_path: Path) -> None:
    program = (
        "import sys, torch\nfrom pathlib import Path\n"
        "from mgd3_fast.storage.tensor_files import save_tensors\n"
        "values = torch.arange(2**22, dtype=torch.float32)\n"
        "while True:\n    save_tensors(Path(sys.argv[1]) / 'x', {'t': values}, {})\n"
    )
    written = tmp_path / "x"
    kill_python(
        *("-c", program, str(tmp_path)),
        once=lambda: written.exists() and any(tmp_path.glob(".x.*.tmp")),
    )
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    check_contents(written, open_tensors(written))
