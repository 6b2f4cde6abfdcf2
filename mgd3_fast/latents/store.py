"""Latents on disk, one file per class, found again by whatever run needs the same ones.

Shape letters: n images, C channels, h w latent size.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mgd3_engine.cache import cache_dir_or_default
from mgd3_fast.config import FLIPS
from mgd3_fast.datasets import BadImage, ImageClass
from mgd3_fast.errors import UserError
from mgd3_fast.latents.claims import Claim, claim, remove_unheld
from mgd3_fast.tensor_files import (
    DamagedFileError,
    check_contents,
    open_tensors,
    remove_leftovers,
    save_tensors,
)

_FORMAT = "mgd3-fast latents 1"
_STORAGE_DTYPES = {torch.float32: "fp32", torch.float16: "fp16"}


@dataclass(frozen=True)
class ClassLatents:
    """What the store holds of a class.

    Args:
        latents: float32 or float16 [n, C, h, w], posterior means x scaling factor; memory-mapped.
        index: int64 [n], positions of these images in the class (bad images have none, and images that
            were encoded with their mirror image have two).
        bad_images: Images that were skipped.
    """

    latents: Tensor
    index: Tensor
    bad_images: tuple[BadImage, ...]


class LatentStore:
    """Latents of one autoencoder at one resolution.

    A file's key covers the class's name, its image names, sizes and times of change, and the settings
    here; dataset name, label and IPC are not in it, so all runs over the same files share their latents.

    Args:
        root: Cache folder; `default_cache_dir()` by default.
        autoencoder_digest: Identifies the autoencoder's weights.
        resolution: Pixels a side of the encoded images.
        dtype: Number format the autoencoder computes in.
        storage_dtype: float32, or float16 for half the disk at a relative error of up to 2^-11.
        flip: "none", "random" or "both": how images are mirrored before encoding; see `flipping`.

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
    ) -> None:
        if storage_dtype not in _STORAGE_DTYPES:
            raise ValueError(f"storage_dtype must be torch.float32 or torch.float16, got {storage_dtype}")
        if flip not in FLIPS:
            raise ValueError(f"flip must be one of {', '.join(FLIPS)}, got {flip!r}")
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {resolution}")
        self.autoencoder_digest = autoencoder_digest
        self.resolution = resolution
        self.dtype = dtype
        self.storage_dtype = storage_dtype
        self.flip = flip
        settings = [autoencoder_digest, str(resolution), str(dtype), str(storage_dtype), flip]
        self._settings = "\n".join([_FORMAT, *settings])
        formats = f"{str(dtype).removeprefix('torch.')}-{_STORAGE_DTYPES[storage_dtype]}"
        mirrored = "" if flip == "none" else f"-flip-{flip}"
        folder = f"{_plain(autoencoder_digest[:16])}-{resolution}px-{formats}{mirrored}"
        self.root = cache_dir_or_default(root)
        self.folder = self.root / "latents" / folder

    @property
    def settings_key(self) -> str:
        """Hex sha256 of the settings, without any class."""
        return hashlib.sha256(self._settings.encode()).hexdigest()

    def key(self, cls: ImageClass) -> str:
        """Hex sha256 of everything the latents of a class depend on."""
        return hashlib.sha256(f"{self._settings}\n{cls.cache_key}".encode()).hexdigest()

    def content_key(self, cls: ImageClass) -> str:
        """Hex sha256 of what decides the latents, without times of change: equal for copies of the files."""
        return hashlib.sha256(f"{self._settings}\n{cls.fingerprint}".encode()).hexdigest()

    def path(self, cls: ImageClass) -> Path:
        """Where the latents of a class lie, whether they exist or not."""
        return self.folder / f"{_plain(cls.name)[:80]}-{self.key(cls)[:20]}.safetensors"

    def prepare(self) -> None:
        """Make the folder and delete what killed runs left.

        Raises:
            UserError: The folder cannot be made or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            remove_unheld(self.folder)
        except OSError as error:
            raise UserError(
                f"cache_dir must be a writable folder, got {self.folder}: {error.strerror}"
            ) from None
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UserError(f"cache_dir must be a writable folder, got {self.folder}: not writable")

    def claim(self, cls: ImageClass) -> Claim | None:
        """Take a class to encode, unless another process has it; see `claims`."""
        return self.claim_work(self.path(cls).stem)

    def claim_work(self, name: str) -> Claim | None:
        """Take a piece of work of this name on this store, unless another process has it."""
        return claim(self.folder / f".{name}.lock")

    def open(self, cls: ImageClass, *, check: bool = False) -> ClassLatents | None:
        """Map the latents of a class.

        Args:
            cls: The class.
            check: Also compare contents with their checksum, which reads them.

        Returns:
            The latents with their image positions, or None when there are none.

        Raises:
            DamagedFileError: The file is truncated, corrupt or not what its name says.
        """
        path = self.path(cls)
        try:
            file = open_tensors(path)
        except FileNotFoundError:
            return None
        if file.metadata.get("key") != self.key(cls) or set(file.tensors) != {"latents", "index"}:
            raise DamagedFileError(f"{path} is damaged: it is not the latents of class {cls.name}")
        if check:
            check_contents(path, file)
        bad = tuple(BadImage(**image) for image in json.loads(file.metadata["bad_images"]))
        return ClassLatents(file.tensors["latents"], file.tensors["index"], bad)

    def has(self, cls: ImageClass) -> bool:
        """Whether the latents of a class are there, as far as the file's header tells."""
        try:
            return self.open(cls) is not None
        except DamagedFileError:
            return False

    def get(self, cls: ImageClass) -> Tensor | None:
        """Latents [n, C, h, w] of a class, memory-mapped, or None when there are none; see `open`."""
        found = self.open(cls)
        return None if found is None else found.latents

    def put(
        self, cls: ImageClass, latents: Tensor, index: Tensor, bad_images: tuple[BadImage, ...] = ()
    ) -> None:
        """Keep the latents of a class.

        Args:
            cls: The class.
            latents: [n, C, h, w], on any device.
            index: int64 [n], positions of the images in the class.
            bad_images: Images that were skipped.

        Raises:
            ValueError: Shapes do not agree.
            OSError: The disk is full or cannot be written.
        """
        if latents.ndim != 4 or index.shape != latents.shape[:1]:
            raise ValueError(
                "latents must be [n, C, h, w] with n positions, "
                f"got {list(latents.shape)} and {list(index.shape)}"
            )
        stored = latents.detach().to("cpu", self.storage_dtype)
        metadata = {
            "format": _FORMAT,
            "class": cls.name,
            "key": self.key(cls),
            "autoencoder": self.autoencoder_digest,
            "resolution": str(self.resolution),
            "dtype": str(self.dtype),
            "flip": self.flip,
            "bad_images": json.dumps([asdict(image) for image in bad_images]),
        }
        save_tensors(self.path(cls), {"latents": stored, "index": index.to("cpu", torch.int64)}, metadata)


def _plain(name: str) -> str:
    """A class name as part of a file name; the key keeps alike names apart."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)
