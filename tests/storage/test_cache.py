"""Where the cache is: one rule, also for users without a home."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from mgd3_fast.cli import main
from mgd3_fast.cli.process import loading
from mgd3_fast.storage.cache import cache_dir_or_default, cache_url, default_cache_dir


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No $HOME, and a user id that the system does not know."""

    def unknown(number: int) -> None:
        raise KeyError(f"uid not found: {number}")

    for name in ("HOME", "MGD3_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


def test_named_folder_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MGD3_CACHE", raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "mgd3-fast"
    monkeypatch.setenv("MGD3_CACHE", "~/kept")
    assert default_cache_dir() == tmp_path / "kept"
    assert cache_dir_or_default("~/other") == tmp_path / "other"


def test_a_url_is_shared_behind_a_folder_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MGD3_CACHE", "s3://bucket/cache/")
    home = tmp_path / ".cache" / "mgd3-fast"
    assert (cache_dir_or_default(None), cache_url(None)) == (home, "s3://bucket/cache")
    assert (cache_dir_or_default("here"), cache_url("here")) == (Path("here"), None)
    monkeypatch.setenv("MGD3_CACHE", str(tmp_path))
    assert (cache_dir_or_default("gs://other"), cache_url("gs://other")) == (tmp_path, "gs://other")


@pytest.mark.usefixtures("homeless")
class TestWithoutAHome:
    def test_cache_is_the_users_in_the_temporary_folder(self) -> None:
        assert default_cache_dir() == Path(tempfile.gettempdir()) / f"mgd3-fast-{os.getuid()}"

    def test_named_cache_is_taken(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("MGD3_CACHE", str(tmp_path))
        assert default_cache_dir() == tmp_path

    def test_libraries_keep_their_files_there_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr("os.environ", dict(os.environ))
        with loading():
            assert os.environ["XDG_CACHE_HOME"] == str(default_cache_dir())

    @pytest.mark.parametrize(
        "options",
        [
            ["--dataset", "~/x"],
            ["--dataset", "imagenette", "--data-dir", "~/x"],
            ["--dataset", "wds:~/x.tar"],
            ["--dataset", "hf:~/x"],
            ["--dataset", "mnist5k", "--cache-dir", "~/x"],
        ],
        ids=["folder", "tree", "wds", "hf", "cache"],
    )
    def test_a_path_into_a_home_is_refused_in_one_line(
        self, options: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["encode", "--quiet", *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("starts with a home folder that is not known: write the whole path")
