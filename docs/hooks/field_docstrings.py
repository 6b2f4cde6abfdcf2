"""Griffe extension: the site shows of a configuration what `help()` shows; its source does not hold it."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any

from griffe import Attribute, Class, Extension


class FieldDocstrings(Extension):
    """Takes docstring and defaults of a class that `mgd3_fast.config.documented` decorates from the class."""

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Replace both, once the members of a class are there."""
        decorated = any(one.callable_path.endswith(".documented") for one in cls.decorators)
        if cls.docstring is None or not decorated:
            return
        config = getattr(import_module(cls.module.path), cls.name)
        text = inspect.getdoc(config) or ""
        cls.docstring.value = re.sub(r"\[(?=[@:])", r"\\[", text)  # brackets that would be a link
        for one in fields(config):
            member = cls.members.get(one.name)  # none where the field is a base's
            if isinstance(member, Attribute):
                member.value = None if one.default is MISSING else repr(one.default)
