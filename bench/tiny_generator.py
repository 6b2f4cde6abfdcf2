"""Write a generator folder with random weights, to rehearse runs whose pictures do not matter.

python -m bench.tiny_generator OUT --classes 1000
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mgd3_engine.autoencoder import AutoencoderKL, KLConfig
from mgd3_engine.dit import DiT, DiTConfig
from mgd3_fast.generators import SamplingDefaults, save_generator


def make_tiny_generator(
    folder: Path,
    num_classes: int,
    *,
    class_names: tuple[str, ...] | None = None,
    steps: int = 4,
    seed: int = 0,
) -> None:
    """Write a DiT of one block over 4x4 latents and an autoencoder of 16 px images.

    Args:
        folder: The generator folder; made if missing.
        num_classes: Classes of the network.
        class_names: Their names, or None for a generator that knows none.
        steps: Default number of denoising steps, half of them guided.
        seed: Changes all weights.
    """
    torch.manual_seed(seed)
    config = DiTConfig(
        input_size=4, patch_size=2, hidden_size=32, depth=1, num_heads=2, num_classes=num_classes
    )
    dit = DiT(config)
    for parameter in dit.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    vae = AutoencoderKL(
        KLConfig(block_out_channels=(8, 8, 8), norm_num_groups=4, sample_size=16, scaling_factor=1.0)
    )
    save_generator(
        folder,
        dit,
        name="tiny",
        vae=vae,
        class_names=class_names,
        licence="MIT",
        recipe={"weights": "random", "seed": seed},
        defaults=SamplingDefaults(steps=steps, t_stop=steps // 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="generator folder to write")
    parser.add_argument("--classes", type=int, default=10, help="classes of the network (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="changes all weights (default: 0)")
    arguments = parser.parse_args()
    make_tiny_generator(arguments.out, arguments.classes, seed=arguments.seed)


if __name__ == "__main__":
    main()
