"""What a Ray that runs shows: the snippet of the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.distilled_runs import woof_run

ray = pytest.importorskip("ray")
PAGE = Path(__file__).parent.parent.parent / "docs/cluster.md"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_the_snippet_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    woof_run(tmp_path).rename(tmp_path / "in1k-50")
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(compile(snippet, PAGE.name, "exec"), found)
    assert found["images"].shape == (20, 16, 16, 3)
    assert sorted(found["labels"].tolist()) == sorted([*range(10)] * 2)
