"""Every command in the documentation is one that the command line takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from mgd3_fast.cli import COMMANDS, _parsed
from mgd3_fast.cli.options import config_from, unknown_option
from tests.docs.command_lines import command_lines
from tests.docs.pages import Block, blocks_of, inline_of, page_names

IN_A_SENTENCE = re.compile(rf"(?:mgd3-fast )?({'|'.join(COMMANDS)}) (.*--[a-z].*)")


@pytest.fixture(autouse=True)
def in_an_empty_folder_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "8"}.items():
        monkeypatch.setenv(name, value)  # for --shard auto


def complaint(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says against arguments, without reading a file; "" if nothing."""
    try:
        parsed = _parsed(words)
        if parsed is not None and not any("$" in word for word in words):
            config_from(parsed, import_module(f"mgd3_fast.cli.{parsed.command}").CONFIG)
    except SystemExit as left:
        return capsys.readouterr().err if left.code else ""
    except Exception as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", page_names())
def test_command_lines_in_blocks_parse(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = [one for block in blocks_of(page) if block.language != "python" for one in command_lines(block)]
    said = [f"{page}:{line}: {' '.join(words)}: {complaint(words, capsys)}" for line, words in found]
    assert [line for line in said if not line.endswith(": ")] == []


@pytest.mark.parametrize("page", page_names())
def test_options_in_sentences_exist(page: str) -> None:
    assert list(unknown_in_sentences(page)) == []


def unknown_in_sentences(page: str) -> Iterator[str]:
    for line, token in inline_of(page):
        words = IN_A_SENTENCE.fullmatch(token.content) if token.type == "code_inline" else None
        if words and (said := unknown_option(words[2].split(), import_module(f"mgd3_fast.cli.{words[1]}"))):
            yield f"{page}:{line}: {token.content}: {said}"


def test_calls_are_found_where_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "IPC=1 mgd3-fast doctor && mgd3-fast check photos \\\n  --json > out.txt  # what is there\n"
        "srun --gpus 1 mgd3-fast report 'a b' | tee x\nmgd3-fast distill --step 4\n"
    )
    found = list(command_lines(Block("page", 1, "sh", "", code)))
    assert found == [
        (2, ["doctor"]),
        (2, ["check", "photos", "--json"]),
        (4, ["report", "a b"]),
        (5, ["distill", "--step", "4"]),
    ]
    assert [complaint(words, capsys) for _, words in found][:3] == ["", "", ""]
    assert "unknown option --step, did you mean --steps?" in complaint(found[3][1], capsys)
    args = Block("page", 1, "yaml", "", 'args: [mgd3-fast, distill, --ipc, "50", --out, /data/x]\n')
    assert list(command_lines(args)) == [(2, ["distill", "--ipc", "50", "--out", "/data/x"])]


def test_a_value_that_no_run_takes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["distill", "--dataset", "mnist5k", "--out", "x", "--ipc"]
    assert "ipc must be" in complaint([*words, "ten"], capsys)
    assert complaint([*words, "$IPC"], capsys) == ""
