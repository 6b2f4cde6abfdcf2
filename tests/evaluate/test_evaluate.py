"""Evaluation end to end: folders read, classifiers trained, stopped, resumed, compared and reported."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mgd3_fast.cli import main
from mgd3_fast.datasets import open_dataset
from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.evaluate import EvaluateConfig, evaluate_folders, training
from mgd3_fast.evaluate.networks import build_network
from mgd3_fast.evaluate.results import differences, pool_means, sum_up, summary
from mgd3_fast.evaluate.teacher import load_teacher
from mgd3_fast.fit import save_checkpoint
from mgd3_fast.progress import Progress
from mgd3_fast.writers import write_manifest
from mgd3_fast.writers.reader import read_classes
from tests.fakes.manifests import whole_manifest
from tests.fakes.stripes import NAMES, write_images


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/ and val/ of three classes."""
    root = tmp_path_factory.mktemp("data") / "colours"
    for split, count, seed in (("train", 10, 1), ("val", 20, 2)):
        for label, name in enumerate(NAMES):
            write_images(root / split / name, label, count, seed)
    return root


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders, a and b, of four images per class."""
    root = tmp_path_factory.mktemp("distilled")
    for place, folder in enumerate("ab"):
        for label, name in enumerate(NAMES):
            write_images(root / folder / name, label, 4, 10 + place)
    return root


@pytest.fixture
def config(dataset: Path, distilled: Path, tmp_path: Path) -> Callable[..., EvaluateConfig]:
    def build(**changes: Any) -> EvaluateConfig:
        options = {
            "folders": (distilled / "a",),
            "dataset": str(dataset),
            "networks": ("convnet2w8-in",),
            "epochs": 4,
            "tests": 4,
            "batch_size": 5,
            "repeats": 2,
            "out": tmp_path / "out",
            "device": "cpu",
        }
        return EvaluateConfig(**{**options, **changes})

    return build


def curves(out: Path) -> dict[str, Any]:
    """What every finished training in a folder came to, without its times."""
    found = {}
    for path in sorted((out / "trainings").glob("*.json")):
        outcome = json.loads(path.read_text())["outcome"]
        found[path.name] = {name: outcome[name] for name in ("best", "last", "curve", "loss")}
    return found


# Results


def test_bad_test_images_are_errors_or_left_out_and_counted(
    config: Callable[..., EvaluateConfig], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(dataset, tmp_path / "colours")
    (tmp_path / "colours" / "val" / "bee" / "3.png").write_bytes(b"no image")
    asked = config(dataset=str(tmp_path / "colours"), repeats=1, epochs=1, tests=1)
    with pytest.raises(UserError, match=r"bee/3\.png cannot be read: .*\(--on-bad-image skip leaves"):
        evaluate_folders(asked)
    result = evaluate_folders(replace(asked, on_bad_image="skip"), Progress())
    assert (result["dataset"]["images"], result["dataset"]["skipped"]) == (59, 1)
    told = capsys.readouterr().err
    assert told.count("bee/3.png") == 1
    assert "bee/3.png: not an image that Pillow can read" in told


def test_result_has_every_repeat_and_setting(config: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    result = evaluate_folders(config())
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == result
    (row,) = result["rows"]
    assert (row["network"], row["folder"], row["ipc"], row["seeds"]) == ("convnet2w8-in", "a", 4, [0, 1])
    assert row["parameters"] == 3 * 8 * 9 + 8 + 8 * 8 * 9 + 8 + 4 * 8 + (8 * 16 + 1) * 3
    assert row["best"]["mean"] == pytest.approx(np.mean(row["best"]["values"]), abs=1e-4)
    assert all(best >= last for best, last in zip(row["best"]["values"], row["last"]["values"], strict=True))
    assert result["complete"]
    assert (result["protocol"], result["preset"]) == ("hard", "small")
    assert (result["dataset"]["images"], result["dataset"]["split"]) == (60, "test")
    (recipe,) = result["recipes"]
    assert (recipe["epochs"], recipe["batch_size"], recipe["augmentation"]) == (4, 5, "shift")
    assert result["options"]["tests"] == 4
    assert str(tmp_path) not in json.dumps(result)  # no path of this machine


def test_training_learns(config: Callable[..., EvaluateConfig]) -> None:
    result = evaluate_folders(config(epochs=60, tests=1, repeats=1, lr=0.05))
    assert result["rows"][0]["last"]["mean"] > 80  # of three classes


@pytest.mark.parametrize("protocol", ["hard", "cross"])
def test_evaluation_repeats_bit_for_bit(
    config: Callable[..., EvaluateConfig], tmp_path: Path, protocol: str
) -> None:
    networks = (
        ("vit-glad", "convnet2w8-bn") if protocol == "cross" else ("convnet2w8-in",)
    )  # dropout, statistics
    found = []
    for name in ("one", "two"):
        torch.manual_seed(len(found))  # the process's own random numbers must not matter
        evaluate_folders(config(protocol=protocol, networks=networks, out=tmp_path / name, epochs=1))
        found.append(curves(tmp_path / name))
    assert found[0] == found[1]
    losses = [one["loss"] for one in found[0].values()]
    assert len(set(losses)) == len(losses)  # seeds and networks differ


def test_evaluation_leaves_the_random_numbers_of_the_process_alone(
    config: Callable[..., EvaluateConfig],
) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    evaluate_folders(config(repeats=1, epochs=1))
    assert torch.equal(torch.rand(3), wanted)


def test_folders_are_compared_seed_by_seed(config: Callable[..., EvaluateConfig], distilled: Path) -> None:
    result = evaluate_folders(config(folders=(distilled / "a", distilled / "b")))
    first, second = result["rows"]
    (difference,) = result["differences"]
    assert (difference["folder"], difference["minus"], difference["seeds"]) == ("b", "a", [0, 1])
    wanted = np.subtract(second["best"]["values"], first["best"]["values"])
    assert difference["best"]["values"] == pytest.approx(wanted.tolist(), abs=1e-3)


def test_equal_folders_have_equal_results(
    config: Callable[..., EvaluateConfig], distilled: Path, tmp_path: Path
) -> None:
    """A copy in the numeric layout: same seeds, same order, same accuracy, trained once."""
    for label, name in enumerate(NAMES):
        shutil.copytree(distilled / "a" / name, tmp_path / "numeric" / f"{label:05d}")
    result = evaluate_folders(config(folders=(distilled / "a", tmp_path / "numeric")))
    assert result["differences"][0]["best"]["values"] == [0.0, 0.0]
    assert len(list((tmp_path / "out" / "trainings").glob("*.json"))) == 2


def test_validation_split_is_held_out_of_train(config: Callable[..., EvaluateConfig]) -> None:
    result = evaluate_folders(config(eval_split="val", repeats=1, epochs=1))
    assert (result["dataset"]["split"], result["dataset"]["images"]) == ("val of train", 6)


def test_pool_of_cross_is_the_mean_over_networks(config: Callable[..., EvaluateConfig]) -> None:
    result = evaluate_folders(config(protocol="cross", networks=("convnet2w8-in", "convnet1w8-in"), epochs=2))
    one, other, mean = result["rows"]
    assert mean["network"] == "mean"
    wanted = np.mean([one["best"]["values"], other["best"]["values"]], axis=0)
    assert mean["best"]["values"] == pytest.approx(wanted.tolist(), abs=1e-3)


def test_bf16_and_compiled_trainings_are_others(
    config: Callable[..., EvaluateConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    # Really compiling takes half a minute on a CPU.
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    evaluate_folders(config(repeats=1))
    evaluate_folders(config(repeats=1, compile="on"))
    evaluate_folders(config(repeats=1, precision="bf16"))
    losses = sorted(one["loss"] for one in curves(tmp_path / "out").values())
    assert len(compiled) == 1
    assert len(losses) == 3
    assert len(set(losses)) == 2
    assert losses[0] == pytest.approx(losses[-1], rel=0.05)


# Interruption and resumption


class StoppingProgress(Progress):
    """Sends this process a signal after some epochs."""

    def __init__(self, after: int) -> None:
        super().__init__(quiet=True)
        self._left = after
        self.skipped = 0

    @contextmanager
    def stage(self, name, **options):
        stopping = self

        class Bar:
            def advance(self, n=1):
                if name == "evaluate":
                    stopping._left -= n
                    if stopping._left == 0:
                        os.kill(os.getpid(), signal.SIGINT)

            def skip(self, n):
                stopping.skipped += n

        yield Bar()


@pytest.mark.parametrize(
    ("network", "repeats", "epochs", "after"),
    [
        ("convnet2w8-bn", 2, 4, 2),
        ("convnet2w8-bn", 2, 4, 4),
        ("convnet2w8-bn", 2, 4, 6),
        ("vit-glad", 1, 2, 1),
    ],
    ids=["in-the-first", "at-the-end-of-the-first", "in-the-second", "dropout"],
)
def test_a_stopped_evaluation_goes_on_to_the_same_result(
    config: Callable[..., EvaluateConfig], tmp_path: Path, network: str, repeats: int, epochs: int, after: int
) -> None:
    changes = {"protocol": "cross", "networks": (network,), "repeats": repeats, "epochs": epochs}
    evaluate_folders(config(out=tmp_path / "whole", **changes))
    stopped = config(out=tmp_path / "stopped", **changes)
    with pytest.raises(Interrupted, match=rf"{after // 5} of {repeats} trainings are finished"):
        evaluate_folders(stopped, StoppingProgress(after))
    assert len(list((tmp_path / "stopped" / "trainings").glob("*.pt"))) == 1
    assert not json.loads((tmp_path / "stopped" / "evaluation.json").read_text())["complete"]
    going_on = StoppingProgress(-1)
    evaluate_folders(stopped, going_on)
    assert going_on.skipped == after  # epochs done before say nothing of the rate
    assert curves(tmp_path / "stopped") == curves(tmp_path / "whole")
    assert not list((tmp_path / "stopped" / "trainings").glob("*.pt"))


def test_a_killed_training_goes_on_inside_its_epoch(
    config: Callable[..., EvaluateConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps an epoch; killed in the fifth step, after a checkpoint of the fourth."""
    changes = {"protocol": "cross", "networks": ("convnet2w8-bn",), "repeats": 1, "epochs": 3}
    evaluate_folders(config(out=tmp_path / "whole", **changes))
    monkeypatch.setattr(training, "_CHECKPOINT_PERIOD_S", 0.0)
    steps, augment = [], training.augment_batch

    def killed(*given: Any) -> torch.Tensor:
        steps.append(None)
        if len(steps) == 5:
            raise RuntimeError("killed")
        return augment(*given)

    monkeypatch.setattr(training, "augment_batch", killed)
    with pytest.raises(RuntimeError, match="killed"):
        evaluate_folders(config(out=tmp_path / "killed", **changes))
    evaluate_folders(config(out=tmp_path / "killed", **changes))
    assert len(steps) == 5 + 5  # 9 steps, of which 4 were kept
    assert curves(tmp_path / "killed") == curves(tmp_path / "whole")


def test_finished_trainings_are_not_done_again(
    config: Callable[..., EvaluateConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate_folders(config(repeats=1))
    from mgd3_fast.evaluate import evaluation

    trained, original = [], evaluation.train_classifier
    monkeypatch.setattr(
        evaluation, "train_classifier", lambda job, *rest: trained.append(job.seed) or original(job, *rest)
    )
    result = evaluate_folders(config(repeats=2))
    assert trained == [1]
    assert result["rows"][0]["best"]["values"][0] == first["rows"][0]["best"]["values"][0]
    evaluate_folders(config(repeats=2, lr=0.02))
    assert trained == [1, 0, 1]


def test_a_damaged_record_is_trained_again(config: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    evaluate_folders(config(repeats=1))
    before = curves(tmp_path / "out")
    (record,) = (tmp_path / "out" / "trainings").glob("*.json")
    record.write_text(record.read_text()[:50])
    evaluate_folders(config(repeats=1))
    assert curves(tmp_path / "out") == before


def test_a_foreign_checkpoint_is_one_line(config: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    evaluate_folders(config(repeats=1))
    (record,) = (tmp_path / "out" / "trainings").glob("*.json")
    record.unlink()
    save_checkpoint(record.with_suffix(".pt"), {"step": 3})
    with pytest.raises(UserError, match="holds the state of another training"):
        evaluate_folders(config(repeats=1))


# Folders


@pytest.fixture
def copy(distilled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(distilled / "a", tmp_path / "copy"))


def rename(folder: Path, old: str, new: str) -> None:
    (folder / old).rename(folder / new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "bee"), "must hold every class of colours, missing bee"),
        (lambda folder: rename(folder, "bee", "beetle"), "must hold every class of colours, missing bee"),
        (
            lambda folder: shutil.copytree(folder / "bee", folder / "dog"),
            "must hold classes of colours alone, unknown dog",
        ),
        (
            lambda folder: (folder / "cow" / "2.png").unlink(),
            "must hold equally many images of every class, got 3 of cow and 4 of ant",
        ),
        (
            lambda folder: [(folder / "cow" / f"{k}.png").unlink() for k in range(4)],
            "must hold images of every class, got none of cow",
        ),
        (
            lambda folder: shutil.copytree(folder / "bee", folder / "00001"),
            "must hold each class once, got 00001 and bee in",
        ),
        (
            lambda folder: [rename(folder, name, name + "s") for name in NAMES],
            r"must hold folders named as the classes of colours \(ant, bee, cow\), got ants, bees, cows",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text("{}"),
            "must hold a manifest of this mgd3-fast or none",
        ),
        (lambda folder: (folder / ".mgd3-fast").mkdir(), "must be a finished run"),
        (
            lambda folder: (folder / "bee" / "1.png").write_bytes(b"no image"),
            "images must be readable, got .*bee/1.png",
        ),
        (
            lambda folder: (folder / "ant" / "0.png").write_bytes(b"no image"),
            "images must be readable, got .*ant/0.png",
        ),
    ],
    ids=[
        "missing",
        "renamed",
        "unknown",
        "unequal",
        "empty",
        "twice",
        "all-unknown",
        "foreign-manifest",
        "unfinished",
        "damaged",
        "first-damaged",
    ],
)
def test_folders_that_do_not_fit_are_one_line_and_exit_2(
    dataset: Path,
    copy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    message: str,
) -> None:
    change(copy)
    words = ["evaluate", str(copy), "--dataset", str(dataset), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(words) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert re.search(message, printed[0])
    assert not (tmp_path / "out").exists()


def test_labels_follow_the_dataset_not_the_order_of_folders(dataset: Path, tmp_path: Path) -> None:
    """A manifest names the folder of each class; here folders sort the other way round."""
    opened = open_dataset(str(dataset), split="val")
    for place in range(3):
        write_images(tmp_path / "set" / f"f{place}", place, 2, 0)
    classes = [
        {"name": name, "label": k, "folder": f"f{2 - k}", "source_images": 2} for k, name in enumerate(NAMES)
    ]
    write_manifest(tmp_path / "set" / "manifest.json", whole_manifest(classes=classes), tmp_path / "draft")
    found = read_classes(tmp_path / "set", opened, "folder")
    assert [(one.label, one.path.parent.name) for one in found.images] == [
        (0, "f2"),
        (0, "f2"),
        (1, "f1"),
        (1, "f1"),
        (2, "f0"),
        (2, "f0"),
    ]


def test_a_part_of_the_classes_keeps_their_order(dataset: Path, distilled: Path) -> None:
    opened = open_dataset(str(dataset), split="val", classes="cow,ant")
    with pytest.raises(UserError, match="unknown bee"):
        read_classes(distilled / "a", opened, "folder")
    whole = read_classes(distilled / "a", open_dataset(str(dataset), split="val"), "folder")
    assert [one.label for one in whole.images] == [0] * 4 + [1] * 4 + [2] * 4


def test_ipc_takes_the_first_images_by_name(dataset: Path, tmp_path: Path) -> None:
    for label, name in enumerate(NAMES):
        write_images(tmp_path / "set" / name, label, 12, 0)
    opened = open_dataset(str(dataset), split="val")
    found = read_classes(tmp_path / "set", opened, "folder", 4)
    assert [one.path.stem for one in found.images[:4]] == ["0", "1", "10", "11"]
    with pytest.raises(UserError, match="ipc must be at most 12, the images of class ant"):
        read_classes(tmp_path / "set", opened, "folder", 13)


# Teachers


@pytest.fixture(scope="module")
def teacher_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_network("convnet2w8-bn", 3, 16).state_dict()


def test_soft_protocol_runs_with_a_kept_network_as_teacher(
    config: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    evaluate_folders(config(networks=("convnet2w8-bn",), repeats=1, epochs=40, lr=0.05, keep_weights="on"))
    (weights,) = (tmp_path / "out" / "weights").glob("*.safetensors")
    soft = {
        "protocol": "soft",
        "networks": ("convnet2w8-bn",),
        "teacher": weights,
        "teacher_network": "convnet2w8-bn",
        "out": tmp_path / "soft",
        "repeats": 1,
    }
    result = evaluate_folders(config(**soft))
    assert result["teacher"]["network"] == "convnet2w8-bn"
    assert result["teacher"]["file"] == weights.name
    assert result["teacher"]["test_accuracy"] > 50
    again = evaluate_folders(config(**{**soft, "out": tmp_path / "again"}))
    assert again["rows"][0]["last"] == result["rows"][0]["last"]
    evaluate_folders(config(**{**soft, "bn_updates": 1}))
    losses = [one["loss"] for one in curves(tmp_path / "soft").values()]
    assert losses[0] == losses[1]  # statistics do not touch the training of batch norm, only its tests


@pytest.mark.parametrize("layout", ["plain", "wrapped", "parallel", "safetensors"])
def test_teachers_are_read_in_every_layout(
    dataset: Path, tmp_path: Path, teacher_state: dict[str, torch.Tensor], layout: str
) -> None:
    path = tmp_path / ("t.safetensors" if layout == "safetensors" else "t.pth")
    if layout == "safetensors":
        save_file(teacher_state, path)
    else:
        state = (
            {f"module.{name}": one for name, one in teacher_state.items()}
            if layout == "parallel"
            else teacher_state
        )
        torch.save({"model": state, "epoch": 3} if layout == "wrapped" else state, path)
    teacher = load_teacher(path, "convnet2w8-bn", open_dataset(str(dataset), split="val"), 16)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, teacher_state[name])


def test_the_last_layer_is_sliced_to_the_opened_classes(
    dataset: Path, tmp_path: Path, teacher_state: dict[str, torch.Tensor]
) -> None:
    torch.save(teacher_state, tmp_path / "t.pth")
    opened = open_dataset(str(dataset), split="val", classes="ant,cow")
    teacher = load_teacher(tmp_path / "t.pth", "convnet2w8-bn", opened, 16)
    assert torch.equal(teacher.classifier.weight, teacher_state["classifier.weight"][[0, 2]])
    assert torch.equal(teacher.classifier.bias, teacher_state["classifier.bias"][[0, 2]])


def test_an_imagenet_teacher_is_sliced_by_wnid(tmp_path: Path) -> None:
    """Imagewoof's list is not sorted; the 1,000 outputs of a torchvision file are."""
    from mgd3_fast.datasets import imagenet_classes

    woof, whole = imagenet_classes("imagewoof"), imagenet_classes("imagenet1k")
    assert list(woof) != sorted(woof)
    for name in woof:
        write_images(tmp_path / "val" / name, 0, 1, 0)
    torch.manual_seed(0)
    state = build_network("convnet2w8-bn", 1000, 16).state_dict()
    torch.save(state, tmp_path / "t.pth")
    opened = open_dataset("imagewoof", data_dir=tmp_path, split="val")
    teacher = load_teacher(tmp_path / "t.pth", "convnet2w8-bn", opened, 16)
    rows = [whole.index(name) for name in woof]
    assert torch.equal(teacher.classifier.weight, state["classifier.weight"][rows])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "teacher must be an existing file"),
        (b"PK\x03\x04 nothing", "teacher must be a file of plain tensors"),
        ({"weights": Path}, "teacher must be a file of plain tensors"),
        ({"conv.weight": torch.zeros(2, 2, 3, 3)}, "teacher must be a classifier with a linear last layer"),
        (
            {"fc.weight": torch.zeros(3, 8), "fc.bias": torch.zeros(3)},
            "teacher must be weights of resnet18, got",
        ),
        (
            {"fc.weight": torch.zeros(7, 8), "fc.bias": torch.zeros(7)},
            "teacher must have 3 outputs for colours, got 7",
        ),
    ],
    ids=["missing", "damaged", "unsafe", "no-classifier", "other-network", "other-classes"],
)
def test_wrong_teachers_are_refused(dataset: Path, tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "t.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_teacher(path, "resnet18", open_dataset(str(dataset), split="val"), 224)


# Summaries


def test_summary_is_the_population_deviation_and_students_interval() -> None:
    found = summary([70.0, 72.0, 77.0])
    assert found["mean"] == 73.0
    assert found["std"] == pytest.approx(np.std([70, 72, 77]), abs=1e-4)
    # t(0.975, 2 degrees of freedom) = 4.30265.
    reach = 4.30265 * np.std([70, 72, 77], ddof=1) / np.sqrt(3)
    assert found["ci95"] == pytest.approx([73 - reach, 73 + reach], abs=1e-3)
    assert summary([70.0])["ci95"] is None


def test_only_shared_seeds_and_equal_sizes_are_compared() -> None:
    def row(folder: str, ipc: int, accuracies: dict[int, float]) -> dict[str, Any]:
        outcomes = {
            seed: {"best": one, "last": one - 1, "parameters": 5, "wall_s": 1.0, "cpu_s": 1.0}
            for seed, one in accuracies.items()
        }
        return sum_up("net", folder, ipc, outcomes)

    rows = [row("a", 10, {0: 50.0, 1: 60.0}), row("b", 10, {0: 53.0}), row("c", 50, {0: 90.0, 1: 91.0})]
    (difference,) = differences(rows)
    assert (difference["folder"], difference["seeds"], difference["best"]["values"]) == ("b", [0], [3.0])
    assert [one["seeds"] for one in pool_means(rows)] == [[0, 1], [0], [0, 1]]


# The command


def test_command_prints_a_table_and_json(
    dataset: Path, distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(distilled / "a"), str(distilled / "b"), "--dataset", str(dataset)]
    words += [
        "--networks",
        "convnet2w8-in",
        "--epochs",
        "2",
        "--repeats",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert (
        "protocol hard, preset small: convnet2w8-in at 16 px, 2 epochs in batches of 64, fp32 on cpu"
        in printed.err
    )
    assert "2 folders x 2 seeds, tested on 60 images of colours (test)" in printed.err
    assert "evaluate: 8/8 epoch" in printed.err
    lines = printed.out.splitlines()
    assert lines[0].endswith("60 images of 3 classes; 2 trainings on one set of images")
    assert any(line.startswith("convnet2w8-in  b - a") for line in lines)
    assert lines[-1] == f"every setting and repeat: {tmp_path / 'out' / 'evaluation.json'}"
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["folder"] for row in result["rows"]] == ["a", "b"]
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_command_keeps_what_is_done_when_interrupted(
    dataset: Path,
    distilled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mgd3_fast.cli.Progress", lambda quiet: StoppingProgress(3))
    words = ["evaluate", str(distilled / "a"), "--dataset", str(dataset), "--networks", "convnet2w8-in"]
    assert main([*words, "--epochs", "2", "--repeats", "2", "--out", str(tmp_path / "out")]) == 130
    assert "interrupted: 1 of 2 trainings are finished in" in capsys.readouterr().err


def test_weights_that_were_not_kept_are_trained_again(
    config: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    evaluate_folders(config(repeats=1))
    evaluate_folders(config(repeats=1, keep_weights="on"))
    (weights,) = (tmp_path / "out" / "weights").glob("*.safetensors")
    assert set(load_file(weights)) == set(build_network("convnet2w8-in", 3, 16).state_dict())


def test_weights_of_folders_of_one_name_are_kept_side_by_side(
    config: Callable[..., EvaluateConfig], distilled: Path, tmp_path: Path
) -> None:
    folders = tuple(Path(shutil.copytree(distilled / one, tmp_path / one / "set")) for one in "ab")
    result = evaluate_folders(config(folders=folders, repeats=1, epochs=1, keep_weights="on"))
    assert [row["folder"] for row in result["rows"]] == [str(folder) for folder in folders]
    kept = sorted((tmp_path / "out" / "weights").iterdir())
    assert [file.name.startswith("convnet2w8-in-set-0-") for file in kept] == [True, True]
