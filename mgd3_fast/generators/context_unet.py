"""A U-Net with cross-attention behind the seam: class ids look their context up in a table.

Shape letters: R rows of the network's input, C channels, h w latent size, N classes, L tokens of a context,
E numbers of a token.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ContextUNet(nn.Module):
    """Diffusers' `UNet2DConditionModel` as a `Denoiser` (Rombach et al. 2022, section 3.3).

    Args:
        unet: The network.
        contexts: `[N + 1, L, E]`: what each class is conditioned on, that of the null class last.
    """

    contexts: Tensor

    def __init__(self, unet: Any, contexts: Tensor) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("contexts", contexts)

    def forward(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        """Predict the noise, or v.

        Args:
            x: `[R, C, h, w]` in the network's dtype.
            timestep: int64 `[R]`.
            class_ids: int64 `[R]`, N being the null class.

        Returns:
            `[R, C, h, w]` in the same dtype.
        """
        contexts = self.contexts[class_ids]  # [R, L, E]
        prediction: Tensor = self.unet(x, timestep, encoder_hidden_states=contexts, return_dict=False)[0]
        return prediction
