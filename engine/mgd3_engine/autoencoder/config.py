"""The architecture of an autoencoder, as diffusers' `config.json` states it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

Self = TypeVar("Self", bound="AutoencoderConfig")

# The one value of each setting that these networks implement.
_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "norm_type": ("group",),
    "lookup_from_codebook": (False,),
    "latents_mean": (None,),
    "latents_std": (None,),
}
_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """What both kinds have in common; fields have diffusers' names, and its defaults.

    Args:
        in_channels: Channels of an image.
        out_channels: Channels of a decoded image.
        block_out_channels: Channels of the blocks, from the pixels inwards; all but the last halve the size.
        layers_per_block: Residual layers of an encoder block; a decoder block has one more.
        latent_channels: Channels of the encoder's output, without the variance.
        norm_num_groups: Groups of every normalisation.
        mid_block_add_attention: Whether the middle blocks have self-attention.
        scaling_factor: What encoded images are multiplied by: 1 / standard deviation of the latents.
        sample_size: Side of the training images in pixels; recorded only.
        force_upcast: Whether float16 overflows; recorded only.

    Raises:
        ValueError: A number is out of its range.
    """

    class_name: ClassVar[str]

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    scaling_factor: float = 0.18215
    sample_size: Any = 32
    force_upcast: bool = True

    def __post_init__(self) -> None:
        if self.norm_num_groups < 1:
            raise ValueError(f"norm_num_groups must be at least 1, got {self.norm_num_groups}")
        if not math.isfinite(self.scaling_factor) or self.scaling_factor == 0:
            raise ValueError(
                f"scaling_factor must be a finite number other than 0, got {self.scaling_factor}"
            )
        widths = self.block_out_channels
        if not widths or any(width < 1 or width % self.norm_num_groups for width in widths):
            raise ValueError(
                f"block_out_channels must be multiples of norm_num_groups {self.norm_num_groups},"
                f" got {list(widths)}"
            )
        for name in ("in_channels", "out_channels", "layers_per_block", "latent_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @classmethod
    def of(cls: type[Self], settings: Mapping[str, Any]) -> Self:
        """Read diffusers' settings.

        Args:
            settings: Content of a `config.json`.

        Raises:
            ValueError: A setting asks for what this network does not do.
        """
        known = {field.name: field for field in fields(cls)}
        given = {}
        for name, value in settings.items():
            if name in known:
                given[name] = _typed(name, value, known[name].type)
            elif name in _BLOCKS:
                _check_blocks(name, value)
            elif name in _IMPLEMENTED:
                if value not in _IMPLEMENTED[name]:
                    raise ValueError(f"{name} must be {_IMPLEMENTED[name][0]!r}, got {value!r}")
            elif not name.startswith("_") and value not in (None, False):
                raise ValueError(f"{name} is no setting of an {cls.class_name} here, got {value!r}")
        for name in _BLOCKS:
            blocks = len(given.get("block_out_channels", cls.block_out_channels))
            if len(settings.get(name, [""])) != blocks:
                raise ValueError(f"{name} must be {blocks} blocks, as block_out_channels are")
        return cls(**given)

    def settings(self) -> dict[str, Any]:
        """Give diffusers' settings, which `of` reads."""
        blocks = len(self.block_out_channels)
        return {
            "_class_name": self.class_name,
            "act_fn": "silu",
            **{name: [kind] * blocks for name, kind in _BLOCKS.items()},
            **asdict(self),
            "block_out_channels": list(self.block_out_channels),
        }

    @property
    def downsample(self) -> int:
        """Image pixels per latent pixel."""
        return int(2 ** (len(self.block_out_channels) - 1))


@dataclass(frozen=True, kw_only=True)
class KLConfig(AutoencoderConfig):
    """A KL-regularised autoencoder (Rombach et al. 2022).

    Args:
        shift_factor: What is subtracted from posterior means before scaling; None is 0.
        use_quant_conv: Whether a 1x1 convolution follows the encoder.
        use_post_quant_conv: Whether one precedes the decoder.
    """

    class_name: ClassVar[str] = "AutoencoderKL"

    shift_factor: float | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.shift_factor or 0.0):
            raise ValueError(f"shift_factor must be a finite number, got {self.shift_factor}")


@dataclass(frozen=True, kw_only=True)
class VQConfig(AutoencoderConfig):
    """A vector-quantised autoencoder (van den Oord et al. 2017).

    Args:
        num_vq_embeddings: V, codes of the codebook.
        vq_embed_dim: Channels of a code; None is `latent_channels`.
    """

    class_name: ClassVar[str] = "VQModel"

    latent_channels: int = 3
    force_upcast: bool = False
    num_vq_embeddings: int = 256
    vq_embed_dim: int | None = None

    @property
    def code_channels(self) -> int:
        """Channels of a code, and of a latent."""
        return self.vq_embed_dim if self.vq_embed_dim is not None else self.latent_channels


KL_F8 = KLConfig(
    block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=256
)
"""Stable Diffusion's autoencoder (Rombach et al. 2022, f = 8) and its fine-tunes; SDXL's, scale apart."""


def _check_blocks(name: str, blocks: Any) -> None:
    if not isinstance(blocks, (list, tuple)):
        raise ValueError(f"{name} must be a list of blocks, got {blocks!r}")
    others = [block for block in blocks if block != _BLOCKS[name]]
    if others:
        raise ValueError(f"{name} must be {_BLOCKS[name]} alone, got {others[0]}")


def _typed(name: str, value: Any, declared: Any) -> Any:
    """Refuse a value of another type than the field's: what JSON holds may be anything."""
    if name == "sample_size":
        return value
    if name == "block_out_channels":
        if not isinstance(value, (list, tuple)) or not all(type(width) is int for width in value):
            raise ValueError(f"{name} must be whole numbers, got {value!r}")
        return tuple(value)
    if value is None and (name == "scaling_factor" or "None" in declared):
        return AutoencoderConfig.scaling_factor if name == "scaling_factor" else None
    kind = next(kind for kind in (bool, int, float) if kind.__name__ in declared)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"{name} must be {_WORDS[kind]}, got {value!r}")
    return value


_WORDS = {bool: "true or false", int: "a whole number", float: "a number"}
