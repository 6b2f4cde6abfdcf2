"""Metrics: each against its formula written out, the command on real digits, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgd3_engine.installing import install_command
from mgd3_fast.cli import main
from mgd3_fast.config import DistillConfig
from mgd3_fast.datasets import open_dataset
from mgd3_fast.errors import UserError
from mgd3_fast.metrics import MetricsConfig, measure
from mgd3_fast.metrics.frechet import Moments, frechet_distance
from mgd3_fast.metrics.measuring import ClassMap, ClassMeasures, FolderMeasures, Measured
from mgd3_fast.metrics.mode_recovery import mode_recovery, open_run_modes
from mgd3_fast.metrics.neighbours import cosine_scores, coverage_and_density, mean_of_nearest, nearest_other
from mgd3_fast.metrics.plots import draw
from mgd3_fast.pictures.embedding import joint_map
from mgd3_fast.run.distillation import distill
from mgd3_fast.writers.reader import read_classes

PIXELS = {"features": "pixels"}
RNG = np.random.default_rng(0)
REAL, MADE = RNG.normal(size=(40, 6)), RNG.normal(size=(7, 6)) + 0.5


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return math.sqrt(math.fsum((a - b) ** 2))


def test_diversity_is_the_distance_to_the_nearest_other_image():
    want = [min(apart(a, b) for j, b in enumerate(MADE) if j != i) for i, a in enumerate(MADE)]
    np.testing.assert_allclose(nearest_other(MADE), want, rtol=1e-12)
    assert np.isnan(nearest_other(MADE[:1])).all()
    assert (nearest_other(np.repeat(MADE[:1], 3, axis=0)) == 0).all()


@pytest.mark.parametrize("count", [1, 5, 40, 50])
def test_representativeness_is_a_mean_over_the_nearest_real_images(count):
    want = [np.mean(sorted(apart(a, b) for b in REAL)[:count]) for a in MADE]
    np.testing.assert_allclose(mean_of_nearest(MADE, REAL, count), want, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_coverage_and_density(k):
    radii = [sorted(apart(a, b) for j, b in enumerate(REAL) if j != i)[k - 1] for i, a in enumerate(REAL)]
    inside = np.array([[apart(a, b) <= radius for b, radius in zip(REAL, radii, strict=True)] for a in MADE])
    coverage, density = coverage_and_density(MADE, REAL, k)
    assert coverage == pytest.approx(inside.any(axis=0).mean())
    assert density == pytest.approx(inside.sum() / (k * len(MADE)))


def test_coverage_of_the_set_itself_is_whole_and_of_far_images_nothing():
    assert coverage_and_density(REAL, REAL, 5)[0] == 1.0
    assert coverage_and_density(REAL + 100, REAL, 5) == (0.0, 0.0)
    assert coverage_and_density(REAL[:2], REAL[:2], 5)[0] == 1.0  # as many neighbours as there are


def test_cosine_scores():
    def cosine(a, b):
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    diversity = 1 - max(cosine(a, b) for a, b in itertools.combinations(MADE, 2))
    representativeness = min(max(cosine(a, b) for b in REAL) for a in MADE)
    assert cosine_scores(MADE, REAL) == pytest.approx((diversity, representativeness), rel=1e-12)
    assert math.isnan(cosine_scores(MADE[:1], REAL)[0])
    assert np.isfinite(cosine_scores(np.zeros((2, 6)), REAL)).all()


def moments(rows: np.ndarray, *cuts: int) -> Moments:
    total = Moments(rows.shape[1])
    for part in np.split(rows, cuts):
        total.add(part)
    return total


def test_moments_do_not_depend_on_the_batches():
    rows = RNG.normal(size=(50, 4)) * 1e-3 + 1e3
    for total in (moments(rows), moments(rows, 1, 1, 7, 30)):
        np.testing.assert_allclose(total.mean, rows.mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(total.covariance, np.cov(rows.T), rtol=1e-8)
    with pytest.raises(ValueError, match="rows must be at least 2 for a covariance, got 1"):
        _ = moments(rows[:1]).covariance


def test_frechet_distance_against_the_matrix_square_root():
    from scipy.linalg import sqrtm

    first, second = RNG.normal(size=(60, 5)), RNG.normal(size=(30, 5)) @ RNG.normal(size=(5, 5)) + 1
    shift, covariances = first.mean(0) - second.mean(0), (np.cov(first.T), np.cov(second.T))
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    want = shift @ shift + np.trace(sum(covariances) - 2 * root)
    assert frechet_distance(moments(first, 20), second) == pytest.approx(want, rel=1e-9)
    assert frechet_distance(moments(first, 20), first) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="rows must be at least 2"):
        frechet_distance(moments(first), second[:1])


def test_frechet_distance_of_fewer_rows_than_features():
    from scipy.linalg import sqrtm

    first, second = RNG.normal(size=(60, 8)), RNG.normal(size=(5, 8)) * 2 + 1
    shift, covariances = first.mean(0) - second.mean(0), (np.cov(first.T), np.cov(second.T))
    half = np.real(sqrtm(covariances[0]))
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(half @ covariances[1] @ half), 0))
    want = shift @ shift + np.trace(sum(covariances)) - 2 * roots.sum()
    # The reference takes roots of eigenvalues that are zero but for rounding, 1e-8 each.
    assert frechet_distance(moments(first), second) == pytest.approx(want, rel=1e-7)


def test_the_map_is_repeatable_and_its_unit_is_the_real_images_extent():
    real = np.concatenate([RNG.normal(size=(40, 8)), RNG.normal(size=(40, 8)) + 6]).astype(np.float32)
    made = [real[:3], real[40:42] + np.float32(0.01)]
    placed, parts = joint_map(real, made, 3)
    again, _ = joint_map(real, made, 3)
    assert np.array_equal(placed, again)
    assert float(np.ptp(placed, axis=0).max()) == pytest.approx(1.0)
    assert [part.shape for part in parts] == [(3, 2), (2, 2)]
    # An image that is (almost) a real one lies beside it, one of the other cluster does not.
    for part, own in zip(parts, (0, 40), strict=True):
        beside = np.linalg.norm(placed[own] - part[0])
        assert beside < 0.1 < np.linalg.norm(placed[40 - own] - part[0])


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Real digits as distilled folders: six spread over each class, and one image six times."""
    dataset, root = open_dataset("mnist5k"), tmp_path_factory.mktemp("folders")
    for place, name in itertools.product((0, 1, 7), ("spread", "same")):
        folder = root / name / dataset.classes[place].name
        folder.mkdir(parents=True)
        for k in range(6):
            dataset.load(place, k * 60 if name == "spread" else 5).save(folder / f"{k}.png")
    return [root / "spread", root / "same"]


CLASSES = {"dataset": "mnist5k", "classes": "0,1,7", "features": "pixels", "real_images": 80}


def test_spread_images_score_higher_than_copies(folders):
    measured = measure(MetricsConfig(folders=tuple(folders), **CLASSES))
    spread, same = (folder.mean for folder in measured.folders)
    assert same["diversity"] < 0.01 < spread["diversity"]
    assert same["cosine_diversity"] == pytest.approx(0, abs=1e-6)
    assert spread["cosine_diversity"] > 0.05
    assert spread["coverage"] > same["coverage"]
    assert measured.folders[0].frechet < measured.folders[1].frechet
    assert [len(one.synthetic) for one in measured.maps] == [2] * 3
    assert all(len(one.real) == 80 for one in measured.maps)
    assert len(measured.folders[0].classes["7"].image_diversity) == 6


def test_scores_are_scaled_over_all_classes_of_all_folders_as_in_the_papers_table(folders):
    measured = measure(MetricsConfig(folders=tuple(folders), **CLASSES))
    for name in ("diversity", "representativeness"):
        plain, scaled = (
            np.array([[one.scores[key] for one in folder.classes.values()] for folder in measured.folders])
            for key in (name, f"scaled_{name}")
        )
        assert scaled.shape == (2, 3)
        np.testing.assert_allclose(scaled, (plain - plain.min()) / np.ptp(plain), rtol=1e-12)
        assert (scaled.min(), scaled.max()) == (0, 1)
        means = [folder.mean[f"scaled_{name}"] for folder in measured.folders]
        np.testing.assert_allclose(means, scaled.mean(axis=1), rtol=1e-12)
    alone = measure(MetricsConfig(folders=(folders[0],), **CLASSES | {"real_images": 9}), places=[1])
    shown = alone.to_json()["folders"][0]
    assert shown["mean"]["diversity"] > 0
    assert shown["classes"]["1"]["scores"]["scaled_diversity"] is None  # nothing to compare it with


def test_the_map_may_start_from_the_features_themselves(folders):
    from sklearn.manifold import TSNE

    config = MetricsConfig(folders=(folders[0],), **CLASSES | {"real_images": 60}, tsne_pca="off")
    measured = measure(config, places=[2])
    assert measured.settings["tsne_pca"] is False
    (drawn,) = measured.maps
    images = open_dataset("mnist5k").classes[7].images
    real = np.linspace(0, 399, 60).round().astype(int)
    rows = [images.load(k) for k in (*real, *range(0, 360, 60))]
    pixels = np.stack([np.asarray(one).transpose(2, 0, 1).ravel() / np.float32(255) for one in rows])
    placed = TSNE(2, perplexity=65 / 3, init="pca", random_state=0).fit_transform(pixels).astype(np.float64)
    unit = np.ptp(placed[:60], axis=0).max()
    assert np.array_equal(drawn.real, placed[:60] / unit)
    assert np.array_equal(drawn.synthetic[0], placed[60:] / unit)


def test_the_command_writes_json_and_pictures(folders, tmp_path, capsys):
    arguments = ["metrics", *map(str, folders), "--dataset", "mnist5k", "--classes", "0,1,7"]
    arguments += ["--features", "pixels", "--real-images", "40", "--ipc", "4"]
    arguments += ["--out", str(tmp_path / "m"), "--plot", "on"]
    assert main([*arguments, "--quiet", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "m" / "metrics.json").read_text())
    assert shown["folders"] == written["folders"]
    assert [folder["ipc"] for folder in written["folders"]] == [4, 4]
    assert list(written["folders"][0]["classes"]) == ["0", "1", "7"]
    names = {"maps.png", "classes.png", "images.png", "folders.png"}
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "m").glob("*.png")}
    assert set(pictures) == names
    assert all(min(Image.open(tmp_path / "m" / name).size) > 300 for name in names)
    assert main([*arguments, "--quiet"]) == 0
    assert pictures == {path.name: path.read_bytes() for path in (tmp_path / "m").glob("*.png")}
    assert main([*arguments, "--tsne", "off", "--plot", "off"]) == 0
    table = capsys.readouterr().out
    assert "scaled diversity" in table
    assert "diversity                  -" in table
    assert "Fréchet distance" in table


@pytest.mark.parametrize(
    ("features", "reads"),
    [("latents", "run.sources.encode_dataset"), ("pixels", "metrics.real_images.image_batches")],
    ids=["latents", "pixels"],
)
def test_a_folder_of_other_classes_is_refused_before_any_image_is_read(folders, monkeypatch, features, reads):
    monkeypatch.setattr(f"mgd3_fast.{reads}", lambda *_, **__: pytest.fail("read"))
    monkeypatch.setattr("mgd3_fast.writers.labelled.LabelledImage.load", lambda *_: pytest.fail("read"))
    with pytest.raises(UserError, match="must hold classes of mnist5k alone, unknown 7"):
        measure(MetricsConfig(folders=(folders[0],), dataset="mnist5k", classes="0,1", features=features))


def test_folders_of_one_name_are_told_apart_by_their_paths(folders, tmp_path):
    twins = tuple(Path(shutil.copytree(folder, tmp_path / folder.name / "set")) for folder in folders)
    measured = measure(MetricsConfig(folders=twins, **CLASSES | {"real_images": 10, "tsne": "off"}))
    assert [folder.name for folder in measured.folders] == [str(folder) for folder in twins]


def test_pictures_take_any_name_and_no_style_of_the_users(tmp_path, monkeypatch):
    import matplotlib

    points = np.arange(8.0).reshape(4, 2)
    scores = ClassMeasures({"diversity": 1.0, "representativeness": 0.5}, (1.0,) * 4, (0.5,) * 4)
    folders = tuple(
        FolderMeasures(name, name, 4, {"$a$_b \u6f22": scores}, scores.scores, None)
        for name in ("_m^$x", "two")
    )
    measured = Measured(folders, (ClassMap("$a$_b \u6f22", points, (points, points + 1)),), {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = [path.read_bytes() for path in draw(measured, tmp_path)]
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "red")
    assert drawn == [path.read_bytes() for path in draw(measured, tmp_path)]


def test_one_image_a_class_has_no_diversity_but_is_measured(folders):
    measured = measure(MetricsConfig(folders=(folders[0],), ipc=1, tsne="off", **CLASSES))
    score = measured.to_json()["folders"][0]
    assert score["mean"]["diversity"] is None
    assert score["mean"]["cosine_diversity"] is None
    assert 0 < score["mean"]["coverage"] < 1
    assert score["frechet"] > 0


def test_latents_are_those_of_the_demo_model(folders):
    measured = measure(MetricsConfig(folders=(folders[0],), dataset="mnist5k", classes="0,1,7", tsne="off"))
    # Of real images themselves: each has itself as the nearest real one.
    assert measured.folders[0].mean["cosine_representativeness"] == pytest.approx(1.0, abs=1e-3)
    assert measured.settings["features"] == "latents"


def test_mode_recovery():
    modes, own = MADE[:3], np.array([0, 1, 2, 2])
    points = np.concatenate([MADE[:3] + 1e-3, MADE[:1]])  # the last one lies at another mode than its own
    assert mode_recovery(points, modes, own) == 0.75
    assert mode_recovery(points, modes[::-1].copy(), own) == 0.5  # the middle mode and the last image's
    assert math.isnan(mode_recovery(points, modes[:1], np.zeros(4, dtype=np.int64)))


def test_guidance_to_the_end_recovers_the_modes_of_a_run_and_none_recovers_them_by_chance(tmp_path):
    classes, kinds = "0,4", {"guided": {"t_stop": 0}, "unguided": {"method": "unguided"}}
    for name, options in kinds.items():
        distill(DistillConfig(dataset="mnist5k", classes=classes, ipc=12, out=tmp_path / name, **options))
    folders = tuple(tmp_path / name for name in kinds)
    measured = measure(MetricsConfig(folders=folders, dataset="mnist5k", classes=classes, tsne="off"))
    guided, unguided = (folder.mean["mode_recovery"] for folder in measured.folders)
    assert guided >= 0.8
    assert unguided <= 0.4
    pixels = measure(MetricsConfig(folders=folders, dataset="mnist5k", classes=classes, tsne="off", **PIXELS))
    assert math.isnan(pixels.folders[0].mean["mode_recovery"])  # modes are points of another space
    run = read_classes(folders[0], open_dataset("mnist5k", classes=classes), "folder")
    digest = run.manifest["generator"]["autoencoder_digest"]
    assert open_run_modes(run, digest) is not None
    listed, added = run.images[0], replace(run.images[0], path=folders[0] / "0/99.png", sha256=None)
    assert open_run_modes(replace(run, images=(listed, added)), digest) is None  # nobody knows whose it is


def onnx_network(path: Path, inputs: int = 1) -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    images = [
        onnx.helper.make_tensor_value_info(f"images{k}", onnx.TensorProto.FLOAT, ["n", 3, 32, 32])
        for k in range(inputs)
    ]
    pooled = onnx.helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, ["n", 3, 1, 1])
    node = onnx.helper.make_node("GlobalAveragePool", ["images0"], ["pooled"])
    graph = onnx.helper.make_graph([node], "pool", images, [pooled])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("input_range", "low", "high"),
    [("byte", 0, 255), ("unit", 0, 1), ("symmetric", -1, 1), ("imagenet", -2.2, 2.7)],
)
def test_an_onnx_network_gives_the_features(folders, tmp_path, input_range, low, high):
    from mgd3_fast.metrics.real_images import open_comparison
    from mgd3_fast.progress import SILENT

    network = str(onnx_network(tmp_path / "pool.onnx"))
    config = MetricsConfig(
        folders=(folders[0],), dataset="mnist5k", classes="0,1,7", features=network, input_range=input_range
    )
    comparison = open_comparison(config, SILENT)
    pixels = np.stack([np.asarray(comparison.dataset.load(2, k)) for k in range(400)]).mean(axis=(1, 2))
    got = comparison.real(2)
    assert got.shape == (400, 3)
    scaled = {"byte": pixels, "unit": pixels / 255, "symmetric": pixels / 127.5 - 1}
    scaled["imagenet"] = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(got, scaled[input_range], rtol=1e-4, atol=1e-4)
    assert low < got.min()
    assert got.max() < high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folders": ()}, "folders must name at least one distilled folder, got none"),
        (
            {"features": "resnet"},
            "features must be latents, pixels or the path of an .onnx file",
        ),
        ({"nearest": 0}, "nearest must be"),
        ({"plot": "on"}, "out must be given with --plot on, got none"),
        ({"plot": "on", "out": "x", "tsne": "off"}, "tsne must be on with --plot on, got off"),
        ({"tsne_pca": "off", "tsne": "off"}, "tsne_pca must be left out with --tsne off, got off"),
        ({"input_range": "other"}, "input_range must be one of imagenet, symmetric, unit, byte"),
    ],
)
def test_wrong_options_say_what_is_allowed(options, message):
    with pytest.raises(UserError, match=message):
        MetricsConfig(**{"folders": (Path("a"),), "dataset": "mnist5k"} | options)


def test_unwritable_out_is_found_before_anything_is_measured(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mgd3_fast.metrics.measuring.measure", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    words = ["metrics", str(folders[0]), "--dataset", "mnist5k", "--features", "pixels", "--out"]
    assert main([*words, str(tmp_path / "file")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "out must be a folder that can be written, got" in line


def test_missing_matplotlib_is_found_before_anything_is_measured(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mgd3_fast.metrics.measuring.measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr("mgd3_fast.pictures.style.find_spec", lambda name: None)
    words = [
        "metrics",
        str(folders[0]),
        "--dataset",
        "mnist5k",
        "--plot",
        "on",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"plot must be off without matplotlib: {install_command('plot')}")
    assert not (tmp_path / "out").exists()


def test_wrong_networks_and_folders_say_what_is_expected(folders, tmp_path):
    two = onnx_network(tmp_path / "two.onnx", inputs=2)
    (tmp_path / "text.onnx").write_text("not a network")
    large = str(onnx_network(tmp_path / "pool.onnx"))
    for features, resolution, message in (
        (str(two), None, "features must be an ONNX network of one input, got images0, images1"),
        (str(tmp_path / "text.onnx"), None, "features must be an ONNX network, got"),
        (str(tmp_path / "none.onnx"), None, "or an existing .onnx file, got"),
        (large, 64, r"does not take images \[64, 3, 64, 64\]"),
    ):
        config = MetricsConfig(
            folders=(folders[0],), resolution=resolution, **CLASSES | {"features": features}
        )
        with pytest.raises(UserError, match=message):
            measure(config)
    with pytest.raises(UserError, match="resolution must be 32 for the latents of demo-mnist5k, got 64"):
        measure(MetricsConfig(folders=(folders[0],), dataset="mnist5k", resolution=64))
    with pytest.raises(UserError, match="each of folders must be an existing folder"):
        measure(MetricsConfig(folders=(tmp_path / "no",), **CLASSES))
