"""Wrong input of many kinds: exit status 2, one line on standard error, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mgd3_fast.cli import main
from tests.fakes.pictures import encoded, photo

pytestmark = pytest.mark.usefixtures("cache")


class Place:
    """What a case may use: a good generator, good pictures, and a folder of its own."""

    def __init__(self, folder: Path, generator: Path, pictures: Path) -> None:
        self.folder, self.generator, self.pictures = folder, generator, pictures

    def file(self, name: str, content: bytes = b"") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def copy(self, source: Path, name: str) -> Path:
        return Path(shutil.copytree(source, self.folder / name))


def no_folder(place: Place) -> dict[str, Any]:
    return {"dataset": place.folder / "nowhere"}


def empty_folder(place: Place) -> dict[str, Any]:
    (place.folder / "empty").mkdir()
    return {"dataset": place.folder / "empty"}


def empty_class(place: Place) -> dict[str, Any]:
    (place.copy(place.pictures, "pictures") / "dog").mkdir()
    return {"dataset": place.folder / "pictures"}


def corrupt_image(place: Place) -> dict[str, Any]:
    root = place.copy(place.pictures, "pictures")
    (root / "bee" / "3.png").write_bytes(b"not a picture")
    return {"dataset": root}


def truncated_image(place: Place) -> dict[str, Any]:
    root = place.copy(place.pictures, "pictures")
    (root / "bee" / "3.jpg").write_bytes(encoded(photo(1))[:-200])
    return {"dataset": root}


def corrupt_network(place: Place) -> dict[str, Any]:
    root = place.copy(place.generator, "generator")
    weights = (root / "dit.safetensors").read_bytes()
    (root / "dit.safetensors").write_bytes(weights[: len(weights) // 2])
    return {"generator": root}


def corrupt_autoencoder(place: Place) -> dict[str, Any]:
    root = place.copy(place.generator, "generator")
    (root / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x00" * 100)
    return {"generator": root}


def corrupt_checkpoint(place: Place) -> dict[str, Any]:
    return {"generator": place.file("dit.pt", b"PK\x03\x04 not a checkpoint")}


def unsafe_checkpoint(place: Place) -> dict[str, Any]:
    torch.save({"ema": Path}, place.folder / "dit.pt")
    return {"generator": place.folder / "dit.pt"}


def half_a_generator(place: Place) -> dict[str, Any]:
    root = place.copy(place.generator, "generator")
    (root / "generator.json").write_text("{")
    return {"generator": root}


def out_is_a_file(place: Place) -> dict[str, Any]:
    return {"out": place.file("result.txt", b"mine")}


def out_below_a_file(place: Place) -> dict[str, Any]:
    return {"out": place.file("result.txt", b"mine") / "out"}


def out_of_somebody_else(place: Place) -> dict[str, Any]:
    place.file("taken/thesis.tex", b"mine")
    return {"out": place.folder / "taken"}


def out_with_a_foreign_manifest(place: Place) -> dict[str, Any]:
    place.file("taken/manifest.json", b'{"name": "a web page"}')
    return {"out": place.folder / "taken"}


def out_of_another_run(place: Place) -> dict[str, Any]:
    out = place.folder / "taken"
    words = ["distill", "--quiet", "--dataset", str(place.pictures), "--generator", str(place.generator)]
    assert main([*words, "--ipc", "1", "--out", str(out), "--shard", "1/3"]) == 0
    return {"out": out}


def folder_of_modes(place: Place) -> dict[str, Any]:
    return {"modes": place.pictures}


def modes_that_are_none(place: Place) -> dict[str, Any]:
    return {"modes": place.file("modes.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")}


def published_network_of_other_classes(place: Place) -> dict[str, Any]:
    return {"dataset": place.pictures, "generator": "dit-xl-2-256"}


def other_classes(place: Place) -> dict[str, Any]:
    place.copy(place.pictures / "bee", "pictures/bee")
    place.copy(place.pictures / "cow", "pictures/cow")
    return {"dataset": place.folder / "pictures"}


def ilsvrc_without_wnids(place: Place) -> dict[str, Any]:
    return {"dataset": "imagenette", "data-dir": place.pictures}


CASES: dict[str, tuple[Callable[[Place], dict[str, Any]] | dict[str, Any], str]] = {
    "unknown dataset": ({"dataset": "imagenete"}, "did you mean 'imagenette'?"),
    "missing dataset folder": (no_folder, "--dataset must be one of"),
    "missing data dir": (
        {"dataset": "imagenette", "data-dir": "/nowhere"},
        "--data-dir must be an existing folder",
    ),
    "no data dir": ({"dataset": "imagenet1k"}, "--data-dir or set IMAGENET_DIR"),
    "data dir without wnids": (ilsvrc_without_wnids, "wnid"),
    "empty dataset folder": (empty_folder, "must hold one folder per class"),
    "empty class": (empty_class, "dog"),
    "corrupt image": (corrupt_image, "bee/3.png"),
    "truncated image": (truncated_image, "bee/3.jpg"),
    "ipc 0": ({"ipc": 0}, "--ipc must be a whole number of at least 1, got 0"),
    "ipc of a word": ({"ipc": "many"}, "--ipc must be a whole number of at least 1, got 'many'"),
    "ipc above the class": ({"ipc": 8}, "--ipc must be at most 7, the number of images of class ant, got 8"),
    "unknown class": ({"classes": "ant,dog"}, "--classes must be class names, indices or ranges, got 'dog'"),
    "class out of range": ({"classes": "0-9"}, "--classes must be indices within 0..2"),
    "no class chosen": ({"classes": ","}, "--classes must choose at least one class"),
    "negative t_stop": ({"t-stop": -1}, "--t-stop must be a whole number of at least 0, got -1"),
    "t_stop above steps": ({"t-stop": 9, "steps": 8}, "--t-stop must be a whole number from 0 to 8, got 9"),
    "t_stop above default steps": ({"t-stop": 9}, "--t-stop must be a whole number from 0 to 4, got 9"),
    "steps above the schedule": ({"steps": 1001}, "--steps must be"),
    "NaN scale": ({"mode-scale": "nan"}, "--mode-scale must be a finite number of at least 0, got nan"),
    "negative cfg scale": ({"cfg-scale": -1}, "--cfg-scale must be a finite number of at least 0, got -1.0"),
    "eta of ddpm": ({"eta": 0.5}, "--eta must be 0 with sampler ddpm"),
    "negative seed": ({"seed": -1}, "--seed must be a whole number from 0 to 4294967295, got -1"),
    "batch size of 20 digits": (
        {"batch-size": 10**20},
        "--batch-size must be a whole number from 1 to 2147483647, got 1000",
    ),
    "batch size 0": ({"batch-size": 0}, "--batch-size must be a whole number of at least 1, got 0"),
    "stops of no trace": ({"trace-stops": "1"}, "--trace-stops must come with trace, got '1' alone"),
    "unknown sampler": (
        {"sampler": "euler"},
        "--sampler must be one of ddpm, ddim, dpmpp, dpmpp-sde, got 'euler'",
    ),
    "unknown discovery": ({"discovery": "magic"}, "--discovery must be one of kmeans, kmeans-closest, "),
    "unknown K-means runner": (
        {"kmeans": "faiss"},
        "--kmeans must be one of auto, sklearn, cuml, triton, got",
    ),
    "cuML without a GPU": (
        {"kmeans": "cuml", "device": "cpu"},
        "--kmeans must be auto, sklearn or triton on cpu, got 'cuml', which needs CUDA",
    ),
    "K-means runner for a method without": (
        {"kmeans": "sklearn", "discovery": "gmm"},
        "--kmeans must be auto with discovery gmm, which has no choice of runner, got 'sklearn'",
    ),
    "unknown backend": (
        {"backend": "warp"},
        "--backend must be one of auto, eager, compiled, tensorrt, onnxruntime",
    ),
    "unknown precision": (
        {"precision": "fp4"},
        "--precision must be one of auto, fp32, bf16, fp16, fp8, got 'fp4'",
    ),
    "fp8 without a GPU": (
        {"precision": "fp8", "device": "cpu"},
        "--precision must be auto, fp32, bf16 or fp16 on cpu, got 'fp8'",
    ),
    "unknown format": (
        {"format": "zip"},
        "--format must be one of imagefolder, numeric, tensor, parquet, webdataset, got 'zip'",
    ),
    "unknown device": ({"device": "tpu"}, "--device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
    "shard 0/2": ({"shard": "0/2"}, "--shard must be I/N with I from 1 to N, auto or auto/N, got '0/2'"),
    "shard 3/2": ({"shard": "3/2"}, "--shard must be I/N with I from 1 to N, auto or auto/N, got '3/2'"),
    "shard x": ({"shard": "x"}, "--shard must be I/N with I from 1 to N, auto or auto/N, got 'x'"),
    "unknown generator": ({"generator": "dit-xxl"}, "--generator must be auto, demo-mnist5k"),
    "hub id offline": ({"generator": "nobody/no-such-model"}, "nobody/no-such-model could not be fetched"),
    "corrupt network": (corrupt_network, "dit.safetensors"),
    "corrupt autoencoder": (corrupt_autoencoder, "diffusion_pytorch_model.safetensors"),
    "corrupt checkpoint": (corrupt_checkpoint, "dit.pt"),
    "unsafe checkpoint": (unsafe_checkpoint, "dit.pt"),
    "damaged description": (half_a_generator, "generator.json"),
    "published network of other classes, its autoencoder not at hand": (
        published_network_of_other_classes,
        "class must be one that generator dit-xl-2-256 was trained on",
    ),
    "generator of other classes": (
        other_classes,
        "--dataset must have 3 classes, got 2 (bee, cow): generator tiny",
    ),
    "unknown autoencoder": ({"vae": "nowhere"}, "--vae must be an existing folder or file, or a hub id"),
    "out is a file": (out_is_a_file, "--out must be a folder, got the file"),
    "out below a file": (out_below_a_file, "--out must be a folder that can be written"),
    "out cannot be made": ({"out": "/proc/mgd3-fast"}, "--out must be a folder that can be written"),
    "out of somebody else": (out_of_somebody_else, "'thesis.tex'"),
    "foreign manifest": (out_with_a_foreign_manifest, "which is something else"),
    "out of another run": (out_of_another_run, "whose ipc is 1 while 2 is asked for"),
    "modes that do not exist": ({"modes": "/nowhere.safetensors"}, "--modes must be an existing file"),
    "modes of a folder": (folder_of_modes, "--modes must be a file such as "),
    "modes that are none": (modes_that_are_none, "--modes must be a"),
    "unusable cache": ({"cache-dir": "/proc/mgd3-fast"}, "--cache-dir must be a writable folder"),
}


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("case", CASES)
def test_mistake_is_one_line_and_touches_nothing(
    case: str,
    tiny_generator: Path,
    pictures: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    changes, words = CASES[case]
    place = Place(tmp_path, tiny_generator, pictures)
    given = changes(place) if callable(changes) else changes
    options = {"dataset": pictures, "generator": tiny_generator, "ipc": 2, "out": tmp_path / "out", **given}
    before = tree(tmp_path)
    capfd.readouterr()
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert main(["distill", "--quiet", *arguments]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("mgd3-fast: error: ")
    assert words in printed.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("file", "--out must be a folder, got the file"),
        ("file/out", "--out must be a folder that can be written, got"),
        ("/proc/mgd3-fast", "--out must be a folder that can be written, got"),
    ],
)
def test_discover_tries_its_out_before_it_encodes(
    out: str,
    words: str,
    tiny_generator: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "mgd3_fast.run.discovery.ModeFinder.find_modes", lambda *_: pytest.fail("work was begun")
    )
    (tmp_path / "file").write_bytes(b"mine")
    arguments = ["discover", "--dataset", str(pictures), "--generator", str(tiny_generator), "--quiet"]
    assert main([*arguments, "--ipc", "2", "--out", str(tmp_path / out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["distill"], "required: --dataset, --ipc, --out", id="nothing given"),
        pytest.param(["encode", "--dataset"], "argument --dataset: expected one argument", id="no value"),
        pytest.param(["encode", "--data", "x"], "unknown option --data", id="abbreviated option"),
    ],
)
def test_wrong_arguments_are_one_line_with_a_hint(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mgd3-fast: error: ")
    assert words in line
    assert line.endswith("--help)")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("distill --dataset mnist5k --ipc 1 --out=", "--out"),
        ("distill --dataset mnist5k --ipc 1 --out out --cache-dir=", "--cache-dir"),
        ("distill --dataset mnist5k --ipc 1 --out out --vae=", "--vae"),
        ("distill --dataset mnist5k --ipc 1 --out out --modes=", "--modes"),
        ("encode --dataset imagenet1k --data-dir=", "--data-dir"),
        ("discover --dataset mnist5k --ipc= --out out", "--ipc"),
        ("train --dataset mnist5k --steps 1 --out=", "--out"),
        ("export --generator demo-mnist5k --out=", "--out"),
        ("evaluate {} --dataset mnist5k", "folders"),
        ("metrics a {} --dataset mnist5k", "folders"),
        ("convert {} out --format tensor", "src"),
        ("convert a {} --format tensor", "out"),
        ("report {}", "folder"),
        ("report a --evaluation=", "--evaluation"),
        ("doctor --accuracy --generator=", "--generator"),
    ],
)
def test_empty_text_is_never_the_folder_at_hand(
    arguments: str,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["" if word == "{}" else word for word in arguments.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"mgd3-fast: error: {name} must not be empty, got ''"
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("distill --dataset mnist5k --ipc 1 --out run.json", "--out must be a folder, got 'run.json'"),
        ("distill --dataset mnist5k --ipc 1 --out m.safetensors", "which is named like a .safetensors file"),
        ("discover --dataset mnist5k --ipc 1 --out modes.pt", "--out must be a folder, got 'modes.pt'"),
        (
            "discover --dataset mnist5k --ipc 1 --out m --plot map.png",
            "--plot must be a folder, got 'map.png'",
        ),
        ("evaluate a --dataset mnist5k --out results.json", "--out must be a folder, got 'results.json'"),
        ("metrics a --dataset mnist5k --out scores.csv", "--out must be a folder, got 'scores.csv'"),
        ("train --dataset mnist5k --steps 1 --out dit.safetensors", "--out must be a folder, got 'dit.saf"),
        ("convert a set.tar --format webdataset", "out must be a folder, got 'set.tar'"),
        ("convert a images.PT --format tensor", "out must be a folder, got 'images.PT'"),
        ("report a --out page.pdf", "--out must be an .html file, got 'page.pdf'"),
        ("export --generator demo-mnist5k --out graph.pt", "--out must be a file name ending in .onnx"),
    ],
)
def test_a_folder_is_not_named_like_a_file(
    arguments: str,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert tree(tmp_path) == {}


def test_a_folder_that_is_there_may_have_any_name(
    tiny_generator: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").mkdir()
    words = ["--dataset", str(pictures), "--generator", str(tiny_generator), "--ipc", "2", "--quiet"]
    assert main(["distill", *words, "--out", str(tmp_path / "run.json")]) == 0
    assert main(["discover", *words, "--out", str(tmp_path / "run.json")]) == 0
    (tmp_path / "modes.safetensors").mkdir()
    assert main(["discover", *words, "--out", str(tmp_path / "modes.safetensors")]) == 0
    assert (tmp_path / "modes.safetensors/modes.safetensors").is_file()
    assert main(["distill", *words, "--out", str(tmp_path / "cfg4.0-run.v2")]) == 0
    assert capsys.readouterr().err == ""


def test_discover_writes_the_file_that_is_named(
    tiny_generator: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside whatever lies there; pictures go beside it, and what is unfinished is cleared away."""
    pytest.importorskip("matplotlib")
    (tmp_path / "thesis.tex").write_bytes(b"mine")
    words = [
        "--dataset",
        str(pictures),
        "--generator",
        str(tiny_generator),
        "--ipc",
        "2",
        "--quiet",
        "--json",
    ]
    target = tmp_path / "modes.SafeTensors"
    plot = ["--plot", "--projection", "pca", "--plot-classes", "bee"]
    assert main(["discover", *words, "--out", str(target), *plot]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mode-plots", target.name, "thesis.tex"]
    assert [Path(path).parent for path in found["pictures"]] == [tmp_path / "mode-plots"] * 2


def test_metrics_writes_the_file_that_is_named(
    tiny_generator: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", str(pictures), "--generator", str(tiny_generator), "--quiet"]
    assert main(["distill", *words, "--ipc", "2", "--out", str(tmp_path / "run")]) == 0
    target = tmp_path / "scores" / "run.json"
    measuring = ["metrics", str(tmp_path / "run"), *words, "--tsne", "off", "--json", "--out", str(target)]
    assert main(measuring) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(target)]
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(
    tiny_generator: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["distill", "--dataset", str(pictures), "--generator", str(tiny_generator), "--ipc", "2"]
    assert main([*words, "--out", str(tmp_path / "out"), "--device", "cuda", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--device must be auto or cpu on this machine, which has no CUDA device" in line
    assert not (tmp_path / "out").exists()


def refused_by_the_processor() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), refused_by_the_processor()],
    ids=["cuda", "python", "cpu"],
)
def test_memory_that_is_too_small(
    tiny_generator: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("mgd3_fast.run.generated.GeneratedImages.making", fail)
    words = ["distill", "--dataset", str(pictures), "--generator", str(tiny_generator), "--ipc", "2"]
    assert main([*words, "--out", str(tmp_path / "out"), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("try a smaller --batch-size where the command has one")


def test_disk_that_fills_up_keeps_what_is_written(
    tiny_generator: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, written = Path.write_bytes, []

    def write_bytes(self: Path, content: bytes) -> int:
        if self.suffix == ".png":
            written.append(self)
            if len(written) > 3:
                raise OSError(28, "No space left on device", str(self))
        return original(self, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    words = ["distill", "--dataset", str(pictures), "--generator", str(tiny_generator), "--ipc", "2"]
    arguments = [*words, "--out", str(tmp_path / "out"), "--quiet"]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("No space left on device")
    assert len(list((tmp_path / "out").glob("*/*.png"))) == 3
    monkeypatch.undo()
    assert main(arguments) == 0
    assert len(list((tmp_path / "out").glob("*/*.png"))) == 6
