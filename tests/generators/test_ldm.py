"""Class-conditional latent diffusion: both layouts, against an independent network and diffusers' sampler."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule, image_seeds
from mgd3_engine.files.weights import read_weights
from mgd3_fast.cli import main
from mgd3_fast.datasets import imagenet_classes
from mgd3_fast.errors import UserError
from mgd3_fast.generators import Generator, SamplingDefaults, load_generator, place_network
from mgd3_fast.generators.ldm import ClassUNet
from mgd3_fast.generators.ldm_weights import original_settings, original_unet, unet_settings_of
from mgd3_fast.generators.unet import filled_unet
from tests.fakes.original_ldm import OriginalUNet, original_weights, tiny_table, tiny_unet, tiny_vq
from tests.fakes.pictures import photo
from tests.fakes.random_networks import diffusers_vq, random_vae, randomised

WNIDS, PLACES = imagenet_classes("imagenet1k"), [217, 701]
# Largest difference over the largest output. Measured: 1.7e-7 between networks, 4.4e-7 after 20 steps.
NETWORK_BOUND, SAMPLING_BOUND = 1e-6, 3e-6


@pytest.fixture(scope="module")
def unet() -> Any:
    return tiny_unet()


@pytest.fixture(scope="module")
def weights(unet: Any) -> dict[str, Tensor]:
    return original_weights(unet, tiny_vq(), tiny_table())


@pytest.fixture(scope="module")
def files(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every layout; the folder is of 32 px instead of 256."""
    root = tmp_path_factory.mktemp("ldm")
    save_file(weights, root / "copy.safetensors")
    torch.save(lightning_state(weights), root / "model.ckpt")
    folder = root / "layout"
    settings = original_settings(root / "copy.safetensors")
    unet = filled_unet({**settings, "sample_size": 8}, original_unet(root / "copy.safetensors", settings))
    unet.save_pretrained(folder / "unet")
    diffusers_vq(root / "copy.safetensors").save_pretrained(folder / "vqvae")
    (folder / "class_embedder").mkdir()
    save_file(
        {"embedding.weight": tiny_table()}, folder / "class_embedder/diffusion_pytorch_model.safetensors"
    )
    return {
        "checkpoint": root / "model.ckpt",
        "safetensors": root / "copy.safetensors",
        "folder": folder,
    }


def lightning_state(weights: dict[str, Tensor]) -> dict[str, Any]:
    """What PyTorch Lightning stores beside the weights."""
    adam = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
    return {
        "epoch": 3,
        "global_step": 178000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": OrderedDict(weights),
        "callbacks": {"ModelCheckpoint": {"monitor": "val/loss", "best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [adam],
        "lr_schedulers": [{"base_lrs": [1e-4], "last_epoch": 3, "lr_lambdas": [{}]}],
    }


def inputs(side: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(3))
    return x, torch.tensor([0, 1, 500, 999]), torch.tensor([0, 7, 999, 1000])


def predicted(generator: Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    x, timestep, class_ids = inputs()
    with torch.no_grad():
        return generator.denoiser("cpu", dtype)(x.to(dtype), timestep, class_ids)


def expected(unet: Any) -> Tensor:
    x, timestep, class_ids = inputs()
    output: Tensor = unet(x, timestep, tiny_table()[class_ids][:, None])
    return output


@pytest.mark.parametrize("layout", ["checkpoint", "safetensors", "folder"])
def test_every_layout_is_the_original_network(layout: str, files: dict[str, Path], unet: Any) -> None:
    generator = load_generator(str(files[layout]))
    want = expected(unet)
    assert (predicted(generator) - want).abs().max() <= NETWORK_BOUND * want.abs().max()
    others = unet(*inputs()[:2], tiny_table()[[8, 9, 10, 11]][:, None])
    assert (others - want).abs().max() > 1000 * NETWORK_BOUND * want.abs().max()  # classes matter


def test_digests_do_not_depend_on_the_layout(files: dict[str, Path]) -> None:
    generators = [load_generator(str(path)) for path in files.values()]
    assert len({generator.digest for generator in generators}) == 1
    assert len({generator.autoencoder.digest for generator in generators}) == 1


def test_digest_knows_what_shapes_do_not_show(files: dict[str, Path]) -> None:
    settings = original_settings(files["safetensors"])
    weights = original_unet(files["safetensors"], settings)
    digests = {
        ClassUNet(
            lambda heads=heads: (
                filled_unet({**settings, "attention_head_dim": heads}, weights),
                tiny_table(),
            )
        ).digest()
        for heads in (1, 2)
    }
    assert len(digests) == 2


def test_a_file_is_described_without_its_network(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was built")

    for name in ("filled_unet", "load_unet", "original_unet"):
        monkeypatch.setattr(f"mgd3_fast.generators.ldm.{name}", refuse)
    generator = load_generator(str(files["checkpoint"]))
    assert (generator.name, generator.resolution, generator.latent_shape) == ("model", 256, (3, 64, 64))
    assert (generator.num_classes, generator.null_class, generator.cfg_channels) == (1000, 1000, None)
    assert generator.schedule == NoiseSchedule.scaled_linear(1000, 0.0015, 0.0195)
    assert (generator.prediction, generator.learned_variance) == ("epsilon", False)
    assert generator.defaults == SamplingDefaults(
        sampler="ddpm", steps=50, cfg_scale=3.0, mode_scale=0.1, t_stop=25
    )
    assert generator.class_names == WNIDS
    assert generator.autoencoder.scaling_factor == 1.0
    assert generator.autoencoder.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 3, 8, 8)


def test_averages_are_left_aside(weights: dict[str, Tensor], tmp_path: Path, unet: Any) -> None:
    """The published configuration says `use_ema: False`; zeros in their place change nothing."""
    assert sum(name.startswith("model_ema.") for name in weights) > 100
    without = {name: tensor for name, tensor in weights.items() if not name.startswith("model_ema.")}
    save_file(without, tmp_path / "without.safetensors")
    got = predicted(load_generator(str(tmp_path / "without.safetensors")))
    want = expected(unet)
    assert (got - want).abs().max() <= NETWORK_BOUND * want.abs().max()


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_lightning_classes_are_read_without_lightning(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 1.5 the class of its checkpoint callback is a key, which needs Lightning to be unpickled."""
    module = f"{package}.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": module})
    with monkeypatch.context() as patch:
        for parent in accumulate(package.split("."), "{}.{}".format):
            patch.setitem(sys.modules, parent, ModuleType(parent))
        patch.setitem(sys.modules, f"{package}.callbacks", ModuleType(f"{package}.callbacks"))
        patch.setitem(sys.modules, module, SimpleNamespace(ModelCheckpoint=callback))
        content = {"state_dict": {"w": torch.ones(2)}, "callbacks": {callback: {"score": torch.tensor(1.0)}}}
        torch.save(content, tmp_path / "model.ckpt")
    assert list(read_weights(tmp_path / "model.ckpt")[0]) == ["w"]
    assert module not in sys.modules


def test_attention_to_one_token_needs_no_queries(unet: Any, files: dict[str, Path]) -> None:
    generator = load_generator(str(files["folder"]))
    network = generator.denoiser("cpu", torch.float32)
    queries = [module.to_q for name, module in network.unet.named_modules() if name.endswith("attn2")]
    assert len(queries) == 6
    before = predicted(generator)
    for query in queries:
        query.weight.fill_(float("nan"))
    assert torch.equal(predicted(generator), before)


def test_float32_weights_are_not_copied(files: dict[str, Path]) -> None:
    generator = load_generator(str(files["safetensors"]))
    first = generator.denoiser("cpu", torch.float32)
    assert generator.denoiser("cpu", torch.float32) is first
    held = generator.network._loaded[0].state_dict()
    assert all(tensor.data_ptr() == held[name].data_ptr() for name, tensor in first.unet.state_dict().items())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 1.5e-2), (torch.float16, 2.5e-3)], ids=str)
def test_half_precision(dtype: torch.dtype, bound: float, files: dict[str, Path], unet: Any) -> None:
    """Measured: 4.8e-3 and 7.4e-4."""
    want = expected(unet)
    got = predicted(load_generator(str(files["folder"])), dtype)
    assert got.dtype == dtype
    assert (got.float() - want).abs().max() <= bound * want.abs().max()


def test_timesteps_stay_exact_in_bfloat16(files: dict[str, Path]) -> None:
    """998 and 999 are one number in bfloat16, and have an embedding each."""
    assert torch.tensor(998.0).bfloat16() == torch.tensor(999.0).bfloat16()
    generator, timesteps = load_generator(str(files["folder"])), torch.tensor([998, 999])
    embedded = [
        generator.denoiser("cpu", dtype).unet.get_time_embed(torch.zeros(2, dtype=dtype), timesteps)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert torch.equal(embedded[0].bfloat16(), embedded[1])
    assert not torch.equal(*embedded[1])


def sampler_of(generator: Generator, **settings: Any) -> GuidedSampler:
    chosen = {"method": "ddim", "steps": 20, "spacing": "ddim", "batch_size": 8, "backend": "eager"}
    return GuidedSampler(
        generator.denoiser("cpu", torch.float32),
        schedule=generator.schedule,
        cfg_scale=3.0,
        null_class=1000,
        cfg_channels=generator.cfg_channels,
        **(chosen | settings),
    )


def test_sampling_is_that_of_diffusers(files: dict[str, Path], unet: Any) -> None:
    """The settings of the original script: 20 steps of DDIM, eta 0, scale 3 on every channel."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False
    )
    scheduler.set_timesteps(20)
    class_ids, null = torch.tensor([3, 981]), torch.tensor([1000, 1000])
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    contexts = tiny_table()[torch.cat([class_ids, null])][:, None]
    x = noise
    for t in scheduler.timesteps:
        conditional, unconditional = unet(torch.cat([x, x]), t.expand(4), contexts).chunk(2)
        x = scheduler.step(unconditional + 3.0 * (conditional - unconditional), t, x).prev_sample
    sampler = sampler_of(load_generator(str(files["folder"])), guidance=None)
    got = sampler.sample(class_ids, None, None, latent_shape=(3, 8, 8), noise=lambda _, image: noise[image])
    assert (got - x).abs().max() <= SAMPLING_BOUND * x.abs().max()


def test_the_network_is_one_graph() -> None:
    """Nothing in it waits for the device, so torch.compile and CUDA graphs take it whole."""
    settings = unet_settings_of(OriginalUNet(32, (1,), {0}, 1, 16).state_dict())
    unet = randomised(UNet2DConditionModel.from_config({**settings, "sample_size": 8}))
    network = ClassUNet(lambda: (unet, tiny_table())).denoiser(torch.device("cpu"), torch.float32)
    graphs: list[Any] = []

    def keep(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    got = torch.compile(network, backend=keep, fullgraph=True, dynamic=False)(*inputs())
    assert len(graphs) == 1
    assert torch.equal(got, network(*inputs()))


def test_backends_for_a_dit_say_so(files: dict[str, Path]) -> None:
    message = "DiT for backend onnxruntime, got a ContextUNet; backends eager and compiled take any callable"
    with pytest.raises(ValueError, match=message):
        sampler_of(load_generator(str(files["folder"])), backend="onnxruntime")


def test_fp8_and_export_are_for_a_dit(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    generator = load_generator(str(files["folder"]))
    with pytest.raises(UserError, match="precision must be auto, fp32, bf16 or fp16 for layout, got 'fp8'"):
        place_network(generator, torch.device("cpu"), "fp8")
    assert main(["export", "--generator", str(files["folder"]), "--quiet"]) == 2
    assert "must be a mgd3_engine.dit.DiT for export, got a ContextUNet" in capsys.readouterr().err


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes by their wnids, not the first ones of ImageNet."""
    root = tmp_path_factory.mktemp("photographs")
    for label, place in enumerate(PLACES):
        (root / WNIDS[place]).mkdir()
        for number in range(3):
            photo(10 * label + number).save(root / WNIDS[place] / f"{number}.png")
    return root


def distilled(generator: Path, photographs: Path, out: Path, *options: str) -> dict[str, Any]:
    command = ["distill", "--dataset", str(photographs), "--generator", str(generator), "--out", str(out)]
    short = ["--ipc", "1", "--steps", "4", "--t-stop", "1", "--batch-size", "2", "--quiet"]
    assert main([*command, *short, *options]) == 0
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return manifest


def test_distill_of_a_checkpoint_file(
    files: dict[str, Path],
    photographs: Path,
    tmp_path: Path,
    cache: Path,
) -> None:
    out, name = tmp_path / "out", WNIDS[PLACES[0]]
    few = ["--classes", name, "--steps", "2", "--t-stop", "0", "--batch-size", "1"]
    settings = distilled(files["checkpoint"], photographs, out, *few)["settings"]
    assert (settings["generator"], settings["cfg_scale"], settings["sampler"]) == ("model", 3.0, "ddpm")
    assert settings["guidance_form"] == "posterior"
    with Image.open(out / name / "0.png") as image:
        assert image.size == (256, 256)
    assert load_file(out / "modes.safetensors")["modes"].shape == (1, 1, 3, 64, 64)


def test_distilled_images_are_of_the_classes(
    files: dict[str, Path], photographs: Path, tmp_path: Path, cache: Path
) -> None:
    """Sampled again by hand, with the places of the wnids as class ids."""
    out, names = tmp_path / "out", [WNIDS[place] for place in PLACES]
    distilled(files["folder"], photographs, out, "--mode-scale", "0")
    generator = load_generator(str(files["folder"]))
    sampler = sampler_of(generator, method="ddpm", steps=4, spacing="linspace", batch_size=2, guidance=None)
    seeds = image_seeds(0, [(name, 0) for name in names])
    latents = sampler.sample(torch.tensor(PLACES), torch.zeros(2, 3, 8, 8), seeds)
    for name, want in zip(names, generator.autoencoder.decode(latents), strict=True):
        with Image.open(out / name / "0.png") as image:
            assert np.array_equal(np.asarray(image), want.permute(1, 2, 0))


def change(files: dict[str, Path], folder: Path, **changes: Tensor | None) -> Path:
    """Write the original file with some tensors replaced, or taken away."""
    weights = load_file(files["safetensors"])
    for name, tensor in changes.items():
        if tensor is None:
            del weights[name]
        else:
            weights[name] = tensor
    save_file(weights, folder / "changed.safetensors")
    return folder / "changed.safetensors"


U, T = "model.diffusion_model.", "cond_stage_model.embedding.weight"
WRONG_FILES: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "no null class": ({T: torch.zeros(1000, 16)}, r"the null class last, got \[1000, 16\]"),
    "table of another width": (
        {T: torch.zeros(1001, 8)},
        "class embeddings of .* must have 16 numbers, got 8",
    ),
    "no middle": (
        {f"{U}middle_block.1.proj_in.weight": None},
        f"must hold {U}middle_block.1.proj_in.weight, got none",
    ),
    "no codebook": (
        {"first_stage_model.quantize.embedding.weight": None},
        r"vae must have 3 latent channels for .*, got 4",
    ),
    "no encoder": (
        {"first_stage_model.encoder.conv_in.weight": None},
        "holds no vector-quantised autoencoder: encoder.conv_in.weight is missing",
    ),
}


@pytest.mark.parametrize("problem", WRONG_FILES)
def test_wrong_files(problem: str, files: dict[str, Path], tmp_path: Path) -> None:
    changes, message = WRONG_FILES[problem]
    path = change(files, tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        _ = load_generator(str(path)).autoencoder.digest


WRONG_NETWORKS: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "class added to the timestep": ({f"{U}label_emb.weight": torch.zeros(10, 128)}, "got one with label_emb"),
    "a tensor less": ({f"{U}out.0.bias": None}, "is no usable U-Net: .*conv_norm_out.bias"),
}


@pytest.mark.parametrize("problem", WRONG_NETWORKS)
def test_wrong_networks_are_told_when_they_load(problem: str, files: dict[str, Path], tmp_path: Path) -> None:
    changes, message = WRONG_NETWORKS[problem]
    generator = load_generator(str(change(files, tmp_path, **changes)))
    with pytest.raises(UserError, match=message):
        generator.denoiser("cpu", torch.float32)


@pytest.fixture
def folder(files: dict[str, Path], tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    for path in files["folder"].rglob("*.*"):
        (copy / path.relative_to(files["folder"])).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.relative_to(files["folder"])).write_bytes(path.read_bytes())
    return copy


def test_folder_states_its_own_schedule(folder: Path) -> None:
    (folder / "scheduler").mkdir()
    settings = {
        "beta_schedule": "linear",
        "beta_start": 0.001,
        "beta_end": 0.01,
        "prediction_type": "v_prediction",
    }
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(settings))
    generator = load_generator(str(folder))
    assert generator.schedule == NoiseSchedule.linear(1000, 0.001, 0.01)
    assert generator.prediction == "v"


def test_folder_of_other_classes(folder: Path) -> None:
    table = {"embedding.weight": tiny_table(4)}
    save_file(table, folder / "class_embedder/diffusion_pytorch_model.safetensors")
    generator = load_generator(str(folder))
    assert (generator.num_classes, generator.null_class, generator.class_names) == (4, 4, None)
    assert generator.class_ids(["ant", "bee", "cow", "dog"]) == [0, 1, 2, 3]


def test_wrong_folders(folder: Path) -> None:
    table = folder / "class_embedder/diffusion_pytorch_model.safetensors"
    save_file({"weight": tiny_table()}, table)
    with pytest.raises(UserError, match=r"class_embedder must hold embedding.weight, got weight"):
        load_generator(str(folder))
    table.unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights in .*class_embedder: looked for"):
        load_generator(str(folder))
    (folder / "unet/config.json").unlink()
    with pytest.raises(UserError, match=r"must hold unet/config.json"):
        load_generator(str(folder))


def test_autoencoder_of_another_kind(files: dict[str, Path], tmp_path: Path) -> None:
    random_vae().save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match=r"vae must have 3 latent channels for .*, got 4"):
        load_generator(str(files["folder"]), vae=str(tmp_path / "vae"))
    random_vae(latent_channels=3).save_pretrained(tmp_path / "vae")
    assert load_generator(str(files["folder"]), vae=str(tmp_path / "vae")).autoencoder.scaling_factor == 1.5


def test_architecture_of_the_published_checkpoint() -> None:
    with torch.device("meta"):
        original = OriginalUNet(192, (1, 2, 3, 5), {1, 2, 3}, 2, 512)
        settings = unet_settings_of(original.state_dict())
        network = UNet2DConditionModel.from_config(settings)
    assert settings["block_out_channels"] == [192, 384, 576, 960]
    assert settings["down_block_types"] == ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3]
    counts = {sum(one.numel() for one in module.parameters()) for module in (original, network)}
    assert counts == {400_920_579}


def test_modes_pull_the_latents(files: dict[str, Path]) -> None:
    modes = 2 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    class_ids, seeds = torch.tensor([0, 999]), torch.tensor([1, 2])
    generator = load_generator(str(files["folder"]))
    free, pulled = (
        (sampler_of(generator, steps=10, guidance=guidance).sample(class_ids, modes, seeds) - modes).norm()
        for guidance in (None, ModeGuidance(scale=0.5, t_stop=0, form="x0"))
    )
    assert pulled < 0.9 * free
