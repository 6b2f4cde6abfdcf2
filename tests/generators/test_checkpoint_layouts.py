"""The table of docs/checkpoints.md: every layout by every reader, and what is wrong named by each."""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mgd3_engine.dit import DiTConfig, read_dit
from mgd3_fast.datasets import Dataset, ImageClass
from mgd3_fast.datasets.images import ArrayImages
from mgd3_fast.evaluate.networks import build_network
from mgd3_fast.evaluate.teacher import load_teacher
from mgd3_fast.generators import KLAutoencoder, load_generator
from mgd3_fast.generators.autoencoder import VQAutoencoder
from mgd3_fast.generators.autoencoder_weights import read_autoencoder
from mgd3_fast.generators.ldm_weights import UNET, class_table, part_of
from tests.fakes.original_ldm import original_weights, tiny_table, tiny_unet, tiny_vq
from tests.fakes.random_networks import random_dit, random_vae

PAGE = Path(__file__).parents[2] / "docs/checkpoints.md"
Weights = Mapping[str, Tensor]
DIT = DiTConfig(input_size=8, patch_size=2, hidden_size=16, depth=2, num_heads=2, num_classes=3)
COUNTER = {"n_averaged": torch.tensor(7)}
OPTIONS = argparse.Namespace(
    model="mine",
    lr=np.float64(1e-4),
    steps=np.int64(3),
    out=PurePosixPath("/runs"),
    also=argparse.Namespace(a=1),
)


def renamed(weights: Weights, pattern: str) -> dict[str, Tensor]:
    """Put what wrappers add to names before them, and inside where they have parts enough."""
    before, inside = pattern.split("*")
    named = {}
    for name, tensor in weights.items():
        first, _, rest = name.partition(".")
        named[before + (f"{first}.{inside}{rest}" if "." in rest else name)] = tensor
    return named


def damaged(weights: Weights) -> dict[str, Tensor]:
    """Make weights that no reader takes."""
    return {name: tensor * torch.nan for name, tensor in weights.items()}


def lightning(weights: Weights) -> dict[str, object]:
    state = OrderedDict(renamed(weights, "model.*")) | {"criterion.scale": torch.ones(1)}
    return {
        "state_dict": state,
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": np.float64(1e-4), "out": PurePosixPath("/runs")},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}],
    }


LAYOUTS: dict[str, Callable[[Weights], object]] = {
    "a state dict": lambda weights: weights,
    "DDP": lambda weights: renamed(weights, "module.*"),
    "torch.compile": lambda weights: renamed(weights, "_orig_mod.*"),
    "torch.compile of parts": lambda weights: renamed(weights, "*_orig_mod."),
    "DDP and torch.compile, either way round": lambda weights: renamed(weights, "module._orig_mod.*"),
    "FSDP and activation checkpointing": lambda weights: renamed(
        weights, "_fsdp_wrapped_module.*_checkpoint_wrapped_module.module."
    ),
    "AveragedModel": lambda weights: COUNTER | renamed(weights, "module.*"),
    "under a key": lambda weights: {
        "model": weights,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 3,
    },
    "weights and their average": lambda weights: {"model": damaged(weights), "ema": weights},
    "timm": lambda weights: {"state_dict": damaged(weights), "state_dict_ema": weights, "args": OPTIONS},
    "DeepSpeed": lambda weights: {"module": weights, "ds_version": "0.15"},
    "with the options of the training": lambda weights: {"model": weights, "args": OPTIONS},
    "numbers beside the tensors": lambda weights: {**weights, "epoch": 3, "best": np.float64(0.5)},
    "numpy arrays": lambda weights: {name: tensor.numpy() for name, tensor in weights.items()},
    "Lightning": lightning,
    "an average inside a state dict": lambda weights: (
        renamed(damaged(weights), "net.*") | renamed(weights, "ema_net.*")
    ),
}
# Whole models already, whose parts have prefixes of their own: no network of a module, nor beside others.
NOT_FOR_LDM = ("Lightning", "an average inside a state dict")


@pytest.fixture(scope="module")
def networks() -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(0)
    whole_ldm = original_weights(tiny_unet(), tiny_vq(), tiny_table())
    return {
        "DiT": random_dit(DIT).state_dict(),
        "autoencoder": random_vae().state_dict(),
        "VQ autoencoder": tiny_vq().state_dict(),
        "LDM": {name: one for name, one in whole_ldm.items() if not name.startswith("model_ema.")},
        "teacher": build_network("convnet2w8-bn", 3, 16).state_dict(),
    }


def of_teacher(path: Path) -> Weights:
    images = ArrayImages(np.zeros((1, 4, 4, 3), np.uint8))
    names = ("ant", "bee", "cow")
    classes = tuple(ImageClass(name, label, images) for label, name in enumerate(names))
    return load_teacher(path, "convnet2w8-bn", Dataset("some", classes, names), 16).state_dict()


def of_ldm(path: Path) -> Weights:
    return {**part_of(path, UNET), "table": class_table(path), **read_autoencoder(path)}


READERS: dict[str, Callable[[Path], Weights]] = {
    "DiT": lambda path: read_dit(path, num_heads=2).network().state_dict(),
    "autoencoder": read_autoencoder,
    "VQ autoencoder": read_autoencoder,
    "LDM": of_ldm,
    "teacher": of_teacher,
}


def assert_equal(got: Weights, want: Weights) -> None:
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name


@pytest.fixture(scope="module")
def expected(
    networks: dict[str, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Weights]:
    """What each reader makes of the weights in safetensors."""
    folder, read = tmp_path_factory.mktemp("plain"), {}
    for reader, weights in networks.items():
        path = folder / f"{reader}.safetensors"
        save_file({name: one.contiguous() for name, one in weights.items()}, path)
        read[reader] = READERS[reader](path)
    return read


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_by_every_reader(
    layout: str,
    reader: str,
    networks: dict[str, dict[str, Tensor]],
    expected: dict[str, Weights],
    tmp_path: Path,
) -> None:
    if reader == "LDM" and layout in NOT_FOR_LDM:
        return
    torch.save(LAYOUTS[layout](networks[reader]), tmp_path / "w.pt")
    assert_equal(READERS[reader](tmp_path / "w.pt"), expected[reader])


def test_the_page_lists_these_layouts() -> None:
    rows = re.findall(r"^\| ([^|]+?) \| .* \|$", PAGE.read_text(), re.MULTILINE)
    assert [row for row in rows if row in LAYOUTS] == list(LAYOUTS)


def load_kl(path: Path) -> object:
    random_vae().save_config(path.parent)
    return KLAutoencoder(path).load_network()


DAMAGED: dict[
    str, tuple[str, str, Callable[[Path], object]]
] = {  # its name in the file and in the message, and how
    "DiT": ("blocks.1.attn.proj.bias", "", READERS["DiT"]),
    "autoencoder": ("decoder.conv_out.bias", "", load_kl),
    "VQ autoencoder": ("decoder.conv_out.bias", "", lambda path: VQAutoencoder(path).load_network()),
    "LDM": (
        f"{UNET}out.2.bias",
        "conv_out.bias",
        lambda path: load_generator(str(path)).denoiser("cpu", torch.float32),
    ),
    "teacher": ("classifier.bias", "", of_teacher),
}


@pytest.mark.parametrize("reader", READERS)
def test_nan_is_named_by_every_reader(
    reader: str, networks: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    bad, shown, load = DAMAGED[reader]
    weights = {name: tensor.clone() for name, tensor in networks[reader].items()}
    weights[bad].view(-1)[0] = torch.nan
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=f"the tensor {shown or bad} holds NaN or infinity") as refused:
        load(tmp_path / "w.pt")
    assert str(tmp_path / "w.pt") in str(refused.value)
