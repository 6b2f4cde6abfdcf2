"""Trainings sorted into tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.compare.tables import make_tables
from mgd3_fast.evaluate.results import summary


def trained(folder: str, network: str, accuracies: list[float]) -> dict[str, Any]:
    scores = {name: summary(accuracies) for name in ("best", "last", "best_balanced", "last_balanced")}
    seeds = list(range(len(accuracies)))
    return {"network": network, "folder": folder, "ipc": 10, "seeds": seeds, "wall_s": [2.0], **scores}


def tables_of(tmp_path: Path, *rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    dataset = {"classes": 10, "majority": {"class": "ant", "accuracy": 10.0}}
    methods = ("mgd3", "random", "herding", "all-real")
    (table,) = make_tables(tmp_path, {"dataset": dataset, "rows": rows}, methods, (10,))
    return {row["method"]: row for row in table["rows"]} | {"": table}


def test_a_round_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    found = tables_of(
        tmp_path,
        trained("mgd3-ipc10", "net", [50.0, 90.0]),
        trained("random-ipc10", "net", [60.0]),
        trained("all real images", "net", [95.0, 96.0]),
    )
    assert {name: row["seeds"] for name, row in found.items() if name} == {
        "mgd3": [0],
        "random": [0],
        "all-real": [0],
    }
    assert found["mgd3"]["accuracy"]["mean"] == 50.0
    assert found["mgd3"]["difference"]["mean"] == -10.0
    assert found[""]["verdict"].startswith("no difference can be told from one repeat (50.0 against 60.0")


def test_figures_are_means_over_networks_that_are_all_there(tmp_path: Path) -> None:
    found = tables_of(
        tmp_path,
        trained("mgd3-ipc10", "small", [50.0, 52.0]),
        trained("random-ipc10", "small", [40.0, 44.0]),
        trained("herding-ipc10", "small", [99.0, 99.0]),
        trained("mgd3-ipc10", "large", [60.0, 62.0]),
        trained("random-ipc10", "large", [44.0, 44.0]),
    )
    assert found["mgd3"]["accuracy"]["values"] == [55.0, 57.0]
    assert found["mgd3"]["balanced"]["values"] == [55.0, 57.0]
    assert found["mgd3"]["difference"]["values"] == [13.0, 13.0]
    assert found["mgd3"]["training_s"] == pytest.approx(4.0)
    assert "herding" not in found  # one of its networks is not trained yet
    assert (found[""]["baseline"], found["random"]["difference"]) == ("random", None)
