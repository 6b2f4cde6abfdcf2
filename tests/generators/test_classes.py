"""Which class id a name gets: lists beside a checkpoint, lists of a user, synonyms of a pipeline, guesses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mgd3_engine.dit import DiTConfig, save_dit
from mgd3_fast import DistillConfig, cli, distill
from mgd3_fast.datasets import Dataset, ImageClass, imagenet_class_titles, imagenet_classes
from mgd3_fast.datasets.images import ArrayImages
from mgd3_fast.errors import UserError
from mgd3_fast.generators import class_ids, load_generator, save_generator
from mgd3_fast.generators.classes import read_class_names
from mgd3_fast.progress import Progress
from tests.fakes.random_networks import ours_of, random_diffusers_dit, random_dit, random_vae
from tests.fakes.tiny_diffusion import write_ldm, write_stable_diffusion

NAMES = ("cat", "ant", "fox")
CONFIG = DiTConfig(input_size=8, patch_size=2, hidden_size=16, depth=1, num_heads=2, num_classes=3)
WNIDS = imagenet_classes("imagenet1k")


class Notes(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def dataset_of(*names: str, opened: tuple[int, ...] | None = None) -> Dataset:
    images = ArrayImages(np.zeros((1, 4, 4, 3), np.uint8))
    labels = range(len(names)) if opened is None else opened
    return Dataset("some", tuple(ImageClass(names[label], label, images) for label in labels), names)


@pytest.fixture
def vae(tmp_path: Path) -> str:
    random_vae().save_pretrained(tmp_path / "autoencoder")
    return str(tmp_path / "autoencoder")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A DiT of three nameless classes."""
    (tmp_path / "weights").mkdir()
    save_dit(tmp_path / "weights/pets.safetensors", random_dit(CONFIG))
    return tmp_path / "weights/pets.safetensors"


@pytest.fixture
def pipeline(tmp_path: Path) -> Callable[[object], Path]:
    """Write a DiT pipeline with an `id2label`."""

    def write(labels: object) -> Path:
        folder = tmp_path / "pipeline"
        random_diffusers_dit(CONFIG).save_pretrained(folder / "transformer")
        random_vae().save_pretrained(folder / "vae")
        index = {"_class_name": "DiTPipeline", "id2label": labels, "vae": ["diffusers", "AutoencoderKL"]}
        (folder / "model_index.json").write_text(json.dumps(index))
        return folder

    return write


FORMS: dict[str, tuple[str, str]] = {
    "lines": ("names.txt", "cat\nant\nfox\n"),
    "lines of Windows, without an end": ("names", "\ufeffcat\r\nant\r\nfox"),
    "list": ("names.json", '["cat", "ant", "fox"]'),
    "ids by name": ("names.json", '{"ant": 1, "cat": 0, "fox": 2}'),
    "names by id": ("names.json", '{"2": "fox", "0": "cat", "1": "ant"}'),
}


@pytest.mark.parametrize("form", FORMS)
def test_class_names_of_a_file(form: str, checkpoint: Path, vae: str, tmp_path: Path) -> None:
    name, text = FORMS[form]
    (tmp_path / name).write_text(text, encoding="utf-8")
    generator = load_generator(str(checkpoint), vae=vae, classes=tmp_path / name)
    assert generator.class_names == NAMES
    progress = Notes()
    assert class_ids(generator, dataset_of("ant", "fox"), progress) == (1, 2)
    assert progress.lines == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("n.txt", "cat\nant", "n.txt names 2 classes, and the network has 3"),
        (
            "n.txt",
            "cat\n\nant\nfox",
            "n.txt must have a class name of its own on each line, got an empty line 2",
        ),
        ("n.txt", "cat\nant\ncat", "n.txt must have a class name of its own on each line, got 'cat' twice"),
        ("n.txt", b"\xff\xfe\x00", "n.txt is no list of class names"),
        ("n.json", "{", "n.json is no list of class names"),
        ("n.json", "3", "n.json must name each class id from 0 on once"),
        ("n.json", '{"a": 0, "b": 2, "c": 3}', "n.json must name each class id from 0 on once"),
        ("n.txt", None, "n.txt cannot be read: No such file or directory"),
    ],
)
def test_lists_that_are_refused(name: str, text: str | bytes | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as refused:
        read_class_names(tmp_path / name, 3)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["pets.classes.txt", "classes.txt", "class_names.txt", "class_to_idx.json"])
def test_a_list_beside_the_weights(name: str, checkpoint: Path, vae: str) -> None:
    json_text = json.dumps({text: number for number, text in enumerate(NAMES)})
    path = checkpoint.parent / name
    path.write_text(json_text if name.endswith(".json") else "\n".join(NAMES))
    generator = load_generator(str(checkpoint), vae=vae)
    assert generator.class_names == NAMES
    assert generator.notes == (f"class names of pets.safetensors: {path}",)
    path.write_text('{"cat": 0}' if name.endswith(".json") else "cat")
    generator = load_generator(str(checkpoint), vae=vae)
    assert generator.class_names is None
    assert generator.notes == (f"{path} names 1 classes and pets.safetensors has 3: it is not used",)


def test_a_list_beside_that_cannot_be_read_is_named(checkpoint: Path, vae: str) -> None:
    (checkpoint.parent / "classes.txt").write_bytes(b"\xff\xfe\x00")
    generator = load_generator(str(checkpoint), vae=vae)
    assert generator.class_names is None
    assert generator.notes[0].endswith("it is not used")


def test_a_guess_is_said_and_warned_of_where_names_are_not_sorted(checkpoint: Path, vae: str) -> None:
    generator = load_generator(str(checkpoint), vae=vae)
    for names, lines in ((("ant", "cat", "fox"), 1), (NAMES, 2)):
        progress = Notes()
        assert class_ids(generator, dataset_of(*names), progress) == (0, 1, 2)
        assert class_ids(generator, dataset_of(*names, opened=(2, 0)), Notes()) == (2, 0)
        assert len(progress.lines) == lines
        assert "knows no class names: its class ids are taken to be the dataset's labels" in progress.lines[0]
    assert progress.lines[1].startswith("warning: the classes of some are not in sorted order")
    assert "--generator-classes FILE" in progress.lines[1]


def test_imagewoof_is_the_list_that_is_warned_of(checkpoint: Path, vae: str) -> None:
    """Its published order is not the sorted one that a DiT trained on its folders counts in."""
    woof = imagenet_classes("imagewoof")
    generator = replace(load_generator(str(checkpoint), vae=vae), num_classes=10)
    progress = Notes()
    class_ids(generator, dataset_of(*woof), progress)
    assert progress.lines[-1].startswith("warning")
    stated = replace(generator, class_names=tuple(sorted(woof)))
    assert class_ids(stated, dataset_of(*woof), progress) == tuple(sorted(woof).index(name) for name in woof)


def test_names_of_a_pipeline(pipeline: Callable[[object], Path]) -> None:
    folder = pipeline({"0": "fox", "1": "cat, house cat, Felis_catus", "2": "ant"})
    for source in (folder, folder / "transformer"):
        generator = load_generator(str(source))
        assert generator.class_names == ("fox", "cat, house cat, Felis_catus", "ant")
        assert generator.class_ids(["ant", "cat", "fox"]) == [2, 1, 0]
        assert generator.class_ids(["House_Cat", "felis catus"]) == [1, 1]
        with pytest.raises(UserError, match=r"class must be one that generator .*, got 'dog'"):
            generator.class_ids(["dog"])


def test_names_of_a_pipeline_that_do_not_fit(pipeline: Callable[[object], Path]) -> None:
    folder = pipeline({"0": "fox", "1": "cat"})
    generator = load_generator(str(folder))
    assert generator.class_names is None
    assert generator.notes == (
        f"id2label of {folder}/model_index.json names 2 classes and the network has 3: it is not used",
    )
    folder = pipeline({"0": "fox", "5": "cat", "6": "ant"})
    (note,) = load_generator(str(folder)).notes
    assert note.endswith("model_index.json must name each class id from 0 on once: it is not used")
    (folder / "list.txt").write_text("\n".join(NAMES))
    assert load_generator(str(folder), classes=folder / "list.txt").class_names == NAMES


def test_a_list_beside_is_for_what_states_no_names(pipeline: Callable[[object], Path]) -> None:
    folder = pipeline({"0": "a", "1": "b", "2": "c"})
    (folder / "classes.txt").write_text("\n".join(NAMES))
    assert load_generator(str(folder)).class_names == ("a", "b", "c")
    (folder / "model_index.json").unlink()
    assert load_generator(str(folder)).class_names == NAMES


def test_a_name_of_two_ids_is_refused(pipeline: Callable[[object], Path]) -> None:
    generator = load_generator(str(pipeline({"0": "crane, bird", "1": "Crane", "2": "ant"})))
    assert generator.class_ids(["bird", "crane"]) == [0, 1]  # the whole name counts before a synonym
    generator = load_generator(str(pipeline({"0": "crane, bird", "1": "crane, machine", "2": "ant"})))
    with pytest.raises(UserError, match="class 'Crane' is the name of several class ids of pipeline: 0, 1"):
        generator.class_ids(["Crane"])


def test_wnids_find_their_words() -> None:
    """A pipeline of ImageNet's names, in their order or another, two cranes included."""
    titles = imagenet_class_titles()
    generator = replace(load_generator("dit-xl-2-256"), class_names=titles)
    assert generator.class_ids(WNIDS) == list(range(1000))
    cranes = [place for place, title in enumerate(titles) if title.split(",")[0] == "crane"]
    others = [wnid for place, wnid in enumerate(WNIDS) if place not in cranes]
    backwards = replace(generator, class_names=titles[::-1])
    ids = backwards.class_ids([wnid for wnid in others if titles.count(titles[WNIDS.index(wnid)]) == 1])
    assert len(set(ids)) == len(ids)
    assert backwards.class_ids([WNIDS[0]]) == [999]


def test_lists_are_for_generators_of_every_family(tmp_path: Path, vae: str) -> None:
    (tmp_path / "list.txt").write_text("\n".join(NAMES))
    save_generator(
        tmp_path / "trained",
        random_dit(CONFIG),
        name="trained",
        vae=ours_of(random_vae()),
        class_names=("a", "b", "c"),
        licence="MIT",
        recipe={},
    )
    write_ldm(tmp_path / "ldm")
    table = {"embedding.weight": torch.zeros(4, 16)}
    save_file(table, tmp_path / "ldm/class_embedder/diffusion_pytorch_model.safetensors")
    for name in ("trained", "ldm"):
        generator = load_generator(str(tmp_path / name), classes=tmp_path / "list.txt")
        assert generator.class_names == NAMES
    (tmp_path / "ldm/classes.txt").write_text("ant\ncat\nfox")
    assert load_generator(str(tmp_path / "ldm")).class_names == ("ant", "cat", "fox")


def test_heads_are_for_weights_that_do_not_tell_them(tmp_path: Path, vae: str) -> None:
    torch.save(random_dit(CONFIG).state_dict(), tmp_path / "own.pt")
    nameless = load_generator(str(tmp_path / "own.pt"), vae=vae)
    assert nameless.resolution == 32  # enough to encode and to discover
    with pytest.raises(
        UserError, match=r"own.pt does not say how many attention heads .* --generator-heads N"
    ):
        nameless.denoiser("cpu", torch.float32)
    told = load_generator(str(tmp_path / "own.pt"), vae=vae, heads=2).denoiser("cpu", torch.float32)
    assert told.config == CONFIG  # type: ignore[attr-defined]
    for name in ("demo-mnist5k", "dit-xl-2-256"):
        with pytest.raises(UserError, match=f"generator_heads must be left out with {name}, got 4"):
            load_generator(name, heads=4)


def test_prompts_are_no_classes(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write_stable_diffusion(tmp_path / "tiny")
    (tmp_path / "list.txt").write_text("\n".join(NAMES))
    for options, message in (
        (
            {"classes": tmp_path / "list.txt"},
            "generator_classes must be left out with tiny, which takes prompts",
        ),
        ({"heads": 4}, "generator_heads must be left out with tiny, got 4"),
    ):
        with pytest.raises(UserError, match=message):
            load_generator(str(tmp_path / "tiny"), **options)  # type: ignore[arg-type]


def test_a_run_takes_the_stated_names(
    pictures: Path,
    checkpoint: Path,
    vae: str,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The images of ant, bee and cow are those of other ids when the list says so."""

    def distilled(out: str, *options: str) -> dict[str, Any]:
        words = ["distill", "--dataset", str(pictures), "--generator", str(checkpoint), "--vae", vae]
        short = ["--ipc", "1", "--steps", "2", "--t-stop", "0", "--batch-size", "1", "--out"]
        assert cli.main([*words, *short, str(tmp_path / out), *options]) == 0
        manifest: dict[str, Any] = json.loads((tmp_path / out / "manifest.json").read_text())
        return {image["file"]: image["sha256"] for image in manifest["images"]}

    guessed = distilled("guessed")
    assert "knows no class names" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text("bee\nant\ncow")
    stated = distilled("stated", "--generator-classes", str(tmp_path / "list.txt"))
    assert "knows no class names" not in capsys.readouterr().err
    assert {name for name in guessed if guessed[name] != stated[name]} == {"ant/0.png", "bee/0.png"}


def test_an_unknown_class_is_found_before_the_network_is_loaded(
    pictures: Path, checkpoint: Path, vae: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published network is a download of gigabytes."""
    monkeypatch.setattr("mgd3_fast.run.preparing.sampler_of", lambda *_: pytest.fail("loaded"))
    (tmp_path / "list.txt").write_text("bee\nant\nfox")
    config = DistillConfig(
        dataset=str(pictures),
        generator=str(checkpoint),
        generator_classes=tmp_path / "list.txt",
        vae=vae,
        ipc=1,
        out=tmp_path / "out",
        cache_dir=tmp_path / "cache",
    )
    with pytest.raises(UserError, match=r"got 'cow': docs/generators.md has what to do"):
        distill(config)
