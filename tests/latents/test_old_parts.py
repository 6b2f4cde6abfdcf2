"""Latents of versions that dropped transparency: kept where nothing can be transparent, else made again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mgd3_fast.datasets import open_dataset
from mgd3_fast.latents import LatentStore, encode_dataset
from mgd3_fast.latents.parts import FRAMING
from mgd3_fast.progress import Progress
from mgd3_fast.storage.tensor_files import open_tensors, save_tensors
from tests.fakes.encoders import PoolingEncoder
from tests.fakes.pictures import photo


def spoilt(path: Path) -> None:
    """A part as an earlier version would have stored it, with latents that nobody would make now."""
    file = open_tensors(path)
    tensors = {name: tensor.clone() for name, tensor in file.tensors.items()}
    tensors["latents"].fill_(7)
    about = {name: value for name, value in file.metadata.items() if name not in (FRAMING, "checksum")}
    path.unlink()
    save_tensors(path, tensors, about)


@pytest.mark.parametrize(("suffix", "kept"), [("png", False), ("webp", False), ("JPEG", True), ("jpg", True)])
def test_only_what_may_be_transparent_is_encoded_again(
    tmp_path: Path, suffix: str, kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(2):
            photo(number).save(tmp_path / "pictures" / name / f"{number}.{suffix}")
    dataset = open_dataset(str(tmp_path / "pictures"))
    store = LatentStore(tmp_path / "cache", "digest", 16)
    encode_dataset(dataset, PoolingEncoder(), store)
    first = [store.get(cls).clone() for cls in dataset.classes]  # type: ignore[union-attr]
    for cls in dataset.classes:
        spoilt(store.path(cls))
    report = encode_dataset(dataset, PoolingEncoder(), store, progress=Progress())
    told = capsys.readouterr().err
    assert report.images == (0 if kept else 4)
    assert ("latents of 2 of 2 folders or shards are made again" in told) != kept
    for cls, latents in zip(dataset.classes, first, strict=True):
        now = store.get(cls)
        assert torch.equal(now, torch.full_like(latents, 7) if kept else latents)  # type: ignore[arg-type]
    assert encode_dataset(dataset, PoolingEncoder(), store, progress=Progress()).images == 0
    assert "made again" not in capsys.readouterr().err
