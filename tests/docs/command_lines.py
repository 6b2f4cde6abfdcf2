"""Commands of mgd3-fast in blocks of shell, YAML and plain text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from mgd3_fast.cli import COMMANDS
from tests.docs.pages import Block

_CALL = re.compile(rf"(?:^|[\s/\"'])mgd3-fast (?:{'|'.join(COMMANDS)}|-)")


def command_lines(block: Block) -> Iterator[tuple[int, list[str]]]:
    """Lines on which mgd3-fast is called, with its arguments; a line that is continued is one."""
    text = block.code.replace("\\\n", " \0")
    for number, line in enumerate(text.split("\n")):
        at = block.line + 1 + number + text[: text.find(line)].count("\0")
        line = line.replace("\0", " ")
        if block.language == "yaml":
            line = re.sub(r"[\[\],]+(?=\s|$)|(?<=\s)\[", "", line)
        if _CALL.search(line) and (block.language != "text" or line.lstrip().startswith("mgd3-fast ")):
            yield from ((at, words) for words in _calls(line))


def _calls(line: str) -> Iterator[list[str]]:
    """Arguments of each call on a line, up to what ends a command in a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    call: list[str] | None = None
    for word in [*lexer, ";"]:
        if re.fullmatch(r"[();<>|&]+", word):
            if call is not None:
                yield call
            call = None
        elif call is not None:
            call.append(word)
        elif word.rpartition("/")[2] == "mgd3-fast":
            call = []
