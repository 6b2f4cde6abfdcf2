"""Traces: pictures of the way to an image end at the image; wrong requests are found before any work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgd3_fast.config import DistillConfig
from mgd3_fast.errors import UserError
from mgd3_fast.run.distillation import distill
from mgd3_fast.run.trace import GAP_PX, LINE_PX, TRACE

pytestmark = pytest.mark.usefixtures("cache")
SIDE = 48


@pytest.fixture
def run(tiny_generator: Path, pictures: Path, tmp_path: Path):
    def call(**changes):
        settings = {"dataset": str(pictures), "generator": str(tiny_generator), "ipc": 2, "batch_size": 8}
        return distill(DistillConfig(out=tmp_path / "out", **settings | changes))

    return call


def picture(sheet: np.ndarray, columns: int, block: int, row: int, rows: int, column: int) -> np.ndarray:
    """The shown picture at 16 px, as its file has it."""
    left = sheet.shape[1] - GAP_PX - columns * (SIDE + GAP_PX)
    top = block * (2 * LINE_PX + rows * (SIDE + GAP_PX) + 2 * GAP_PX) + 2 * LINE_PX + row * (SIDE + GAP_PX)
    x = left + column * (SIDE + GAP_PX)
    return sheet[top : top + SIDE, x : x + SIDE][1::3, 1::3]


def test_the_way_ends_at_the_image(run):
    distilled = run(trace="bee/1,ant/0")
    sheet = np.asarray(Image.open(distilled.folder / TRACE).convert("RGB"))
    rows, columns = 3, 4  # t_stop 0, the run's 2 and none; four steps
    for block, file in enumerate(("bee/1.png", "ant/0.png")):
        image = np.asarray(Image.open(distilled.folder / file)).astype(int)
        shown = [picture(sheet, columns, block, row, rows, 3).astype(int) for row in range(rows)]
        assert np.abs(shown[1] - image).max() <= 1
        assert np.abs(shown[0] - image).max() > 1
        assert np.abs(shown[2] - image).max() > 1
        # Step 3, the first, is guided in the first two rows alone; what it predicts comes before guidance.
        first = [picture(sheet, columns, block, row, rows, 0) for row in range(rows)]
        assert all(np.array_equal(one, first[0]) for one in first[1:])
    assert "trace" in distilled.timings_s


def test_a_finished_run_can_be_traced(run):
    distilled = run()
    assert not (distilled.folder / TRACE).exists()
    before = (distilled.folder / "manifest.json").read_bytes()
    again = run(trace="cow/0", trace_stops="3,1,1")
    assert again.made == 0
    assert (distilled.folder / "manifest.json").read_bytes() == before
    height = Image.open(again.folder / TRACE).height
    assert height == 2 * LINE_PX + 2 * (SIDE + GAP_PX) + 2 * GAP_PX
    assert run().made == 0, "a trace beside the images is no damage"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"trace": "bee"}, "trace must be CLASS/NUMBER, several separated by commas, got 'bee'"),
        ({"trace": "bee/0,"}, "trace must be CLASS/NUMBER"),
        ({"trace": "fly/0"}, "trace must name classes of the run, such as ant, got 'fly'"),
        ({"trace": "bee/2"}, "trace must name images 0 to 1 of a class, got bee/2"),
        ({"trace": "bee/0", "trace_stops": "5"}, "trace_stops must be numbers from 0 to 4, got '5'"),
        ({"trace": "bee/0", "trace_stops": "a"}, "trace_stops must be numbers from 0 to 4, got 'a'"),
    ],
)
def test_wrong_requests_are_found_before_any_work(run, tmp_path, request_, message):
    with pytest.raises(UserError, match=message):
        run(**request_)
    assert not (tmp_path / "out").exists()
