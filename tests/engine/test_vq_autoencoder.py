"""The vector-quantised autoencoder behind the seam, against diffusers' own and one written from scratch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mgd3_fast.errors import UserError
from mgd3_fast.generators.autoencoder import VQAutoencoder, nearest_codes, open_autoencoder
from tests.fakes.original_ldm import OriginalVQ, tiny_vq
from tests.fakes.random_networks import diffusers_vq

# Of the largest latent, and of a level before rounding. Measured: 2.5e-7 and 1.0e-4.
BOUND, LEVEL = 1e-6, 1e-3


@pytest.fixture(scope="module")
def original() -> Any:
    return tiny_vq()


@pytest.fixture(scope="module")
def paths(original: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights as a first stage alone, in a whole model, as diffusers saves them, in a pipeline."""
    root = tmp_path_factory.mktemp("vq")
    weights = original.state_dict()
    discriminator = {"loss.discriminator.main.0.weight": torch.zeros(3)}
    torch.save({"state_dict": {**weights, **discriminator}}, root / "first_stage.ckpt")
    prefixed = {f"first_stage_model.{name}": tensor for name, tensor in weights.items()}
    save_file({**prefixed, "betas": torch.zeros(3)}, root / "model.safetensors")
    network = diffusers_vq(root / "first_stage.ckpt")
    network.save_pretrained(root / "vqvae")
    network.save_pretrained(root / "pipeline/vqvae")
    return {
        "first stage": root / "first_stage.ckpt",
        "whole model": root / "model.safetensors",
        "diffusers": root / "vqvae",
        "pipeline": root / "pipeline",
    }


def images_of(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def latents_of(original: Any, count: int) -> Tensor:
    """Latents spread over the codebook."""
    spread = original.quantize.embedding.weight.std()
    return spread * torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def levels(pixels: Tensor) -> Tensor:
    return (pixels / 2 + 0.5).clamp(0, 1) * 255


@pytest.mark.parametrize("layout", ["first stage", "whole model", "diffusers", "pipeline"])
def test_every_layout_is_the_original(layout: str, paths: dict[str, Path], original: Any) -> None:
    autoencoder = VQAutoencoder(paths[layout])
    assert (autoencoder.downsample, autoencoder.latent_channels, autoencoder.scaling_factor) == (4, 3, 1.0)
    assert autoencoder.digest == VQAutoencoder(paths["diffusers"]).digest
    images, latents = images_of(3), latents_of(original, 3)
    encoded, want = autoencoder.encode(images), original.encode(images / 127.5 - 1)
    assert encoded.dtype == torch.float32
    assert (encoded - want).abs().max() <= BOUND * want.abs().max()
    decoded, exact = autoencoder.decode(latents), levels(original.decode(latents))
    assert decoded.dtype == torch.uint8
    assert (decoded - exact).abs().max() <= 0.5 + LEVEL


def test_equal_to_diffusers(paths: dict[str, Path], original: Any) -> None:
    from diffusers import VQModel

    network = VQModel.from_pretrained(paths["diffusers"])
    autoencoder = VQAutoencoder(paths["diffusers"])
    images, latents = images_of(5), latents_of(original, 5)
    with torch.no_grad():
        want = network.encode(images / 127.5 - 1).latents
        exact = levels(network.decode(latents).sample)
    assert (autoencoder.encode(images) - want).abs().max() <= BOUND * want.abs().max()
    assert (autoencoder.decode(latents) - exact).abs().max() <= 0.5 + LEVEL


def test_latents_are_not_quantised_and_decoding_is(paths: dict[str, Path], original: Any) -> None:
    autoencoder = VQAutoencoder(paths["diffusers"])
    codebook = original.quantize.embedding.weight
    encoded = autoencoder.encode(images_of(1)).permute(0, 2, 3, 1).reshape(-1, 3)
    assert torch.cdist(encoded, codebook).min(dim=1).values.median() > 1e-3
    latents = latents_of(original, 2)
    assert torch.equal(autoencoder.decode(latents), autoencoder.decode(nearest_codes(latents, codebook)))


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 7, 5), (2, 4, 65, 64)], ids=str)
def test_nearest_codes(shape: tuple[int, ...]) -> None:
    """The last has more positions than are compared at a time."""
    generator = torch.Generator().manual_seed(0)
    latents, codebook = (
        torch.randn(shape, generator=generator),
        torch.randn(19, shape[1], generator=generator),
    )
    positions = latents.permute(0, 2, 3, 1)
    distances = (positions[..., None, :].double() - codebook.double()).square().sum(-1)
    want = codebook[distances.argmin(-1)].permute(0, 3, 1, 2)
    assert torch.equal(nearest_codes(latents, codebook), want)


def test_nearest_of_codes_far_from_the_origin() -> None:
    """|z|^2 - 2 z e + |e|^2 loses their difference to rounding; the difference of z and e does not."""
    codebook = torch.tensor([[4000.0, 0.0, 0.0], [4000.0, 0.0, 0.02]])
    latents = torch.tensor([[4000.0, 0.0, 0.015]]).view(1, 3, 1, 1)
    assert nearest_codes(latents, codebook).flatten().tolist() == codebook[1].tolist()


@pytest.mark.usefixtures("multiplies_bfloat16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_do_not_depend_on_the_rest_of_the_call(
    dtype: torch.dtype, paths: dict[str, Path], original: Any
) -> None:
    autoencoder = VQAutoencoder(paths["diffusers"]).to("cpu", dtype)
    images, latents = images_of(34), latents_of(original, 34)
    encoded, decoded = autoencoder.encode(images), autoencoder.decode(latents)
    order = torch.randperm(34, generator=torch.Generator().manual_seed(0))
    assert torch.equal(autoencoder.encode(images[order]), encoded[order])
    assert torch.equal(autoencoder.decode(latents[order]), decoded[order])
    assert torch.equal(autoencoder.decode(latents[33:]), decoded[33:])


@pytest.mark.usefixtures("multiplies_bfloat16")
def test_bfloat16_takes_the_codes_of_float32(paths: dict[str, Path], original: Any) -> None:
    autoencoder = VQAutoencoder(paths["diffusers"]).to("cpu", torch.bfloat16)
    seen: list[Tensor] = []
    autoencoder._network.post_quant_conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    latents = latents_of(original, 4)
    autoencoder.decode(latents)
    want = nearest_codes(latents, original.quantize.embedding.weight).bfloat16()
    assert torch.equal(seen[-1][:4], want)


@pytest.mark.usefixtures("multiplies_bfloat16")
def test_back_to_float32_is_exact(paths: dict[str, Path]) -> None:
    autoencoder, images = VQAutoencoder(paths["diffusers"]), images_of(2)
    before = autoencoder.encode(images)
    rounded = autoencoder.to("cpu", torch.bfloat16).encode(images)
    assert 0 < (rounded - before).abs().max() < 0.1 * before.abs().max()
    assert torch.equal(autoencoder.to("cpu").encode(images), before)


def test_decoding_may_come_first(paths: dict[str, Path], original: Any) -> None:
    latents = latents_of(original, 2)
    autoencoder = VQAutoencoder(paths["diffusers"])
    assert torch.equal(autoencoder.decode(latents), VQAutoencoder(paths["pipeline"]).decode(latents))


def test_scale(original: Any, paths: dict[str, Path], tmp_path: Path) -> None:
    """A model that was trained on latents of unit deviation stores its scale."""
    prefixed = {f"first_stage_model.{name}": tensor for name, tensor in original.state_dict().items()}
    save_file({**prefixed, "scale_factor": torch.tensor(0.25)}, tmp_path / "scaled.safetensors")
    scaled, plain = VQAutoencoder(tmp_path / "scaled.safetensors"), VQAutoencoder(paths["diffusers"])
    assert torch.equal(scaled.encode(images_of(2)), plain.encode(images_of(2)) * 0.25)
    latents = latents_of(original, 2)
    assert torch.equal(scaled.decode(latents * 0.25), plain.decode(latents))
    assert scaled.digest != plain.digest


@pytest.mark.usefixtures("multiplies_bfloat16")
def test_nothing_loads_before_it_is_used(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was built")

    monkeypatch.setattr("mgd3_fast.generators.batched_autoencoder.filled_network", refuse)
    autoencoder = VQAutoencoder(paths["diffusers"]).to("cpu", torch.bfloat16)
    assert (autoencoder.latent_channels, len(autoencoder.digest)) == (3, 64)
    with pytest.raises(AssertionError, match="the network was built"):
        autoencoder.encode(images_of(1))


@pytest.mark.parametrize("layout", ["first stage", "whole model", "diffusers", "pipeline"])
def test_kind_is_recognised(layout: str, paths: dict[str, Path]) -> None:
    assert isinstance(open_autoencoder(str(paths[layout])), VQAutoencoder)


def test_errors(paths: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vae must be an existing folder or file, got"):
        VQAutoencoder(tmp_path / "missing")
    with pytest.raises(
        UserError, match=r"must hold vqvae/config.json, vae/config.json or config.json, got none"
    ):
        _ = VQAutoencoder(tmp_path).downsample
    config = json.loads((paths["diffusers"] / "config.json").read_text())
    shutil.copy(paths["diffusers"] / "diffusion_pytorch_model.safetensors", tmp_path)
    for change, message in (
        ({"_class_name": "AutoencoderTiny"}, "must be of class VQModel, got 'AutoencoderTiny'"),
        ({"norm_type": "spatial"}, "norm_type must be 'group', got 'spatial'"),
        ({"layers_per_block": 2}, "is no usable VQModel: "),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=message):
            VQAutoencoder(tmp_path).encode(images_of(1))


def test_architecture_of_the_published_first_stage() -> None:
    from diffusers import VQModel

    from mgd3_fast.generators.autoencoder_weights import vq_config_of

    with torch.device("meta"):
        original = OriginalVQ(128, (1, 2, 4), 2, 3, 8192)
        settings = vq_config_of(original.state_dict(), None).settings()
        network = VQModel.from_config(settings)
    assert settings["block_out_channels"] == [128, 256, 512]
    counts = {sum(one.numel() for one in module.parameters()) for module in (original, network)}
    assert counts == {55_322_782}
