"""The image stream: order, look-ahead, and the two rules for bad images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from mgd3_fast.datasets import (
    ArrayImages,
    BadImage,
    Dataset,
    ImageClass,
    center_crop,
    image_batches,
    open_dataset,
    run_ahead,
)
from mgd3_fast.errors import UserError
from tests.fakes.pictures import encoded, photo


def array_dataset(*counts: int) -> Dataset:
    classes = tuple(
        ImageClass(
            str(label),
            label,
            ArrayImages(np.random.default_rng(label).integers(0, 256, (n, 8, 8), dtype=np.uint8)),
        )
        for label, n in enumerate(counts)
    )
    return Dataset("arrays", classes, tuple(cls.name for cls in classes))


@pytest.fixture
def damaged(tmp_path: Path) -> Dataset:
    """Class "a": good, empty, good, text; class "b": two good ones; class "c": nothing good."""
    contents = {
        "a/0.png": encoded(photo(0), "PNG"),
        "a/1.png": b"",
        "a/2.png": encoded(photo(2), "PNG"),
        "a/3.png": b"?",
        "b/0.png": encoded(photo(3), "PNG"),
        "b/1.png": encoded(photo(4), "PNG"),
        "c/0.png": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return open_dataset(str(tmp_path))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_hold_cropped_images_in_order(tmp_path: Path, workers: int) -> None:
    (tmp_path / "cat").mkdir()
    for index in range(4):
        (tmp_path / "cat" / f"{index}.png").write_bytes(encoded(photo(index), "PNG"))
    dataset = open_dataset(str(tmp_path))
    batches = list(image_batches(dataset, 0, 16, 3, num_workers=workers))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2], [3]]
    images = torch.cat([batch.images for batch in batches])
    assert (images.dtype, images.shape) == (torch.uint8, (4, 3, 16, 16))
    for position in range(4):
        cropped = np.asarray(center_crop(dataset.load(0, position), 16)).transpose(2, 0, 1)
        np.testing.assert_array_equal(images[position].numpy(), cropped)


def test_error_names_file_reason_and_way_out(damaged: Dataset) -> None:
    with pytest.raises(UserError, match=r"a/1\.png cannot be read: the file is empty \(--on-bad-image skip"):
        list(image_batches(damaged, 0, 8, 2))


def test_skip_records_what_it_left_out(damaged: Dataset) -> None:
    bad: list[BadImage] = []
    batches = list(image_batches(damaged, 0, 8, 2, "skip", bad_images=bad))
    assert [batch.indices.tolist() for batch in batches] == [[0, 2]]
    assert [(image.class_name, image.image_index, image.image_name) for image in bad] == [
        ("a", 1, "1.png"),
        ("a", 3, "3.png"),
    ]
    assert bad[0].reason == "the file is empty"


def test_class_without_a_good_image_is_an_error_also_when_skipping(damaged: Dataset) -> None:
    with pytest.raises(UserError, match="none of the 1 images of class c can be read"):
        list(image_batches(damaged, 2, 8, 2, "skip"))


def test_unknown_rule(damaged: Dataset) -> None:
    with pytest.raises(UserError, match="on_bad_image must be one of error, skip, got 'ignore'"):
        list(image_batches(damaged, 0, 8, 2, "ignore"))


def test_vanished_file_is_an_input_error_not_a_bad_image(damaged: Dataset) -> None:
    Path(damaged.classes[1].images.location(0)).unlink()
    with pytest.raises(FileNotFoundError):
        list(image_batches(damaged, 1, 8, 2, "skip"))


@pytest.mark.parametrize("workers", [0, 2])
def test_no_more_is_read_than_what_waits_decoded(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr("mgd3_fast.datasets.batches._LOOKAHEAD", 4)
    dataset = array_dataset(50)
    read: list[int] = []
    images = dataset.classes[0].images
    plain_load = images.load
    images.load = lambda position: (read.append(position), plain_load(position))[1]  # type: ignore[method-assign]
    batches = image_batches(dataset, 0, 8, 2, num_workers=workers)
    for _ in range(5):
        next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert 10 <= len(read) <= 14


@pytest.mark.parametrize("pixels", [np.zeros((2, 8, 8), np.float32), np.zeros((2, 8, 8, 4), np.uint8)])
def test_arrays_of_another_kind_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="pixels must be uint8"):
        ArrayImages(pixels)


class TestRunAhead:
    """Jobs are taken on one thread and run on others."""

    @pytest.mark.parametrize("workers", [0, 1, 4])
    def test_results_keep_the_order_of_the_jobs(self, workers: int) -> None:
        jobs = (partial(int, number) for number in range(100))
        assert list(run_ahead(jobs, workers, 7)) == list(range(100))

    @pytest.mark.parametrize("workers", [0, 1, 4])
    def test_errors_of_taking_come_after_the_results_before_them(self, workers: int) -> None:
        def jobs() -> Iterator[Callable[[], int]]:
            yield from (partial(int, number) for number in range(3))
            raise UserError("broke off")

        results = run_ahead(jobs(), workers, 8)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(UserError, match="broke off"):
            next(results)

    def test_errors_of_a_job_come_in_its_place(self) -> None:
        results = run_ahead((partial(int, text) for text in ("1", "2", "x", "4")), 3, 4)
        assert [next(results), next(results)] == [1, 2]
        with pytest.raises(ValueError, match="invalid literal"):
            next(results)

    def test_jobs_are_taken_while_the_caller_is_busy(self) -> None:
        taken = Event()

        def jobs() -> Iterator[Callable[[], int]]:
            yield partial(int, 1)
            taken.set()
            yield partial(int, 2)

        results = run_ahead(jobs(), 1, 2)
        assert next(results) == 1
        assert taken.wait(10)
        assert list(results) == [2]

    def test_stopping_early_closes_the_source_and_takes_no_more_than_the_lookahead(self) -> None:
        taken: list[int] = []
        closed: list[bool] = []

        def jobs() -> Iterator[Callable[[], int]]:
            try:
                for number in range(1000):
                    taken.append(number)
                    yield partial(int, number)
            finally:
                closed.append(True)

        results = run_ahead(jobs(), 2, 4)
        for _ in range(10):
            next(results)
        results.close()
        assert 10 <= len(taken) <= 10 + 4 + 1
        assert closed == [True]
