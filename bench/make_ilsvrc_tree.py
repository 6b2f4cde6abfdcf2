"""Write a made-up ILSVRC-2012 tree, to rehearse ImageNet runs on a machine that has no ImageNet.

    python bench/make_ilsvrc_tree.py OUT --per-class 4

Every class of the chosen list gets a wnid folder of small JPEG files: smooth random colours, sides of 64
to 160 pixels, all aspect ratios between. The files depend on the wnid, the number and the seed alone.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from mgd3_fast.datasets import IMAGENET_NAMES, imagenet_classes


def low_frequency_image(wnid: str, number: int, seed: int = 0) -> Image.Image:
    """A smooth random image, its sides drawn from 64..160 pixels.

    Args:
        wnid: Class, which also sets the palette's centre.
        number: Number of the image in its class.
        seed: Changes all images.

    Returns:
        RGB image: 4x4 random colours, enlarged bicubically.
    """
    of_class = np.random.default_rng(_entropy(f"{seed}/{wnid}"))
    of_image = np.random.default_rng(_entropy(f"{seed}/{wnid}/{number}"))
    centre = of_class.integers(64, 192, (4, 4, 3))
    colours = np.clip(centre + of_image.integers(-64, 64, (4, 4, 3)), 0, 255).astype(np.uint8)
    width, height = (int(side) for side in of_image.integers(64, 161, 2))
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def make_ilsvrc_tree(
    root: Path, wnids: tuple[str, ...], per_class: int, split: str = "train", seed: int = 0
) -> None:
    """Write `root/<split>/<wnid>/<file>.JPEG` under ILSVRC's file names.

    Args:
        root: Folder of the tree; made if missing.
        wnids: Classes to write.
        per_class: Images of each.
        split: "train" or "val".
        seed: Changes all images.
    """
    total = 0
    for wnid in wnids:
        folder = root / split / wnid
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            total += 1
            name = f"{wnid}_{number}.JPEG" if split == "train" else f"ILSVRC2012_val_{total:08d}.JPEG"
            low_frequency_image(wnid, number, seed).save(folder / name, "JPEG", quality=85)


def _entropy(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def main() -> None:
    """Read the command line and write the tree."""
    parser = argparse.ArgumentParser(description="Write a made-up ILSVRC-2012 tree.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dataset", choices=IMAGENET_NAMES, default="imagenet1k", help="class list")
    parser.add_argument("--per-class", type=int, default=4, help="images of each class")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    wnids = imagenet_classes(args.dataset)
    make_ilsvrc_tree(args.out, wnids, args.per_class, args.split, args.seed)
    print(f"{args.out}: {len(wnids)} classes, {len(wnids) * args.per_class} images")


if __name__ == "__main__":
    main()
