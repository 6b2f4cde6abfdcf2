"""One reader for every weight file: each container, wrapper and prefix, and one line for each wrong file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mgd3_engine.files.weights import WRAPPER_PARTS, WRAPPERS, read_model_weights, read_weights

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([7], dtype=torch.int64)}


def assert_read(path: Path, weights: dict[str, Tensor] = WEIGHTS) -> None:
    read, _ = read_weights(path)
    assert read.keys() == weights.keys()
    for name, tensor in weights.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def write_parts(folder: Path, end: str, save: Callable[[Any, Path], None]) -> Path:
    stem = "diffusion_pytorch_model"
    names = {name: f"{stem}-{i}-of-2.{end}" for i, name in enumerate(WEIGHTS, 1)}
    for name, part in names.items():
        save({name: WEIGHTS[name]}, folder / part)
    index = folder / f"{stem}.{end}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "w.pt", "w.pth", "w.ckpt"])
def test_containers(name: str, tmp_path: Path) -> None:
    save = save_file if name.endswith(".safetensors") else torch.save
    save(WEIGHTS, tmp_path / name)
    assert_read(tmp_path / name)


@pytest.mark.parametrize(("end", "save"), [("safetensors", save_file), ("bin", torch.save)])
def test_parts(end: str, save: Any, tmp_path: Path) -> None:
    assert_read(write_parts(tmp_path, end, save))
    assert read_model_weights(tmp_path).keys() == WEIGHTS.keys()


def test_a_folders_safetensors_go_before_its_pickles(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.bin")
    write_parts(tmp_path, "safetensors", save_file)
    assert read_model_weights(tmp_path).keys() == WEIGHTS.keys()
    with pytest.raises(FileNotFoundError, match=r"looked for model\.safetensors, .*pytorch_model\.bin"):
        read_model_weights(tmp_path, ("model", "pytorch_model"))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(wrapper: str, tmp_path: Path) -> None:
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, wrapper: WEIGHTS}, tmp_path / "w.pt")
    assert_read(tmp_path / "w.pt")
    torch.save({wrapper: {"net": WEIGHTS}}, tmp_path / "w.pt")
    assert_read(tmp_path / "w.pt")


def test_the_first_wrapper_of_the_table_counts(tmp_path: Path) -> None:
    others = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    for first in range(len(WRAPPERS)):
        content = dict.fromkeys(reversed(WRAPPERS[first + 1 :]), others) | {WRAPPERS[first]: WEIGHTS}
        torch.save(content, tmp_path / "w.pt")
        assert_read(tmp_path / "w.pt")


def test_a_tensor_may_be_called_like_a_wrapper(tmp_path: Path) -> None:
    weights = {name: torch.tensor([float(i)]) for i, name in enumerate(WRAPPERS)}
    torch.save(weights, tmp_path / "w.pt")
    assert_read(tmp_path / "w.pt", weights)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("prefix", [*(f"{part}." for part in sorted(WRAPPER_PARTS)), "module._orig_mod."])
def test_prefixes(prefix: str, suffix: str, tmp_path: Path) -> None:
    save = save_file if suffix == "safetensors" else torch.save
    save({f"{prefix}{name}": tensor for name, tensor in WEIGHTS.items()}, tmp_path / f"w.{suffix}")
    assert_read(tmp_path / f"w.{suffix}")


def test_options_of_a_training_script_are_passed_over(tmp_path: Path) -> None:
    """As those of Lightning, which `test_ldm` has."""
    torch.save({"ema": WEIGHTS, "args": argparse.Namespace(model="DiT-XL/2", ckpt=None)}, tmp_path / "w.pt")
    assert_read(tmp_path / "w.pt")


def nested_in_itself() -> dict[str, object]:
    content: dict[str, object] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "under one of ema, .*state_dict, .*model, net, .* got a list"),
        ({"weights": WEIGHTS}, "got 'weights'"),
        ({"model": {"state": 3}}, "got 'state'"),
        ({1: torch.zeros(1)}, "must hold a state dict"),
        (nested_in_itself(), "got 'model'"),
        ({}, "must hold at least one tensor"),
        ({"w": Path}, "must hold only tensors and plain values, got the object pathlib"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=message) as refused:
        read_weights(tmp_path / "w.pt")
    assert "\n" not in str(refused.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file at .*w\.pt"):
        read_weights(tmp_path / "w.pt")
    index = write_parts(tmp_path, "bin", torch.save)
    (tmp_path / "diffusion_pytorch_model-2-of-2.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"2-of-2\.bin"):
        read_weights(index)
