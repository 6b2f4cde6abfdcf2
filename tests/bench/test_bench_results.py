"""Benchmark runs become flat records, records the README's table, and the README shows nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import record
from bench.gpu import last_results
from bench.gpu import results as gpu_results
from bench.speed import table, table_rows
from bench.studies import ablations

ROOT = Path(__file__).parent.parent.parent
FIGURE = {"op", "provider", "size", "dtype", "batch", "metric", "value", "unit", "p20", "p50", "p80"}
ORIGIN = {"device", "kind", "threads", "versions", "commit", "when", "command", "bench_size"}
RATE, SHARE = ("sampler", "ours", "rate", "fp32", "demo"), ("sampler", "ours", "share_of_x", "fp32", "demo")
CHECKED = ("check one", "ours", "seconds", "", "")
ROWS = (
    table.Row("our speed", "{rate}, {share} of it", {"rate": RATE, "share": SHARE}),
    table.Row("on a GPU", "{rate}", {"rate": RATE}, "cuda"),
)


def figure(metric: str = "rate", value: float = 12.3456, **changes: Any) -> dict[str, Any]:
    found = {"op": "sampler", "provider": "ours eager", "size": "demo, batch 8", "dtype": "fp32", "batch": 8}
    found |= {"metric": metric, "value": value, "unit": "images/s" if metric == "rate" else "1"}
    found |= {"device": "A CPU, 2 cores", "kind": "cpu", "threads": 2, "versions": "torch 2.13.0"}
    found |= {"commit": "0123456789abcdef", "uncommitted_changes": False, "bench_size": "full"}
    return found | {"when": "2026-11-23T12:00:00+00:00", "command": "pytest bench/"} | changes


def test_a_run_of_pytest_becomes_flat_records(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ["bench/speed/bench_guided_step.py", "-k", "eager-given-noise", "--benchmark-only"]
    # A worker of a parallel run says so in the environment, and no benchmark runs in one.
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    environment["BENCH_SIZE"] = "smoke"
    command = [sys.executable, "-m", "pytest", *arguments, f"--benchmark-json={report}"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "eager-given-noise: bandwidth" in result.stdout
    path = record.write_result(record.trim(json.loads(report.read_text())), tmp_path / "results")
    records = json.loads(path.read_text())
    assert all(set(one) >= FIGURE | ORIGIN for one in records)
    assert {one["command"] for one in records} == {f"BENCH_SIZE=smoke pytest {' '.join(arguments)}"}
    assert {"time", "bandwidth", "share_of_copy"} <= {one["metric"] for one in records}
    for one in records:
        if one["p50"] is not None:
            assert one["p20"] <= one["p50"] == one["value"] <= one["p80"]
    assert len(path.read_text().splitlines()) == len(records) + 2


def test_a_second_result_of_a_day_does_not_replace_the_first(tmp_path: Path) -> None:
    names = [record.write_result([figure(value=value)], tmp_path).name for value in (1.0, 2.0, 3.0)]
    stem = "a-cpu-2-cores-2026-11-23-0123456"
    assert names == [f"{stem}.json", f"{stem}-2.json", f"{stem}-3.json"]
    with pytest.raises(ValueError, match="records must be at least one"):
        record.write_result([], tmp_path)


def write_results(folder: Path, *records: dict[str, Any]) -> list[Any]:
    record.write_result(list(records), folder)
    return list(table.read_results(folder))


def test_a_row_shows_its_figures_and_their_run(tmp_path: Path) -> None:
    records = write_results(tmp_path, figure(), figure("share_of_x", 0.517))
    assert table.render(ROWS, records).splitlines() == [
        "| measured by `bench/` | |",
        "| --- | --- |",
        "| our speed | 12.3 images/s, 52% of it |",
        "",
        "A CPU, 2 cores, 2 threads; torch 2.13.0; commit 0123456, 2026-11-23: `pytest bench/`.",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"uncommitted_changes": True}, id="uncommitted code"),
        pytest.param({"bench_size": "smoke"}, id="smoke run"),
        pytest.param({"dtype": "bf16"}, id="other precision"),
        pytest.param({"kind": "cuda"}, id="other device"),
        pytest.param({"provider": "oursels eager"}, id="other provider"),
        pytest.param({"size": "DiT-S/2"}, id="other size"),
    ],
)
def test_a_row_without_its_figures_is_left_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    records = write_results(tmp_path, figure(**changes), figure("share_of_x", 0.5))
    assert "our speed" not in table.render(ROWS, records)


def test_the_newest_run_counts_and_of_its_backends_the_best(tmp_path: Path) -> None:
    later = {"when": "2026-11-24T12:00:00+00:00"}
    records = write_results(
        tmp_path,
        figure(value=5.0, **later),
        figure(value=7.0, provider="ours compiled", **later),
        figure(value=99.0),
        figure("share_of_x", 0.5),
    )
    assert "| our speed | 7 images/s, 50% of it |" in table.render(ROWS, records)


README = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"


def test_the_table_goes_between_the_markers_and_stays() -> None:
    once = table.replaced(README, "| new |\n")
    assert once == f"before\n{table.BEGIN}\n| new |\n{table.END}\nafter\n"
    assert table.replaced(once, "| new |\n") == once
    assert table.replaced("no table", "") == "no table"
    for broken in ("no markers", README + README, f"{table.END}\n{table.BEGIN}\n"):
        with pytest.raises(ValueError, match="README must hold the lines"):
            table.replaced(broken, "| new |\n")


def test_check_fails_on_a_figure_without_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path / "results", figure(), figure("share_of_x", 0.517))
    (tmp_path / "README.md").write_text(README)
    monkeypatch.setattr(table, "README", tmp_path / "README.md")
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(table, "ROWS", ROWS)

    def run(option: str) -> int:
        monkeypatch.setattr(sys, "argv", ["table.py", option])
        return int(table.main())

    assert run("--check") == 1
    assert run("--write") == 0
    assert run("--check") == 0
    text = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text(text.replace("12.3 images/s", "12.4 images/s"))
    assert run("--check") == 1


def test_the_readme_shows_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["table.py", "--check"])
    assert table.main() == 0


def test_the_page_of_gpu_checks_shows_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["last_results.py", "--check"])
    assert last_results.main() == 0


def write_sitting(folder: Path, commit: str, *, when: str, checks: dict[str, Any], **peers: float) -> None:
    machine = {"when": when, "device": "NVIDIA A1", "driver": "1", "python": "3", "torch": "2", "triton": "3"}
    machine |= {"commit": commit * 5, "uncommitted_changes": False}
    (folder / commit).mkdir(parents=True)
    (folder / commit / "gpu_checks.json").write_text(json.dumps({"machine": machine, "checks": checks}))
    if peers:
        rates = {name: {"images_per_s_50": rate} for name, rate in peers.items()}
        path = folder / commit / "sampler_and_peers.json"
        path.write_text(json.dumps({"steps_timed": 10, **rates}))


def test_the_last_column_is_the_newest_result_of_each_check(tmp_path: Path) -> None:
    passed = {"status": "passed", "figures": {"different_words": 0}}
    slow = {"status": "failed", "reason": "slow", "figures": {"256": {"share_of_copy": 0.5}}}
    write_sitting(
        tmp_path,
        "96adfe7",
        when="2026-11-27T01",
        checks={
            "philox-integers": passed,
            "bandwidth": slow,
            "normals": {"status": "skipped", "figures": {}},
        },
        ours_eager=20.0,
        ours_compiled=22.0,
        diffusers_compiled=20.0,
    )
    fast = {"status": "passed", "figures": {"256": {"share_of_copy": 0.9}}}
    write_sitting(tmp_path, "abcdef0", when="2026-11-28T01", checks={"bandwidth": fast})
    names = ["philox-integers", "bandwidth", "normals", "sampler-throughput", "sampler-against-diffusers"]
    rows = [f"| {name} | a claim | `a command` | anything |" for name in names]
    page = "\n".join(["| check | claim | command | last |", "| --- |", *rows, "| (tests) | a | b | c |", ""])
    elsewhere = "by `sampler_and_peers.json`, not by this check"
    filled = last_results.filled(page, gpu_results.read_sittings(tmp_path)).split("\n")
    assert [line.removesuffix(" |").rpartition(" | ")[2] for line in filled[2:-1]] == [
        "2026-11-27, A1, 96adfe7: passed, 0 words differ",
        "2026-11-28, A1, abcdef0: passed, 90% of a copy",
        "never run",
        f"2026-11-27, A1, 96adfe7: 22.0 images/s {elsewhere} (goal then 28)",
        f"2026-11-27, A1, 96adfe7: 1.10 times DiTPipeline compiled {elsewhere}",
        "c",
    ]
    assert last_results.filled("\n".join(filled), gpu_results.read_sittings(tmp_path)).split("\n") == filled


def test_rows_of_a_gpu_come_from_its_quiet_checks_and_its_rivals(tmp_path: Path) -> None:
    quiet = {
        "status": "failed",
        "figures": {"seconds": [3, 1, 2], "a": {"share": 0.5}},
        "alone_on_the_gpu": True,
    }
    checks = {"one": quiet, "two": {**quiet, "alone_on_the_gpu": False}}
    write_sitting(
        tmp_path, "96adfe7", when="2026-11-27T01", checks=checks, ours_eager=30.0, diffusers_compiled=20.0
    )
    rows = (
        table.Row(
            "quiet", "{s} s, {share}", {"s": CHECKED, "share": (*CHECKED[:2], "a.share", "", "")}, "cuda"
        ),
        table.Row("shared", "{s}", {"s": ("check two", *CHECKED[1:])}, "cuda"),
        table.Row("rival", "{x}", {"x": table_rows.peers("speedup_over_diffusers_compiled")}, "cuda"),
    )
    lines = table.render(rows, table.read_results(tmp_path)).splitlines()
    assert lines[2:4] == ["| quiet | 2 s, 50% |", "| rival | 1.5 |"]
    assert "NVIDIA A1, driver 1; python 3, torch 2, triton 3; commit 96adfe7, 2026-11-27" in lines[5]
    assert len(lines) == 7


def test_the_page_of_ablations_shows_the_committed_results() -> None:
    content = json.loads((ROOT / "bench/results/ablations/mnist5k.json").read_text())
    page = (ROOT / "docs/ablations.md").read_text()
    for title, rows in content["tables"].items():
        assert ablations.markdown({title: rows}).strip() in page, title


def test_every_figure_of_a_row_is_named_in_its_text() -> None:
    for row in table.ROWS:
        assert row.figures
        assert row.text.format_map({name: f"<{name}>" for name in row.figures}).count("<") == len(row.figures)


def test_the_page_of_evaluation_shows_the_committed_accuracies() -> None:
    found = json.loads((ROOT / "bench/results/evaluation/precision-mnist5k.json").read_text())
    page = (ROOT / "docs/evaluation.md").read_text()
    for score in ("last", "best"):
        fp32, bf16, difference = (found[part][score] for part in ("fp32", "bf16", "difference"))
        low, high = difference["ci95"]
        interval = f"{difference['mean']:+.2f} ({low:+.2f} to {high:+.2f})"
        assert f"| {score} | {fp32['mean']:.2f} | {bf16['mean']:.2f} | {interval} |" in page
    seconds = [sum(found[precision]["cpu_s"]) / 5 for precision in ("fp32", "bf16")]
    assert "({:.1f} and {:.1f} s of processor time)".format(*seconds) in page
    assert found["machine"]["commit"][:7] in page


def test_the_page_of_evaluation_shows_the_committed_cost() -> None:
    trainings = json.loads((ROOT / "bench/results/evaluation/cost-cpu.json").read_text())["trainings"]
    page = (ROOT / "docs/evaluation.md").read_text()
    rows = {(one["dataset"], one["ipc"]): one for one in trainings if one["ipc"] <= 20}
    for (dataset, ipc), first in rows.items():
        hours = [one["cpu_h"] for one in trainings if (one["dataset"], one["ipc"]) == (dataset, ipc)]
        counts = f"| {first['epochs']:,} | {first['trained_images']:,} | {first['tested_images']:,} |"
        assert f"{counts} {', '.join(f'{one:,.0f}' for one in hours)} |" in page, (dataset, ipc)
