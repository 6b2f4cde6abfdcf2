"""Distilled images as a Ray dataset: what its tasks read; `tests/workers/test_ray.py` has a Ray for them."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mgd3_engine.installing import install_command
from mgd3_fast.errors import UserError
from mgd3_fast.writers.growing import images_so_far
from tests.fakes.distilled_runs import WOOF, woof_run

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return woof_run(tmp_path_factory.mktemp("woof"))


def tasks_of(run: Path, parallelism: int) -> list[Any]:
    from mgd3_fast.distributed import DistilledImages

    return DistilledImages(images_so_far(run, "out")).get_read_tasks(parallelism)


def test_rows_are_the_images_of_the_run_with_their_labels(run: Path) -> None:
    blocks = [block for task in tasks_of(run, 3) for block in task()]
    labels = [label for block in blocks for label in block["label"].to_pylist()]
    names = [name for block in blocks for name in block["class"].to_pylist()]
    pixels = np.concatenate([block["image"].combine_chunks().to_numpy() for block in blocks])
    assert labels == [number // 2 for number in range(20)]
    assert names == [WOOF[label] for label in labels]
    assert pixels.dtype == np.uint8
    for number, one in enumerate(pixels):
        with Image.open(run / names[number] / f"{number % 2}.png") as image:
            assert np.array_equal(one, image)


def test_tasks_are_equal_parts_and_say_what_they_hold(run: Path) -> None:
    parts = [task.metadata for task in tasks_of(run, 3)]
    assert [part.num_rows for part in parts] == [6, 7, 7]
    assert sum(part.size_bytes for part in parts) == 20 * 16 * 16 * 3
    assert len(tasks_of(run, 200)) == 20


def test_a_changed_image_stops_who_reads_it(run: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(run, tmp_path / "changed"))
    (task,) = tasks_of(out, 1)
    Image.new("RGB", (16, 16)).save(out / WOOF[4] / "1.png")
    with pytest.raises(UserError, match=r"1\.png was changed: it has another sha256 than recorded"):
        list(task())


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "mgd3_fast.distributed", raising=False)
    with pytest.raises(ImportError, match=rf"needs Ray: {re.escape(install_command('ray'))}"):
        import mgd3_fast.distributed  # noqa: F401
