"""The size of a DiT and the two conventions in which published implementations differ."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The architecture of one DiT (Peebles & Xie 2023, Table 1 and section 3).

    Args:
        input_size: Side of the square latent in latent pixels; a multiple of `patch_size`.
        patch_size: Side of one patch in latent pixels.
        in_channels: Channels C of the latent.
        hidden_size: Width d of a token; a multiple of 4 and of `num_heads`.
        depth: Number of blocks.
        num_heads: Attention heads of a block.
        mlp_ratio: Hidden width of a block's MLP over `hidden_size`.
        num_classes: Labels without the null label.
        learn_sigma: The network predicts 2C channels: noise, then variance (Nichol & Dhariwal 2021, Eq. 15).
        class_dropout_prob: Share of labels that training replaces by the null label; above 0 the label
            table has one more row, the null row.
        frequency_shift: Frequency k of the H = 128 timestep sinusoids is 10000^(-k / (H - shift)). 0 is the
            authors' network; 1 is what diffusers' `DiTTransformer2DModel` computes.

    Raises:
        ValueError: A size is out of its range.
    """

    input_size: int
    patch_size: int
    in_channels: int = 4
    hidden_size: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    learn_sigma: bool = True
    class_dropout_prob: float = 0.1
    frequency_shift: int = 0

    def __post_init__(self) -> None:
        for name in ("input_size", "patch_size", "in_channels", "hidden_size", "num_heads", "num_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.depth < 0:
            raise ValueError(f"depth must be at least 0, got {self.depth}")
        if self.input_size % self.patch_size:
            raise ValueError(
                f"input_size must be a multiple of patch_size {self.patch_size}, got {self.input_size}"
            )
        if self.hidden_size % 4 or self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of 4 and of num_heads {self.num_heads},"
                f" got {self.hidden_size}"
            )
        if int(self.hidden_size * self.mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio must be positive, got {self.mlp_ratio}")
        if not 0.0 <= self.class_dropout_prob <= 1.0:
            raise ValueError(f"class_dropout_prob must be from 0 to 1, got {self.class_dropout_prob}")
        if self.frequency_shift not in (0, 1):
            raise ValueError(f"frequency_shift must be 0 or 1, got {self.frequency_shift}")

    @property
    def out_channels(self) -> int:
        """Channels of the network's output: 2C with learned variance, else C."""
        return 2 * self.in_channels if self.learn_sigma else self.in_channels

    @property
    def num_tokens(self) -> int:
        """Tokens T of one latent."""
        return (self.input_size // self.patch_size) ** 2

    @property
    def null_class(self) -> int:
        """The id of the null label, which follows the last class."""
        return self.num_classes

    @property
    def num_labels(self) -> int:
        """Rows of the label table: the classes and, with label dropout, the null label."""
        return self.num_classes + (self.class_dropout_prob > 0)
