"""--background and --fit reach the pixels of every command, and what records them gives them back.

Pictures of 256x160 pixels, half transparent, must be to a command what the same pictures are that were laid
over the background and padded to 256x256 beforehand: halved four times, to 16 pixels, both are the same.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mgd3_fast.cli import DONE, MISTAKE, main
from mgd3_fast.config import DistillConfig
from mgd3_fast.config.encode import EncodeConfig
from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.config.metrics import MetricsConfig
from mgd3_fast.config.train import TrainConfig
from mgd3_fast.datasets import Framing
from mgd3_fast.evaluate.plan import make_plan
from mgd3_fast.generators import load_generator
from mgd3_fast.metrics.measuring import measure
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.distillation import distill
from mgd3_fast.run.sources import encode
from mgd3_fast.train.batches import TrainingImages
from mgd3_fast.train.run import open_run

TEAL = (10, 120, 130)
FRAMED = {"background": "10,120,130", "fit": "pad"}
OPTIONS = ["--background", "10,120,130", "--fit", "pad"]
NAMES = ("ant", "bee", "cow")


def transparent(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 16, 4), dtype=np.uint8)
    pixels[:, 8:, 3] = 0
    return Image.fromarray(pixels.repeat(16, 0).repeat(16, 1))


def framed(image: Image.Image) -> Image.Image:
    """Worked out without the code under test."""
    pixels = np.asarray(image).astype(np.float64)
    share = pixels[..., 3:] / 255
    square = np.full((256, 256, 3), TEAL, np.uint8)
    square[48:208] = np.round(share * pixels[..., :3] + (1 - share) * np.array(TEAL))
    return Image.fromarray(square)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two datasets of one name, as their files are and framed beforehand."""
    drawn, ready = (tmp_path_factory.mktemp(name) / "icons" for name in ("drawn", "ready"))
    for split, first in (("train", 0), ("val", 500)):
        for label, name in enumerate(NAMES):
            for root in (drawn, ready):
                (root / split / name).mkdir(parents=True)
            for number in range(4):
                image = transparent(first + 100 * label + number)
                image.save(drawn / split / name / f"{number}.png")
                framed(image).save(ready / split / name / f"{number}.png")
    return drawn, ready


@pytest.fixture(scope="module")
def runs(roots: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Random real images of both, as `distill` writes them; the first with the options."""
    folders = []
    for root, options in zip(roots, (FRAMED, {}), strict=True):
        out = tmp_path_factory.mktemp("runs") / "random"
        config = DistillConfig(
            dataset=str(root / "train"), method="random", ipc=2, image_size=128, out=out, **options
        )
        distill(config)
        folders.append(out)
    return folders[0], folders[1]


def manifest(folder: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((folder / "manifest.json").read_text())
    return found


def test_distilled_real_images(runs: tuple[Path, Path]) -> None:
    for name in NAMES:
        for number in range(2):
            ours, theirs = (Image.open(run / name / f"{number}.png") for run in runs)
            np.testing.assert_array_equal(ours, theirs)
    assert FRAMED.items() <= manifest(runs[0])["settings"].items()
    assert not FRAMED.keys() & manifest(runs[1])["settings"].keys()


def test_another_background_is_another_run(
    roots: tuple[Path, Path], runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", "--dataset", str(roots[0] / "train"), "--method", "random", "--ipc", "2"]
    assert (
        main([*command, "--out", str(runs[0]), "--image-size", "128", "--fit", "pad", "--quiet"]) == MISTAKE
    )
    assert "whose background is '10,120,130' while the default is asked for" in capsys.readouterr().err


def test_latents_and_their_keys(roots: tuple[Path, Path], tiny_generator: Path, tmp_path: Path) -> None:
    def latents(root: Path, **options: str) -> torch.Tensor:
        config = EncodeConfig(
            dataset=str(root / "train"), generator=str(tiny_generator), cache_dir=tmp_path, **options
        )
        report, sources = encode(config)
        assert report.images == 12, "taken from another framing"
        return torch.cat([sources.store.get(cls) for cls in sources.dataset.classes])  # type: ignore[misc]

    ready = latents(roots[1])
    torch.testing.assert_close(latents(roots[0], **FRAMED), ready, rtol=0, atol=0)
    assert not torch.equal(latents(roots[0], background="10,120,130"), ready)
    assert not torch.equal(latents(roots[0]), ready)


def test_test_images_and_records_of_evaluate(roots: tuple[Path, Path], runs: tuple[Path, Path]) -> None:
    def plan(root: Path, *folders: Path, progress: Progress = SILENT, **options: str):  # type: ignore[no-untyped-def]
        config = EvaluateConfig(
            folders=folders, dataset=str(root), size=256, networks=("resnet18",), **options
        )
        return make_plan(config, progress)

    ready = plan(roots[1], runs[1]).first.test
    drawn = plan(roots[0], runs[0])  # what the folder records
    assert drawn.dataset.framing == Framing(TEAL, "pad")
    assert torch.equal(drawn.first.test.pixels, ready.pixels)
    assert torch.equal(plan(roots[0], runs[1], **FRAMED).first.test.pixels, ready.pixels)
    assert not torch.equal(plan(roots[0], runs[1]).first.test.pixels, ready.pixels)
    own = plan(roots[0], roots[0] / "train", **FRAMED).first.train  # a folder that is not distilled
    assert torch.equal(own.pixels, plan(roots[1], roots[1] / "train").first.train.pixels)


def test_the_first_of_two_folders_wins(
    roots: tuple[Path, Path], runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvaluateConfig(folders=runs, dataset=str(roots[0]), size=256, networks=("resnet18",))
    assert make_plan(config, Progress()).dataset.framing == Framing(TEAL, "pad")
    assert "random was made with --background 255,255,255 --fit crop" in capsys.readouterr().err


def test_metrics(
    roots: tuple[Path, Path], runs: tuple[Path, Path], tiny_generator: Path, tmp_path: Path
) -> None:
    config = MetricsConfig(
        folders=(runs[1],),
        dataset=str(roots[1] / "train"),
        generator=str(tiny_generator),
        cache_dir=tmp_path,
        tsne="off",
    )
    for features in ("pixels", "latents"):
        wanted = measure(replace(config, features=features))
        drawn = replace(config, features=features, dataset=str(roots[0] / "train"), folders=(runs[0],))
        found = measure(drawn)
        assert found.folders[0].mean == pytest.approx(wanted.folders[0].mean, nan_ok=True)
        assert FRAMED.items() <= found.settings.items()
        other = measure(replace(drawn, background="white"))
        assert other.folders[0].mean != pytest.approx(wanted.folders[0].mean, nan_ok=True)


def test_report(roots: tuple[Path, Path], runs: tuple[Path, Path], tmp_path: Path) -> None:
    pages = []
    for root, run in zip(roots, runs, strict=True):
        out = tmp_path / f"{root.parent.name}.html"
        command = ["report", str(run), "--dataset", str(root / "train"), "--map", "off", "--out", str(out)]
        assert main([*command, "--quiet"]) == DONE
        pages.append([part for part in out.read_text().split('"') if part.startswith("data:image")])
    assert pages[0] == pages[1]
    assert len(pages[0]) >= 12


def test_convert(roots: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = []
    for root, options in zip(roots, (OPTIONS, []), strict=True):
        out, source = tmp_path / root.parent.name, str(root / "train")
        command = [
            "convert",
            source,
            str(out),
            "--format",
            "tensor",
            "--dataset",
            source,
            "--dtype",
            "uint8",
            "--size",
            "16",
        ]
        assert main([*command, *options, "--quiet"]) == DONE
        tensors.append(torch.load(out / "images.pt", weights_only=True))
    assert torch.equal(*tensors)


def test_sheets_of_members_and_modes_that_do_not_fit(
    roots: tuple[Path, Path], tiny_generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    asked = [
        "--generator",
        str(tiny_generator),
        "--ipc",
        "2",
        "--cache-dir",
        str(tmp_path / "cache"),
        "--quiet",
    ]
    drawing = ["--plot-classes", "ant", "--projection", "pca", "--plot", str(tmp_path / "plots")]
    sheets = []
    for root, options in zip(roots, (OPTIONS, []), strict=True):
        out = tmp_path / root.parent.name
        command = ["discover", "--dataset", str(root / "train"), "--out", str(out), *asked]
        assert main([*command, *drawing, *options]) == DONE
        sheets.append((tmp_path / "plots" / "0000-ant-nearest.png").read_bytes())
    assert sheets[0] == sheets[1]
    assert main([*command, *OPTIONS]) == MISTAKE
    told = capsys.readouterr().err
    assert "its framing is --background 255,255,255 --fit crop, not --background 10,120,130 --fit pad" in told


def test_generators_hand_on_what_they_were_trained_with(
    roots: tuple[Path, Path], tiny_generator: Path, tmp_path: Path
) -> None:
    """`train` reads as it is told, or as --init was; `encode` as the generator was."""

    def opened(root: Path, **options: str) -> TrainingImages:
        config = TrainConfig(
            dataset=str(root / "train"), out=tmp_path / "out", steps=1, resolution=16, **options
        )
        run = open_run(config, SILENT)
        return TrainingImages(run.dataset, run.resolution, "error")

    everything = torch.arange(12)
    ready = opened(roots[1]).load(everything)
    assert torch.equal(opened(roots[0], **FRAMED).load(everything), ready)
    assert not torch.equal(opened(roots[0]).load(everything), ready)

    framed_generator = tmp_path / "generator"
    shutil.copytree(tiny_generator, framed_generator)
    description = json.loads((framed_generator / "generator.json").read_text())
    (framed_generator / "generator.json").write_text(json.dumps(description | FRAMED))
    assert load_generator(str(framed_generator), dataset_name="icons").framing == Framing(TEAL, "pad")
    assert torch.equal(opened(roots[0], init=str(framed_generator)).load(everything), ready)
    config = EncodeConfig(
        dataset=str(roots[0] / "train"), generator=str(framed_generator), cache_dir=tmp_path / "cache"
    )
    assert encode(config)[1].dataset.framing == Framing(TEAL, "pad")
    assert encode(replace(config, fit="crop"))[1].dataset.framing == Framing(TEAL, "crop")
    beside = ["--method", "random", "--ipc", "1", "--out", str(tmp_path / "random"), "--quiet"]
    assert (
        main(["distill", *beside, "--dataset", config.dataset, "--generator", str(config.generator)]) == DONE
    )
    assert FRAMED.items() <= manifest(tmp_path / "random")["settings"].items()


def test_a_trained_generator_records_it(roots: tuple[Path, Path], tmp_path: Path) -> None:
    command = ["train", "--dataset", str(roots[0] / "train"), "--out", str(tmp_path / "out"), "--steps", "1"]
    command += ["--resolution", "16", "--vae-channels", "32,32", "--vae-layers", "1", "--hidden", "24"]
    command += ["--depth", "1", "--heads", "2", "--batch-size", "2", "--vae-batch-size", "2", "--quiet"]
    command += ["--cache-dir", str(tmp_path / "cache"), "--judge", "off", "--vae-steps", "1"]
    assert main([*command, *OPTIONS]) == DONE
    assert FRAMED.items() <= json.loads((tmp_path / "out" / "generator.json").read_text()).items()
