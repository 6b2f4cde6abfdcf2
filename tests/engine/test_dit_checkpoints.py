"""Every published layout of DiT weights loads to the same network; every wrong file is one clear line."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file
from torch import Tensor

from mgd3_engine.dit import DiT, DiTConfig, dit_config, load_dit, read_dit, save_dit
from tests.fakes.random_networks import dit_inputs, random_diffusers_dit, random_dit

SMALL = DiTConfig(input_size=8, patch_size=2, hidden_size=96, depth=2, num_heads=3, num_classes=10)
S2 = replace(dit_config("DiT-S/2"), depth=2)


def outputs(network: torch.nn.Module, config: DiTConfig) -> Tensor:
    with torch.no_grad():
        result = network(*dit_inputs(config, rows=2))
    return result if isinstance(result, Tensor) else result.sample


def assert_same_network(loaded: DiT, original: DiT) -> None:
    assert loaded.config == original.config
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(outputs(loaded, original.config), outputs(original, original.config))


@pytest.fixture(scope="module")
def dit() -> DiT:
    return random_dit(SMALL)


WRAPPED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "plain": lambda weights: weights,
    "ema": lambda weights: {"ema": weights},
    "model": lambda weights: {"model": weights, "step": 5},
    "ema before model": lambda weights: {
        "model": {name: tensor + 1 for name, tensor in weights.items()},
        "ema": weights,
        "opt": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "args": argparse.Namespace(model="DiT-XL/2", image_size=256, ckpt=None),
    },
    "DDP": lambda weights: {"model": {f"module.{name}": tensor for name, tensor in weights.items()}},
    "DDP of compile": lambda weights: {
        f"module._orig_mod.{name}": tensor for name, tensor in weights.items()
    },
}


@pytest.mark.parametrize("layout", WRAPPED)
def test_authors_layout(layout: str, dit: DiT, tmp_path: Path) -> None:
    torch.save(WRAPPED[layout](dit.state_dict()), tmp_path / "dit.pt")
    assert_same_network(load_dit(tmp_path / "dit.pt", num_heads=3), dit)


def test_authors_layout_from_before_archives(dit: DiT, tmp_path: Path) -> None:
    torch.save(dit.state_dict(), tmp_path / "dit.pt", _use_new_zipfile_serialization=False)
    assert_same_network(load_dit(tmp_path / "dit.pt", num_heads=3), dit)


@pytest.mark.parametrize(
    "config",
    [
        S2,
        replace(S2, num_classes=10),
        replace(S2, input_size=64, patch_size=4),
        replace(S2, learn_sigma=False, in_channels=3),
    ],
    ids=["S/2", "fine-tuned on 10 classes", "patch 4 at 512 px", "3 channels, no variance"],
)
def test_architecture_is_read_off_the_shapes(config: DiTConfig, tmp_path: Path) -> None:
    dit = random_dit(config)
    torch.save(dit.state_dict(), tmp_path / "dit.pt")
    assert_same_network(load_dit(tmp_path / "dit.pt"), dit)


@pytest.mark.parametrize(
    ("config", "safe", "sharded"),
    [
        (SMALL, True, False),
        (SMALL, False, False),
        (SMALL, True, True),
        (SMALL, False, True),
        (S2, True, False),
    ],
    ids=["safetensors", "bin", "safetensors shards", "bin shards", "S/2"],
)
def test_diffusers_folder(config: DiTConfig, safe: bool, sharded: bool, tmp_path: Path) -> None:
    config = replace(config, frequency_shift=1)
    twin = random_diffusers_dit(config, norm_eps=1e-5)
    shard_size = "100KB" if sharded else "10GB"
    twin.save_pretrained(tmp_path / "transformer", safe_serialization=safe, max_shard_size=shard_size)
    assert (len(list((tmp_path / "transformer").iterdir())) > 2) == sharded
    want = outputs(twin, config)
    for source in (tmp_path, tmp_path / "transformer"):
        loaded = load_dit(source, frequency_shift=1)
        assert loaded.config == config
        assert (outputs(loaded, config) - want).abs().max() <= 3e-6 * want.abs().max()


def test_diffusers_weights_file_is_its_folder(tmp_path: Path) -> None:
    random_diffusers_dit(SMALL).save_pretrained(tmp_path)
    from_file = load_dit(tmp_path / "diffusion_pytorch_model.safetensors")
    assert_same_network(from_file, load_dit(tmp_path))


def test_settings_written_by_old_diffusers(tmp_path: Path) -> None:
    # facebook/DiT-XL-2-256 was converted when DiT was still a mode of Transformer2DModel
    random_diffusers_dit(SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text()) | {"_class_name": "Transformer2DModel", "num_vector_embeds": None}
    path.write_text(json.dumps(settings))
    assert load_dit(tmp_path).config == SMALL


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
def test_own_file_round_trip(dtype: torch.dtype | None, dit: DiT, tmp_path: Path) -> None:
    config = replace(SMALL, frequency_shift=1, class_dropout_prob=0.2)
    original = random_dit(config)
    save_dit(tmp_path / "dit.safetensors", original, dtype=dtype)
    loaded = load_dit(tmp_path / "dit.safetensors")
    assert loaded.config == config
    assert torch.equal(loaded.pos_embed, original.pos_embed)
    for name, tensor in original.state_dict().items():
        stored = tensor if dtype is None or name == "pos_embed" else tensor.to(dtype).float()
        assert torch.equal(loaded.state_dict()[name], stored), name
    assert [path.name for path in tmp_path.iterdir()] == ["dit.safetensors"]


def test_same_network_gives_the_same_bytes(dit: DiT, tmp_path: Path) -> None:
    save_dit(tmp_path / "a.safetensors", dit)
    save_dit(tmp_path / "b.safetensors", load_dit(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_saved_file_is_as_readable_as_any_other(dit: DiT, tmp_path: Path) -> None:
    # safetensors' own writer makes files that only their owner can read
    (tmp_path / "plain").touch()
    save_dit(tmp_path / "dit.safetensors", dit)
    assert (tmp_path / "dit.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_safetensors_in_the_authors_names(dit: DiT, tmp_path: Path) -> None:
    save_file(dit.state_dict(), tmp_path / "dit.safetensors")
    assert_same_network(load_dit(tmp_path / "dit.safetensors", num_heads=3), dit)


def test_loading_in_bfloat16(dit: DiT, tmp_path: Path) -> None:
    save_dit(tmp_path / "dit.safetensors", dit)
    loaded = load_dit(tmp_path / "dit.safetensors", dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.bfloat16}


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind: not the pages that were read of a mapped one."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no line Anonymous")


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps_rollup")
def test_weights_stay_in_their_file(tmp_path: Path) -> None:
    config = replace(S2, num_classes=40_000)  # a label table of 61 MB
    torch.save(random_dit(config).state_dict(), tmp_path / "dit.pt")
    load_dit(tmp_path / "dit.pt")
    before = anonymous_bytes()
    loaded = load_dit(tmp_path / "dit.pt")
    assert anonymous_bytes() - before < 10e6
    assert loaded.y_embedder.embedding_table.weight.numel() * 4 > 61e6


def test_gains_of_fine_tuning_are_folded(dit: DiT, tmp_path: Path) -> None:
    """MinMax diffusion's fine-tuned DiTs carry gains; the network with gains applied is the reference."""
    generator = torch.Generator().manual_seed(3)
    gains = {
        f"blocks.0.{name}": 1 + 0.3 * torch.randn(size, generator=generator)
        for name, size in (("gamma1", 96), ("gamma2", 96), ("attn.gamma1", 288), ("attn.gamma2", 96))
    }
    torch.save({"model": {}, "ema": {**dit.state_dict(), **gains}}, tmp_path / "dit.pt")
    reference = random_dit(SMALL)
    block = reference.blocks[0]
    for layer, name in ((block.attn.qkv, "attn.gamma1"), (block.attn.proj, "attn.gamma2")):
        layer.register_forward_hook(lambda _, __, output, name=name: output * gains[f"blocks.0.{name}"])
    for branch, name in ((block.attn, "gamma1"), (block.mlp, "gamma2")):
        branch.register_forward_hook(lambda _, __, output, name=name: output * gains[f"blocks.0.{name}"])
    want = outputs(reference, SMALL)
    got = outputs(load_dit(tmp_path / "dit.pt", num_heads=3), SMALL)
    assert (got - outputs(dit, SMALL)).abs().max() > 0.01 * want.abs().max()
    assert (got - want).abs().max() <= 3e-6 * want.abs().max()


class Foreign:
    """An object that a safe checkpoint must not hold."""


def _copy_differs(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    return weights | {name: weights[name] + 1}


def _without_key_map(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if ".to_k." not in name}


BAD_DIFFUSERS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "copies differ": (
        _copy_differs,
        "copies of y_embedder.embedding_table.weight in the blocks must be equal",
    ),
    "no key map": (_without_key_map, "must come with to_k and to_v, got 2 of the three"),
    "foreign tensor": (lambda weights: weights | {"lora.up": torch.zeros(2)}, "got also lora.up"),
}


@pytest.mark.parametrize("problem", BAD_DIFFUSERS)
def test_wrong_diffusers_folder(problem: str, tmp_path: Path) -> None:
    change, message = BAD_DIFFUSERS[problem]
    random_diffusers_dit(SMALL).save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(change(load(path.read_bytes())), path)
    with pytest.raises(ValueError, match=message) as caught:
        load_dit(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm_type": "layer_norm"}, "norm_type must be 'ada_norm_zero' for a DiT, got 'layer_norm'"),
        ({"out_channels": 5}, "output channels must be 4 or 8 for 4 latent channels, got 5"),
        ({"sample_size": None}, "settings of a diffusers DiT must be whole numbers"),
        ({"num_layers": 3}, r"weights must be complete, missing blocks\.2\."),
        (
            {"num_embeds_ada_norm": 1000},
            r"floating-point of shape \[1001, 96\], got torch.float32 \[11, 96\]",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_diffusers_settings(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    random_diffusers_dit(SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(ValueError, match=message):
        load_dit(tmp_path)


WRONG_FILES: dict[str, tuple[object, str]] = {
    "other object": (
        {"model": {}, "extra": Foreign()},
        "must hold only tensors and plain values, got the object",
    ),
    "a list": ([1, 2], "must hold a state dict, plain or under one of ema, .*, got a list"),
    "no tensors": ({"epoch": 3}, "must hold a state dict, plain or under .*, got 'epoch'"),
    "empty": ({}, "must hold at least one tensor"),
    "other network": ({"conv1.weight": torch.zeros(4, 3, 3, 3)}, "weights must hold x_embedder.proj.weight"),
}


@pytest.mark.parametrize("problem", WRONG_FILES)
def test_wrong_content(problem: str, tmp_path: Path) -> None:
    content, message = WRONG_FILES[problem]
    torch.save(content, tmp_path / "dit.pt")
    with pytest.raises(ValueError, match=message) as caught:
        load_dit(tmp_path / "dit.pt")
    assert str(tmp_path / "dit.pt") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 9, 5_000, -100], ids=lambda kept: f"cut at {kept}")
def test_truncated_file(suffix: str, kept: int, dit: DiT, tmp_path: Path) -> None:
    path = tmp_path / f"dit{suffix}"
    if suffix == ".pt":
        torch.save(dit.state_dict(), path)
    else:
        save_dit(path, dit)
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"must be a .* damaged") as caught:
        load_dit(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_garbage(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"dit{suffix}"
    path.write_bytes(os.urandom(4096))
    with pytest.raises(ValueError, match=r"must be a .* damaged"):
        load_dit(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {n: t for n, t in w.items() if "fc1.bias" not in n},
            "missing blocks.0.mlp.fc1.bias, blocks.1",
        ),
        (lambda w: w | {"y_embedder.extra": torch.zeros(1)}, "got also y_embedder.extra"),
        (
            lambda w: w | {"blocks.0.mlp.fc1.bias": torch.zeros(7)},
            r"blocks.0.mlp.fc1.bias must be .* \[384\]",
        ),
        (lambda w: w | {"blocks.0.mlp.fc1.bias": torch.zeros(384, dtype=torch.int8)}, "got torch.int8"),
        (lambda w: w | {"blocks.0.gamma1": torch.ones(5)}, "blocks.0.gamma1 must have one gain per row"),
    ],
    ids=["missing", "unknown", "wrong shape", "integers", "wrong gain"],
)
def test_wrong_tensors(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, dit: DiT, tmp_path: Path
) -> None:
    torch.save(change(dit.state_dict()), tmp_path / "dit.pt")
    with pytest.raises(ValueError, match=message):
        load_dit(tmp_path / "dit.pt", num_heads=3)


def test_unpublished_width_needs_heads(dit: DiT, tmp_path: Path) -> None:
    torch.save(dit.state_dict(), tmp_path / "dit.pt")
    described = read_dit(tmp_path / "dit.pt")  # all but the network can be had without them
    assert described.config == replace(SMALL, num_heads=1)
    with pytest.raises(
        ValueError, match=r"width 96 is not a published one \(384, 768, 1024, 1152\).*give num_heads"
    ):
        described.network()
    assert_same_network(load_dit(tmp_path / "dit.pt", SMALL), dit)


@pytest.mark.parametrize("name", ["num_heads", "heads", "n_heads", "num_attention_heads"])
def test_heads_are_read_from_beside_the_weights(name: str, dit: DiT, tmp_path: Path) -> None:
    for folder in ("options", "settings"):
        (tmp_path / folder).mkdir()
    options = argparse.Namespace(**{name: 3, "model": "mine"})
    torch.save({"ema": dit.state_dict(), "args": options}, tmp_path / "options/dit.pt")
    torch.save(dit.state_dict(), tmp_path / "settings/dit.pt")
    (tmp_path / "settings/config.json").write_text(json.dumps({name: 3}))
    for folder in ("options", "settings"):
        assert_same_network(load_dit(tmp_path / folder / "dit.pt"), dit)
    assert load_dit(tmp_path / "options/dit.pt", num_heads=6).config.num_heads == 6  # what is said counts


def test_heads_that_contradict_what_is_stated(dit: DiT, tmp_path: Path) -> None:
    save_dit(tmp_path / "dit.safetensors", dit)
    random_diffusers_dit(SMALL).save_pretrained(tmp_path / "transformer")
    for source in (tmp_path / "dit.safetensors", tmp_path):
        assert load_dit(source, num_heads=3).config.num_heads == 3
        with pytest.raises(ValueError, match="it states 3 attention heads, not 4"):
            load_dit(source, num_heads=4)


def test_heads_of_options_go_before_those_of_the_published_width(tmp_path: Path) -> None:
    narrow = random_dit(replace(S2, num_heads=12))
    torch.save({"model": narrow.state_dict(), "args": argparse.Namespace(num_heads=12)}, tmp_path / "dit.pt")
    assert_same_network(load_dit(tmp_path / "dit.pt"), narrow)


def test_embeddings_that_no_forward_pass_uses_are_left_aside(dit: DiT, tmp_path: Path) -> None:
    """The code that MGD3 is sampled with declares `m_embedder` and loads with strict=False."""
    table = {"m_embedder.embedding_table.weight": torch.full((11, 96), float("nan"))}
    torch.save({"ema": {**dit.state_dict(), **table}}, tmp_path / "dit.pt")
    checkpoint = read_dit(tmp_path / "dit.pt", num_heads=3)
    assert checkpoint.unused == tuple(table)
    assert_same_network(checkpoint.network(), dit)


def test_a_network_beside_others_of_a_module(dit: DiT, tmp_path: Path) -> None:
    """Lightning's checkpoint of a compiled network, an average and a loss."""
    weights = {f"model._orig_mod.{name}": tensor + 1 for name, tensor in dit.state_dict().items()}
    weights |= {f"ema_model.{name}": tensor for name, tensor in dit.state_dict().items()}
    torch.save({"state_dict": {**weights, "loss.weight": torch.ones(1)}, "epoch": 3}, tmp_path / "dit.ckpt")
    checkpoint = read_dit(tmp_path / "dit.ckpt", num_heads=3)
    assert_same_network(checkpoint.network(), dit)
    assert "loss.weight" in checkpoint.unused


def test_half_precision_folder(tmp_path: Path) -> None:
    twin = random_diffusers_dit(SMALL).half()
    twin.save_pretrained(tmp_path / "transformer", variant="fp16")
    loaded = load_dit(tmp_path)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded.blocks[0].mlp.fc1.bias, twin.transformer_blocks[0].ff.net[0].proj.bias.float())


@pytest.mark.parametrize("layout", ["authors", "diffusers"])
def test_a_tensor_that_is_not_finite_is_named(layout: str, dit: DiT, tmp_path: Path) -> None:
    if layout == "authors":
        dit = random_dit(SMALL)
        dit.blocks[1].mlp.fc2.bias[5] = float("nan")
        torch.save(dit.state_dict(), tmp_path / "dit.pt")
    else:
        twin = random_diffusers_dit(SMALL)
        twin.transformer_blocks[1].ff.net[2].bias[5] = float("inf")
        twin.save_pretrained(tmp_path)
    source = tmp_path / "dit.pt" if layout == "authors" else tmp_path
    with pytest.raises(
        ValueError, match=r"the tensor blocks\.1\.mlp\.fc2\.bias holds NaN or infinity"
    ) as caught:
        load_dit(source, num_heads=3)
    assert str(source) in str(caught.value)


def test_settings_of_a_million_blocks_build_none(tmp_path: Path) -> None:
    random_diffusers_dit(SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": 10**6}))
    with pytest.raises(ValueError, match=r"settings say 1000000 blocks, and it holds \d+ tensors"):
        load_dit(tmp_path)


def test_configuration_that_does_not_fit(dit: DiT, tmp_path: Path) -> None:
    torch.save(dit.state_dict(), tmp_path / "dit.pt")
    with pytest.raises(
        ValueError, match=r"embedding_table.weight must be .* \[1001, 96\], got .* \[11, 96\]"
    ):
        load_dit(tmp_path / "dit.pt", replace(SMALL, num_classes=1000))


def test_stored_configuration_of_another_version(dit: DiT, tmp_path: Path) -> None:
    path = tmp_path / "dit.safetensors"
    save_file(dit.state_dict(), path, metadata={"mgd3_dit_config": '{"width": 96}'})
    with pytest.raises(ValueError, match="stored configuration must have the fields of DiTConfig"):
        load_dit(path)


def test_places_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_dit(tmp_path / "missing.pt")
    with pytest.raises(ValueError, match=r"must hold config.json or transformer/config.json"):
        load_dit(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="no weights in"):
        load_dit(tmp_path)


def test_index_may_not_leave_its_folder(tmp_path: Path) -> None:
    random_diffusers_dit(SMALL).save_pretrained(tmp_path, max_shard_size="100KB")
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["proj_out_1.bias"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"must name files of its own folder, got .*elsewhere"):
        load_dit(tmp_path)
    content["weight_map"]["proj_out_1.bias"] = "missing.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match=r"missing.safetensors"):
        load_dit(tmp_path)
