"""Every public name says what it takes, gives back and raises."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mgd3_engine
import mgd3_fast
import mgd3_kernels

PACKAGES = (mgd3_fast, mgd3_engine, mgd3_kernels)


def public_callables() -> Iterator[tuple[str, Any]]:
    """Functions, classes and public methods by name."""
    for package in PACKAGES:
        for name in package.__all__:
            thing = getattr(package, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                yield f"{package.__name__}.{name}", thing
            for method, one in inspect.getmembers(thing, inspect.isroutine) if inspect.isclass(thing) else ():
                ours = getattr(one, "__module__", "") or ""
                is_public = not method.startswith("_") or method == "__call__"
                if is_public and ours.startswith("mgd3") and method in vars(thing):
                    yield f"{package.__name__}.{name}.{method}", one


PUBLIC = dict(public_callables())


def sections(text: str) -> dict[str, str]:
    """The sections of a docstring, those that it takes "as `name`" among them."""
    found = re.split(r"^(Args|Attributes|Returns|Yields|Raises):\n", text, flags=re.M)
    own = dict(zip(found[1::2], found[2::2], strict=True))
    for other in re.findall(r"[Aa]rg(?:ument)?s(?: and errors)? as `(\w+)`", found[0]):
        (taken,) = (one for name, one in PUBLIC.items() if name.endswith(f".{other}"))
        own = {**sections(inspect.getdoc(taken) or ""), **own}
    return own


def parameters(thing: Any) -> list[str]:
    """Names of what is given; none of `self`."""
    names = [one.name for one in inspect.signature(thing).parameters.values()]
    return [name for name in names if name not in ("self", "cls")]


def refuses(thing: Any) -> bool:
    """Whether its own code raises, or calls a check by name."""
    source = thing if inspect.isfunction(thing) or inspect.ismethod(thing) else thing.__init__
    if inspect.isclass(thing) and "__post_init__" in vars(thing):
        source = thing.__post_init__
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(source)))
    except (OSError, TypeError):
        return False  # written by `dataclass`
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [one.id if isinstance(one, ast.Name) else getattr(one, "attr", "") for one in called]
    raised = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return bool(raised) or any(name.lstrip("_").startswith("check") for name in names)


@pytest.mark.parametrize("name", PUBLIC)
def test_says_what_it_takes_gives_and_raises(name: str) -> None:
    thing = PUBLIC[name]
    text = inspect.getdoc(thing)
    assert text, "no docstring"
    told = sections(text)
    is_class = inspect.isclass(thing)
    plain = is_class and (issubclass(thing, (BaseException, int)) or getattr(thing, "_is_protocol", False))
    taken = [] if plain else parameters(thing)
    section = (
        "Attributes" if is_class and issubclass(thing, tuple) else "Args"
    )  # as griffe reads a NamedTuple
    named = told.get(section, "")
    missing = [one for one in taken if not re.search(rf"^ {{4}}{one}: \S", named, re.M)]
    assert not missing, f"no Args for {missing}"
    given = inspect.signature(thing).return_annotation if not is_class else None
    if given not in (None, "None", "object", inspect.Signature.empty):
        assert "Returns" in told or "Yields" in told or not taken, f"no Returns for {given}"
    if not plain and refuses(thing):
        assert "Raises" in told, "no Raises"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda one: one.__name__)
def test_every_public_name_is_on_its_api_page(package: ModuleType) -> None:
    page = Path(__file__).parents[1] / "docs" / "api" / f"{package.__name__}.md"
    entries = set(re.findall(rf"^::: {package.__name__}\.(\w+)$", page.read_text(), re.M))
    assert entries >= set(package.__all__) - {"__version__"}
