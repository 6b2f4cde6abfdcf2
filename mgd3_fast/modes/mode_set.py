"""The modes of a class, those of all classes of a run, and the file they are kept in.

Shape letters: N classes, D = C*h*w, K modes of a class (= ipc), C channels, h w latent size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from mgd3_fast.errors import UserError
from mgd3_fast.storage.tensor_files import DamagedFileError, check_contents, open_tensors, save_tensors

_FORMAT = "mgd3-fast modes 2"


@dataclass(frozen=True)
class Modes:
    """Modes of one class.

    Args:
        centers: float32 [K, D], in the units of the diffusion latents.
        weights: float32 [K], share of the class's images that each mode stands for; they add up to 1.
        source_index: int64 [K], row of the sample nearest to each mode.
    """

    centers: Tensor
    weights: Tensor
    source_index: Tensor


@dataclass(frozen=True)
class ModeSet:
    """Modes of some classes.

    Args:
        class_names: Names of the N classes.
        modes: float32 `[N, K, C, h, w]`, in the units of the diffusion latents.
        weights: float32 `[N, K]`, share of a class's images that each mode stands for.
        source_index: int64 `[N, K]`, position in its class of the image nearest to each mode.
        key: Hex sha256 of all that the modes depend on: latents, method, runner, ipc and seed.
        method: Name of the discovery method.
        seed: Its seed.
        kmeans: Name of the runner that ran its K-means, or "none".
        source_images: N tuples of K names, the images that `source_index` counts to; empty if unknown.
        latents: What the latents were made of and by; empty if unknown.

    Raises:
        ValueError: Shapes do not agree.
    """

    class_names: tuple[str, ...]
    modes: Tensor
    weights: Tensor
    source_index: Tensor
    key: str
    method: str
    seed: int
    kmeans: str = "sklearn"
    source_images: tuple[tuple[str, ...], ...] = ()
    latents: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        leading = self.modes.shape[:2]
        if self.modes.ndim != 5 or len(self.class_names) != len(self.modes):
            raise ValueError(
                f"modes must be [{len(self.class_names)} classes, K, C, h, w], got {list(self.modes.shape)}"
            )
        if self.weights.shape != leading or self.source_index.shape != leading:
            raise ValueError(
                f"weights and source_index must be {list(leading)}, "
                f"got {list(self.weights.shape)} and {list(self.source_index.shape)}"
            )

    @property
    def ipc(self) -> int:
        """K."""
        return self.modes.shape[1]

    def repeating(self) -> dict[str, int]:
        """Different modes of each class that has fewer of them than K."""
        found = {}
        for name, modes, sources in zip(
            self.class_names, self.modes, self.source_index.tolist(), strict=True
        ):
            if len(set(sources)) < self.ipc:  # equal modes have one nearest image, and are rare
                different = len({mode.numpy().tobytes() for mode in modes})
                if different < self.ipc:
                    found[name] = different
        return found

    def of_class(self, name: str) -> Tensor:
        """Take the modes of one class.

        Args:
            name: Of the class.

        Returns:
            float32 `[K, C, h, w]`.

        Raises:
            UserError: The class has no modes here.
        """
        if name not in self.class_names:
            raise UserError(f"modes must cover class {name}, got only {len(self.class_names)} others")
        return self.modes[self.class_names.index(name)]

    def save(self, path: Path | str) -> None:
        """Write a safetensors file with a checksum. It is there when it is complete, or not at all.

        Args:
            path: The file; an older one is replaced.

        Raises:
            OSError: It cannot be written.
        """
        metadata = {
            "format": _FORMAT,
            "class_names": json.dumps(self.class_names),
            "method": self.method,
            "ipc": str(self.ipc),
            "seed": str(self.seed),
            "kmeans": self.kmeans,
            "key": self.key,
            "source_images": json.dumps(self.source_images),
            "latents": json.dumps(self.latents),
        }
        tensors = {"modes": self.modes, "weights": self.weights, "source_index": self.source_index}
        save_tensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: Path | str) -> ModeSet:
        """Read a file that `save` wrote, and compare it with its checksum.

        Args:
            path: The file. Its tensors are mapped into memory and read on use.

        Returns:
            The modes.

        Raises:
            UserError: No such file, damaged, or not a file of modes.
        """
        path = Path(path)
        try:
            if path.is_dir():
                raise UserError(
                    f"modes must be a file such as {path / 'modes.safetensors'}, got the folder {path}"
                )
            file = open_tensors(path)
            if file.metadata.get("format") != _FORMAT:
                got = file.metadata.get("format", "another kind of file")
                raise UserError(f"modes must be a file of modes, {_FORMAT!r}, got {got} in {path}")
            check_contents(path, file)
        except FileNotFoundError:
            raise UserError(f"modes must be an existing file, got {path}") from None
        except OSError as error:
            raise UserError(f"modes must be a readable file, got {path}: {error}") from None
        except DamagedFileError as error:
            raise UserError(f"modes cannot be read: {error}") from None
        return cls(
            class_names=tuple(json.loads(file.metadata["class_names"])),
            modes=file.tensors["modes"],
            weights=file.tensors["weights"],
            source_index=file.tensors["source_index"],
            key=file.metadata["key"],
            method=file.metadata["method"],
            seed=int(file.metadata["seed"]),
            kmeans=file.metadata["kmeans"],
            source_images=tuple(tuple(names) for names in json.loads(file.metadata["source_images"])),
            latents=json.loads(file.metadata.get("latents", "{}")),
        )


def header_of(path: Path) -> dict[str, str]:
    """What the header of a file of modes states; nothing for any other file, or none."""
    try:
        header = open_tensors(path).metadata
    except (OSError, DamagedFileError):
        return {}
    return header if header.get("format") == _FORMAT else {}
