"""How a dataset is laid out: names of classes, folders within folders, what is not read at all."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from unicodedata import normalize

from mgd3_fast.check.finding import Finding, first_of, some
from mgd3_fast.datasets import Dataset, FileImages
from mgd3_fast.datasets.folders import is_image
from mgd3_fast.errors import printable

# What Windows and web servers do not take as the name of a folder.
_UNUSABLE = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^ |^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


def name_findings(names: Sequence[str]) -> Iterator[Finding]:
    """Say which class names are nearly equal, or cannot be folders on every machine."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        form = normalize("NFKC", printable(name)).casefold()
        alike[re.sub(r"[\W_]+", "", form) or form].append(name)
    groups = [" = ".join(map(repr, group)) for group in alike.values() if len(group) > 1]
    if groups:
        text = "class names that differ in case, spaces or signs alone: one class twice?"
        advice = "merge the folders, or rename one: some file systems take them for one"
        yield Finding("warning", "alike", text, len(groups), advice, first_of(groups))
    unusable = [name for name in names if _UNUSABLE.search(name) or printable(name) != name]
    if unusable:
        text = f"{some(len(unusable), len(names), 'class names')} cannot be names of folders everywhere"
        advice = "rename them before you share what is distilled"
        yield Finding("note", "names", text, len(unusable), advice, first_of(unusable))


def layout_findings(split: str, dataset: Dataset) -> Iterator[Finding]:
    """Say what opening a split told, and what in its folders is not what it seems."""
    for note in dataset.notes:
        yield Finding("note", "opening", f"{split}: {note}", 1)
    folders = [cls.images for cls in dataset.classes if isinstance(cls.images, FileImages)]
    nested: Counter[str] = Counter()
    for images in folders:
        paths = (images.name(place).partition("/") for place in range(len(images)))
        nested.update(f"{images.folder.name}/{inside}" for inside, slash, _ in paths if slash)
    if count := nested.total():
        is_most = 2 * count > len(dataset)
        text = f"{split}: {some(count, len(dataset))} lie in folders inside class folders"
        advice = "are these the classes? then name the folder above them as the dataset" if is_most else ""
        names = first_of(f"{name} ({times})" for name, times in nested.most_common())
        yield Finding("warning" if is_most else "note", "nested", text, len(nested), advice, names)
    on_disk = [images.folder for images in folders if isinstance(images.folder, Path)]
    if on_disk and dataset.root is not None:
        yield from _passed_over(Path(dataset.root), on_disk, split)


def _passed_over(root: Path, folders: Sequence[Path], split: str) -> Iterator[Finding]:
    """Pictures that are beside the class folders or hidden, and links."""
    beside = [entry.name for entry in os.scandir(root) if is_image(entry.name) and not entry.is_dir()]
    if beside:
        text = f"{split}: pictures beside the class folders, which are not read: {len(beside):,}"
        yield Finding(
            "warning",
            "beside",
            text,
            len(beside),
            "move them into folders of classes",
            first_of(sorted(beside)),
        )
    hidden: list[str] = []
    links: list[str] = []
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = f"{folder.name}/{entry.name}"
                if entry.name.startswith("."):
                    hidden.append(name)
                elif entry.is_symlink():
                    links.append(name)
    if hidden:
        text = f"{split}: hidden files and folders, which are not read: {len(hidden):,}"
        yield Finding("note", "hidden", text, len(hidden), "", first_of(sorted(hidden)))
    if links:
        text = f"{split}: links, which a copy of the folder needs with what they lead to: {len(links):,}"
        yield Finding("note", "links", text, len(links), "", first_of(sorted(links)))
