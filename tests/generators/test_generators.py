"""The seam: every way to name a generator, our folder format, a text-conditioned U-Net in the sampler."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import errors
from torch import Tensor

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule
from mgd3_engine.dit import DiT, DiTConfig, dit_config, save_dit
from mgd3_fast.datasets.imagenet import imagenet_classes
from mgd3_fast.errors import LONGEST_LINE, UserError
from mgd3_fast.generators import (
    Generator,
    KLAutoencoder,
    Network,
    SamplingDefaults,
    ScheduleSettings,
    amend_description,
    load_generator,
    save_generator,
)
from mgd3_fast.generators.hub import ModelFiles
from tests.fakes.hub import Hub
from tests.fakes.random_networks import (
    dit_inputs,
    ours_of,
    random_diffusers_dit,
    random_dit,
    random_vae,
    randomised,
)

SMALL = DiTConfig(input_size=8, patch_size=2, hidden_size=96, depth=2, num_heads=3, num_classes=10)
PUBLISHED_WIDTH = replace(dit_config("DiT-S/2", image_size=64, num_classes=10), depth=1)
DIGITS = tuple("0123456789")


@pytest.fixture
def vae_folder(tmp_path: Path) -> Path:
    random_vae().save_pretrained(tmp_path / "autoencoder")
    return tmp_path / "autoencoder"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    folder = tmp_path / "demo"
    save_generator(
        folder,
        random_dit(SMALL),
        name="digits",
        vae=ours_of(random_vae()),
        class_names=DIGITS,
        licence="MIT",
        recipe={"seed": 3, "steps": 10},
        defaults=SamplingDefaults(steps=20, cfg_scale=2.0, t_stop=10),
        schedule=ScheduleSettings(kind="scaled_linear", start=0.00085, end=0.012),
        cfg_channels=None,
    )
    return folder


def prediction(generator: Generator, config: DiTConfig) -> Tensor:
    return generator.denoiser("cpu", torch.float32)(*dit_inputs(config, rows=2))


def test_presets_are_known_without_a_network(hub: Hub) -> None:
    for name, resolution, side in (("dit-xl-2-256", 256, 32), ("dit-xl-2-512", 512, 64)):
        generator = load_generator(name)
        assert (generator.resolution, generator.latent_shape) == (resolution, (4, side, side))
        assert (generator.num_classes, generator.null_class, generator.cfg_channels) == (1000, 1000, 3)
        assert generator.schedule == NoiseSchedule.linear(1000, 1e-4, 2e-2)
        assert (generator.prediction, generator.learned_variance) == ("epsilon", True)
        assert asdict(generator.defaults) == {
            "sampler": "ddpm",
            "steps": 50,
            "cfg_scale": 4.0,
            "mode_scale": 0.1,
            "t_stop": 25,
        }
        assert generator.licence == "CC-BY-NC-4.0"
        assert isinstance(generator.autoencoder, KLAutoencoder)
        assert generator.autoencoder.licence == "MIT"
    assert hub.requests == []


def test_auto_goes_by_the_dataset(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgd3_fast.generators.registry._DEMO_FOLDER", demo)
    assert load_generator("auto", dataset_name="mnist5k").name == "digits"
    assert load_generator("demo-mnist5k").name == "digits"
    assert load_generator("auto", dataset_name="imagenette").name == "dit-xl-2-256"
    assert load_generator("auto").name == "dit-xl-2-256"


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_preset_fetches_only_the_transformer(safe: bool, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgd3_fast.generators.dit.dit_config", lambda *_, **__: SMALL)
    repository = hub.root / "repositories/facebook/DiT-XL-2-256"
    random_diffusers_dit(SMALL).save_pretrained(repository / "transformer", safe_serialization=safe)
    (repository / "vae").mkdir()
    (repository / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"large")
    (repository / "transformer/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"large too")
    generator = load_generator("dit-xl-2-256")
    assert hub.requests == []
    want = random_diffusers_dit(SMALL)(*dit_inputs(SMALL, rows=2), return_dict=False)[0]
    assert (prediction(generator, SMALL) - want).abs().max() <= 3e-6 * want.abs().max()
    weights = f"transformer/diffusion_pytorch_model.{'safetensors' if safe else 'bin'}"
    assert hub.downloaded("facebook/DiT-XL-2-256") == {"transformer/config.json", weights}


def test_hub_id_of_another_repository(hub: Hub, vae_folder: Path) -> None:
    random_diffusers_dit(SMALL).save_pretrained(hub.root / "repositories/someone/tuned-dit/transformer")
    generator = load_generator("someone/tuned-dit", vae=str(vae_folder))
    assert (generator.name, generator.resolution, generator.null_class) == ("tuned-dit", 32, 10)
    assert generator.licence == "see huggingface.co/someone/tuned-dit"
    assert load_generator("facebook/DiT-XL-2-512").name == "dit-xl-2-512"


def test_autoencoder_from_the_hub(hub: Hub) -> None:
    random_vae().save_pretrained(hub.root / "repositories/someone/vae")
    random_vae().save_pretrained(hub.root / "repositories/someone/pipeline/vae")
    digests = {KLAutoencoder(f"someone/{name}").digest for name in ("vae", "pipeline")}
    assert len(digests) == 1


def test_without_a_network_the_error_says_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    generator = load_generator("dit-xl-2-256")
    for fetch, repo_id, option, licence in (
        (lambda: generator.digest, "facebook/DiT-XL-2-256", "--generator", "CC-BY-NC-4.0"),
        (lambda: generator.autoencoder.digest, "stabilityai/sd-vae-ft-mse", "--vae", "MIT"),
    ):
        with pytest.raises(UserError) as caught:
            fetch()
        message = str(caught.value)
        assert message.startswith(
            f"{repo_id} could not be fetched from the Hugging Face hub: OSError: We couldn't connect"
        )
        assert message.endswith(
            f"or give a local copy with {option} PATH (licence of these weights: {licence})"
        )
        assert "\n" not in message


def refusal(kind: str, status: int = 0) -> Exception:
    """What the hub's client raises."""
    wrong: Exception = getattr(errors, kind).__new__(getattr(errors, kind))
    wrong.args = ("401 Client Error. (Request ID: Root=1-67)\n\nRepository Not Found for url: https://x.",)
    wrong.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return wrong


@pytest.mark.parametrize(
    ("error", "offline", "said"),
    [
        (
            refusal("GatedRepoError", 403),
            False,
            "accept its terms at https://huggingface.co/some/model, then log in",
        ),
        (
            refusal("RepositoryNotFoundError", 401),
            False,
            "no such repository for this login: check the name, or log",
        ),
        (refusal("HfHubHTTPError", 403), False, "it refuses this token: log in with another one"),
        (
            refusal("LocalEntryNotFoundError"),
            False,
            "it did not answer: check the network, then give the same",
        ),
        (
            refusal("LocalEntryNotFoundError"),
            True,
            "it is not asked while HF_HUB_OFFLINE is set: unset it once",
        ),
        (
            OSError(errno.ENOSPC, "No space left"),
            False,
            "the disk has no room left: make room, or name another",
        ),
        (ValueError("word " * 99), False, "ValueError: word word .* ... word"),
    ],
    ids=["gated", "not there", "token", "no network", "offline", "full", "other"],
)
def test_what_the_hub_refuses_is_a_whole_sentence(
    error: Exception, offline: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    start = "some/model could not be fetched from the Hugging Face hub: "
    end = r"; or give a local copy with --generator PATH \(licence of these weights: MIT\)$"
    with pytest.raises(UserError, match=f"^{start}{said}.*{end}") as caught:
        ModelFiles("some/model", "MIT").settings("config.json")
    assert len(str(caught.value)) < LONGEST_LINE


def test_repository_without_weights(hub: Hub) -> None:
    folder = hub.root / "repositories/someone/empty/transformer"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"someone/empty must hold diffusion_pytorch_model.safetensors or .bin"
    ):
        load_generator("someone/empty")


def test_one_network_in_every_layout(vae_folder: Path, tmp_path: Path) -> None:
    twin = random_diffusers_dit(PUBLISHED_WIDTH)
    twin.save_pretrained(tmp_path / "pipeline/transformer")
    random_vae().save_pretrained(tmp_path / "pipeline/vae")
    from_folder = load_generator(str(tmp_path / "pipeline"))
    dit = from_folder.denoiser("cpu", torch.float32)
    assert isinstance(dit, DiT)
    torch.save({"ema": dit.state_dict()}, tmp_path / "dit.pt")
    save_dit(tmp_path / "dit.safetensors", dit)
    from_files = [
        load_generator(str(tmp_path / name), vae=str(vae_folder)) for name in ("dit.pt", "dit.safetensors")
    ]
    for generator in (from_folder, *from_files):
        assert generator.digest == from_folder.digest
        assert generator.autoencoder.digest == from_folder.autoencoder.digest
        assert (generator.resolution, generator.latent_shape) == (32, (4, 8, 8))
        assert generator.class_names is None
        assert torch.equal(prediction(generator, PUBLISHED_WIDTH), prediction(from_folder, PUBLISHED_WIDTH))
    assert [generator.name for generator in from_files] == ["dit", "dit"]


def test_digest_tells_networks_apart(demo: Path, tmp_path: Path) -> None:
    digests = {load_generator(str(demo)).digest}
    for index, dit in enumerate(
        (random_dit(SMALL, seed=1), random_dit(replace(SMALL, frequency_shift=1)), random_dit(SMALL))
    ):
        folder = shutil.copytree(demo, tmp_path / str(index))
        save_generator(folder, dit, name="x", class_names=DIGITS, licence="MIT", recipe={})
        digests.add(load_generator(str(folder)).digest)
    assert len(digests) == 3


def test_folder_round_trip(demo: Path) -> None:
    generator = load_generator(str(demo))
    assert generator.name == "digits"
    assert generator.licence == "MIT"
    assert generator.class_names == DIGITS
    assert generator.defaults == SamplingDefaults(steps=20, cfg_scale=2.0, t_stop=10)
    assert generator.schedule == NoiseSchedule.scaled_linear(1000, 0.00085, 0.012)
    assert (generator.resolution, generator.latent_shape, generator.cfg_channels) == (32, (4, 8, 8), None)
    assert generator.autoencoder.scaling_factor == 1.5
    assert torch.equal(prediction(generator, SMALL), random_dit(SMALL)(*dit_inputs(SMALL, rows=2)))
    files = {str(path.relative_to(demo)) for path in demo.rglob("*") if path.is_file()}
    assert files == {
        "generator.json",
        "dit.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert json.loads((demo / "generator.json").read_text())["recipe"] == {"seed": 3, "steps": 10}


def test_folder_is_readable_by_diffusers(demo: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(demo / "vae")
    images = torch.zeros(2, 3, 32, 32)
    want = random_vae().encode(images).latent_dist.mean
    assert torch.allclose(vae.eval().encode(images).latent_dist.mean, want, atol=1e-6)
    assert vae.config.scaling_factor == 1.5


def test_folder_of_half_precision_weights_loads_as_float32(demo: Path) -> None:
    size = sum(path.stat().st_size for path in demo.rglob("*.safetensors"))
    save_generator(
        demo,
        random_dit(SMALL),
        name="digits",
        vae=ours_of(random_vae()),
        class_names=DIGITS,
        licence="MIT",
        recipe={},
        dtype=torch.float16,
    )
    assert sum(path.stat().st_size for path in demo.rglob("*.safetensors")) < 0.55 * size
    denoiser = load_generator(str(demo)).denoiser("cpu", torch.float32)
    assert isinstance(denoiser, DiT)
    assert {tensor.dtype for tensor in denoiser.state_dict().values()} == {torch.float32}
    want = random_dit(SMALL)(*dit_inputs(SMALL, rows=2))
    got = denoiser(*dit_inputs(SMALL, rows=2))
    assert (got - want).abs().max() < 0.01 * want.abs().max()


def test_folder_that_refers_to_a_published_autoencoder(tmp_path: Path) -> None:
    dit = random_dit(PUBLISHED_WIDTH)
    save_generator(
        tmp_path / "tuned",
        dit,
        name="woof",
        vae_source="stabilityai/sd-vae-ft-mse",
        class_names=None,
        licence="CC-BY-NC-4.0",
        recipe={},
    )
    generator = load_generator(str(tmp_path / "tuned"))
    assert generator.resolution == 64
    assert isinstance(generator.autoencoder, KLAutoencoder)
    assert generator.autoencoder.source == "stabilityai/sd-vae-ft-mse"
    assert not (tmp_path / "tuned/vae").exists()


def test_unfinished_folder_is_no_generator(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mgd3_fast.generators.folder.save_dit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_generator(demo, random_dit(SMALL), name="x", class_names=None, licence="MIT", recipe={})
    assert not (demo / "generator.json").exists()
    assert not list(demo.rglob("*.tmp"))


def test_amending_a_description_changes_the_named_keys_or_nothing(demo: Path) -> None:
    before = json.loads((demo / "generator.json").read_text())
    amend_description(demo, tuning={"chosen": 1}, licence="CC0")
    changed = {"tuning": {"chosen": 1}, "licence": "CC0"}
    assert json.loads((demo / "generator.json").read_text()) == {**before, **changed}
    assert load_generator(str(demo)).licence == "CC0"
    with pytest.raises(TypeError):
        amend_description(demo, tuning=object())
    assert json.loads((demo / "generator.json").read_text()) == {**before, **changed}
    assert not list(demo.glob(".*"))


def test_denoiser_dtype_and_placement(demo: Path) -> None:
    generator = load_generator(str(demo))
    full = generator.denoiser("cpu", torch.float32)
    assert isinstance(full, DiT)
    assert generator.denoiser("cpu", torch.float32) is full
    assert not full.training
    assert not any(parameter.requires_grad for parameter in full.parameters())
    rounded = generator.denoiser("cpu", torch.bfloat16)
    assert isinstance(rounded, DiT)
    assert {tensor.dtype for tensor in rounded.state_dict().values()} == {torch.bfloat16}
    again = generator.denoiser("cpu", torch.float32)
    assert torch.equal(again(*dit_inputs(SMALL, 2)), full(*dit_inputs(SMALL, 2)))


def test_class_ids_by_name(demo: Path) -> None:
    generator = load_generator(str(demo))
    assert generator.class_ids(["7", "0", "9"]) == [7, 0, 9]
    with pytest.raises(UserError, match=r"digits was trained on \(0, 1, 2, 3, 4 and 5 more\), got 'cat'"):
        generator.class_ids(["1", "cat"])


def test_class_ids_by_wnid(demo: Path) -> None:
    wnids = imagenet_classes("imagenet1k")
    woof = imagenet_classes("imagewoof")
    named = load_generator("dit-xl-2-256")
    unnamed = replace(named, class_names=None)
    for generator in (named, unnamed):
        assert [wnids[index] for index in generator.class_ids(woof)] == list(woof)
        with pytest.raises(UserError, match=r"got 'n99999999'"):
            generator.class_ids([woof[0], "n99999999"])
    assert unnamed.class_ids([f"own class {index}" for index in range(1000)]) == list(range(1000))


def test_class_ids_by_position(demo: Path) -> None:
    generator = replace(load_generator(str(demo)), class_names=None)
    assert generator.class_ids([f"breed {index}" for index in range(10)]) == list(range(10))
    with pytest.raises(UserError, match=r"must have 10 classes, got 2 \(cat, dog\): generator digits has"):
        generator.class_ids(["cat", "dog"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": "x0"}, "prediction of .* must be epsilon or v, got 'x0'"),
        ({"format": 99}, "format of .* must be 1, got 99"),
        ({"class_names": ["a"]}, "class_names of .* must be 10 names, got 1"),
        ({"class_names": "0123456789"}, "class_names of .* must be 10 names, got '0123456789'"),
        ({"cfg_channels": 2.5}, "cfg_channels of .* must be a whole number or null, got 2.5"),
        ({"defaults": {"steps": "5"}}, "steps in defaults of .* must be a whole number, got '5'"),
        ({"defaults": {"steps": 0}}, "defaults of .* is not valid: steps must be at least 1, got 0"),
        ({"schedule": {"start": None}}, "start in schedule of .* must be a number, got None"),
        ({"dit": {"width": 3}}, "dit of .* must be an object with class_dropout_prob, .* got {'width': 3}"),
        ({"dit": {"input_size": 8}}, "dit of .* is not valid: .*patch_size"),
        ({"defaults": None}, "defaults of .* must be an object with cfg_scale, .* got None"),
        (
            {"schedule": {"kind": "cosine"}},
            "schedule kind must be one of linear, scaled_linear, got 'cosine'",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_damaged_description(change: dict[str, Any], message: str, demo: Path) -> None:
    path = demo / "generator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as caught:
        load_generator(str(demo))
    assert "\n" not in str(caught.value)


def test_a_folder_may_predict_v(demo: Path) -> None:
    path = demo / "generator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction": "v"}))
    assert load_generator(str(demo)).prediction == "v"


def test_damaged_folder(demo: Path) -> None:
    (demo / "dit.safetensors").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"dit.safetensors must be a safetensors file, got a damaged one"):
        load_generator(str(demo)).denoiser("cpu", torch.float32)
    (demo / "dit.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no dit.safetensors in"):
        load_generator(str(demo))
    (demo / "generator.json").write_text("{")
    with pytest.raises(UserError, match=r"generator.json must be JSON"):
        load_generator(str(demo))


def test_places_without_a_generator(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must be auto, demo-mnist5k, dit-xl-2-256, .* got 'dit-xl'"):
        load_generator("dit-xl")
    with pytest.raises(UserError, match=r"must be a folder of `train` .generator.json. or of diffusers"):
        load_generator(str(tmp_path))
    (tmp_path / "notes.pt").write_text("hi\n")
    with pytest.raises(
        UserError, match=r"notes.pt must be a PyTorch checkpoint, got a damaged or foreign file$"
    ):
        load_generator(str(tmp_path / "notes.pt"))


def test_autoencoder_of_another_latent_space(demo: Path, tmp_path: Path) -> None:
    random_vae(latent_channels=3).save_pretrained(tmp_path / "three")
    with pytest.raises(UserError, match="vae must have 4 latent channels for digits, got 3"):
        load_generator(str(demo), vae=str(tmp_path / "three"))


class PromptConditionedUNet(torch.nn.Module):
    """A latent diffusion U-Net whose class ids select prompts; the last row is the null prompt."""

    def __init__(self, prompts: int) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        self.unet = randomised(
            UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(16, 32),
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                layers_per_block=1,
                cross_attention_dim=16,
                attention_head_dim=8,
                norm_num_groups=8,
            )
        )
        self.register_buffer("embeddings", torch.randn(prompts + 1, 5, 16))  # [prompts + null, tokens, width]

    def forward(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        output: Tensor = self.unet(x, timestep, encoder_hidden_states=self.embeddings[class_ids]).sample
        return output


@pytest.fixture(scope="module")
def make_text_generator() -> Callable[[Path], Generator]:
    unet = PromptConditionedUNet(prompts=3).eval().requires_grad_(False)

    class Held(Network):
        def _place(self, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
            return unet.to(device, dtype)

        def digest(self) -> str:
            return "0" * 64

    def make(vae_folder: Path) -> Generator:
        return Generator(
            name="tiny-text-to-image",
            source="test",
            resolution=32,
            latent_shape=(4, 8, 8),
            num_classes=3,
            null_class=3,
            cfg_channels=None,
            schedule=NoiseSchedule.scaled_linear(1000, 0.00085, 0.012),
            prediction="v",
            defaults=SamplingDefaults(sampler="ddim", steps=5, cfg_scale=3.0, t_stop=2),
            class_names=("cat", "dog", "horse"),
            licence="MIT",
            autoencoder=KLAutoencoder(vae_folder),
            network=Held(),
        )

    return make


def test_text_conditioned_unet_passes_the_seam(
    make_text_generator: Callable[[Path], Generator], vae_folder: Path
) -> None:
    generator = make_text_generator(vae_folder)

    def sample(guidance: ModeGuidance | None, cfg_scale: float, names: list[str]) -> Tensor:
        sampler = GuidedSampler(
            generator.denoiser("cpu", torch.float32),
            schedule=generator.schedule,
            method=generator.defaults.sampler,
            steps=generator.defaults.steps,
            prediction=generator.prediction,
            cfg_scale=cfg_scale,
            null_class=generator.null_class,
            cfg_channels=generator.cfg_channels,
            guidance=guidance,
            backend="eager",
            batch_size=8,
        )
        return sampler.sample(torch.tensor(generator.class_ids(names)), modes, torch.arange(len(names)))

    names = ["dog", "cat", "horse"]
    modes = generator.autoencoder.encode(torch.full((3, 3, 32, 32), 40, dtype=torch.uint8))
    free = sample(None, 3.0, names)
    guided = sample(ModeGuidance(scale=0.1, t_stop=0), 3.0, names)
    assert free.shape == guided.shape == (3, 4, 8, 8)
    distances = [(latents - modes).flatten(1).norm(dim=1) for latents in (free, guided)]
    assert (distances[1] < 0.9 * distances[0]).all()
    # the prompt matters, and so does the null prompt
    assert not torch.allclose(sample(None, 3.0, ["cat"] * 3)[0], free[0], rtol=1e-3)
    assert not torch.allclose(sample(None, 1.0, names), free, rtol=1e-3)
    assert generator.autoencoder.decode(guided).shape == (3, 3, 32, 32)
