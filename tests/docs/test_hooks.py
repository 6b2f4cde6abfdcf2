"""What the site adds to the files of docs/."""

from __future__ import annotations

import argparse
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType, SimpleNamespace

import pytest

from mgd3_fast.cli import COMMANDS
from mgd3_fast.cli.options import add_options
from tests.docs.pages import ROOT, text_of

pytest.importorskip("mkdocs")


def hook(name: str) -> ModuleType:
    spec = spec_from_file_location(f"hook_{name}", ROOT / f"docs/hooks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(source: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=source), meta={})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_on_the_page_of_commands(command: str) -> None:
    shown = hook("commands").on_page_markdown("", page("commands.md"), None, None)
    section = shown.split(f"\n## {command}\n")[1].split("\n## ")[0]
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser, import_module(f"mgd3_fast.cli.{command}"))
    options = [name for action in parser._actions for name in action.option_strings]
    assert [name for name in options if f"<code>{name}" not in section] == []
    assert section.count("<a id=") == len(parser._actions)


def test_cells_show_words_as_they_are() -> None:
    commands = hook("commands")
    assert commands._cell("a|b `c|d` <e> hf:x[:y]") == r"a&#124;b `c\|d` &lt;e&gt; hf:x&#91;:y&#93;"
    row = commands._row("distill", ("--x",), {"metavar": "N|M", "help": "100%% of it (default: 7)"})
    assert row == (
        '<a id="distill-x"></a><code>--x N&#124;<wbr>M</code>',
        "100% of it",
        "7",
    )


@pytest.mark.parametrize(
    ("source", "link", "shown"),
    [
        ("engine.md", "../CONTRIBUTING.md#add-a-kernel", "contributing.md#add-a-kernel"),
        ("api/mgd3_fast.md", "../../CHANGELOG.md", "../changelog.md"),
        ("engine.md", "formulas.md", "formulas.md"),
    ],
)
def test_links_to_the_root_become_links_to_pages(source: str, link: str, shown: str) -> None:
    text = hook("pages").on_page_markdown(f"[x]({link})", page(source), None, None)
    assert text == f"[x]({shown})"


def test_a_diagram_that_would_load_a_script_is_refused() -> None:
    with pytest.raises(Exception, match=r"engine\.md: draw an SVG"):
        hook("pages").on_page_markdown("```mermaid\nflowchart\n```", page("engine.md"), None, None)


def test_nothing_is_loaded_from_elsewhere() -> None:
    configured = text_of("mkdocs.yml")
    assert "font: false" in configured
    assert "http" not in configured
