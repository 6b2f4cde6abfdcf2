"""Thirty pictures as a folder, ILSVRC's tar, WebDataset shards and a hub dataset; a generator a family."""

from __future__ import annotations

import os
from pathlib import Path

from bench.tiny_generator import make_tiny_generator
from tests.fakes.pictures import encoded, photo
from tests.fakes.tars import tar_bytes
from tests.fakes.tiny_diffusion import write_ldm, write_stable_diffusion

TIME = 1_700_000_000
# Imagenette's classes in the order of its labels.
WNIDS = (
    *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
    *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
)
IMAGES_PER_CLASS = 3


def photographs() -> dict[str, list[bytes]]:
    """PNG files of each class."""
    return {
        wnid: [encoded(photo(100 * label + number), "PNG") for number in range(IMAGES_PER_CLASS)]
        for label, wnid in enumerate(WNIDS)
    }


def write_folder(root: Path, classes: dict[str, list[bytes]]) -> None:
    """An image folder whose files all have one time of change, which a dataset's fingerprint knows."""
    for name, contents in classes.items():
        (root / name).mkdir(parents=True)
        for number, content in enumerate(contents):
            path = root / name / f"{number}.png"
            path.write_bytes(content)
            os.utime(path, (TIME, TIME))


def write_train_tar(root: Path, classes: dict[str, list[bytes]]) -> None:
    """ILSVRC2012_img_train.tar: a tar of a tar a class."""
    tars = {
        f"{wnid}.tar": tar_bytes({f"{wnid}_{n}.JPEG": one for n, one in enumerate(contents)}, TIME)
        for wnid, contents in classes.items()
    }
    root.mkdir()
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(tars, TIME))
    os.utime(root / "ILSVRC2012_img_train.tar", (TIME, TIME))


def write_web_shards(root: Path, classes: dict[str, list[bytes]]) -> None:
    """Two shards through which the classes run three times, and the list of their names."""
    root.mkdir()
    samples: dict[str, bytes] = {}
    for number in range(IMAGES_PER_CLASS):
        for label, contents in enumerate(classes.values()):
            samples[f"{number}-{label}.png"] = contents[number]
            samples[f"{number}-{label}.cls"] = str(label).encode()
    names, half = list(samples), len(samples) // 2
    for shard, part in enumerate((names[:half], names[half:])):
        path = root / f"{shard:03d}.tar"
        path.write_bytes(tar_bytes({name: samples[name] for name in part}, TIME))
        os.utime(path, (TIME, TIME))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))


def write_hub_dataset(root: Path, classes: dict[str, list[bytes]]) -> None:
    """A dataset of two parquet files, as `datasets` writes them."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(classes))}
    )
    rows = [
        ({"bytes": contents[number], "path": f"{label}-{number}.png"}, label)
        for number in range(IMAGES_PER_CLASS)
        for label, contents in enumerate(classes.values())
    ]
    root.mkdir()
    half = len(rows) // 2
    for shard, part in enumerate((rows[:half], rows[half:])):
        columns = {"image": [image for image, _ in part], "label": [label for _, label in part]}
        table = datasets.Dataset.from_dict(columns, features=features)
        path = root / f"train-{shard:05d}-of-00002.parquet"
        table.to_parquet(path)
        os.utime(path, (TIME, TIME))


def write_sources(root: Path) -> dict[str, list[str]]:
    """Write every kind, and return the options of the command line that name it."""
    classes = photographs()
    write_folder(root / "folder", classes)
    write_train_tar(root / "ilsvrc", classes)
    write_web_shards(root / "shards", classes)
    write_hub_dataset(root / "hub", classes)
    shards = f"{root}/shards/{{000..001}}.tar"
    return {
        "folder": ["--dataset", str(root / "folder")],
        "tar": ["--dataset", "imagenette", "--data-dir", str(root / "ilsvrc")],
        "wds": ["--dataset", f"wds:{shards}"],
        "wds stream": ["--dataset", f"wds:pipe:cat {shards}#classes={root}/shards/classes.txt"],
        "hf": ["--dataset", f"hf:{root}/hub"],
    }


def write_generators(root: Path) -> dict[str, str]:
    """A tiny generator of each family: `dit` has ten classes without names, `insects` three."""
    make_tiny_generator(root / "dit", 10)
    make_tiny_generator(root / "insects", 3)
    write_ldm(root / "ldm")
    write_stable_diffusion(root / "stable")
    return {name: str(root / name) for name in ("dit", "insects", "ldm", "stable")}


def write_insects(root: Path, count: int = 9) -> None:
    """Three classes of `count` pictures for what needs more than one class in ten: train and val."""
    for split, first in (("train", 0), ("val", 5000)):
        classes = {
            name: [encoded(photo(first + 100 * label + number), "PNG") for number in range(count)]
            for label, name in enumerate(("ant", "bee", "cow"))
        }
        write_folder(root / split, classes)
