"""Where each image of a run lies: class-major numbers, and the block of them that a shard makes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


def layout_of(format: str) -> str:
    """Name the folders of a run in some format: exports are made beside folders named by class."""
    return "numeric" if format == "numeric" else "imagefolder"


def class_folder(name: str, label: int, format: str) -> str:
    """Name the folder of a class: `00007` in the numeric format, else the class's own name."""
    return f"{label:05d}" if format == "numeric" else name


@dataclass(frozen=True)
class Layout:
    """The image list of a run, class after class in label order, `ipc` images each.

    Args:
        class_names: Names of the classes of the run.
        labels: Label of each; not 0, 1, ... when the run takes only some classes of a list.
        ipc: Images per class.
        format: "imagefolder" names folders by class, "numeric" by label, `00000` onwards, so that the order
            of sorted folder names is the label order.
        together: Images that are written as one object of a store; shards end where these do.
    """

    class_names: tuple[str, ...]
    labels: tuple[int, ...]
    ipc: int
    format: str = "imagefolder"
    together: int = 1

    def __len__(self) -> int:
        return len(self.class_names) * self.ipc

    def folder(self, class_index: int) -> str:
        """Folder name of a class, by its place in the run."""
        return class_folder(self.class_names[class_index], self.labels[class_index], self.format)

    def place(self, image: int) -> tuple[int, int]:
        """(Place of the class in the run, mode index) of an image number."""
        return divmod(image, self.ipc)

    def file(self, image: int) -> str:
        """File of an image number, relative to the output folder."""
        class_index, mode = self.place(image)
        return f"{self.folder(class_index)}/{mode}.png"

    def block(self, part: int, parts: int) -> range:
        """Image numbers of the `part`-th (from 1) of `parts` shards.

        A contiguous range; all shards together cover every image once, in equal parts up to one object.
        """
        objects = self.objects
        start, stop = (objects * one // parts * self.together for one in (part - 1, part))
        return range(start, min(stop, len(self)))

    @property
    def objects(self) -> int:
        """Objects of a store that hold all images."""
        return -(-len(self) // self.together)

    def of_object(self, number: int) -> range:
        """Image numbers of an object of a store, which are counted from 0."""
        return range(number * self.together, min((number + 1) * self.together, len(self)))

    def classes_of(self, images: Iterable[int]) -> list[int]:
        """Places of the classes that the given images belong to, ascending, each once."""
        return sorted({self.place(image)[0] for image in images})
