"""Which nodes a driver takes, and what it says of them; how deaths on a cluster are told."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from mgd3_engine.installing import install_command
from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT
from mgd3_fast.workers import open_workers
from mgd3_fast.workers.node import Facts, check_fit
from mgd3_fast.workers.tokens import left_in
from tests.fakes.units import answering

OURS = {"mgd3-fast": "0.1.0", "torch": "2.9.0", "numpy": "2.1.0"}


def test_an_equal_node_is_taken_without_a_word() -> None:
    assert list(check_fit(Facts("n2", "H100", OURS), OURS, None)) == []
    assert list(check_fit(Facts("n2", "H100", OURS), OURS, "H100")) == []


@pytest.mark.parametrize(
    ("theirs", "said"), [({"mgd3-fast": "0.2.0"}, "0.2.0"), ({}, "that is not installed")]
)
def test_another_version_is_refused(theirs: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as raised:
        list(check_fit(Facts("n2", None, theirs), OURS, None))
    wanted = "nodes must have the mgd3-fast of this machine, 0.1.0, got"
    assert str(raised.value) == f"{wanted} {said} on n2"


def test_another_torch_and_another_gpu_are_told() -> None:
    found = Facts("n2", "A100", {**OURS, "torch": "2.8.0"})
    assert list(check_fit(found, OURS, "H100")) == [
        "n2 has torch 2.8.0, not 2.9.0: pixels may differ by a level",
        "GPUs differ, H100 and A100: between them pixels may differ by a level",
    ]


def test_a_folder_that_a_node_does_not_see_is_named_unless_it_is_gone_by_now(tmp_path: Path) -> None:
    with left_in([tmp_path / "out"]) as tokens:
        found = Facts("n2", None, OURS, tokens)
        with pytest.raises(UserError) as raised:
            list(check_fit(found, OURS, None))
    assert str(raised.value).startswith(f"nodes must see {tmp_path}/out, but n2 does not")
    assert list(check_fit(found, OURS, None)) == []


def test_tokens_leave_nothing_behind_but_what_others_have_put_there(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".seen-by-all-0.lock").touch()  # of a driver that was killed
    with left_in([tmp_path / "a" / "b", tmp_path / "c"]) as tokens, left_in([tmp_path / "c"]) as others:
        assert all(token.exists() for token in others)
        assert all(token.exists() for token in tokens)
        (tmp_path / "c" / "latents").touch()
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["c", "latents"]


def test_a_death_is_told_without_the_dozen_lines_around_it() -> None:
    pytest.importorskip("ray")
    from mgd3_fast.workers.on_ray import how_it_died

    died = "The actor died unexpectedly before finishing this task.\n\tclass_name: Actor\n\tip: 10.0.0.2\n"
    reason = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
    assert how_it_died(RuntimeError(died + reason)) == "was lost: its worker process has died"
    short = f"{died}{reason} Worker exit detail: Task was killed due to the node running low on memory."
    said = "was lost: its worker process has died (memory was short)"
    assert how_it_died(RuntimeError(short)) == said
    node = "The actor is dead because its node has died. Node Id: 3a8f\n\tthe node was drained"
    assert how_it_died(RuntimeError(died + node)) == "was lost: its node has died"
    failed = "The actor died because of an error raised in its creation task\n\nModuleNotFoundError: No x\n"
    assert how_it_died(RuntimeError(failed)) == "was lost: ModuleNotFoundError: No x"


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("mgd3_fast.workers.on_ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "mgd3_fast.workers.ray_cluster", raising=False)
    monkeypatch.delitem(sys.modules, "mgd3_fast.workers.ray_actor", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=rf"--workers ray needs Ray: {re.escape(install_command('ray'))}"):
        open_workers("ray", answering, SILENT)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "ray://head:10001",
            r"must be HOST:PORT of the head of a Ray cluster, got ray://head:10001: start mgd3-fast",
        ),
        ("http://head:8265", r"must be HOST:PORT of the head of a Ray cluster, got http"),
        ("head", r"must be HOST:PORT of the head of a Ray cluster, got head"),
        ("127.0.0.1:1", r"must be of a running Ray cluster, got 127\.0\.0\.1:1: .*refused"),
    ],
)
def test_an_address_where_no_cluster_is_is_refused_at_once(address: str, message: str) -> None:
    pytest.importorskip("ray")
    from mgd3_fast.workers.ray_cluster import connected

    with pytest.raises(UserError, match=message), connected(address):
        pass
