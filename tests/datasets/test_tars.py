"""Tars: their members, images out of the middle, and ILSVRC-2012 as it is downloaded."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from mgd3_fast.datasets import Dataset, ScannedFile, decode_image, imagenet_classes, open_dataset
from mgd3_fast.datasets.tar_index import IndexedImage, TarIndexes, TarRange
from mgd3_fast.datasets.tars import tar_members
from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT
from tests.fakes.pictures import encoded, photo
from tests.fakes.tars import tar_bytes

WNIDS = imagenet_classes("imagenette")
TIME = 1_700_000_000


def train_image(wnid: str, number: int) -> bytes:
    return encoded(photo(int(wnid[1:]) + number), "JPEG")


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Names in a train tree, three images a class; not in sorted order."""
    return {f"{wnid}/{wnid}_{n}.JPEG": train_image(wnid, n) for wnid in WNIDS for n in (10, 2, 1)}


@pytest.fixture
def downloaded(tmp_path: Path, contents: dict[str, bytes]) -> Path:
    """A folder with ILSVRC2012_img_train.tar of ten classes."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    class_tars = {}
    for wnid in WNIDS:
        files = {name.split("/")[1]: image for name, image in contents.items() if name.startswith(wnid)}
        class_tars[f"{wnid}.tar"] = tar_bytes(files, TIME)
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(class_tars, TIME))
    return folder


@pytest.fixture
def unpacked(tmp_path: Path, contents: dict[str, bytes]) -> Path:
    """The same images as a tree."""
    for name, image in contents.items():
        path = tmp_path / "tree" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        os.utime(path, (TIME, TIME))
    return tmp_path / "tree"


def opened(data_dir: Path, cache: Path, **settings: str) -> Dataset:
    return open_dataset("imagenette", data_dir=data_dir, cache_dir=cache, **settings)


def pixels(dataset: Dataset) -> list[np.ndarray]:
    return [np.asarray(cls.images.load(position)) for cls in dataset.classes for position in range(len(cls))]


class TestMembers:
    def test_files_are_listed_with_their_places_and_what_was_asked_for(self) -> None:
        content = tar_bytes({"a/1.cls": b"7", "a/1.jpg": b"picture", "long" * 60: b"x"}, TIME)
        members = list(
            tar_members(io.BytesIO(content), "t.tar", lambda name: name.endswith(".cls"), len(content))
        )
        assert [member.name for member in members] == ["a/1.cls", "a/1.jpg", "long" * 60]
        assert [member.content for member in members] == [b"7", None, None]
        assert content[members[1].offset : members[1].offset + members[1].size] == b"picture"
        assert {member.mtime_ns for member in members} == {TIME * 10**9}

    def test_folders_and_links_are_passed_over(self) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, kind in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
                member = tarfile.TarInfo(name)
                member.type = kind
                tar.addfile(member)
        buffer.seek(0)
        assert list(tar_members(buffer, "t.tar", lambda name: True)) == []

    @pytest.mark.parametrize("in_a_file", [True, False])
    @pytest.mark.parametrize("cut", ["nothing", "header", "content", "before-a-header", "end"])
    def test_cut_off_tar_is_told(self, cut: str, in_a_file: bool) -> None:
        content = tar_bytes({"a": b"x" * 600, "b": b"y" * 600})
        kept = {"header": 512 * 3 + 100, "content": 512 * 2, "before-a-header": 512 * 3, "end": 512 * 6}
        kept["nothing"] = 0
        stop = kept[cut] if in_a_file else None
        with pytest.raises(UserError, match=r"^t\.tar is not a whole tar file"):
            list(tar_members(io.BytesIO(content[: kept[cut]]), "t.tar", lambda name: True, stop))

    @pytest.mark.parametrize("cut", ["nothing", "header", "content", "before-a-header", "end"])
    def test_cut_off_inner_tar_is_told_though_more_follows(self, cut: str) -> None:
        inner = tar_bytes({"a": b"x" * 600, "b": b"y" * 600})
        kept = {"header": 512 * 3 + 100, "content": 512 * 2, "before-a-header": 512 * 3, "end": 512 * 6}
        stop = kept.get(cut, 0)
        file = io.BytesIO(inner[:stop] + tar_bytes({"next": b"z"}))
        with pytest.raises(UserError, match=r"^t\.tar is not a whole tar file"):
            list(tar_members(file, "t.tar", lambda name: True, stop))

    def test_another_file_is_told(self) -> None:
        with pytest.raises(UserError, match="is not a whole tar file"):
            list(tar_members(io.BytesIO(b"no tar" * 200), "t.tar", lambda name: True))

    def test_a_tar_inside_a_file_ends_where_it_ends(self) -> None:
        first, second = tar_bytes({"a": b"1"}), tar_bytes({"b": b"22"})
        file = io.BytesIO(b"12345" + first + second)
        file.seek(5)
        (member,) = tar_members(file, "t.tar", lambda name: True, 5 + len(first))
        assert (member.name, member.content, member.offset) == ("a", b"1", 5 + 512)


class TestTrainTar:
    def test_images_are_those_of_the_unpacked_tree(
        self, downloaded: Path, unpacked: Path, tmp_path: Path
    ) -> None:
        packed, tree = opened(downloaded, tmp_path / "cache"), opened(unpacked, tmp_path / "cache")
        assert packed.root == str(downloaded / "ILSVRC2012_img_train.tar")
        assert [cls.images.name(0) for cls in packed.classes] == [f"{wnid}_1.JPEG" for wnid in WNIDS]
        for one, other in zip(pixels(packed), pixels(tree), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_keys_are_those_of_the_unpacked_tree(
        self, downloaded: Path, unpacked: Path, tmp_path: Path
    ) -> None:
        packed, tree = opened(downloaded, tmp_path / "cache"), opened(unpacked, tmp_path / "cache")
        assert packed.fingerprint == tree.fingerprint
        assert [cls.cache_key for cls in packed.classes] == [cls.cache_key for cls in tree.classes]

    def test_labels_follow_the_list_for_chosen_classes(self, downloaded: Path, tmp_path: Path) -> None:
        dataset = opened(downloaded, tmp_path, classes="3,n02102040")
        assert [(cls.name, cls.label, len(cls)) for cls in dataset.classes] == [
            (WNIDS[1], 1, 3),
            (WNIDS[3], 3, 3),
        ]

    def test_the_tar_itself_may_be_named(self, downloaded: Path, tmp_path: Path) -> None:
        assert len(opened(downloaded / "ILSVRC2012_img_train.tar", tmp_path)) == 30

    def test_other_files_are_counted_now_and_when_the_index_is_read(self, tmp_path: Path) -> None:
        files = {"1.JPEG": train_image(WNIDS[0], 1), "2.tif": b"", "3.gif": b"", ".DS_Store": b""}
        tar = {f"{wnid}.tar": tar_bytes(files) for wnid in WNIDS}
        (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(tar))
        for _ in range(2):
            dataset = opened(tmp_path, tmp_path)
            assert dataset.counts == dict.fromkeys(WNIDS, 2)
            assert "10 files were left out: 10 .gif" in dataset.notes

    def test_headers_are_read_once(
        self, downloaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = opened(downloaded, tmp_path)

        def refuse(*arguments: object) -> None:
            raise AssertionError("the tar was read again")

        monkeypatch.setattr("mgd3_fast.datasets.tar_index.tar_members", refuse)
        again = opened(downloaded, tmp_path)
        assert again.fingerprint == first.fingerprint
        np.testing.assert_array_equal(pixels(again)[4], pixels(first)[4])

    def test_a_changed_tar_is_read_again(self, downloaded: Path, tmp_path: Path) -> None:
        opened(downloaded, tmp_path)
        tar = downloaded / "ILSVRC2012_img_train.tar"
        one = {f"{wnid}.tar": tar_bytes({f"{wnid}_1.JPEG": train_image(wnid, 1)}) for wnid in WNIDS}
        tar.write_bytes(tar_bytes(one))
        assert opened(downloaded, tmp_path).counts == dict.fromkeys(WNIDS, 1)

    def test_a_damaged_index_is_made_again(self, downloaded: Path, tmp_path: Path) -> None:
        opened(downloaded, tmp_path / "cache")
        for path in (tmp_path / "cache" / "indexes").iterdir():
            path.write_bytes(path.read_bytes()[:-5] + b"xxxxx")
        assert len(pixels(opened(downloaded, tmp_path / "cache"))) == 30

    def test_a_cache_that_cannot_be_written_stops_nothing(self, downloaded: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        assert len(opened(downloaded, tmp_path / "file")) == 30

    def test_missing_class_is_told(self, downloaded: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"must hold a tar for each class, missing n02093754, n02111889$"):
            open_dataset("imagewoof", data_dir=downloaded, cache_dir=tmp_path, classes="1-2")

    def test_broken_off_download_is_told(self, downloaded: Path, tmp_path: Path) -> None:
        tar = downloaded / "ILSVRC2012_img_train.tar"
        tar.write_bytes(tar.read_bytes()[:-40_000])
        with pytest.raises(UserError, match=r"ILSVRC2012_img_train\.tar is not a whole tar file"):
            opened(downloaded, tmp_path)

    def test_folder_with_neither_tree_nor_tar_names_both(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"must hold train/ .* or hold ILSVRC2012_img_train\.tar, got"):
            opened(tmp_path, tmp_path)


class TestValidationTar:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Thirty validation images, three of each class in turn."""
        names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 31)]
        images = {name: encoded(photo(number), "JPEG") for number, name in enumerate(names)}
        (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(dict(reversed(images.items()))))
        return tmp_path

    def devkit(self) -> dict[str, bytes]:
        """Ids 1..10 are the classes backwards; an inner node of the hierarchy is there too."""
        kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("num_children", "i4")]
        synsets = np.zeros((11, 1), dtype=kinds)
        for place, wnid in enumerate((*reversed(WNIDS), "n00001740")):
            synsets[place, 0] = (place + 1, wnid, "words", int(place == 10))
        meta = io.BytesIO()
        savemat(meta, {"synsets": synsets})
        truth = "".join(f"{10 - number % 10}\n" for number in range(30))
        return {
            "data/meta.mat": meta.getvalue(),
            "data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
        }

    def check(self, folder: Path, cache: Path) -> None:
        dataset = opened(folder, cache, split="val")
        assert dataset.counts == dict.fromkeys(WNIDS, 3)
        assert [dataset.classes[2].images.name(place) for place in range(3)] == [
            "ILSVRC2012_val_00000003.JPEG",
            "ILSVRC2012_val_00000013.JPEG",
            "ILSVRC2012_val_00000023.JPEG",
        ]
        expected = decode_image(encoded(photo(12), "JPEG"))
        np.testing.assert_array_equal(np.asarray(dataset.load(2, 1)), np.asarray(expected))

    def test_labels_of_the_packed_devkit(self, folder: Path, tmp_path: Path) -> None:
        inside = {f"ILSVRC2012_devkit_t12/{name}": content for name, content in self.devkit().items()}
        with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
            for name, content in inside.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        self.check(folder, tmp_path / "cache")

    def test_labels_of_the_unpacked_devkit(self, folder: Path, tmp_path: Path) -> None:
        (folder / "ILSVRC2012_devkit_t12" / "data").mkdir(parents=True)
        for name, content in self.devkit().items():
            (folder / "ILSVRC2012_devkit_t12" / name).write_bytes(content)
        self.check(folder, tmp_path / "cache")

    def test_labels_of_a_list_of_wnids(self, folder: Path, tmp_path: Path) -> None:
        lines = "\n".join(WNIDS[number % 10] for number in range(30))
        (folder / "imagenet_2012_validation_synset_labels.txt").write_text(lines)
        self.check(folder, tmp_path / "cache")

    def test_missing_labels_are_told(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"must hold the labels .*devkit_t12\.tar\.gz .*, got neither"):
            opened(folder, tmp_path / "cache", split="val")

    def test_other_numbers_of_labels_and_images_are_told(self, folder: Path, tmp_path: Path) -> None:
        (folder / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(WNIDS))
        with pytest.raises(UserError, match="must hold the 10 images that have labels, got 30"):
            opened(folder, tmp_path / "cache", split="val")


def test_each_kind_of_scan_keeps_its_own_index(downloaded: Path, tmp_path: Path) -> None:
    tar = TarRange.whole(downloaded / "ILSVRC2012_img_train.tar")

    def found(kind: str) -> list[str]:
        image = IndexedImage(ScannedFile(kind, 1, 1), 0, "")
        with SILENT.stage("index", total=1, unit="tar") as bar:
            (index,) = TarIndexes(tmp_path, kind, lambda tar, left_out: [image]).of([tar], bar)
        return [index.files.name(position) for position in range(len(index))]

    assert (found("images"), found("samples"), found("images")) == (["images"], ["samples"], ["images"])
