"""URLs on the command line: they arrive whole, and what is not there is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgd3_fast.cli import main
from tests.fakes.buckets import bucket_in_memory

NO_RUN = "must be a finished run of distill, got no manifest.json in {url}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encode", "--dataset", "{url}"], "dataset must be an existing folder of class folders, got {url}"),
        (["encode", "--dataset", "imagenette", "--data-dir", "{url}"], "existing folder, got {url}"),
        (["evaluate", "{url}", "--dataset", "mnist5k", "--out", "{folder}"], NO_RUN),
        (["metrics", "{url}", "--dataset", "mnist5k"], NO_RUN),
        (["report", "{url}", "--out", "{out}"], NO_RUN),
        (["report", "{url}"], "out must name the file to write for a run at a URL, got none for {url}"),
        (["convert", "{url}", "{folder}", "--format", "numeric"], NO_RUN),
        (["report", "{folder}", "--out", "{url}.html"], "out must be a path of this machine, got {url}.html"),
        (["publish", "{folder}", "a/b", "--out", "{url}"], "out must be a path of this machine, got {url}"),
        (["publish", "{url}", "a/b"], "folder must be a path of this machine, got {url}"),
        (
            ["distill", "--ipc", "1", "--dataset", "mnist5k", "--out", "s3://"],
            "out must name a bucket and a folder",
        ),
        (
            ["distill", "--ipc", "1", "--dataset", "mnist5k", "--out", "https://host/run"],
            "--out must be a folder or a URL that can be written (s3://, gs://, hf://), got https://host/run",
        ),
        (
            ["check", "mnist5k", "--cache-dir", "{url}"],
            "--cache-dir must be a path of this machine, got {url}",
        ),
        (
            ["export", "--generator", "demo-mnist5k", "--cache-dir", "{url}"],
            "--cache-dir must be a path of this machine, got {url}",
        ),
        (
            ["distill", "--ipc", "1", "--dataset", "mnist5k", "--out", "{folder}", "--modes", "{url}"],
            "modes must be a path of this machine, got {url}",
        ),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_what_is_not_there_is_told(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"url": bucket_in_memory().url, "out": str(tmp_path / "out.html"), "folder": str(tmp_path / "f")}
    assert main([words[0], "--quiet", *(word.format(**places) for word in words[1:])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message.format(**places) in line
    assert not list(tmp_path.iterdir())
