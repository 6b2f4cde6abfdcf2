"""How any picture becomes the RGB square that networks see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from mgd3_fast.config.fields import FITS, colour_of
from mgd3_fast.datasets.cropping import center_crop, pad_to_square
from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT, Progress


@dataclass(frozen=True)
class Framing:
    """What lies behind a transparent picture, and what becomes of one that is not square.

    Args:
        background: Red, green and blue, 0 to 255.
        fit: "crop" cuts out the centre, "pad" keeps all of a picture and fills the rest with the background.

    Raises:
        UserError: Another `fit`.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    fit: str = FITS[0]

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise UserError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")

    def __str__(self) -> str:
        return " ".join(f"--{name} {value}" for name, value in self.options().items())

    @classmethod
    def recorded(cls, record: Mapping[str, object]) -> Framing:
        """Read what `record` gave, out of whatever it was put in.

        Raises:
            UserError: It was changed to something that cannot be.
        """
        return cls(colour_of(str(record.get("background", "white"))), str(record.get("fit", FITS[0])))

    def options(self) -> dict[str, Any]:
        """Both as options are given."""
        return {"background": ",".join(map(str, self.background)), "fit": self.fit}

    def record(self) -> dict[str, str]:
        """What differs from the default: what is stored says nothing of the default."""
        usual = DEFAULT_FRAMING.options()
        return {name: value for name, value in self.options().items() if value != usual[name]}

    def rgb(self, image: Image.Image) -> Image.Image:
        """Lay an RGBA image over the background; an RGB one is returned as it is.

        Each value becomes a * colour + (1 - a) * background, a = alpha / 255, rounded to the nearest.
        """
        if image.mode != "RGBA":
            return image
        over = Image.new("RGB", image.size, self.background)
        over.paste(image, mask=image)
        return over

    def square(self, image: Image.Image, size: int) -> Image.Image:
        """An RGB or RGBA image as an RGB square of `size` pixels a side; see `center_crop`, `pad_to_square`.

        Raises:
            BadImageError: It is too elongated to be cropped.
        """
        # Filters are linear: laid over the background first, half transparent edges come out right.
        image = self.rgb(image)
        return center_crop(image, size) if self.fit == "crop" else pad_to_square(image, size, self.background)


DEFAULT_FRAMING = Framing()


class FramingOptions(Protocol):
    """A configuration with the two options; None is what was not given."""

    @property
    def background(self) -> str | None:
        """White, black or R,G,B."""
        ...

    @property
    def fit(self) -> str | None:
        """One of `FITS`."""
        ...


def chosen_framing(
    options: FramingOptions, recorded: Mapping[str, Framing] | None = None, progress: Progress = SILENT
) -> Framing:
    """An option where it is given, else what the first of some things records, else the default.

    Args:
        options: What was asked for.
        recorded: What folders or generators were made with, by their names, the most important first.
        progress: Receives a note where they differ.

    Raises:
        UserError: An option is not what is allowed.
    """
    made = {name: _with_options(options, framing) for name, framing in (recorded or {}).items()}
    first, chosen = next(iter(made.items()), ("", _with_options(options, DEFAULT_FRAMING)))
    for name, other in made.items():
        if other != chosen:
            progress.note(
                f"{name} was made with {other}, {first} with {chosen}, which all pictures are read with"
            )
    return chosen


def _with_options(options: FramingOptions, framing: Framing) -> Framing:
    background = framing.background if options.background is None else colour_of(options.background)
    return Framing(background, options.fit or framing.fit)
