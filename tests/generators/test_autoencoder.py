"""The autoencoder behind the seam: exact formulas, one batch shape, every layout of its weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file
from torch import Tensor

from mgd3_engine.autoencoder import KL_F8, AutoencoderKL, first_stage, from_original
from mgd3_engine.files.digest import weights_digest
from mgd3_fast.errors import UserError
from mgd3_fast.generators import KLAutoencoder
from mgd3_fast.generators.batched_autoencoder import CHOICES
from tests.fakes.random_networks import random_vae


@pytest.fixture(scope="module")
def vae() -> Any:
    return random_vae()


@pytest.fixture
def folder(vae: Any, tmp_path: Path) -> Path:
    vae.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def images_of(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def original_name(name: str) -> str:
    """Turn diffusers' name of a tensor into that of the original code, for three blocks a side."""
    name = re.sub(r"decoder\.up_blocks\.(\d)", lambda match: f"decoder.up.{2 - int(match[1])}", name)
    name = re.sub(r"encoder\.down_blocks\.(\d)", r"encoder.down.\1", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    for diffusers, original in (
        ("mid_block.attentions.0", "mid.attn_1"),
        ("attn_1.group_norm", "attn_1.norm"),
        ("to_out.0", "proj_out"),
        ("to_", ""),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("resnets", "block"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ):
        name = name.replace(diffusers, original)
    return name


def test_encode_is_the_scaled_posterior_mean(vae: Any, folder: Path) -> None:
    images = images_of(5)
    got = KLAutoencoder(folder).encode(images)
    want = vae.encode(images.float() / 127.5 - 1).latent_dist.mean * 1.5
    assert got.dtype == torch.float32
    assert got.shape == (5, 4, 8, 8)
    assert (got - want).abs().max() <= 2e-6 * want.abs().max()


def test_decode_is_clamped_and_rounded(vae: Any, folder: Path) -> None:
    latents = 3 * torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    got = KLAutoencoder(folder).decode(latents)
    exact = (vae.decode(latents / 1.5).sample / 2 + 0.5).clamp(0, 1) * 255
    assert got.dtype == torch.uint8
    assert got.shape == (5, 3, 32, 32)
    assert (got - exact).abs().max() <= 0.5 + 1e-3


def test_halves_are_rounded_as_save_image_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upwards, also to odd levels, where torch.round goes down; its steps with value_range (-1, 1)."""
    halves = (torch.arange(255) + 0.5) / 255 * 2 - 1  # [255], as near to a half as float32 gets
    near = torch.cat([halves, halves.nextafter(torch.tensor(-2.0)), halves.nextafter(torch.tensor(2.0))])
    pixels = torch.cat([near, torch.tensor([-1.5, -1.0, 1.0])]).view(1, 3, 16, 16)
    autoencoder = KLAutoencoder(folder)
    monkeypatch.setattr(autoencoder, "_decoded", lambda latents: pixels.expand(len(latents), -1, -1, -1))
    got = autoencoder.decode(torch.zeros(1, 4, 4, 4))
    unit = pixels.clamp(-1, 1).sub(-1).div(2)
    assert torch.equal(got, unit.mul(255).add(0.5).clamp(0, 255).to(torch.uint8))
    assert (unit.mul(255).round() != got).sum() > 10  # the two do differ


def test_decode_covers_both_ends_of_the_range(folder: Path) -> None:
    autoencoder = KLAutoencoder(folder)
    autoencoder._network.decoder.conv_out.weight.zero_()
    for level, want in ((-3.0, 0), (-1.0, 0), (0.0, 128), (0.5, 191), (1.0, 255), (9.0, 255)):
        autoencoder._network.decoder.conv_out.bias.fill_(level)
        assert autoencoder.decode(torch.zeros(1, 4, 8, 8)).unique().tolist() == [want]


@pytest.mark.usefixtures("multiplies_bfloat16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_do_not_depend_on_the_rest_of_the_call(dtype: torch.dtype, folder: Path) -> None:
    autoencoder = KLAutoencoder(folder).to("cpu", dtype)
    images = images_of(37)  # more than one batch, the last one padded
    latents = autoencoder.encode(images)
    decoded = autoencoder.decode(latents)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    assert torch.equal(autoencoder.encode(images[order]), latents[order])
    assert torch.equal(autoencoder.decode(latents[order]), decoded[order])
    for index in (0, 13, 36):
        assert torch.equal(autoencoder.encode(images[index : index + 1]), latents[index : index + 1])
        assert torch.equal(autoencoder.decode(latents[index : index + 1]), decoded[index : index + 1])


@pytest.mark.parametrize("count", [1, 32, 33, 70])
def test_every_batch_has_one_shape(folder: Path, count: int) -> None:
    autoencoder, rows = KLAutoencoder(folder), []
    decoded = autoencoder._decoded
    autoencoder._decoded = lambda batch: (rows.append(len(batch)), decoded(batch))[1]  # type: ignore[method-assign]
    batches = list(autoencoder.decode_batches(torch.randn(count, 4, 8, 8)))
    assert sum(map(len, batches)) == count
    assert rows == [32] * -(-count // 32)


@pytest.mark.parametrize(
    ("side_px", "device", "dtype", "rows"),
    [
        pytest.param(32, "cpu", torch.float32, 32, id="demo"),
        pytest.param(64, "cpu", torch.float32, 8, id="64 px"),
        pytest.param(128, "cpu", torch.float32, 2, id="128 px"),
        pytest.param(256, "cpu", torch.float32, 1, id="256 px"),
        pytest.param(32, "cuda", torch.bfloat16, 64, id="demo on a GPU"),
        pytest.param(256, "cuda", torch.bfloat16, 64, id="256 px on a GPU"),
        pytest.param(256, "cuda", torch.float32, 32, id="256 px on a GPU in float32"),
        pytest.param(384, "cuda", torch.bfloat16, 16, id="a power of two"),
    ],
)
def test_batches_are_bounded_by_pixels(side_px: int, device: str, dtype: torch.dtype, rows: int) -> None:
    assert CHOICES[device].rows(side_px**2, dtype) == rows


def test_empty_call(folder: Path) -> None:
    autoencoder = KLAutoencoder(folder)
    assert autoencoder.encode(images_of(0)).shape == (0, 4, 8, 8)
    assert autoencoder.decode(torch.empty(0, 4, 8, 8)).shape == (0, 3, 32, 32)


@pytest.mark.usefixtures("multiplies_bfloat16")
def test_bfloat16_is_close_and_can_be_left(folder: Path) -> None:
    autoencoder = KLAutoencoder(folder)
    images = images_of(4)
    exact = autoencoder.encode(images)
    rounded = autoencoder.to("cpu", torch.bfloat16).encode(images)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).square().mean().sqrt() < 0.02 * exact.square().mean().sqrt()
    assert torch.equal(autoencoder.to("cpu", torch.float32).encode(images), exact)


def test_a_cpu_without_bfloat16_arithmetic_takes_float32(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgd3_fast.generators.batched_autoencoder._multiplies_bfloat16", lambda: False)
    images = images_of(3)
    want = KLAutoencoder(folder).encode(images)
    assert torch.equal(KLAutoencoder(folder).to("cpu", torch.bfloat16).encode(images), want)


def test_half_precision_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"must be torch.float32 or torch.bfloat16, got torch.float16"):
        KLAutoencoder(folder).to("cpu", torch.float16)


def test_facts_without_loading_weights(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    autoencoder = KLAutoencoder(folder)
    assert (autoencoder.downsample, autoencoder.latent_channels, autoencoder.scaling_factor) == (4, 4, 1.5)
    with pytest.raises(FileNotFoundError, match="no weights in"):
        _ = autoencoder.digest


def test_digest_is_of_the_file_and_builds_no_network(
    vae: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgd3_fast.generators.batched_autoencoder.filled_network", None)
    assert KLAutoencoder(folder).digest == weights_digest(vae.state_dict(), "AutoencoderKL 1.5 0.0")


def test_published_autoencoder_is_known_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> str:
        raise AssertionError("nothing may be fetched")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    autoencoder = KLAutoencoder("stabilityai/sd-vae-ft-mse")
    assert (autoencoder.downsample, autoencoder.latent_channels, autoencoder.scaling_factor) == (
        8,
        4,
        0.18215,
    )
    assert autoencoder.licence == "MIT"


def test_kl_f8_has_its_published_size() -> None:
    with torch.device("meta"):
        vae = AutoencoderKL(KL_F8)
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863


def test_shift_factor(tmp_path: Path) -> None:
    random_vae(shift_factor=0.25).save_pretrained(tmp_path / "shifted")
    random_vae().save_pretrained(tmp_path / "plain")
    shifted, plain = KLAutoencoder(tmp_path / "shifted"), KLAutoencoder(tmp_path / "plain")
    images = images_of(2)
    latents = plain.encode(images)
    assert torch.allclose(shifted.encode(images), latents - 0.25 * 1.5, atol=1e-5)
    decoded, again = plain.decode(latents), shifted.decode(shifted.encode(images))
    assert (again.int() - decoded.int()).abs().max() <= 1
    assert shifted.digest != plain.digest


def _pipeline(folder: Path, vae: Any) -> Path:
    vae.save_pretrained(folder / "vae")
    return folder


def _pickled(folder: Path, vae: Any) -> Path:
    vae.save_pretrained(folder, safe_serialization=False)
    return folder


def _sharded(folder: Path, vae: Any) -> Path:
    vae.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def _old_attention(folder: Path, vae: Any) -> Path:
    vae.save_pretrained(folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in load(path.read_bytes()).items():
        for new_name, old_name in names.items():
            name = name.replace(f".{new_name}.", f".{old_name}.")
        old[name] = tensor
    assert any(".query." in name for name in old)
    save_file(old, path)
    return folder


def _original(folder: Path, vae: Any, prefix: str = "") -> Path:
    vae.save_config(folder)
    weights = {}
    for name, tensor in vae.state_dict().items():
        renamed = original_name(name)
        is_map = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", renamed)
        weights[prefix + renamed] = (tensor[:, :, None, None] if is_map else tensor).contiguous()
    save_file({**weights, "loss.logvar": torch.zeros(())}, folder / "vae.safetensors")
    return folder / "vae.safetensors"


def _full_checkpoint(folder: Path, vae: Any) -> Path:
    return _original(folder, vae, prefix="first_stage_model.")


LAYOUTS = {
    function.__name__.strip("_"): function
    for function in (_pipeline, _pickled, _sharded, _old_attention, _original, _full_checkpoint)
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_network(layout: str, vae: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    autoencoder = KLAutoencoder(LAYOUTS[layout](tmp_path / "other", vae))
    assert autoencoder.digest == KLAutoencoder(folder).digest
    assert torch.equal(autoencoder.encode(images_of(2)), KLAutoencoder(folder).encode(images_of(2)))


@pytest.mark.parametrize("layers", [1, 3])
def test_original_names_are_those_of_diffusers_converter(layers: int) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    vae = random_vae(layers_per_block=layers)
    weights = {f"vae.{original_name(name)}": tensor for name, tensor in vae.state_dict().items()}
    want = convert_ldm_vae_checkpoint(weights, vae.config)
    got = from_original(first_stage({**weights, "model.betas": torch.zeros(3)}))
    assert got.keys() == want.keys() == vae.state_dict().keys()
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_half_precision_weights_are_widened(vae: Any, folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load(path.read_bytes()).items()}, path)
    loaded: Any = KLAutoencoder(folder).load_network()
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded.encoder.conv_in.weight, vae.encoder.conv_in.weight.half().float())


def test_wrong_files_are_one_line(vae: Any, folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    whole = load(path.read_bytes())
    cases = {
        "is no usable AutoencoderKL: .*Missing key": {
            name: tensor for name, tensor in whole.items() if name != "encoder.conv_in.weight"
        },
        "is no usable AutoencoderKL: .*Unexpected key": whole | {"lora.up": torch.zeros(1)},
        "is no usable AutoencoderKL: .*size mismatch": whole | {"quant_conv.bias": torch.zeros(3)},
        "is no usable AutoencoderKL: the tensor quant_conv.bias holds NaN or infinity": {
            **whole,
            "quant_conv.bias": torch.full_like(whole["quant_conv.bias"], float("nan")),
        },
        "is no usable AutoencoderKL": {"blocks.0.attn.qkv.weight": torch.zeros(3)},
        "vae is no usable": {"encoder.down.0.block.0.conv1.weight": torch.zeros(3)},
    }
    for message, weights in cases.items():
        save_file(weights, path)
        with pytest.raises(UserError, match=message) as caught:
            KLAutoencoder(folder).load_network()
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"garbage" * 100)
    with pytest.raises(ValueError, match="damaged"):
        KLAutoencoder(folder).load_network()


def test_folder_of_another_model(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "VQModel"}))
    with pytest.raises(UserError, match="must be of class AutoencoderKL, got 'VQModel'"):
        _ = KLAutoencoder(folder).downsample


def test_wrong_inputs(folder: Path, tmp_path: Path) -> None:
    autoencoder = KLAutoencoder(folder)
    with pytest.raises(ValueError, match=r"images must be uint8 .* multiple of 4, got torch.float32"):
        autoencoder.encode(images_of(1).float())
    with pytest.raises(ValueError, match=r"got torch.uint8 \[1, 3, 30, 30\]"):
        autoencoder.encode(images_of(1)[:, :, :30, :30])
    with pytest.raises(ValueError, match=r"latents must be \[B, 4, h, w\], got \[1, 3, 8, 8\]"):
        autoencoder.decode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="vae must be an existing folder or file, or a hub id"):
        KLAutoencoder(tmp_path / "missing")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"must hold vae/config.json or config.json, got neither"):
        _ = KLAutoencoder(tmp_path).digest


@pytest.mark.usefixtures("multiplies_bfloat16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sample_of_the_posterior(dtype: torch.dtype, vae: Any, folder: Path) -> None:
    """(sample - mean) / deviation is unit normal noise, of an image's pixels alone."""
    images = images_of(64)
    sampler, mean = KLAutoencoder(folder, "sample").to("cpu", dtype), KLAutoencoder(folder).to("cpu", dtype)
    latents = sampler.encode(images)
    deviation = (vae.encode(images / 127.5 - 1).latent_dist.logvar / 2).exp() * 1.5
    noise = (latents - mean.encode(images)) / deviation
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
    assert len(noise[:, 0, 0, 0].unique()) == 64
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sampler.encode(images[order]), latents[order])
    assert torch.equal(sampler.encode(images[5:6]), latents[5:6])
    assert torch.equal(sampler.decode(latents[:2]), mean.decode(latents[:2]))
    assert sampler.digest != mean.digest


def test_an_autoencoder_below_a_prefix(vae: Any, tmp_path: Path) -> None:
    """As Lightning and torch.compile store one, in diffusers' names, beside a discriminator."""
    vae.save_config(tmp_path)
    weights = {f"model._orig_mod.{name}": tensor for name, tensor in vae.state_dict().items()}
    torch.save({"state_dict": {**weights, "loss.logvar": torch.zeros(())}}, tmp_path / "vae.ckpt")
    vae.save_pretrained(tmp_path / "plain")
    assert KLAutoencoder(tmp_path / "vae.ckpt").digest == KLAutoencoder(tmp_path / "plain").digest


def test_two_autoencoders_of_a_file_are_not_chosen_from(vae: Any, tmp_path: Path) -> None:
    both = {f"{part}.{name}": one.clone() for part in ("a", "b") for name, one in vae.state_dict().items()}
    torch.save(both, tmp_path / "vae.pt")
    with pytest.raises(UserError, match=r"vae.pt cannot be read as an autoencoder: it holds several"):
        _ = KLAutoencoder(tmp_path / "vae.pt").digest


def test_half_precision_variant(vae: Any, tmp_path: Path) -> None:
    from copy import deepcopy

    deepcopy(vae).half().save_pretrained(tmp_path, variant="fp16")
    images = images_of(2)
    want = vae.encode(images / 127.5 - 1).latent_dist.mean * 1.5
    assert (KLAutoencoder(tmp_path).encode(images) - want).abs().max() < 0.01 * want.abs().max()


def test_whole_numbers_are_not_taken_for_weights(vae: Any, folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    weights = load(path.read_bytes())
    save_file(weights | {"quant_conv.weight": weights["quant_conv.weight"].to(torch.int8)}, path)
    for use in (lambda: KLAutoencoder(folder).digest, lambda: KLAutoencoder(folder).encode(images_of(1))):
        with pytest.raises(
            UserError, match=r"the tensor quant_conv.weight of .*vae holds torch.int8, and weights"
        ):
            use()


def test_settings_beside_a_file_may_be_of_another_network(vae: Any, tmp_path: Path) -> None:
    save_file(vae.state_dict(), tmp_path / "vae.safetensors")
    (tmp_path / "config.json").write_text('{"num_heads": 4}')
    assert KLAutoencoder(tmp_path / "vae.safetensors").downsample == KL_F8.downsample
    vae.save_config(tmp_path)
    assert KLAutoencoder(tmp_path / "vae.safetensors").downsample == 4


def test_settings_of_a_million_layers_build_none(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layers_per_block": 10**6}))
    message = r"vae is no usable AutoencoderKL: its settings say 3000000 layers, and it holds \d+ tensors"
    with pytest.raises(UserError, match=message):
        KLAutoencoder(folder).encode(images_of(1))
