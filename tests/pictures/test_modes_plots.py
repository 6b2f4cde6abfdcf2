"""Pictures of modes: what they show, that they repeat, and how `discover --plot` makes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from mgd3_engine.installing import install_command
from mgd3_fast.cli import main
from mgd3_fast.datasets import Dataset
from mgd3_fast.errors import UserError
from mgd3_fast.latents import LatentStore, encode_dataset
from mgd3_fast.modes import Discovery, ModeSet, discover_modes
from mgd3_fast.pictures import plot_modes
from mgd3_fast.pictures.members import ModeMembers, mode_members
from mgd3_fast.pictures.mode_map import COLOURS, draw_mode_map, mode_colours, project
from mgd3_fast.pictures.nearest_sheet import MOST_MODES, THUMBNAIL_PX, draw_nearest_sheet
from tests.fakes.encoders import PoolingEncoder, array_dataset, put_latents

pytest.importorskip("matplotlib")


def members_of(n: int = 60, modes: int = 4, dim: int = 8) -> ModeMembers:
    generator = torch.Generator().manual_seed(n)
    centers = 6 * torch.randn(modes, dim, generator=generator)
    latents = centers[torch.arange(n) % modes] + torch.randn(n, dim, generator=generator)
    weights = torch.bincount(torch.arange(n) % modes, minlength=modes) / n
    sources = torch.cdist(centers, latents).argmin(1)
    return mode_members("class 3: 4 modes", latents, centers, weights, sources)


class TestMembers:
    def test_each_latent_has_its_mode_and_each_mode_its_nearest(self) -> None:
        latents = torch.tensor([[0.0, 0], [3, 4], [0, 1], [10, 0], [10, 1]])
        found = mode_members(
            "", latents, torch.tensor([[0.0, 0], [10, 0]]), torch.ones(2) / 2, torch.tensor([0, 3])
        )
        assert found.labels.tolist() == [0, 0, 0, 1, 1]
        assert found.nearest[0].tolist() == [0, 2, 1, 3, 4]
        # Root mean square over the two numbers of a latent.
        assert found.distances[0, :3].tolist() == pytest.approx([0, (1 / 2) ** 0.5, (25 / 2) ** 0.5])

    def test_at_most_eight_images_a_mode(self) -> None:
        assert members_of().nearest.shape == (4, 8)
        assert members_of(n=5).nearest.shape == (4, 5)


class TestMap:
    def test_principal_components_keep_distances_of_a_plane(self) -> None:
        plane = torch.tensor([[1.0, 0], [0, 2], [3, 3], [-4, 1], [0, 0]])
        latents = torch.cat([plane, torch.full((5, 3), 7.0)], dim=1)
        shown = mode_members("", latents, latents[:2], torch.ones(2) / 2, torch.tensor([0, 1]))
        points, placed, what = project(shown, "pca", 0)
        np.testing.assert_allclose(np.linalg.norm(points[0] - points[3]), 26**0.5, rtol=1e-6)
        np.testing.assert_allclose(placed, points[:2], atol=1e-6)
        assert what == "two principal components, 100% of the variance"

    def test_tsne_puts_modes_among_their_latents(self) -> None:
        shown = members_of()
        points, placed, what = project(shown, "tsne", 0)
        assert what == "t-SNE of latents and modes"
        for mode in range(4):
            apart = np.linalg.norm(points - placed[mode], axis=1)
            assert int(shown.labels[int(apart.argmin())]) == mode

    @pytest.mark.parametrize("n", [1, 2, 5])
    def test_too_few_latents_for_tsne_get_principal_components(self, n: int) -> None:
        shown = members_of(n=n, modes=1)
        points, placed, what = project(shown, "tsne", 0)
        assert (points.shape, placed.shape) == ((n, 2), (1, 2))
        assert np.isfinite(points).all()
        assert "principal components" in what

    def test_bytes_repeat_whatever_the_threads_and_the_users_style(self, tmp_path: Path) -> None:
        import matplotlib

        files = []
        for number, threads in enumerate((1, 2)):
            with (
                threadpool_limits(limits=threads),
                matplotlib.rc_context({"font.size": 10 + 5 * number, "figure.facecolor": "black"}),
            ):
                files.append(tmp_path / f"{number}.png")
                draw_mode_map(files[-1], members_of(), "tsne", 0)
        assert files[0].read_bytes() == files[1].read_bytes()
        with Image.open(files[0]) as image:
            assert image.size == (900, 900)
            assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)

    def test_every_mode_and_latent_is_drawn(self, tmp_path: Path) -> None:
        draw_mode_map(tmp_path / "map.png", members_of(modes=7, n=70), "pca", 0)
        pixels = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).reshape(-1, 3)
        seen = {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}
        wanted = {tuple(bytes.fromhex(colour[1:])) for colour in COLOURS}
        assert wanted <= seen

    def test_neighbours_have_different_colours(self) -> None:
        places = np.stack([np.arange(12.0), np.zeros(12)], axis=1)
        colours = mode_colours(places)
        assert set(colours) == set(COLOURS)
        assert all(first != second for first, second in pairwise(colours))


class TestSheet:
    def test_shows_each_image_in_its_place(self, tmp_path: Path) -> None:
        rows = [
            [Image.new("RGB", (32, 32), (40 * mode, 20 * column, 99)) for column in range(8)]
            for mode in range(4)
        ]
        draw_nearest_sheet(tmp_path / "sheet.png", members_of(), rows)
        sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
        pitch = THUMBNAIL_PX + 4
        for mode in range(4):
            for column in range(8):
                x = sheet.width - (8 - column) * pitch + 48
                y = sheet.height - (4 - mode) * (pitch + 18) + 48
                assert sheet.getpixel((x, y)) == (40 * mode, 20 * column, 99)

    def test_bar_grows_with_the_weight(self, tmp_path: Path) -> None:
        shown = replace(members_of(), weights=torch.tensor([0.5, 0.25, 0.25, 0.0]))
        rows = [[Image.new("RGB", (32, 32))] * 8] * 4
        draw_nearest_sheet(tmp_path / "sheet.png", shown, rows)
        pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
        blue = (pixels == np.array([0x00, 0x72, 0xB2])).all(2).sum(1)
        lengths = [int(part.max()) for part in np.array_split(blue[-4 * 118 :], 4)]
        assert lengths == [113, 57, 57, 0]

    def test_at_most_a_hundred_modes(self, tmp_path: Path) -> None:
        rows = [[Image.new("RGB", (8, 8))]] * 130
        shown = members_of(n=131, modes=130)
        draw_nearest_sheet(tmp_path / "sheet.png", shown, rows)
        assert Image.open(tmp_path / "sheet.png").height == 54 + MOST_MODES * 118


@pytest.fixture
def found(tmp_path: Path) -> tuple[Dataset, LatentStore, ModeSet]:
    dataset = array_dataset(9, 12, 10)
    store = LatentStore(tmp_path / "cache", "d1gest", 8)
    encode_dataset(dataset, PoolingEncoder(), store)
    return dataset, store, discover_modes(dataset, store, (4, 2, 2), Discovery(ipc=3))


class TestPlotModes:
    def test_two_pictures_a_class(self, found: tuple[Dataset, LatentStore, ModeSet], tmp_path: Path) -> None:
        dataset, store, modes = found
        pictures = plot_modes(dataset.subset([0, 2]), store, modes, tmp_path / "plots", projection="pca")
        names = ["0000-0-map.png", "0000-0-nearest.png", "0002-2-map.png", "0002-2-nearest.png"]
        assert [path.name for path in pictures] == names
        assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == names

    def test_sheet_begins_with_the_source_images(
        self, found: tuple[Dataset, LatentStore, ModeSet], tmp_path: Path
    ) -> None:
        dataset, store, modes = found
        # Without the first image, rows of the latents are one less than positions in the class.
        cls = dataset.classes[1]
        latents = store.get(cls)
        assert latents is not None
        put_latents(store, cls, latents[1:].clone(), torch.arange(1, 12))
        modes = discover_modes(dataset, store, (4, 2, 2), Discovery(ipc=3))
        plot_modes(dataset.subset([1]), store, modes, tmp_path / "plots", projection="pca")
        sheet = np.asarray(Image.open(tmp_path / "plots" / "0001-1-nearest.png").convert("RGB"))
        for mode, source in enumerate(modes.source_index[1].tolist()):
            top, left = 54 + 118 * mode, 132
            got = sheet[top : top + THUMBNAIL_PX, left : left + THUMBNAIL_PX][6::12, 6::12]
            assert np.array_equal(got, np.asarray(cls.images.load(source)))

    @pytest.mark.parametrize("flip", ["random", "both"])
    def test_mirrored_images_are_shown_as_they_were_encoded(self, tmp_path: Path, flip: str) -> None:
        dataset = array_dataset(9)
        store = LatentStore(tmp_path / "cache", "d1gest", 8, flip=flip)
        encode_dataset(dataset, PoolingEncoder(), store)
        modes = discover_modes(dataset, store, (4, 2, 2), Discovery(ipc=9, method="kmeans-closest"))
        plot_modes(dataset, store, modes, tmp_path / "plots", projection="pca")
        sheet = np.asarray(Image.open(tmp_path / "plots" / "0000-0-nearest.png").convert("RGB"))
        encoder = PoolingEncoder()
        for mode in range(9):
            top = 54 + 118 * mode
            shown = sheet[top : top + THUMBNAIL_PX, 132 : 132 + THUMBNAIL_PX][6::12, 6::12]
            latent = encoder.encode(torch.from_numpy(shown.transpose(2, 0, 1).copy())[None])[0]
            torch.testing.assert_close(latent, modes.modes[0, mode])

    def test_latents_that_are_missing_are_told(
        self, found: tuple[Dataset, LatentStore, ModeSet], tmp_path: Path
    ) -> None:
        dataset, store, modes = found
        store.path(dataset.classes[0]).unlink()
        with pytest.raises(UserError, match="latents of class 0 must be encoded first"):
            plot_modes(dataset, store, modes, tmp_path / "plots")


@pytest.fixture
def words(tiny_generator: Path, pictures: Path, cache: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def build(*more: str, command: str = "discover") -> list[str]:
        given = {"--dataset": pictures, "--generator": tiny_generator, "--ipc": 2, "--out": tmp_path / "out"}
        return [command, *(str(part) for pair in given.items() for part in pair), *more]

    return build


class TestCommand:
    def test_pictures_lie_beside_the_modes(
        self, words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(words("--plot", "--projection", "pca", "--plot-classes", "ant,cow", "--json")) == 0
        shown = json.loads(capsys.readouterr().out)
        folder = tmp_path / "out" / "mode-plots"
        assert [Path(path).parent for path in shown["pictures"]] == [folder] * 4
        assert {path.name for path in folder.iterdir()} == {Path(path).name for path in shown["pictures"]}
        assert shown["kmeans"] == "sklearn"
        # The folder is still one that a run may use.
        assert main([*words(command="distill"), "--quiet"]) == 0
        assert (tmp_path / "out" / "manifest.json").exists()

    def test_modes_that_are_there_are_drawn_though_the_latents_are_gone(
        self,
        words: Callable[..., list[str]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("MGD3_CACHE", str(tmp_path / "cache"))
        assert main(words()) == 0
        shutil.rmtree(tmp_path / "cache")
        assert main(words("--plot", str(tmp_path / "elsewhere"), "--projection", "pca")) == 0
        assert len(list((tmp_path / "elsewhere").iterdir())) == 6
        assert "6 pictures in" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--plot", "--projection", "umap"], "projection must be one of tsne, pca, got 'umap'"),
            (
                ["--plot", "--plot-classes", "dog"],
                "classes must be class names, indices or ranges, got 'dog'",
            ),
            (["--projection", "pca"], "--projection and --plot-classes must come with plot, got no plot"),
            (["--plot", "/proc/plots"], "out must be a folder that can be written"),
        ],
    )
    def test_mistake_is_told_before_work(
        self,
        words: Callable[..., list[str]],
        tmp_path: Path,
        options: list[str],
        message: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(words(*options)) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert message in line
        assert not (tmp_path / "out").exists()

    def test_missing_matplotlib_names_the_extra(
        self,
        words: Callable[..., list[str]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        looked_for: list[str] = []

        def find_spec(name: str) -> Any:
            looked_for.append(name)

        monkeypatch.setattr("mgd3_fast.pictures.style.find_spec", find_spec)
        assert main(words("--plot")) == 2
        assert (
            capsys.readouterr()
            .err.strip()
            .endswith(f"plot must be off without matplotlib: {install_command('plot')}")
        )
        assert looked_for == ["matplotlib"]
        assert not (tmp_path / "out").exists()
