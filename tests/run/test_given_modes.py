"""Modes that are given to a run, or found apart from it: which are taken, which refused, and what is told."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.tiny_generator import make_tiny_generator
from mgd3_fast.config import DiscoverConfig, DistillConfig
from mgd3_fast.errors import UserError
from mgd3_fast.modes import ModeSet, header_of
from mgd3_fast.progress import Progress
from mgd3_fast.run.discovery import discover
from mgd3_fast.run.distillation import DistilledDataset, distill
from tests.fakes.pictures import photo

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def run(tiny_generator: Path, pictures: Path) -> Callable[..., tuple[DistilledDataset, str]]:
    """Distil twelve images, and return the result with what was noted."""

    def call(out: Path, **changes: Any) -> tuple[DistilledDataset, str]:
        settings: dict[str, Any] = {"dataset": str(pictures), "generator": str(tiny_generator), "ipc": 4}
        lines = io.StringIO()
        config = DistillConfig(out=out, **{**settings, "batch_size": 8, "device": "cpu", **changes})
        return distill(config, Progress(stream=lines)), lines.getvalue()

    return call


Run = Callable[..., tuple[DistilledDataset, str]]


@pytest.fixture(scope="module")
def modes(
    tiny_generator: Path, pictures: Path, cache_of_session: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A file of modes that `discover` found in float32 with seed 0."""
    out = tmp_path_factory.mktemp("modes") / "insects.safetensors"
    source: dict[str, Any] = {"dataset": str(pictures), "generator": str(tiny_generator), "device": "cpu"}
    path, _ = discover(DiscoverConfig(**source, ipc=4, out=out, cache_dir=cache_of_session))
    assert path == out
    return path


def images(distilled: DistilledDataset) -> dict[str, str]:
    assert distilled.manifest is not None
    return {one["file"]: one["sha256"] for one in distilled.manifest["images"]}


def settings(distilled: DistilledDataset) -> dict[str, Any]:
    assert distilled.manifest is not None
    found: dict[str, Any] = distilled.manifest["settings"]
    return found


def test_a_file_of_modes_lies_alone(modes: Path) -> None:
    assert list(modes.parent.iterdir()) == [modes]
    assert header_of(modes)["kmeans"] == "sklearn"
    described = ModeSet.load(modes).latents
    assert (described["resolution"], described["precision"], described["flip"]) == (
        "16 px",
        "float32",
        "none",
    )


def test_a_file_of_modes_is_taken_up_by_discover_and_distill(
    run: Run, modes: Path, tiny_generator: Path, pictures: Path, tmp_path: Path
) -> None:
    source: dict[str, Any] = {"dataset": str(pictures), "generator": str(tiny_generator), "device": "cpu"}
    before = modes.stat().st_mtime_ns
    discover(DiscoverConfig(**source, ipc=4, out=modes))
    assert modes.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"insects.safetensors does not fit this run: its ipc is 4, not 3"):
        discover(DiscoverConfig(**source, ipc=3, out=modes))
    given, notes = run(tmp_path / "given", modes=modes)
    assert "taken as they are" not in notes
    assert images(given) == images(run(tmp_path / "found")[0])
    assert (tmp_path / "given/modes.safetensors").read_bytes() == modes.read_bytes()


def test_discover_replaces_no_file_of_another_kind(
    tiny_generator: Path, pictures: Path, tmp_path: Path
) -> None:
    thesis = tmp_path / "thesis.safetensors"
    thesis.write_bytes(b"mine")
    with pytest.raises(UserError, match="modes cannot be read"):
        discover(DiscoverConfig(dataset=str(pictures), generator=str(tiny_generator), ipc=2, out=thesis))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]


def test_one_set_of_modes_serves_several_seeds_of_noise(run: Run, modes: Path, tmp_path: Path) -> None:
    fixed = run(tmp_path / "fixed", seed=1, discovery_seed=0)[0]
    assert settings(fixed)["discovery_seed"] == 0
    assert (fixed.folder / "modes.safetensors").read_bytes() == modes.read_bytes()
    given, notes = run(tmp_path / "given", seed=1, modes=modes)
    assert f"modes are taken as they are in {modes}: seed 0, here 1" in notes
    assert images(given) == images(fixed)
    assert settings(given) == settings(fixed)
    own = run(tmp_path / "own", seed=1)[0]
    assert "discovery_seed" not in settings(own)
    assert images(own) != images(fixed)
    # A folder that `discover` wrote to serves any seed as well.
    (tmp_path / "folder").mkdir()
    shutil.copy(modes, tmp_path / "folder/modes.safetensors")
    assert images(run(tmp_path / "folder", seed=1)[0]) == images(fixed)
    assert run(tmp_path / "folder", seed=1)[0].made == 0


def test_the_seed_of_the_run_is_no_second_discovery_seed(run: Run, tmp_path: Path) -> None:
    same = run(tmp_path / "same", seed=3, discovery_seed=3)[0]
    assert "discovery_seed" not in settings(same)
    assert run(tmp_path / "same", seed=3)[0].made == 0


def test_modes_of_another_precision_and_runner_are_taken(run: Run, modes: Path, tmp_path: Path) -> None:
    first, notes = run(tmp_path / "out", modes=modes, precision="bf16", kmeans="triton", shard="1/2")
    assert first.manifest is None
    assert f"in {modes}: precision float32, here bfloat16; kmeans sklearn, here triton" in notes
    with pytest.raises(UserError, match=r"whose modes is '[0-9a-f]{64}' while the default is asked for"):
        run(tmp_path / "out", precision="bf16", shard="2/2")
    whole, _ = run(tmp_path / "out", modes=modes, precision="bf16", shard="2/2")
    assert settings(whole)["kmeans"] == "sklearn"
    assert settings(whole)["modes"] == header_of(modes)["key"]
    assert (whole.folder / "modes.safetensors").read_bytes() == modes.read_bytes()
    assert run(tmp_path / "out", precision="bf16")[0].made == 0
    # Found again they would be others: the images that are missing wait for the file.
    (whole.folder / "bee/1.png").unlink()
    content = bytearray(modes.read_bytes())
    content[-1] ^= 1
    (whole.folder / "modes.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="are missing, and a new search would give other ones"):
        run(tmp_path / "out", precision="bf16")
    mended, _ = run(tmp_path / "out", modes=modes, precision="bf16")
    assert mended.made == 1
    assert (whole.folder / "modes.safetensors").read_bytes() == modes.read_bytes()


def test_modes_of_another_storage_are_taken(run: Run, modes: Path, tmp_path: Path) -> None:
    given, notes = run(tmp_path / "out", modes=modes, storage="fp16")
    assert "storage float32, here float16" in notes
    assert settings(given)["storage"] == "fp16"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"ipc": 3}, "its ipc is 4, not 3", id="ipc"),
        pytest.param({"discovery_seed": 1}, "its discovery seed is 0, not 1", id="seed"),
        pytest.param({"discovery": "gmm"}, "its discovery is kmeans, not gmm", id="discovery"),
        pytest.param({"classes": "ant"}, "its list of classes is ant, bee, cow, not ant", id="classes"),
        pytest.param({"flip": "both"}, "its flip is none, not both", id="flip"),
    ],
)
def test_modes_of_another_run_are_refused(
    run: Run, modes: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=f"insects.safetensors does not fit this run: {words}"):
        run(tmp_path / "out", modes=modes, **changes)
    assert not (tmp_path / "out").exists()


def test_modes_of_other_latents_are_refused_by_what_differs(
    run: Run, modes: Path, pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures, tmp_path / "pictures")
    photo(999, width=50).save(tmp_path / "pictures/bee/3.png")  # the same names, other content
    with pytest.raises(UserError, match="its modes were found in other images"):
        run(tmp_path / "out", modes=modes, dataset=str(tmp_path / "pictures"))
    make_tiny_generator(tmp_path / "other", 3, seed=1)
    with pytest.raises(UserError, match="its modes were found in latents of another autoencoder"):
        run(tmp_path / "out", modes=modes, generator=str(tmp_path / "other"))
    found = ModeSet.load(modes)
    replace(found, latents={**found.latents, "resolution": "32 px"}).save(tmp_path / "large.safetensors")
    with pytest.raises(UserError, match="its resolution is 32 px, not 16 px"):
        run(tmp_path / "out", modes=tmp_path / "large.safetensors")
    replace(found, latents={}, key="other").save(tmp_path / "old.safetensors")
    with pytest.raises(UserError, match="did not record these"):
        run(tmp_path / "out", modes=tmp_path / "old.safetensors")
    replace(found, latents={}).save(tmp_path / "same.safetensors")
    assert run(tmp_path / "same", modes=tmp_path / "same.safetensors")[0].made == 12


def test_given_modes_of_any_runner_need_no_option(run: Run, tmp_path: Path) -> None:
    first = run(tmp_path / "first", kmeans="triton")[0]
    second = run(tmp_path / "second", modes=tmp_path / "first/modes.safetensors")[0]
    assert settings(second) == settings(first)
    assert settings(second)["kmeans"] == "triton"
    assert images(second) == images(first)
    assert run(tmp_path / "first")[0].made == 0


@pytest.mark.parametrize("method", ["kmeans", "kmeans-pooled", "gmm", "random"])
def test_repeating_modes_are_told_by_class_and_count(
    run: Run, pictures: Path, tmp_path: Path, method: str
) -> None:
    root = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    for number in range(1, 7):
        shutil.copy(root / "bee/0.png", root / f"bee/{number}.png")
    for number in range(2, 7):
        shutil.copy(root / "cow/1.png", root / f"cow/{number}.png")
    options: dict[str, Any] = {"dataset": str(root), "ipc": 3, "discovery": method}
    note = (
        "modes are not all different, because there are not as many different images: bee has 1 of 3,"
        " cow has 2 of 3\n"
    )
    distilled, notes = run(tmp_path / "out", **options)
    assert notes.count(note) == 1
    assert len(set(images(distilled).values())) == 9  # their noise differs
    given = run(tmp_path / "given", **options, modes=tmp_path / "out/modes.safetensors")[1]
    assert note in given


@pytest.mark.parametrize("method", ["random", "herding", "kmeans-closest"])
def test_equal_images_that_are_chosen_are_told(run: Run, pictures: Path, tmp_path: Path, method: str) -> None:
    root = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    for number in range(1, 7):
        shutil.copy(root / "bee/0.png", root / f"bee/{number}.png")
    options: dict[str, Any] = {"dataset": str(root), "generator": "auto", "batch_size": "auto"}
    notes = run(tmp_path / "out", **options, ipc=3, method=method)[1]
    assert "images are not all different: bee has 1 of 3\n" in notes


def test_a_class_of_different_images_is_not_told(run: Run, tmp_path: Path) -> None:
    assert "not all different" not in run(tmp_path / "out", ipc=7)[1]


def test_real_images_have_no_discovery_seed(pictures: Path) -> None:
    with pytest.raises(UserError, match="discovery_seed must be left out with method random"):
        DistillConfig(dataset=str(pictures), ipc=1, out="out", method="random", discovery_seed=1)


def test_header_of_any_other_file_states_nothing(tmp_path: Path, tiny_generator: Path) -> None:
    (tmp_path / "note.json").write_text(json.dumps({}))
    assert header_of(tmp_path / "note.json") == header_of(tmp_path / "missing") == {}
    assert header_of(tiny_generator / "dit.safetensors") == {}
