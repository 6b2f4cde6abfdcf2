"""Fill docs/commands.md with every command and option, read off the command line itself."""

from __future__ import annotations

import re
import sys
from html import escape
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DEFAULT = re.compile(r"\s*\(default: (?P<default>.*)\)$", re.DOTALL)


class Recorder:
    """Stands where an argument parser does, and keeps what a command declares by heading."""

    def __init__(self, prog: str) -> None:
        self.prog, self.description, self.usage = prog, "", ""
        self.groups: dict[str, list[tuple[tuple[str, ...], dict[str, Any]]]] = {}

    def add_argument_group(self, heading: str) -> Recorder:
        """Begin a group of options, which the next arguments belong to."""
        self.groups[heading] = []
        return self

    def add_mutually_exclusive_group(self) -> Recorder:
        """Go on with the group that was begun."""
        return self

    def add_argument(self, *names: str, **told: Any) -> None:
        """Keep an option or an argument."""
        self.groups[[*self.groups][-1]].append((names, told))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Add a section for each command to the page."""
    if page.file.src_uri != "commands.md":
        return markdown
    if str(ROOT) not in sys.path:
        sys.path[:0] = [str(ROOT), str(ROOT / "engine"), str(ROOT / "kernels")]
    from mgd3_fast.cli import COMMANDS

    index = [f"| [`{name}`](#{name}) | {_cell(summary)} |" for name, summary in COMMANDS.items()]
    sections = [_section(name, summary) for name, summary in COMMANDS.items()]
    return "\n".join([markdown, "| command | does |", "| --- | --- |", *index, "", *sections])


def _section(name: str, summary: str) -> str:
    from mgd3_fast.cli.options import add_options

    module: ModuleType = import_module(f"mgd3_fast.cli.{name}")
    recorder: Any = Recorder(f"mgd3-fast {name}")
    add_options(recorder, module)
    lines = [f"## {name}", "", f"{summary[0].upper()}{summary[1:]}.", ""]
    lines += ["```text", recorder.usage.replace("%%", "%"), "```", ""]
    for typed, does in module.EXAMPLES.items():
        lines += [f"{does[0].upper()}{does[1:]}:", "", "```sh", typed, "```", ""]
    for heading, options in recorder.groups.items():
        lines += [f"### {name}: {heading} {{ data-toc-label='{heading}' }}", "", *_table(name, options), ""]
    return "\n".join(lines)


def _table(command: str, options: list[tuple[tuple[str, ...], dict[str, Any]]]) -> list[str]:
    """A row an option; the last column only where one has a default."""
    rows = [("option", "meaning", "default"), ("---", "---", "---")]
    rows += [_row(command, names, told) for names, told in options]
    columns = 3 if any(row[2] for row in rows[2:]) else 2
    return [f"| {' | '.join(row[:columns])} |" for row in rows]


def _row(command: str, names: tuple[str, ...], told: dict[str, Any]) -> tuple[str, str, str]:
    """An option with its value, what it means and its default; an anchor by its longest name."""
    value = "" if told.get("action") in ("store_true", "help") else f" {told['metavar']}"
    shown = [names[0] + value, *names[1:]] if names[0].startswith("-") else [value.strip()]
    help = str(told["help"]).replace("%%", "%")
    default = DEFAULT.search(help)
    code = "<br>".join(f"<code>{_cell(one).replace('&#124;', '&#124;<wbr>')}</code>" for one in shown)
    anchor = f'<a id="{command}-{max(names, key=len).lstrip("-")}"></a>'
    return anchor + code, _cell(DEFAULT.sub("", help)), _cell(default["default"]) if default else ""


def _cell(text: str) -> str:
    """Words as they are in a cell of a table: only code in backticks has a meaning."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part.replace("|", r"\|") if part.startswith("`") else _plain(part) for part in parts)


def _plain(text: str) -> str:
    return re.sub(r"([|*_\[\]])", lambda sign: f"&#{ord(sign[0])};", escape(text, quote=False))
