"""The images of a run on a store: objects of WebDataset tar files, each of which is whole or absent.

What is finished is what is there: `images/000000.tar` and so on. While the run is under way, an index beside
its working state says where each image lies in a tar file; one that is missing is made from the tar file.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgd3_fast.storage.remote import Bucket
from mgd3_fast.writers.layout import Layout
from mgd3_fast.writers.tars import TarredImage, add_sample, images_of, new_tar

FOLDER = "images"


@dataclass(frozen=True)
class Block:
    """A finished object.

    Args:
        tar: Its name.
        size: Its bytes.
        sha256: Of these.
        images: Where each image lies in it, by number.
    """

    tar: str
    size: int
    sha256: str
    images: dict[int, TarredImage]


class Blocks:
    """The objects of a run.

    Args:
        bucket: Where they lie.
        layout: Says which images lie together.
        indexes: Where their indexes lie while the run is under way.
    """

    def __init__(self, bucket: Bucket, layout: Layout, indexes: str) -> None:
        self._bucket, self._layout, self._indexes = bucket, layout, indexes
        self._known: dict[int, Block] = {}

    def finished(self) -> Mapping[int, Block]:
        """Look at what is there, by number; objects that are no such tar files are removed."""
        sizes, ending = self._bucket.sizes(FOLDER), len(self._indexes) + 1
        self._known = {one: block for one, block in self._known.items() if sizes.get(block.tar) == block.size}
        indexed = [
            name for name in self._bucket.sizes(self._indexes) if int(name[ending:-5]) not in self._known
        ]
        for name, index in self._bucket.read_all(indexed).items():
            self._take_up(int(name[ending:-5]), index, sizes)
        for number in range(self._layout.objects):
            if number not in self._known and _tar(number) in sizes:
                self._read(number)
        return self._known

    def finish(self, number: int, contents: Sequence[bytes]) -> None:
        """Write the images of an object, given the bytes of their files; one that is there already stays."""
        content = self._tarred(number, contents)
        # What is there is of a faster process, or our own and its answer was lost; damaged, it is removed.
        while not self._bucket.create(_tar(number), content):
            if self._read(number):
                return
        self._index(number, content)

    def take_up(self, images: Iterable[Mapping[str, Any]], tars: Iterable[Mapping[str, Any]]) -> None:
        """Know the objects of a finished run from its manifest."""
        by_tar: dict[str, dict[int, TarredImage]] = {}
        for image, one in enumerate(images):
            by_tar.setdefault(one["tar"], {})[image] = TarredImage(one["offset"], one["size"], one["sha256"])
        for number, one in enumerate(tars):
            self._known[number] = Block(one["file"], one["size"], one["sha256"], by_tar[one["file"]])

    def place(self, image: int) -> tuple[str, TarredImage]:
        """The object that holds a finished image, and where."""
        block = self._known[image // self._layout.together]
        return block.tar, block.images[image]

    def digests(self) -> dict[int, str]:
        """The sha256 of every finished image, by number, as `finished` last saw them."""
        return {image: one.sha256 for block in self._known.values() for image, one in block.images.items()}

    def _take_up(self, number: int, index: bytes, sizes: Mapping[str, int]) -> None:
        stored = json.loads(index)
        if sizes.get(_tar(number)) == stored["size"]:
            images = {image: TarredImage(*place) for image, *place in stored["images"]}
            self._known[number] = Block(_tar(number), stored["size"], stored["sha256"], images)

    def _read(self, number: int) -> bool:
        """Index an object that is there; one that is damaged is removed."""
        try:
            self._index(number, self._bucket.read(_tar(number)))
        except FileNotFoundError:
            return False
        except ValueError:
            self._bucket.remove([_tar(number)])
            return False
        return True

    def _index(self, number: int, content: bytes) -> None:
        places, images = images_of(content), self._layout.of_object(number)
        if len(places) != len(images):
            raise ValueError(f"{len(images)} images must be in it, got {len(places)}")
        sha256 = hashlib.sha256(content).hexdigest()
        block = Block(_tar(number), len(content), sha256, dict(zip(images, places, strict=True)))
        stored = [[image, *place] for image, place in block.images.items()]
        index = {"size": block.size, "sha256": sha256, "images": stored}
        self._bucket.write(f"{self._indexes}/{number:06d}.json", json.dumps(index).encode())
        self._known[number] = block

    def _tarred(self, number: int, contents: Sequence[bytes]) -> bytes:
        file, layout = io.BytesIO(), self._layout
        with new_tar(file) as archive:
            for image, content in zip(layout.of_object(number), contents, strict=True):
                place, mode = layout.place(image)
                name, label = layout.class_names[place], layout.labels[place]
                sha256 = hashlib.sha256(content).hexdigest()
                about = {"label": label, "class": name, "index": mode, "sha256": sha256}
                add_sample(archive, label, mode, about, ".png", content)
        return file.getvalue()


def _tar(number: int) -> str:
    return f"{FOLDER}/{number:06d}.tar"
