"""Write a made-up ILSVRC-2012, to rehearse ImageNet runs on a machine that has no ImageNet.

    python -m bench.rehearsals.make_ilsvrc_tree OUT --per-class 4 [--tar]

Every class of the chosen list gets a wnid folder of small JPEG files: smooth random colours, sides of 64
to 160 pixels, all aspect ratios between. With --tar, the training images come as they are downloaded
instead, as a tar of class tars. The files depend on the wnid, the number and the seed alone.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import tarfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mgd3_fast.datasets import IMAGENET_NAMES, imagenet_classes

SIDES = (64, 160)


def low_frequency_image(wnid: str, number: int, seed: int = 0, sides: tuple[int, int] = SIDES) -> Image.Image:
    """A smooth random image.

    Args:
        wnid: Class, which also sets the palette's centre.
        number: Number of the image in its class.
        seed: Changes all images.
        sides: Shortest and longest side in pixels.

    Returns:
        RGB image: 4x4 random colours, enlarged bicubically.
    """
    of_class = np.random.default_rng(_entropy(f"{seed}/{wnid}"))
    of_image = np.random.default_rng(_entropy(f"{seed}/{wnid}/{number}"))
    centre = of_class.integers(64, 192, (4, 4, 3))
    colours = np.clip(centre + of_image.integers(-64, 64, (4, 4, 3)), 0, 255).astype(np.uint8)
    width, height = (int(side) for side in of_image.integers(sides[0], sides[1] + 1, 2))
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


def make_ilsvrc_tar(
    root: Path, wnids: tuple[str, ...], per_class: int, seed: int = 0, sides: tuple[int, int] = SIDES
) -> Path:
    """Write `root/ILSVRC2012_img_train.tar`, a tar of class tars, on all processors.

    Args:
        root: Its folder; made if missing.
        wnids: Classes to write.
        per_class: Images of each.
        seed: Changes all images.
        sides: Shortest and longest side of an image in pixels.

    Returns:
        The tar.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / "ILSVRC2012_img_train.tar"
    make = partial(_class_tar, per_class=per_class, seed=seed, sides=sides)
    with ProcessPoolExecutor() as pool, tarfile.open(path, "w") as tar:
        for wnid, content in zip(wnids, pool.map(make, wnids, chunksize=4), strict=True):
            _add(tar, f"{wnid}.tar", content)
    return path


def make_web_shards(
    root: Path, wnids: tuple[str, ...], per_class: int, seed: int = 0, sides: tuple[int, int] = SIDES
) -> list[Path]:
    """Write WebDataset shards through which the classes run once each, and the list of their names.

    Args:
        root: Their folder; made if missing.
        wnids: Classes to write.
        per_class: Images of each, and so shards.
        seed: Changes all images.
        sides: Shortest and longest side of an image in pixels.

    Returns:
        The shards.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    paths = [root / f"{number:06d}.tar" for number in range(per_class)]
    with ProcessPoolExecutor() as pool:
        contents = pool.map(partial(_web_shard, wnids=wnids, seed=seed, sides=sides), range(per_class))
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
    return paths


def _web_shard(number: int, wnids: tuple[str, ...], seed: int, sides: tuple[int, int]) -> bytes:
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for label, wnid in enumerate(wnids):
            image = io.BytesIO()
            low_frequency_image(wnid, number, seed, sides).save(image, "JPEG", quality=85)
            _add(tar, f"{number:06d}-{label:06d}.jpg", image.getvalue())
            _add(tar, f"{number:06d}-{label:06d}.cls", str(label).encode())
    return shard.getvalue()


def _class_tar(wnid: str, per_class: int, seed: int, sides: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(per_class):
            image = io.BytesIO()
            low_frequency_image(wnid, number, seed, sides).save(image, "JPEG", quality=85)
            _add(tar, f"{wnid}_{number}.JPEG", image.getvalue())
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _entropy(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def main() -> None:
    """Read the command line and write the tree."""
    parser = argparse.ArgumentParser(description="Write a made-up ILSVRC-2012 tree.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dataset", choices=IMAGENET_NAMES, default="imagenet1k", help="class list")
    parser.add_argument("--per-class", type=int, default=4, help="images of each class")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--tar", action="store_true", help="a tar of class tars instead of a tree")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    wnids = imagenet_classes(args.dataset)
    if args.tar:
        make_ilsvrc_tar(args.out, wnids, args.per_class, args.seed)
    else:
        make_ilsvrc_tree(args.out, wnids, args.per_class, args.split, args.seed)
    print(f"{args.out}: {len(wnids)} classes, {len(wnids) * args.per_class} images")


if __name__ == "__main__":
    main()
