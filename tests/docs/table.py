"""`python -m tests.docs.table [PAGE ...]`: run the pages, and print what became of every block."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from tests.docs.pages import blocks_of, page_names
from tests.docs.running import BlockError, Executed, Runner


def rows(pages: list[str], runner: Runner) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| block | first line | outcome | seconds of one core |\n| --- | --- | --- | ---: |"
    for page in pages:
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                executed = runner.run(page)
        except BlockError as error:
            yield f"| {page} | | failed: {str(error).splitlines()[0]} | |"
            executed = [Executed(block, 0.0) for block in blocks_of(page)]
        for one in executed:
            if one.block.left_out != "no program":
                first = next((line for line in one.block.code.splitlines() if line.strip()), "").replace(
                    "|", r"\|"
                )
                outcome = one.block.left_out or ("run" if one.seconds else "not run")
                yield f"| {one.block} | `{first}` | {outcome} | {one.seconds:.1f} |"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        for row in rows(sys.argv[1:] or [*page_names()], Runner(Path(root) / "pages")):
            print(row, flush=True)
