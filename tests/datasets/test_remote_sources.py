"""Folders and shards in a bucket are the datasets that their copies on a disk are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mgd3_fast.datasets import Dataset, open_dataset, open_source
from mgd3_fast.errors import UserError
from mgd3_fast.storage.remote import Bucket
from tests.fakes.buckets import bucket_in_memory, copied, s3_server, s3_url
from tests.fakes.pictures import encoded, photo
from tests.fakes.tars import write_shards

__all__ = ["s3_server", "s3_url"]

FILES = (
    *("photos/ant/10.png", "photos/ant/2.PNG", "photos/ant/inside/1.jpg", "photos/ant/notes.txt"),
    *("photos/bee/1.png", "photos/bee/.hidden.png", "photos/.trash/1.png"),
    *("ilsvrc/train/n01440764/a.JPEG", "ilsvrc/train/n02102040/b.JPEG", "ilsvrc/val/n01440764/v.JPEG"),
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    for number, name in enumerate(FILES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(number), "PNG"))
    write_shards(folder / "shards", [["1", "0", "1"], ["0", "2"]])
    (folder / "shards" / "names").write_text("x\ny\nz\n")
    (folder / "shards" / "classes.txt").write_text("ant\nbee\ncow\n")
    return folder


@pytest.fixture(scope="module", params=["memory", "s3"])
def bucket(disk: Path, request: pytest.FixtureRequest) -> str:
    """The URL of a copy of the folder."""
    if request.param == "memory":
        return copied(disk, bucket_in_memory())
    return copied(disk, Bucket(f"{request.getfixturevalue('s3_url')}/sources"))


class TestFolders:
    def test_a_bucket_is_its_local_copy(self, disk: Path, bucket: str) -> None:
        local, remote = (open_dataset(f"{place}/photos") for place in (disk, bucket))
        assert remote.counts == local.counts == {"ant": 3, "bee": 1}
        assert (remote.name, remote.fingerprint, remote.notes) == (
            local.name,
            local.fingerprint,
            ["1 file was left out: 1 .txt"],
        )
        for label, of_class in enumerate(local.classes):
            for position in range(len(of_class)):
                np.testing.assert_array_equal(remote.load(label, position), local.load(label, position))

    def test_a_file_that_is_written_again_changes_its_class_alone(self, disk: Path) -> None:
        url = copied(disk / "photos", bucket_in_memory())
        before = [cls.cache_key for cls in open_dataset(url).classes]
        copied(disk / "photos" / "bee", Bucket(f"{url}/bee"))
        after = [cls.cache_key for cls in open_dataset(url).classes]
        assert after[0] == before[0]
        assert after[1] != before[1]

    @pytest.mark.parametrize("inside", ["", "/train"])
    @pytest.mark.parametrize("split", ["train", "val"])
    def test_imagenet_lists_over_a_bucket(self, disk: Path, bucket: str, inside: str, split: str) -> None:
        found = [
            open_dataset("imagenette", data_dir=f"{place}/ilsvrc{inside}", classes="n01440764", split=split)
            for place in (disk, bucket)
        ]
        assert found[0].fingerprint == found[1].fingerprint
        assert found[1].root == f"{bucket}/ilsvrc/{split}"

    def test_imagenet_dir_may_be_a_url(self, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("IMAGENET_DIR", f"{bucket}/ilsvrc")
        assert len(open_dataset("imagenette", classes="0")) == 1

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (
                "{bucket}/nothing",
                r"^dataset must be an existing folder .*, got {bucket}/nothing",
            ),
            (
                "{bucket}/photos/bee",
                "^{bucket}/photos/bee must hold one folder per class, got none",
            ),
            ("https://host/photos", r"in a bucket \(s3://, gs://, hf://\), got https://host/photos$"),
            ("nosuch://bucket", "^nosuch://bucket"),
        ],
    )
    def test_mistakes(self, bucket: str, spec: str, message: str) -> None:
        with pytest.raises(UserError, match=message.replace("{bucket}", bucket)):
            open_dataset(spec.replace("{bucket}", bucket))


class TestShards:
    def spec(self, bucket: str, pattern: str) -> str:
        return f"wds:{bucket}/shards/{pattern}"

    @pytest.mark.parametrize("pattern", ["{000..001}.tar", "*.tar"])
    def test_shards_are_streams_of_what_local_ones_hold(
        self, disk: Path, bucket: str, pattern: str, tmp_path: Path
    ) -> None:
        local = open_dataset(f"wds:{disk}/shards/*.tar", cache_dir=tmp_path)
        stream = open_source(self.spec(bucket, pattern), cache_dir=tmp_path)
        assert not isinstance(stream, Dataset)
        assert stream.class_names == local.class_names == ("ant", "bee", "cow")
        rows = [row for shard in range(2) for row in stream.read(shard)]
        assert [row.label for row in rows] == ["1", "0", "1", "0", "2"]
        of_bees = [row for row in rows if row.label == "1"]
        images = local.classes[1].images
        assert [(row.name, row.content) for row in of_bees] == [
            (images.name(place), images.read(place)) for place in range(2)
        ]

    def test_a_relative_class_list_lies_beside_the_shards(self, bucket: str, tmp_path: Path) -> None:
        stream = open_source(self.spec(bucket, "*.tar#classes=names"), cache_dir=tmp_path)
        assert not isinstance(stream, Dataset)
        assert stream.class_names == ("x", "y", "z")

    def test_identity_follows_versions(self, disk: Path, tmp_path: Path) -> None:
        bucket = bucket_in_memory()
        identities = set()
        for _ in range(2):
            stream = open_source(f"wds:{copied(disk / 'shards', bucket)}/*.tar", cache_dir=tmp_path)
            assert not isinstance(stream, Dataset)
            identities.add(stream.identity)
        assert len(identities) == 2

    def test_a_missing_shard_is_told_when_shards_are_asked_for(self, bucket: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"shards/007.tar"):
            open_source(self.spec(bucket, "{000,007}.tar"), cache_dir=tmp_path)

    def test_no_shard_matches(self, bucket: str) -> None:
        with pytest.raises(UserError, match="must name existing shards"):
            open_source(self.spec(bucket, "*.zip"))


def test_a_bucket_that_is_not_there_is_told(s3_server: str) -> None:
    for spec in ("s3://nosuchbucket/photos", "wds:s3://nosuchbucket/{000..001}.tar"):
        with pytest.raises(UserError, match=r"^s3://nosuchbucket.* must lie in a bucket that exists"):
            open_source(spec)
