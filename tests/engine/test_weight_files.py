"""One reader for every weight file: each container, wrapper and prefix, and one line for each wrong file."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mgd3_engine.files.pickled import read_pickled
from mgd3_engine.files.weights import (
    WRAPPER_PARTS,
    WRAPPERS,
    check_weights,
    read_model_weights,
    read_weights,
    rooted,
)
from tests.fakes.random_networks import random_vae

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


PLACES = {  # names of a tensor a.weight, as wrappers write them
    "before": "{}.a.weight",
    "in the middle": "a.{}.weight",
    "twice": "{0}.a.{0}.weight",
    "after another": "module.{}.a._orig_mod.weight",
}


@pytest.mark.parametrize("part", sorted(WRAPPER_PARTS))
@pytest.mark.parametrize("place", PLACES)
def test_names_of_wrappers_are_taken_out(part: str, place: str, tmp_path: Path) -> None:
    torch.save({PLACES[place].format(part): WEIGHTS["a.weight"]}, tmp_path / "w.pt")
    assert_read(tmp_path / "w.pt", {"a.weight": WEIGHTS["a.weight"]})


def test_parts_of_a_wrapped_network(tmp_path: Path) -> None:
    names = {
        f"_orig_mod.{name}": f"diffusion_pytorch_model-0000{i}-of-00002.bin" for i, name in enumerate(WEIGHTS)
    }
    for name, part in names.items():
        torch.save({name: WEIGHTS[name.removeprefix("_orig_mod.")]}, tmp_path / part)
    index = tmp_path / "diffusion_pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert_read(index)


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "module.a": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="holds two tensors that are a without the names of wrappers"):
        read_weights(tmp_path / "w.pt")


def test_an_averaged_model(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 3)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    torch.save(averaged.state_dict(), tmp_path / "w.pt")
    assert_read(tmp_path / "w.pt", network.state_dict())


def test_plain_values_and_arrays_beside_tensors(tmp_path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in WEIGHTS.items()}
    for weights in (WEIGHTS, arrays):
        torch.save({**weights, "epoch": 3, "note": None, "params": {"lr": 0.1}}, tmp_path / "w.pt")
        assert_read(tmp_path / "w.pt")


BELOW = {  # prefix of the network's names, and what else the file holds
    "lightning": ("model.", {"loss.scale": torch.ones(1)}),
    "an average first": ("ema.module.", {"model.a.weight": torch.zeros(2, 3), "model.b": torch.zeros(1)}),
    "ema-pytorch": (
        "ema.ema_model.",
        {"ema.online_model.a.weight": torch.zeros(2, 3), "ema.step": torch.ones(1)},
    ),
    "alone": ("", {}),
}


@pytest.mark.parametrize("layout", BELOW)
def test_one_network_of_a_file(layout: str) -> None:
    prefix, others = BELOW[layout]
    got = rooted({**others, **{f"{prefix}{name}": tensor for name, tensor in WEIGHTS.items()}}, ["a.weight"])
    assert got.keys() == WEIGHTS.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in WEIGHTS.items())


def test_a_file_without_the_network_is_left_as_it_is() -> None:
    assert rooted(WEIGHTS, ["c"]) == WEIGHTS
    assert rooted(WEIGHTS, ["weight.a"]) == WEIGHTS


def variant_of_half_precision(folder: Path, parts: bool) -> None:
    stem, half = "diffusion_pytorch_model", {"a.weight": WEIGHTS["a.weight"].half()}
    if not parts:
        save_file(half, folder / f"{stem}.fp16.safetensors")
        return
    name = f"{stem}.fp16-00001-of-00001.safetensors"
    save_file(half, folder / name)
    (folder / f"{stem}.safetensors.index.fp16.json").write_text(
        json.dumps({"weight_map": {"a.weight": name}})
    )


@pytest.mark.parametrize("parts", [False, True], ids=["one file", "parts"])
def test_half_precision_is_taken_where_there_is_nothing_else(parts: bool, tmp_path: Path) -> None:
    variant_of_half_precision(tmp_path, parts)
    assert read_model_weights(tmp_path)["a.weight"].dtype == torch.float16
    torch.save(WEIGHTS, tmp_path / "diffusion_pytorch_model.bin")
    assert read_model_weights(tmp_path)["a.weight"].dtype == torch.float32


def test_names_of_half_precision_are_those_that_diffusers_writes(tmp_path: Path) -> None:
    random_vae().half().save_pretrained(tmp_path, variant="fp16")
    assert len(read_model_weights(tmp_path)) == len(random_vae().state_dict())
    random_vae().half().save_pretrained(tmp_path / "parts", variant="fp16", max_shard_size="20KB")
    assert read_model_weights(tmp_path / "parts").keys() == random_vae().state_dict().keys()


def options() -> argparse.Namespace:
    """What training scripts keep beside the weights."""
    return argparse.Namespace(
        model="DiT-XL/2",
        num_heads=4,
        ckpt=None,
        path=Path("/runs/1"),
        lr=np.float64(1e-4),
        steps=np.int64(5),
        betas=np.array([0.9, 0.999]),
        nested=argparse.Namespace(a=1),
        simple=SimpleNamespace(b=2),
        lists=defaultdict(list, a=[1]),
        ordered=OrderedDict(a=1),
        started=datetime(2025, 1, 2, tzinfo=timezone.utc),
        layers=range(3),
    )


def test_options_of_a_training_script(tmp_path: Path) -> None:
    """Lightning's classes are in `test_ldm`."""
    torch.save({"ema": WEIGHTS, "args": options()}, tmp_path / "w.pt")
    assert_read(tmp_path / "w.pt")
    _, beside = read_weights(tmp_path / "w.pt")
    assert (beside["model"], beside["num_heads"], beside["steps"]) == ("DiT-XL/2", "4", "5")
    assert "nested" not in beside
    torch.save({"state_dict": WEIGHTS, "hyper_parameters": vars(options())}, tmp_path / "w.pt")
    assert read_weights(tmp_path / "w.pt")[1]["num_heads"] == "4"
    content: Any = read_pickled(tmp_path / "w.pt")
    kept = content["hyper_parameters"]
    assert (str(kept["path"]), kept["lr"], kept["betas"].tolist()) == ("/runs/1", 1e-4, [0.9, 0.999])
    assert (kept["started"].year, kept["layers"]) == (2025, range(3))
    assert (kept["lists"], kept["ordered"], vars(kept["simple"])) == ({"a": [1]}, {"a": 1}, {"b": 2})


class Caller:
    """Would call a function while it is unpickled."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


@pytest.mark.parametrize(
    "call", [(eval, "1"), (os.system, "true"), (getattr, "a", "upper"), (Path.touch, Path("x"))]
)
def test_nothing_is_called(call: tuple[Any, ...], tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "args": Caller(*call)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"must hold only tensors and plain values|damaged or foreign"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_tensor_that_is_not_finite_is_named(dtype: torch.dtype, value: float) -> None:
    weights = {"good": torch.ones(3, dtype=dtype), "count": torch.tensor(3), "empty": torch.ones(0)}
    check_weights(weights)
    with pytest.raises(ValueError, match=r"the tensor layers.bad holds NaN or infinity"):
        check_weights({**weights, "layers.bad": torch.tensor([1.0, value, 2.0], dtype=dtype)})


def test_whole_numbers_are_not_taken_for_weights() -> None:
    with pytest.raises(ValueError, match=r"the tensor q holds torch.int8, and weights are floating-point"):
        check_weights({"w": torch.ones(3), "q": torch.ones(3, dtype=torch.int8)})


def nested_in_itself() -> dict[str, object]:
    content: dict[str, object] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "under one of ema, .*state_dict, .*model, net, .* got a list"),
        ({"weights": WEIGHTS}, "got 'weights'"),
        ({"model": {"state": 3}}, "got 'model'"),
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
