"""Encode a folder and WebDataset shards from an S3-speaking server, and compare with their local copies.

python -m bench.rehearsals.s3_sources --per-class 40 --kills 3

Three servers, each a process of its own: a good one, one whose answers take 50 ms, and one of whose answers a
tenth are refused or broken off; then kills at random moments, of an encode whose cache is in the bucket too.
Prints one JSON object and fails where a latent differs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from fsspec import get_filesystem_class

from bench.photos import photo
from bench.rehearsals.faulty_s3 import server
from mgd3_fast.config import EncodeConfig
from mgd3_fast.run.sources import encode
from mgd3_fast.storage.remote import Bucket
from mgd3_fast.versions import versions

_CLASSES = _SHARDS = 4
_PORT = 5811
_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
_KINDS = ("folder", "shards")


def make_images(folder: Path, per_class: int) -> None:
    """The same made-up photographs as an ImageFolder and as WebDataset shards of mixed classes."""
    (folder / "shards").mkdir(parents=True)
    for shard in range(_SHARDS):
        with tarfile.open(folder / f"shards/{shard:03d}.tar", "w") as tar:
            for number in range(shard * per_class, (shard + 1) * per_class):  # as many shards as classes
                name, content = f"class-{number % _CLASSES}", photo(number)
                target = folder / "folder" / name / f"{number:05d}.jpg"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                for ending, part in (("jpg", content), ("cls", name.encode())):
                    member = tarfile.TarInfo(f"{number:05d}.{ending}")
                    member.size = len(part)
                    tar.addfile(member, io.BytesIO(part))


def upload(folder: Path, address: str) -> None:
    import boto3

    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="images")
    bucket = Bucket("s3://images")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        bucket.write(path.relative_to(folder).as_posix(), path.read_bytes())


def dataset(root: str, kind: str) -> str:
    return f"{root}/folder" if kind == "folder" else f"wds:{root}/shards/{{000..{_SHARDS - 1:03d}}}.tar"


def encoded(root: str, kind: str, cache: Path | str) -> tuple[dict[str, torch.Tensor], float, int]:
    """Latents by class, images a second, and images that were encoded now."""
    config = EncodeConfig(dataset=dataset(root, kind), generator="demo-mnist5k", cache_dir=cache)
    started = time.perf_counter()
    report, sources = encode(config)
    seconds = time.perf_counter() - started
    latents = {cls.name: sources.store.get(cls) for cls in sources.dataset.classes}
    found = {name: one.clone() for name, one in latents.items() if one is not None}
    return found, round(report.images / seconds, 1), report.images


def requests_per_s() -> float:
    """How many images of the folder the server hands out alone, when all are asked for at once."""
    bucket = Bucket("s3://images")
    names = list(bucket.sizes("folder"))
    started = time.perf_counter()
    bucket.read_all(names)
    return round(len(names) / (time.perf_counter() - started), 1)


def equal(ones: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return ones.keys() == others.keys() and all(torch.equal(ones[name], others[name]) for name in ones)


def killed(kind: str, kills: int, folder: Path) -> list[int]:
    """Kill one encode after the other, up to 0.2 s after it stored something; files the bucket then holds."""
    moments, held = random.Random(0), [0]
    cache = Bucket(f"s3://images/cache-{kind}")
    words = ["--quiet", "--dataset", dataset("s3://images", kind), "--generator", "demo-mnist5k"]
    command = [sys.executable, "-m", "mgd3_fast", "encode", *words, "--cache-dir", cache.url]
    for number in range(kills):
        # Another machine each time: nothing is left of it but what it put into the bucket.
        environment = {**os.environ, "MGD3_CACHE": str(folder / f"{kind}-{number}")}
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and len(cache.sizes()) == held[-1]:
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        held.append(len(cache.sizes()))
    return held[1:]


def rehearse(folder: Path, per_class: int, kills: int) -> dict[str, Any]:
    make_images(folder / "images", per_class)
    local = {kind: encoded(str(folder / "images"), kind, folder / f"warm-{kind}") for kind in _KINDS}
    local = {kind: encoded(str(folder / "images"), kind, folder / f"local-{kind}") for kind in _KINDS}
    figures: dict[str, Any] = {"images": _CLASSES * per_class}
    figures["local"] = {kind: {"images_per_s": local[kind][1]} for kind in _KINDS}
    servers = {"good": (0.0, 0.0), "50 ms": (50.0, 0.0), "a tenth bad": (5.0, 0.1)}
    for place, (name, (latency_ms, faults)) in enumerate(servers.items()):
        with server(_PORT + place, latency_ms, faults) as address:
            os.environ["AWS_ENDPOINT_URL"] = address
            get_filesystem_class("s3").clear_instance_cache()  # which knows the address of the last server
            upload(folder / "images", address)
            figures[name] = {"requests_per_s": requests_per_s()}
            for kind in _KINDS:
                latents, rate, _ = encoded("s3://images", kind, folder / f"{name}-{kind}")
                of_local = round(rate / local[kind][1], 2)
                same = equal(latents, local[kind][0])
                figures[name][kind] = {"images_per_s": rate, "of_local": of_local, "equal": same}
            if name == "a tenth bad":
                for kind in _KINDS:
                    held = killed(kind, kills, folder / "killed")
                    os.environ["MGD3_CACHE"] = str(folder / f"last-{kind}")
                    latents, _, images = encoded("s3://images", kind, f"s3://images/cache-{kind}")
                    same = equal(latents, local[kind][0])
                    figures[f"kills, {kind}"] = {"files_held": held, "left_to_encode": images, "equal": same}
    return {**figures, "versions": versions()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-class", type=int, default=40, help="images of each of 4 classes (default: 40)")
    parser.add_argument("--kills", type=int, default=3, help="SIGKILLs of each kind of source (default: 3)")
    arguments = parser.parse_args()
    os.environ.update(_KEYS)
    folder = Path(tempfile.mkdtemp())
    try:
        figures = rehearse(folder, arguments.per_class, arguments.kills)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(figures, indent=2))
    if '"equal": false' in json.dumps(figures):
        sys.exit("latents from the server differ from the local ones")


if __name__ == "__main__":
    main()
