"""Latents that machines share through a bucket: made once, fetched by the others, mended where damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mgd3_fast.datasets import Dataset
from mgd3_fast.errors import UserError
from mgd3_fast.latents import LatentStore, encode_dataset, shard_encoder
from mgd3_fast.storage import shared_folder
from mgd3_fast.storage.remote import Bucket
from tests.fakes.buckets import bucket_in_memory
from tests.fakes.encoders import PoolingEncoder, array_dataset

SIZE = 8
DATASET = array_dataset(3, 5)


@pytest.fixture
def bucket() -> Bucket:
    return bucket_in_memory()


class Machine:
    """A machine with a cache of its own on its disk, which shares latents at a URL or does not."""

    def __init__(self, folder: Path, bucket: Bucket | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.bucket, self._monkeypatch = folder, bucket, monkeypatch

    def store(self) -> LatentStore:
        self._monkeypatch.setenv("MGD3_CACHE", str(self.folder))
        return LatentStore(self.bucket.url if self.bucket else None, "d1gest", SIZE)

    def encode(self, dataset: Dataset = DATASET, stop_after: int | None = None, **options: bool) -> int:
        """Encode, and count the images that were."""
        encoder = PoolingEncoder(stop_after)
        encode_dataset(dataset, encoder, self.store(), batch_size=8, **options)
        return sum(encoder.batch_rows)

    def latents(self, dataset: Dataset = DATASET) -> list[torch.Tensor]:
        found = [self.store().get(cls) for cls in dataset.classes]
        return [one.clone() for one in found if one is not None]


@pytest.fixture
def machines(tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> tuple[Machine, Machine]:
    one, other = (Machine(tmp_path / name, bucket, monkeypatch) for name in ("one", "other"))
    return one, other


def objects(bucket: Bucket) -> dict[str, bytes]:
    return bucket.read_all(bucket.sizes())


def test_what_one_machine_encoded_another_fetches(machines: tuple[Machine, Machine], bucket: Bucket) -> None:
    one, other = machines
    assert one.encode() > 0
    assert other.encode() == 0
    assert all(map(torch.equal, one.latents(), other.latents()))
    assert len(other.latents()) == 2
    on_disk = {
        path.relative_to(one.folder).as_posix(): path.read_bytes()
        for path in one.folder.rglob("*.safetensors")
    }
    assert objects(bucket) == on_disk


def test_latents_are_fetched_for_the_classes_that_are_read(machines: tuple[Machine, Machine]) -> None:
    one, other = machines
    one.encode()
    assert other.store().get(DATASET.classes[1]) is not None
    assert len(list(other.folder.rglob("*.safetensors"))) == 1


def test_what_another_machine_stored_a_moment_ago_is_seen(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_folder, "_BELIEVED_S", 1e9)
    one, other = machines
    store = other.store()
    assert store.get(DATASET.classes[0]) is None
    one.encode()
    assert store.get(DATASET.classes[0]) is not None


def test_a_stopped_encode_goes_on_elsewhere_after_its_last_part(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_encoder, "_PART_LATENTS", 8)
    one, other = machines
    dataset = array_dataset(24)
    with pytest.raises(KeyboardInterrupt):
        one.encode(dataset, stop_after=2)
    assert other.encode(dataset) == 24 - 16
    alone = Machine(other.folder.with_name("alone"), None, monkeypatch)
    alone.encode(dataset)
    assert torch.equal(other.latents(dataset)[0], alone.latents(dataset)[0])


def test_latents_from_before_are_shared_too(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machines
    Machine(one.folder, None, monkeypatch).encode()
    assert one.encode() == 0
    assert other.encode() == 0


def test_a_damaged_object_is_made_anew(machines: tuple[Machine, Machine], bucket: Bucket) -> None:
    one, other = machines
    one.encode()
    whole = objects(bucket)
    first, second = whole
    bucket.write(first, whole[first][:-1] + b"?")
    bucket.write(second, b"")
    assert other.encode() > 0
    assert objects(bucket) == whole


def test_a_damaged_file_is_fetched_instead_of_encoded(machines: tuple[Machine, Machine]) -> None:
    one, _ = machines
    one.encode()
    before = one.latents()
    path = one.store().path(DATASET.classes[0])
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert one.encode(check=True) == 0
    assert all(map(torch.equal, one.latents(), before))


def test_of_two_makers_the_first_is_everybodys(
    machines: tuple[Machine, Machine], bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machines
    monkeypatch.setattr(shared_folder, "_BELIEVED_S", 1e9)
    store, late = one.store(), other.store()
    assert not late.files.folders()  # it lists the bucket now, and not again
    encode_dataset(DATASET, PoolingEncoder(), store)

    class Other(PoolingEncoder):
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return super().encode(images) + 1

    encode_dataset(DATASET, Other(), late)
    found = late.get(DATASET.classes[0])
    assert found is not None
    assert torch.equal(found, one.latents()[0])


def test_a_bucket_that_cannot_be_written_is_told(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Bucket, path: str, content: bytes) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(Bucket, "_create", refuse)
    one, _ = machines
    with pytest.raises(UserError, match="does not let these credentials in: Access Denied"):
        one.encode()
    assert len(list(one.folder.rglob("*.safetensors"))) == 1
