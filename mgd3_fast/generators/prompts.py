"""What the classes of a run are called in the prompts of a text-to-image generator."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mgd3_fast.datasets import Dataset, imagenet_class_titles, imagenet_classes
from mgd3_fast.datasets.selector import matched
from mgd3_fast.errors import UserError, listed, printable

PLACE = "{}"


@dataclass(frozen=True, kw_only=True)
class ClassPrompts:
    """The prompt of each class of a run.

    Args:
        class_names: In label order.
        texts: Prompt of each class.
        negative: What stands for no class in classifier-free guidance.
        template: What the prompts were made with.
    """

    class_names: tuple[str, ...]
    texts: tuple[str, ...]
    negative: str = ""
    template: str = PLACE

    def settings(self) -> dict[str, str]:
        """Name what decides the images, for what runs into one output folder must agree on."""
        lines = "\n".join(f"{name}\t{text}" for name, text in self.by_class().items())
        digest = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
        return {
            "prompt_template": self.template,
            "negative_prompt": self.negative,
            "prompts": f"{len(self.texts)} of sha256 {digest}",
        }

    def by_class(self) -> dict[str, str]:
        """The prompt of each class by its name."""
        return dict(zip(self.class_names, self.texts, strict=True))

    def describe(self) -> str:
        """Say what the first classes are called, and which classes share a prompt."""
        lines = [f"prompts: {listed(f'{text!r} for {name}' for name, text in self.by_class().items())}"]
        classes_of = defaultdict(list)
        for name, text in self.by_class().items():
            classes_of[text.lower()].append(name)  # as CLIP's tokenizer reads it
        lines += [
            f"warning: classes {listed(names)} share the prompt {text!r}; --prompts can tell them apart"
            for text, names in classes_of.items()
            if len(names) > 1
        ]
        return "\n".join(lines)


def class_prompts(
    dataset: Dataset,
    *,
    file: Path | None = None,
    template: str | None = None,
    negative: str | None = None,
    synonyms: str | None = None,
) -> ClassPrompts:
    """Make the prompts of a run of the classes' names, as MGD3 does, or of what a file calls the classes.

    A class of ImageNet-1K, known by its wnid, is called by the first of its synonyms, or by the line of them
    all; every other one by its own name, with spaces for underscores.

    Args:
        dataset: Its opened classes are the run's.
        file: See `read_prompts`; what it says of a class goes before the class's name.
        template: Put around what a class is called, in place of `{}`.
        negative: What stands for no class; an empty text by default.
        synonyms: "first" (the default) or "all".

    Returns:
        The prompts.

    Raises:
        UserError: The template has no place, the file does not fit the dataset, or a class has no name.
    """
    template = PLACE if template is None else template
    if PLACE not in template:
        raise UserError(f"prompt_template must hold {PLACE} where the class goes, got {template!r}")
    given = {} if file is None else read_prompts(file, dataset.all_class_names, dataset.class_names)
    called = [
        given[name] if name in given else _called(name, synonyms == "all") for name in dataset.class_names
    ]
    return ClassPrompts(
        class_names=dataset.class_names,
        texts=tuple(template.replace(PLACE, text) for text in called),
        negative=negative or "",
        template=template,
    )


def read_prompts(file: Path, all_class_names: Sequence[str], class_names: Sequence[str]) -> dict[str, str]:
    """Read what classes are called.

    Either each line is the name of a class, a tab and its prompt, and classes without a line are called by
    their names; or no line has a tab, and there is one for each class, in label order (as D4M has them).

    Args:
        file: UTF-8; empty lines do not count.
        all_class_names: The full class list.
        class_names: The classes of the run, a part of it.

    Returns:
        Prompt by class name, of classes of the list, not necessarily of the run.

    Raises:
        UserError: The file cannot be read, a line is not of this form, or a class is unknown or named twice.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"prompts must be a file that can be read, got {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"prompts must be a text file in UTF-8, got {file}") from None
    if any("\t" in line for line in lines):
        return _read_pairs(file, lines, all_class_names)
    for names in (all_class_names, class_names):
        if len(lines) == len(names):
            return dict(zip(names, lines, strict=True))
    counts = " or ".join(str(count) for count in sorted({len(all_class_names), len(class_names)}))
    raise UserError(
        f"prompts must be lines of class, tab and prompt, or {counts} lines in label order,"
        f" got {len(lines)} lines without a tab in {file}"
    )


def _read_pairs(file: Path, lines: Sequence[str], all_class_names: Sequence[str]) -> dict[str, str]:
    prompts: dict[str, str] = {}
    pairs = [tuple(part.strip() for part in line.partition("\t")) for line in lines]
    known = matched((name for name, _, _ in pairs), all_class_names)
    for line, (name, _, prompt) in zip(lines, pairs, strict=True):
        if not prompt:
            raise UserError(f"prompts must be lines of class, tab and prompt, got {line!r} in {file}")
        if name not in known:
            near = get_close_matches(name, all_class_names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else f", such as {all_class_names[0]!r}"
            raise UserError(f"prompts must be of classes of the dataset, got {name!r} in {file}{hint}")
        if known[name] in prompts:
            raise UserError(f"prompts must name a class once, got {name!r} twice in {file}")
        prompts[known[name]] = prompt
    return prompts


def _called(name: str, by_all: bool) -> str:
    """Find what a class is called: by the first of its synonyms, or by all."""
    wnids = imagenet_classes("imagenet1k")
    if name in wnids:
        title = imagenet_class_titles()[wnids.index(name)]
        return title if by_all else title.split(",")[0].strip()
    called = printable(name).replace("_", " ").strip()
    if not called or re.fullmatch(r"n\d{8}", called):
        raise UserError(
            f"prompts must name class {name!r}, whose name in words is not known: give a line of class, tab"
            " and prompt for it in a file with --prompts"
        )
    return called
