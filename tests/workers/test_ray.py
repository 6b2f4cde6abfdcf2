"""Ray's actors do units as processes of this machine do; one local Ray of two processors for all of this."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.workers import Workers, open_workers
from tests.fakes.distilled_runs import woof_run
from tests.fakes.units import answering

ray = pytest.importorskip("ray")
PAGE = Path(__file__).parent.parent.parent / "docs/cluster.md"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    from mgd3_fast.workers.ray_cluster import connected

    with connected("local", num_cpus=2):
        yield


def on_ray(progress: Progress = SILENT, shared: tuple[Path, ...] = ()) -> Workers:
    return open_workers("ray", answering, progress, shared=shared)


def test_two_actors_do_all_units_stage_after_stage(tmp_path: Path) -> None:
    told, meeting, shared = io.StringIO(), tmp_path / "meeting", tmp_path / "new" / "out"
    meeting.mkdir()
    with on_ray(Progress(stream=told), (shared,)) as workers:
        assert workers.count == 2
        list(workers.do([("say", "0")]))
        units = [("count", 1)] * 6 + [("meet", str(meeting))] * 2
        done = list(workers.do(units))
        assert len(list(shared.iterdir())) == 1
    assert {unit for unit, _ in done} == set(units)
    assert len(done) == len(units)
    assert len({result[3] for _, result in done} - {os.getpid()}) == 2
    assert told.getvalue().splitlines().count("set up") == 1
    assert sum(line.startswith("count: 1/1 thing") for line in told.getvalue().splitlines()) == 6
    assert list(tmp_path.iterdir()) == [meeting]


def test_a_killed_actor_is_named_and_its_unit_is_done_by_another(tmp_path: Path) -> None:
    told = io.StringIO()
    unit = "die once", str(tmp_path / "died")
    with on_ray(Progress(stream=told)) as workers:
        assert [unit for unit, _ in workers.do([unit])] == [unit]
    assert re.search(
        rf"^worker \d+ on \S+ was lost: its worker process has died; {re.escape(str(unit))} is begun again$",
        told.getvalue(),
        re.MULTILINE,
    )


def test_what_a_unit_raises_is_raised_at_once() -> None:
    with on_ray() as workers, pytest.raises(UserError, match="value must be another, got 5"):
        list(workers.do([("refuse", 5)]))


def test_the_snippet_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    woof_run(tmp_path).rename(tmp_path / "in1k-50")
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(compile(snippet, PAGE.name, "exec"), found)
    assert found["images"].shape == (20, 16, 16, 3)
    assert sorted(found["labels"].tolist()) == sorted([*range(10)] * 2)
