"""Real images chosen as baselines: which ones, and that the folder is one like any other."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mgd3_fast.config import DistillConfig
from mgd3_fast.config.methods import REAL_METHODS
from mgd3_fast.datasets import center_crop, open_dataset
from mgd3_fast.datasets.sides import sensible_side
from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.modes import HerdingDiscovery
from mgd3_fast.run import real_images
from mgd3_fast.run.distillation import DistilledDataset, distill
from mgd3_fast.run.selection import select_images
from mgd3_fast.writers.reader import read_classes


@pytest.fixture
def run(pictures: Path, tmp_path: Path) -> Callable[..., DistilledDataset]:
    def build(method: str, out: str = "out", **changes: Any) -> DistilledDataset:
        options = {"dataset": str(pictures), "ipc": 3, "out": tmp_path / out, "method": method}
        return distill(DistillConfig(**{**options, **changes}))

    return build


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }


def without_times(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: section for name, section in manifest.items() if name != "sessions"}


# Which images


def test_herding_is_the_greedy_rule() -> None:
    samples = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    found = HerdingDiscovery().fit(samples, 4, seed=0)
    points, chosen = samples.double().numpy(), []
    for number in range(1, 5):
        total = points[chosen].sum(0) if chosen else 0
        distances = [
            np.inf if row in chosen else np.linalg.norm(points.mean(0) - (points[row] + total) / number)
            for row in range(12)
        ]
        chosen.append(int(np.argmin(distances)))
    assert found.source_index.tolist() == chosen
    torch.testing.assert_close(found.centers, samples[found.source_index])
    assert float(found.weights.sum()) == pytest.approx(1)


def test_herding_follows_the_mean_better_than_chance() -> None:
    samples = torch.randn(200, 20, generator=torch.Generator().manual_seed(1))
    herded = samples[HerdingDiscovery().fit(samples, 10, 0).source_index].mean(0)
    first = samples[:10].mean(0)
    # Measured: 0.34 times.
    assert float((herded - samples.mean(0)).norm()) < 0.4 * float((first - samples.mean(0)).norm())


@pytest.mark.parametrize("method", REAL_METHODS)
def test_choices_are_different_images_and_repeat(pictures: Path, method: str) -> None:
    dataset = open_dataset(str(pictures))
    chosen = select_images(dataset, 1, method, 4, seed=0)
    assert len(set(chosen.indices)) == 4
    assert sum(chosen.weights) == pytest.approx(1)
    assert select_images(dataset, 1, method, 4, seed=0) == chosen
    everything = select_images(dataset, 1, method, 7, seed=3)
    assert sorted(everything.indices) == list(range(7))


def test_random_images_are_drawn_evenly_and_apart_for_each_class(pictures: Path) -> None:
    dataset = open_dataset(str(pictures))
    counts = np.zeros(7)
    for seed in range(300):
        counts[list(select_images(dataset, 0, "random", 2, seed).indices)] += 1
    np.testing.assert_allclose(counts, 600 / 7, atol=35)
    of_classes = [[select_images(dataset, c, "random", 3, s).indices for s in range(5)] for c in range(2)]
    assert of_classes[0] != of_classes[1]


def test_closest_images_stand_for_clusters(tmp_path: Path) -> None:
    """Three bunches of grey levels; each bunch's middle image is chosen, with its bunch's share."""
    levels = [10, 12, 14, 100, 102, 104, 106, 108, 200, 210]
    (tmp_path / "grey").mkdir()
    for number, level in enumerate(levels):
        Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(tmp_path / "grey" / f"{number:02d}.png")
    chosen = select_images(open_dataset(str(tmp_path)), 0, "kmeans-closest", 3, seed=0)
    found = dict(zip(chosen.indices, chosen.weights, strict=True))
    assert found[1] == pytest.approx(0.3)
    assert found[5] == pytest.approx(0.5)
    assert found.get(8, found.get(9)) == pytest.approx(0.2)


@pytest.mark.parametrize("method", REAL_METHODS)
def test_bad_images_are_refused_or_never_chosen(pictures: Path, tmp_path: Path, method: str) -> None:
    root = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    for number in (0, 2, 5):
        (root / "bee" / f"{number}.png").write_bytes(b"no image")
    dataset = open_dataset(str(root))
    with pytest.raises(UserError, match="--on-bad-image skip"):
        select_images(dataset, 1, method, 4, seed=0)
    bad: list[Any] = []
    chosen = select_images(dataset, 1, method, 4, seed=0, on_bad_image="skip", bad_images=bad)
    assert sorted(chosen.indices) == [1, 3, 4, 6]
    assert {one.image_name for one in bad} <= {"0.png", "2.png", "5.png"}
    with pytest.raises(
        UserError, match="ipc must be at most 4, the number of good images of class bee, got 5"
    ):
        select_images(dataset, 1, method, 5, seed=0, on_bad_image="skip")


# The folder


@pytest.mark.parametrize("method", REAL_METHODS)
def test_folder_has_the_real_images_and_a_manifest(
    run: Callable[..., DistilledDataset], pictures: Path, method: str
) -> None:
    distilled = run(method, image_size=24)
    dataset = open_dataset(str(pictures))
    assert distilled.manifest is not None
    assert (len(distilled), distilled.made, distilled.missing) == (9, 9, 0)
    assert distilled.manifest["settings"]["method"] == method
    assert distilled.contact_sheet is not None
    assert distilled.contact_sheet.is_file()
    for record in distilled.manifest["images"]:
        path = distilled.folder / record["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]
        cls = dataset.classes[record["label"]]
        assert cls.images.name(record["source_index"]) == record["source_image"]
        wanted = center_crop(cls.images.load(record["source_index"]), 24)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(wanted))
    assert [one["name"] for one in distilled.manifest["classes"]] == ["ant", "bee", "cow"]
    assert read_classes(distilled.folder, dataset, "folder").ipc == 3
    again = run(method, image_size=24)
    assert (again.made, again.missing) == (0, 0)


def test_mnist5k_keeps_its_pixels(tmp_path: Path) -> None:
    config = DistillConfig(dataset="mnist5k", ipc=2, out=tmp_path / "out", method="random", classes="3,7")
    distilled = distill(config)
    dataset = open_dataset("mnist5k")
    for path, label in distilled:
        record = next(
            one
            for one in distilled.manifest["images"]
            if one["file"] == str(path.relative_to(tmp_path / "out"))
        )
        wanted = np.asarray(dataset.load(label, record["source_index"]))
        np.testing.assert_array_equal(np.asarray(Image.open(path)), wanted)


def test_real_images_are_as_large_as_what_they_are_compared_with(
    run: Callable[..., DistilledDataset], tiny_generator: Path
) -> None:
    """The pictures are 40 x 30; the generator's images 16 x 16."""

    def side(**changes: Any) -> int:
        distilled = run("random", "-".join(["out", *changes]), **changes)
        assert distilled.manifest is not None
        image = Image.open(distilled.folder / distilled.manifest["images"][0]["file"])
        assert image.size == (distilled.manifest["settings"]["resolution"],) * 2
        return image.width

    assert side(generator=str(tiny_generator)) == 16
    assert side(generator=str(tiny_generator), image_size=20) == 20
    assert side() == 30  # below 32 their own


@pytest.mark.parametrize(
    ("sides", "wanted"), [([28] * 3, 28), ([32, 63, 500], 32), ([64] * 9, 64), ([375, 500, 2000], 256)]
)
def test_sensible_side_is_a_power_of_two_that_has_pixels(
    tmp_path: Path, sides: list[int], wanted: int
) -> None:
    (tmp_path / "grey").mkdir()
    for number, side in enumerate(sides):
        Image.new("L", (2 * side, side)).save(tmp_path / "grey" / f"{number}.png")
    (tmp_path / "grey" / "bad.png").write_bytes(b"no image")
    assert sensible_side(open_dataset(str(tmp_path))) == wanted


def test_shards_and_resumption_give_the_same_folder(run: Callable[..., DistilledDataset]) -> None:
    whole = run("kmeans-closest", "whole")
    first = run("kmeans-closest", "parts", shard="1/2")
    assert (first.manifest, first.made, first.missing) == (None, 4, 5)
    second = run("kmeans-closest", "parts", shard="2/2")
    assert (second.made, second.missing) == (5, 0)
    assert bytes_of(second.folder) == bytes_of(whole.folder)
    assert without_times(second.manifest) == without_times(whole.manifest)
    (second.folder / "bee" / "1.png").write_bytes(b"damaged")
    mended = run("kmeans-closest", "parts")
    assert mended.made == 1
    assert bytes_of(mended.folder) == bytes_of(whole.folder)


def test_interruption_keeps_finished_images(
    run: Callable[..., DistilledDataset], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original, calls = real_images.select_images, []

    def select(*given: Any, **options: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*given, **options)

    monkeypatch.setattr(real_images, "select_images", select)
    with pytest.raises(Interrupted, match="6 of 9 images are kept"):
        run("random")
    monkeypatch.undo()
    assert run("random").made == 3
    assert bytes_of(tmp_path / "out") == bytes_of(run("random", "whole").folder)


def test_a_folder_of_another_method_is_refused(run: Callable[..., DistilledDataset]) -> None:
    run("random")
    with pytest.raises(UserError, match="whose method is 'random' while 'herding' is asked for"):
        run("herding")


def test_exports_come_from_chosen_images_too(run: Callable[..., DistilledDataset]) -> None:
    distilled = run("random", format="tensor")
    assert distilled.export is not None
    assert distilled.export.is_dir()


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", 3), ("cfg_scale", 2.0), ("t_stop", 0), ("sampler", "ddim"), ("trace", "ant/0")],
)
def test_options_of_generation_are_refused(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{option} must be left out with method random"):
        DistillConfig(dataset="mnist5k", ipc=1, out="out", method="random", **{option: value})


def test_split_fit_never_takes_what_is_tested_on(
    run: Callable[..., DistilledDataset], pictures: Path
) -> None:
    from mgd3_fast.datasets.holdout import held_out_part

    held_out = held_out_part(open_dataset(str(pictures)))
    names = {(cls.name, cls.images.name(k)) for cls in held_out.classes for k in range(len(cls))}
    for method in REAL_METHODS:
        manifest = run(method, method, split="fit", ipc=6).manifest
        assert manifest["dataset"]["split"] == "fit"
        assert not names & {(one["class"], one["source_image"]) for one in manifest["images"]}
    with pytest.raises(UserError, match="ipc must be at most 6"):
        run("random", "seven", split="fit", ipc=7)


def test_only_training_images_can_be_chosen(pictures: Path) -> None:
    with pytest.raises(UserError, match="split must be one of train, fit, got 'val'"):
        DistillConfig(dataset=str(pictures), ipc=1, out="out", split="val")
