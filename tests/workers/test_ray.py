"""Ray's actors do units as processes of this machine do; one local Ray of two processors for all of this."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.distillation import distill
from mgd3_fast.workers import Workers, open_workers
from tests.fakes.distilled_runs import woof_config, woof_run
from tests.fakes.units import answering

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
PAGE = Path(__file__).parent.parent.parent / "docs/cluster.md"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    from mgd3_fast.workers.ray_cluster import connected

    handler = signal.getsignal(signal.SIGTERM)
    with connected("local", num_cpus=2):
        assert signal.getsignal(signal.SIGTERM) is handler  # Ray's own aborts the process
        yield


def actors(progress: Progress = SILENT, shared: tuple[Path, ...] = ()) -> Workers:
    return open_workers("ray", answering, progress, shared=shared)


def test_actors_do_all_units_stage_after_stage_whoever_dies(tmp_path: Path) -> None:
    told, meeting, shared = io.StringIO(), tmp_path / "meeting", tmp_path / "new" / "out"
    meeting.mkdir()
    dies = "die once", str(tmp_path / "died")
    with actors(Progress(stream=told), (shared,)) as workers:
        assert workers.count == 2
        assert [unit for unit, _ in workers.do([dies])] == [dies]
        units = [("count", 1)] * 6 + [("meet", str(meeting))] * 2
        done = list(workers.do(units))
        assert len(list(shared.iterdir())) == 1
        with pytest.raises(UserError, match="value must be another, got 5"):
            list(workers.do([("refuse", 5)]))
    assert {unit for unit, _ in done} == set(units)
    assert len(done) == len(units)
    assert len({result[3] for _, result in done} - {os.getpid()}) == 2
    lines = told.getvalue().splitlines()
    assert lines.count("set up") == 1
    assert sum(line.startswith("count: 1/1 thing") for line in lines) == 6
    (lost,) = (line for line in lines if "was lost" in line)
    undone = re.escape(f"{dies} is begun again")
    assert re.fullmatch(rf"worker 1 on \S+ was lost: its worker process has died; {undone}", lost)
    assert not shared.parent.exists()


def test_a_node_that_lacks_the_package_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from mgd3_fast.workers import on_ray

    class Missing:
        def hear(self, driver: object) -> Iterator[object]:
            yield

    Missing.__module__, Missing.__qualname__ = "elsewhere", "Missing"
    monkeypatch.setitem(sys.modules, "elsewhere", ModuleType("elsewhere"))
    monkeypatch.setattr(sys.modules["elsewhere"], "Missing", Missing, raising=False)
    monkeypatch.setattr(on_ray, "Actor", Missing)
    missing = (
        "must have what this machine has installed, but worker 1 was lost: .*No module named 'elsewhere'"
    )
    with actors() as workers, pytest.raises(UserError, match=missing):
        list(workers.do([("say", 0)]))


def test_distill_on_ray_writes_the_folder_that_one_process_writes(tmp_path: Path) -> None:
    alone = woof_config(tmp_path, batch_size=8, ipc=2)
    elsewhere = {"out": tmp_path / "ray", "cache_dir": tmp_path / "ray-cache"}
    address = ray.get_runtime_context().gcs_address
    together = replace(alone, workers="ray", ray_address=address, **elsewhere)
    distill(alone)
    told = io.StringIO()
    made = distill(together, Progress(stream=told))
    assert made.made == len(made) == 20
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "run")
    assert [line for line in told.getvalue().splitlines() if line.startswith("sample: 20/20 img")]


def files_of(out: Path) -> dict[str, bytes | object]:
    """Files of a run by name; of the manifest all but who made it."""
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    manifest = json.loads(files.pop("manifest.json"))
    del manifest["sessions"]
    return {**files, "manifest.json": manifest}


def test_the_snippet_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"```python[^\n]*\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    woof_run(tmp_path).rename(tmp_path / "in1k-50")
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(compile(snippet, PAGE.name, "exec"), found)
    assert found["images"].shape == (20, 16, 16, 3)
    assert sorted(found["labels"].tolist()) == sorted([*range(10)] * 2)
