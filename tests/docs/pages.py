"""What the pages of the documentation hold: blocks, words in code, links and headings, each with its line."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown.extensions.toc import slugify, unique
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
LANGUAGES = ("sh", "python", "text", "yaml", "json", "toml", "html", "csv", "dockerfile")
INSTALLS = "left to CI, which installs"
_SHELL = re.compile(
    r"^\s*(?:\$ |\w+=\S+ )?(?:mgd3-fast|pip3?|python3?|make|srun|torchrun|ray|export|cd|rm)\s", re.M
)
_FIXTURE = re.compile(r"^<!-- fixture: (\w+) -->$", re.MULTILINE)
_ANCHOR = re.compile(r'<a (?:id|name)="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """A fenced block, or an indented one, whose language is then empty."""

    page: str
    line: int
    language: str
    title: str
    code: str

    @property
    def left_out(self) -> str:
        """Why the block is not executed; "" where it is."""
        if self.title.startswith("Needs "):
            return self.title
        if self.language not in ("sh", "python"):
            return "no program"
        return INSTALLS if re.search(r"\bpip3? install\b", self.code) else ""

    @property
    def is_forgotten(self) -> bool:
        """Whether the block is indented shell, which nothing would execute."""
        return not self.language and _SHELL.search(self.code) is not None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def page_names() -> tuple[str, ...]:
    """Every page from the root on, README.md first."""
    pages = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *pages)


@cache
def text_of(page: str) -> str:
    """The page's Markdown."""
    return (ROOT / page).read_text()


@cache
def tokens_of(page: str) -> tuple[Token, ...]:
    """The page as CommonMark with tables."""
    return tuple(MarkdownIt("commonmark").enable("table").parse(text_of(page)))


def blocks_of(page: str) -> list[Block]:
    """Blocks of code in order, also those that are fenced inside a note or a tab, which are indented."""
    return list(_blocks(tokens_of(page), page, first_line=1))


def _blocks(tokens: tuple[Token, ...], page: str, first_line: int) -> Iterator[Block]:
    for token in tokens:
        if token.type not in ("fence", "code_block") or token.map is None:
            continue
        line = first_line + token.map[0]
        language, _, rest = token.info.strip().partition(" ")
        title = re.fullmatch(r'title="(.*)"', rest.strip())
        block = Block(page, line, language, title[1] if title else rest, token.content)
        if token.type == "code_block" and "```" in token.content:
            yield from _blocks(tuple(MarkdownIt("commonmark").parse(token.content)), page, line)
        else:
            yield replace(block, code=textwrap.dedent(block.code))


def fixtures_of(page: str) -> list[str]:
    """What the page's blocks find in their folder."""
    comments = (token.content for token in tokens_of(page) if token.type == "html_block")
    return [name for comment in comments for name in _FIXTURE.findall(comment)]


def inline_of(page: str) -> Iterator[tuple[int, Token]]:
    """Words in code, links and pictures inside paragraphs, headings and tables, with their lines."""
    for token in tokens_of(page):
        for child in token.children or ():
            assert token.map is not None
            yield token.map[0] + 1, child


def anchors_of(page: str) -> set[str]:
    """The anchors of a page's headings, as the site makes them, and those that it has in HTML."""
    tokens, used = tokens_of(page), set[str]()
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            words = "".join(child.content for child in inline.children or ())
            unique(slugify(words, "-"), used)
    return used | set(_ANCHOR.findall(text_of(page)))
