"""Transparent and oblong pictures: every kind of file against compositing and padding in floats."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mgd3_fast.config import DistillConfig
from mgd3_fast.datasets import BadImageError, Framing, center_crop, chosen_framing, decode_image
from mgd3_fast.errors import UserError
from mgd3_fast.progress import Progress
from tests.fakes.pictures import photo

TEAL = (10, 120, 130)
LINES = np.arange(256, dtype=np.uint8)[:, None].repeat(40, 1)  # every alpha there is


def drawn(kind: str) -> tuple[Image.Image, dict[str, object]]:
    """A picture of one kind of transparency, and how it is saved."""
    colours = photo(3, 40, 256)
    grey = colours.convert("L")
    match kind:
        case "RGBA":
            colours.putalpha(Image.fromarray(LINES))
            return colours, {"format": "PNG"}
        case "LA":
            grey.putalpha(Image.fromarray(LINES))
            return grey, {"format": "PNG"}
        case "WebP":
            colours.putalpha(Image.fromarray(LINES))
            return colours, {"format": "WEBP", "lossless": True, "exact": True}
        case "TIFF":
            colours.putalpha(Image.fromarray(LINES))
            return colours, {"format": "TIFF"}
        case "palette with an alpha for each colour":
            return colours.quantize(64), {"format": "PNG", "transparency": bytes(range(0, 256, 4))}
        case "palette with one clear colour":
            return colours.quantize(8), {"format": "PNG", "transparency": 3}
        case "GIF":
            return colours.quantize(8), {"format": "GIF", "transparency": 3}
        case "RGB with a clear colour":
            blocks = colours.quantize(8).convert("RGB")
            return blocks, {"format": "PNG", "transparency": blocks.getpixel((0, 0))}
        case "L with a clear grey":
            return grey, {"format": "PNG", "transparency": grey.getpixel((0, 0))}
        case _:
            deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257 + 1)
            return deep, {"format": "PNG", "transparency": deep.getpixel((0, 0))}


KINDS = (
    *("RGBA", "LA", "WebP", "TIFF", "palette with an alpha for each colour", "palette with one clear colour"),
    *("GIF", "RGB with a clear colour", "L with a clear grey", "16-bit grey with a clear grey"),
)


def reference(kind: str, background: tuple[int, int, int]) -> NDArray[np.float64]:
    """Colour and alpha worked out from what was drawn, without Pillow's own reading of transparency."""
    image, saved = drawn(kind)
    clear = saved.get("transparency")
    pixels = np.asarray(image).astype(np.float64)
    if image.mode == "P":
        palette = np.asarray(image.getpalette(), dtype=np.float64).reshape(-1, 3)
        index = pixels.astype(int)
        alphas = np.full(256, 255.0)
        if isinstance(clear, bytes):
            alphas[: len(clear)] = list(clear)
        else:
            alphas[clear] = 0
        colour, alpha = palette[index], alphas[index]
    elif image.mode in ("RGBA", "LA"):
        colour, alpha = pixels[..., :-1], pixels[..., -1]
    else:
        colour = pixels[..., None] if pixels.ndim == 2 else pixels
        alpha = np.where((colour == clear).all(-1), 0.0, 255.0)
        colour = np.round(colour / 257) if image.mode == "I;16" else colour
    share = alpha[..., None] / 255
    return share * colour + (1 - share) * np.array(background, dtype=np.float64)


@pytest.mark.parametrize("background", [(255, 255, 255), TEAL])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_transparency_is_laid_over_the_background(
    kind: str, background: tuple[int, int, int]
) -> None:
    image, saved = drawn(kind)
    buffer = io.BytesIO()
    image.save(buffer, **saved)
    decoded = decode_image(buffer.getvalue())
    assert decoded.mode == "RGBA"
    got, wanted = np.asarray(Framing(background).rgb(decoded)), reference(kind, background)
    assert np.abs(wanted - background).max() > 50, "nothing is drawn"
    assert (wanted == background).all(-1).any(), "nothing is transparent"
    assert np.abs(got - wanted).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_opaque_pictures_are_what_pillow_makes_of_them(mode: str) -> None:
    image = (
        photo(1) if mode != "I;16" else Image.fromarray(np.asarray(photo(1).convert("L")).astype("<u2") * 257)
    )
    image = image if mode == "I;16" else image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    decoded = decode_image(buffer.getvalue())
    framed = Framing((1, 2, 3)).rgb(decoded)
    assert decoded.mode == framed.mode == "RGB"
    plain = photo(1).convert("L").convert("RGB") if mode == "I;16" else image.convert("RGB")
    np.testing.assert_array_equal(framed, plain)


def test_a_named_colour_that_no_pixel_has_leaves_a_picture_opaque() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(buffer, "PNG", transparency=(0, 0, 1))
    assert decode_image(buffer.getvalue()).mode == "RGB"


def test_hidden_colours_do_not_bleed_into_edges() -> None:
    """Left half red, right half clear with green below: laid over white first, no filter sees the green."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (255, 0, 0, 255), (0, 255, 0, 0)
    for fit in ("crop", "pad"):
        square = np.asarray(Framing(fit=fit).square(Image.fromarray(pixels), 24)).astype(int)
        np.testing.assert_array_equal(square[..., 1], square[..., 2])
        assert square[0, 0].tolist() == [255, 0, 0]
        assert square[0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("size_in", "box"),
    [
        pytest.param((32, 32), (0, 0, 32, 32), id="square"),
        pytest.param((32, 20), (0, 6, 32, 26), id="wide"),
        pytest.param((19, 32), (6, 0, 25, 32), id="odd-pixel-at-the-right"),
        pytest.param((32, 1), (0, 15, 32, 16), id="a-line"),
    ],
)
def test_padding_keeps_all_pixels_in_the_middle(
    size_in: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    image = photo(2, *size_in)
    square = Framing(TEAL, "pad").square(image, 32)
    np.testing.assert_array_equal(square.crop(box), image)
    beside = np.asarray(square).copy()
    beside[box[1] : box[3], box[0] : box[2]] = TEAL
    assert (beside == TEAL).all()


def test_padding_resizes_as_cropping_does() -> None:
    """From 200x120 to 50x30 by halves, then bicubic to 40x24: the longer side is what is halved."""
    image = photo(4, 200, 120)
    square = np.asarray(Framing(TEAL, "pad").square(image, 40))
    halved = image.resize((100, 60), Image.Resampling.BOX).resize((50, 30), Image.Resampling.BOX)
    wanted = halved.resize((40, 24), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(square[8:32], wanted)
    np.testing.assert_array_equal(Framing(fit="crop").square(image, 40), center_crop(image, 40))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40))
def test_any_size_gives_a_padded_square(width: int, height: int, size: int) -> None:
    assert Framing(fit="pad").square(Image.new("RGBA", (width, height)), size).size == (size, size)


def test_what_is_too_elongated_to_crop_can_be_padded() -> None:
    line = Image.new("RGB", (100_000, 2))
    with pytest.raises(BadImageError, match="too elongated"):
        Framing().square(line, 256)
    assert Framing(fit="pad").square(line, 256).size == (256, 256)


class TestRecords:
    @pytest.mark.parametrize(
        "framing", [Framing(), Framing(TEAL), Framing(fit="pad"), Framing((0, 0, 0), "pad")]
    )
    def test_what_is_recorded_is_read_back(self, framing: Framing) -> None:
        assert Framing.recorded({"other": 1, **framing.record()}) == framing

    def test_the_default_leaves_no_trace(self) -> None:
        assert Framing().record() == {}
        assert Framing(TEAL, "pad").record() == {"background": "10,120,130", "fit": "pad"}

    def test_a_changed_record_is_refused(self) -> None:
        with pytest.raises(UserError, match="fit must be one of crop, pad, got 'stretch'"):
            Framing.recorded({"fit": "stretch"})


class TestChoice:
    def config(self, **options: str) -> DistillConfig:
        return DistillConfig(dataset="mnist5k", ipc=1, out="x", **options)  # type: ignore[arg-type]

    def test_white_and_crop_where_nothing_says_otherwise(self) -> None:
        assert chosen_framing(self.config()) == Framing((255, 255, 255), "crop")

    def test_an_option_goes_over_what_is_recorded_one_by_one(self) -> None:
        chosen = chosen_framing(self.config(background="black"), {"run": Framing(TEAL, "pad")})
        assert chosen == Framing((0, 0, 0), "pad")

    def test_the_first_of_two_records_wins_and_a_note_says_so(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recorded = {"a": Framing(TEAL), "b": Framing()}
        assert chosen_framing(self.config(), recorded, Progress()) == Framing(TEAL)
        told = capsys.readouterr().err
        assert "b was made with --background 255,255,255 --fit crop, a with --background 10,120,130" in told
        assert chosen_framing(self.config(background="0,0,0"), recorded, Progress()) == Framing((0, 0, 0))
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("wrong", ["grey", "1,2", "1,2,256", "-1,0,0", "1,2,3,4", "a,b,c"])
    def test_other_colours_are_refused(self, wrong: str) -> None:
        with pytest.raises(UserError, match="background must be white, black or R,G,B from 0 to 255 each"):
            self.config(background=wrong)
