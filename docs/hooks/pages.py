"""The site has pages that docs/ does not: CONTRIBUTING.md and CHANGELOG.md, one source for both readers.

Links work in both places: a page of docs/ links to `../CONTRIBUTING.md`, that file to `docs/engine.md`, and
here each becomes the page of the site. A mermaid diagram is refused, because its script would come from
elsewhere: draw an SVG in docs/images instead.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
FROM_ROOT = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
SEARCHED_LAST = re.compile(r"api/|changelog")  # they name everything, and tell a newcomer little


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose source lies at the root."""
    for source, page in FROM_ROOT.items():
        text = re.sub(r"\]\(docs/", "](", (ROOT / source).read_text())
        files.append(File.generated(config, page, content=_to_pages(text, prefix="")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files at the root into links to pages, and say where the search puts a page."""
    if re.search(r"^\s*```+ ?mermaid", markdown, re.MULTILINE):
        raise PluginError(f"{page.file.src_uri}: draw an SVG in docs/images instead of a mermaid diagram")
    if SEARCHED_LAST.match(page.file.src_uri):
        page.meta["search"] = {"boost": 0.3}
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # whose only entry is the page itself
    return _to_pages(markdown, prefix="../" * (1 + page.file.src_uri.count("/")))


def _to_pages(markdown: str, prefix: str) -> str:
    for source, page in FROM_ROOT.items():
        above = prefix.removeprefix("../")
        markdown = re.sub(rf"\]\({re.escape(prefix + source)}(?=[)#])", f"]({above}{page}", markdown)
    return markdown
