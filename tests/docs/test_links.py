"""Links lead somewhere for who reads the files; the strict build of the site checks its pages again."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.docs.pages import ROOT, anchors_of, inline_of, page_names


def broken(page: str, target: str) -> str:
    """What is wrong with a link, ""  if nothing is; nothing is fetched."""
    url = urlsplit(target)
    if url.scheme:
        return "" if url.scheme in ("http", "https") and "." in (url.hostname or "") else "no web address"
    path = (ROOT / page).parent / url.path if url.path else ROOT / page
    if not path.resolve().is_relative_to(ROOT):
        return "no such file"
    name = path.resolve().relative_to(ROOT).as_posix()
    if not path.is_file():
        return "no such file"
    if url.fragment and (path.suffix != ".md" or url.fragment not in anchors_of(name)):
        return "no such heading"
    return ""


@pytest.mark.parametrize("page", page_names())
def test_links_lead_somewhere(page: str) -> None:
    targets = [
        (line, str(token.attrs["src" if token.type == "image" else "href"]))
        for line, token in inline_of(page)
        if token.type in ("image", "link_open")
    ]
    said = [f"{page}:{line}: {target}: {broken(page, target)}" for line, target in targets]
    assert [line for line in said if not line.endswith(": ")] == []


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("docs/engine.md", ""),
        ("docs/nothing.md", "no such file"),
        ("CONTRIBUTING.md#nothing", "no such heading"),
        ("CONTRIBUTING.md#add-a-kernel", ""),
        ("#nothing", "no such heading"),
        ("../elsewhere.md", "no such file"),
        ("https://example.org/x", ""),
        ("https://example", "no web address"),
        ("file:///etc", "no web address"),
    ],
)
def test_what_is_broken(target: str, said: str) -> None:
    assert broken("README.md", target) == said


def test_pictures_are_small_and_have_words() -> None:
    big = [path.name for path in Path(ROOT / "docs/images").iterdir() if path.stat().st_size > 200_000]
    assert big == []
    mute = [
        page for page in page_names() for _, one in inline_of(page) if one.type == "image" and not one.content
    ]
    assert mute == []
