"""Every block of shell and Python in the documentation runs, or its title says what it needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import LANGUAGES, Block, blocks_of, fixtures_of, page_names, text_of
from tests.docs.running import FIXTURES, BlockError, Runner


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("docs") / "pages")


@pytest.mark.parametrize(
    "page", [page for page in page_names() if not all(one.left_out for one in blocks_of(page))]
)
def test_blocks_run(page: str, runner: Runner) -> None:
    executed = runner.run(page)
    print(f"{page}: {sum(one.seconds for one in executed):.1f} s")


@pytest.mark.parametrize("page", page_names())
def test_blocks_are_fenced_and_named(page: str) -> None:
    for block in blocks_of(page):
        assert not block.is_forgotten, f"{block}: shell that is indented is not executed: fence it as sh"
        assert not block.language or block.language in LANGUAGES, f"{block}: {block.language}"
        assert not block.title or block.title.startswith("Needs ") or block.left_out == "no program", (
            f"{block}"
        )
    assert set(fixtures_of(page)) <= set(FIXTURES)


@pytest.mark.parametrize("page", page_names())
def test_what_is_installed_is_the_checkout(page: str) -> None:
    """No release is on PyPI yet."""
    assert re.findall(r"install.*mgd3-fast\[.*", text_of(page)) == []


def made_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> list[Block]:
    """Blocks of a page that is not one of ours."""
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr("tests.docs.pages.ROOT", tmp_path)
    return blocks_of(str(tmp_path / "page.md"))


def test_blocks_share_a_folder_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "```sh\necho 7 > seven\n```\n```python\nseven = open('seven').read()\n```\n"
    text += "```python\nassert seven == '8'\n```\n"
    page = str(tmp_path / "page.md")
    made_page(tmp_path, monkeypatch, text)
    with pytest.raises(BlockError, match=r"page.md:7: AssertionError"):
        Runner(tmp_path / "run").run(page)


def test_a_failing_line_of_shell_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = str(tmp_path / "page.md")
    made_page(tmp_path, monkeypatch, "```sh\nmgd3-fast distil | cat\necho after\n```\n")
    with pytest.raises(BlockError, match="unknown command 'distil', did you mean distill"):
        Runner(tmp_path / "run").run(page)


def test_what_blocks_need_and_what_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        '```sh title="Needs a GPU"\nnvidia-smi\n```\n\n    mgd3-fast doctor\n'
        "\n!!! note\n\n    ```sh\n    true\n    ```\n\n```sh\npip install .\n```\n"
    )
    blocks = made_page(tmp_path, monkeypatch, text)
    assert [(one.line, one.left_out, one.is_forgotten) for one in blocks] == [
        (1, "Needs a GPU", False),
        (5, "no program", True),
        (9, "", False),
        (13, "left to CI, which installs", False),
    ]
