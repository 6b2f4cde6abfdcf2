"""The held-out part of a train split: deterministic, disjoint, and the same for every copy of the files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mgd3_fast.datasets import open_dataset
from mgd3_fast.datasets.holdout import fit_part, held_out_part
from mgd3_fast.errors import UserError


def names_of(dataset: object) -> dict[str, list[str]]:
    return {cls.name: [cls.images.name(k) for k in range(len(cls))] for cls in dataset.classes}


def test_parts_are_disjoint_and_complete(pictures: Path) -> None:
    whole = open_dataset(str(pictures))
    fit, held_out = fit_part(whole), held_out_part(whole)
    for cls, name in zip(whole.classes, whole.class_names, strict=True):
        kept, out = names_of(fit)[name], names_of(held_out)[name]
        assert len(out) == 1  # a fifth of seven
        assert sorted(kept + out) == sorted(cls.images.name(k) for k in range(len(cls)))
    assert (fit.split, held_out.split) == ("fit", "val of train")
    assert fit.class_names == held_out.class_names == whole.class_names
    assert len({whole.fingerprint, fit.fingerprint, held_out.fingerprint}) == 3


def test_the_choice_does_not_depend_on_place_or_time(pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "copy", copy_function=shutil.copy)
    here, there = (held_out_part(open_dataset(str(root))) for root in (pictures, tmp_path / "copy"))
    assert names_of(here) == names_of(there)
    assert here.fingerprint == there.fingerprint
    assert here.classes[0].cache_key != there.classes[0].cache_key  # copies have other times of change


def test_images_are_those_of_the_whole_class() -> None:
    whole = open_dataset("mnist5k")
    fit, held_out = fit_part(whole), held_out_part(whole)
    assert fit.counts == dict.fromkeys(whole.class_names, 320)
    assert held_out.counts == dict.fromkeys(whole.class_names, 80)
    place = int(held_out.classes[3].images.name(5))
    np.testing.assert_array_equal(np.asarray(held_out.load(3, 5)), np.asarray(whole.load(3, place)))
    assert held_out.classes[3].images.in_memory


def test_a_class_of_one_image_cannot_be_split(pictures: Path, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    for file in sorted((root / "bee").iterdir())[1:]:
        file.unlink()
    with pytest.raises(UserError, match="class bee must have at least 2 images"):
        fit_part(open_dataset(str(root)))


def test_a_stream_cannot_be_split(pictures: Path) -> None:
    streamed = replace(open_dataset(str(pictures)), stream=object())
    with pytest.raises(UserError, match="because it is a stream"):
        held_out_part(streamed)
