"""Latents on disk, in parts of shards, found again by whatever run needs the same ones.

Shape letters: n images, C channels, h w latent size.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from mgd3_fast.config.encode import FLIPS
from mgd3_fast.datasets import DEFAULT_FRAMING, Framing, ImageClass, Shard, rows_of
from mgd3_fast.datasets.images import sha256_of_lines
from mgd3_fast.datasets.shards import ClassShard
from mgd3_fast.errors import UserError
from mgd3_fast.latents.class_latents import ClassLatents, gather
from mgd3_fast.latents.parts import (
    FORMAT,
    FRAMING,
    REMEDY,
    NewPart,
    Reading,
    part_path,
    read_parts,
    write_part,
)
from mgd3_fast.progress import Progress
from mgd3_fast.storage.cache import cache_dir_or_default, cache_url
from mgd3_fast.storage.claims import Claim, claim, remove_unheld
from mgd3_fast.storage.shared_folder import cache_folder
from mgd3_fast.storage.tensor_files import DamagedFileError, remove_leftovers

# Part of the keys of modes: not that of files, because latents are the same numbers as ever.
_CONTENT_FORMAT = "mgd3-fast latents 1"
_FOLDER, _OLD_FOLDER = "latents-2", "latents"
_STORAGE_DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.uint8: "uint8"}


class LatentStore:
    """Latents of one autoencoder at one resolution.

    A file's key covers its shard's (of a class folder: class name, image names, sizes and times of change)
    and the settings here; dataset name, label and IPC are not in it, so all runs over the same files share
    their latents.

    Args:
        root: Cache folder, or the URL of one that machines share; `default_cache_dir()` by default.
        autoencoder_digest: Identifies the autoencoder's weights.
        resolution: Pixels a side of the encoded images.
        dtype: Number format the autoencoder computes in.
        storage_dtype: float32, or float16 for half the disk at a relative error of up to 2^-11; uint8 is for
            pixels.
        flip: "none", "random" or "both": how images are mirrored before encoding; see `flipping`.
        framing: How images become RGB and square; the key covers it where it is not the default.

    Raises:
        ValueError: A setting is not among the allowed ones.
    """

    def __init__(
        self,
        root: Path | str | None,
        autoencoder_digest: str,
        resolution: int,
        dtype: torch.dtype = torch.float32,
        *,
        storage_dtype: torch.dtype = torch.float32,
        flip: str = "none",
        framing: Framing = DEFAULT_FRAMING,
    ) -> None:
        if storage_dtype not in _STORAGE_DTYPES:
            raise ValueError(
                f"storage_dtype must be torch.float32, torch.float16 or torch.uint8, got {storage_dtype}"
            )
        if flip not in FLIPS:
            raise ValueError(f"flip must be one of {', '.join(FLIPS)}, got {flip!r}")
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {resolution}")
        self.autoencoder_digest = autoencoder_digest
        self.resolution = resolution
        self.dtype = dtype
        self.storage_dtype = storage_dtype
        self.flip = flip
        self.framing = framing
        self._settings = (
            *(autoencoder_digest, str(resolution), str(dtype), str(storage_dtype), flip),
            *(f"{name} {value}" for name, value in framing.record().items()),
        )
        formats = f"{str(dtype).removeprefix('torch.')}-{_STORAGE_DTYPES[storage_dtype]}"
        mirrored = "" if flip == "none" else f"-flip-{flip}"
        folder = f"{_plain(autoencoder_digest[:16])}-{resolution}px-{formats}{mirrored}"
        self.root = cache_dir_or_default(root)
        self.folder = self.root / _FOLDER / folder
        url = cache_url(root)
        self.files = cache_folder(self.folder, url and f"{url}/{_FOLDER}/{folder}")
        self._kept: dict[str, list[Reading]] = {}

    def key(self, shard: Shard) -> str:
        """Hex sha256 of everything the latents of a shard depend on."""
        return sha256_of_lines(FORMAT, *self._settings, shard.key)

    def content_key(self, cls: ImageClass) -> str:
        """Hex sha256 of what decides the latents, without times of change: equal for copies of the files."""
        return sha256_of_lines(_CONTENT_FORMAT, *self._settings, cls.fingerprint)

    def stem(self, shard: Shard) -> str:
        """What the names of a shard's files start with."""
        return f"{_plain(shard.name)[:80]}-{self.key(shard)[:20]}"

    def path(self, cls: ImageClass) -> Path:
        """Where the first part of a class that is a shard of its own lies, whether it exists or not."""
        return part_path(self.folder, self.stem(ClassShard(cls)), 0)

    def prepare(self) -> None:
        """Make the folder, delete what killed runs left, and look again at what others have stored.

        A folder that is there and cannot be written is taken as it is: what is complete can be used.

        Raises:
            UserError: The folder cannot be made.
        """
        self.forget()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                return
            for folder in (self.folder, *self.folder.glob("subset-*")):
                remove_leftovers(folder)
            remove_unheld(self.folder)
        except OSError as error:
            raise self._unwritable(str(error.strerror)) from None

    def check_writable(self) -> None:
        """Refuse a folder that cannot be written, before work whose results it is to keep.

        Raises:
            UserError: Naming the folder.
        """
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise self._unwritable("not writable, and latents are missing in it")

    def _unwritable(self, reason: str) -> UserError:
        return UserError(f"cache_dir must be a writable folder, got {self.folder}: {reason}")

    def claim(self, shard: Shard) -> Claim | None:
        """Take a shard to encode, unless another process has it; see `claims`."""
        return claim(self.folder / f".{self.stem(shard)}.lock")

    def reading(self, shard: Shard, labels: frozenset[int] | None, *, check: bool = False) -> Reading:
        """What is stored of a shard, read for some classes or, with None, for all; it may be incomplete.

        Args:
            shard: The shard.
            labels: The classes.
            check: Also compare contents with their checksums, which reads them.
        """
        return self._read(shard, self._folder_for(labels), check)

    def readings(self, shard: Shard, *, check: bool = False) -> Iterator[Reading]:
        """What is stored of a whole shard: for all its classes at once, or else for some and for others."""
        whole = self._read(shard, self.folder, check)
        if whole.is_complete:
            yield whole
            return
        for folder in sorted({*self.folder.glob("subset-*"), *self.files.folders()}):
            found = self._read(shard, folder, check)
            if found.is_complete:
                yield found

    def forget(self) -> None:
        """Look again at what is there, and at what other machines have shared."""
        self._kept.clear()
        self.files.forget()

    def open(self, cls: ImageClass, *, check: bool = False, again: bool = True) -> ClassLatents | None:
        """Find the latents of a class; None while some are missing.

        Args:
            cls: The class.
            check: Also compare contents with their checksums, which reads them.
            again: Look again where some are missing: others may have stored them a moment ago.

        Raises:
            DamagedFileError: A file is truncated, corrupt or not what its name says.
        """
        found = self._open(cls, check)
        if found is None and again:
            self.forget()
            found = self._open(cls, check)
        return found

    def _open(self, cls: ImageClass, check: bool) -> ClassLatents | None:
        readings = []
        for shard, first, rows in rows_of(cls):
            found = self._reading_of_class(shard, cls.label, check)
            if found is None:
                return None
            readings.append((first, rows, found))
        return gather(cls.name, readings) if readings else None

    def get(self, cls: ImageClass) -> Tensor | None:
        """Latents [n, C, h, w] of a class, or None when there are none; see `open`."""
        found = self.open(cls)
        return None if found is None else found.latents

    def put(self, shard: Shard, labels: frozenset[int] | None, part: NewPart) -> int:
        """Keep the next part of a shard; see `write_part`."""
        about = {
            "shard": shard.name,
            "autoencoder": self.autoencoder_digest,
            "resolution": str(self.resolution),
            "dtype": str(self.dtype),
            "flip": self.flip,
            FRAMING: str(self.framing),
        }
        path = part_path(self._folder_for(labels), self.stem(shard), part.first_row)
        path.parent.mkdir(exist_ok=True)
        size = write_part(path, part, key=self.key(shard), labels=labels, about=about)
        self.files.publish(path)
        return size

    def _read(self, shard: Shard, folder: Path, check: bool) -> Reading:
        return read_parts(folder, self.stem(shard), self.key(shard), check=check, fetch=self.files.fetch)

    def _folder_for(self, labels: frozenset[int] | None) -> Path:
        if labels is None:
            return self.folder
        return self.folder / f"subset-{sha256_of_lines(str(sorted(labels)))[:16]}"

    def _reading_of_class(self, shard: Shard, label: int, check: bool) -> Reading | None:
        """The reading of a shard that has a class; of shards of mixed classes it is looked up once."""
        if isinstance(shard, ClassShard):
            found = self._read(shard, self.folder, check)
            if found.damage is not None:
                raise DamagedFileError(f"{found.damage}; {REMEDY}")
            return found if found.is_complete else None
        if check or shard.key not in self._kept:
            self._kept[shard.key] = list(self.readings(shard, check=check))
        kept = self._kept[shard.key]
        return next((one for one in kept if one.labels is None or label in one.labels), None)


def note_old_latents(store: LatentStore, progress: Progress) -> None:
    """Say that latents of an earlier version, a file a class, lie in the cache and are of no use any more."""
    old = store.root / _OLD_FOLDER
    if old.is_dir():
        progress.note(
            f"{old} holds latents as an earlier version stored them, which are not used any more:"
            " delete the folder to free its room"
        )


def _plain(name: str) -> str:
    """A class name as part of a file name; the key keeps alike names apart."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)
