"""Text-to-image generators: our sampler against diffusers' pipeline, prompts, whole runs, refusals."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mgd3_engine import GuidedSampler, ModeGuidance
from mgd3_engine.installing import install_command
from mgd3_fast import cli
from mgd3_fast.config import DistillConfig, EncodeConfig
from mgd3_fast.datasets import Dataset, ImageClass, imagenet_classes
from mgd3_fast.datasets.images import ArrayImages
from mgd3_fast.doctor import accuracy
from mgd3_fast.errors import UserError
from mgd3_fast.export import ExportConfig, export_network
from mgd3_fast.generators import SamplingDefaults, TextGenerator, for_run, load_generator, place_network
from mgd3_fast.generators.prompts import ClassPrompts, class_prompts
from mgd3_fast.progress import SILENT
from mgd3_fast.run.distillation import distill
from mgd3_fast.run.sources import encode
from tests.fakes.hub import Hub
from tests.fakes.tiny_diffusion import LENGTH, SHAPE, WIDTH, write_stable_diffusion

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = ClassPrompts(class_names=("one", "two"), texts=("a cat, sitting", "dog"), negative="cartoon, anime")
# Largest difference over the largest value after 10 steps. Measured: 6.4e-7 (epsilon), 3.7e-7 (v).
BOUND = 3e-6
# The same after 50 guided steps of DDPM. Measured: 1.2e-6.
SCRIPT_BOUND = 4e-6
WNIDS = imagenet_classes("imagenet1k")
CRANES = (WNIDS[134], WNIDS[517])


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline of random weights at 32 px, as diffusers and transformers write it."""
    folder = tmp_path_factory.mktemp("pipelines") / "tiny-diffusion"
    write_stable_diffusion(folder)
    return folder


@pytest.fixture
def changed(pipeline: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a copy of the pipeline with other settings in one of its JSON files; None takes one out."""

    def change(name: str, **settings: Any) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(pipeline, folder)
        content = json.loads((folder / name).read_text()) | settings
        content = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(content))
        return folder

    return change


def opened(folder: Path | str) -> TextGenerator:
    generator = load_generator(str(folder))
    assert isinstance(generator, TextGenerator)
    return generator


def sampled(generator: TextGenerator, noise: Tensor, **options: Any) -> Tensor:
    """Ten steps of DDIM on the timesteps of diffusers' "leading" spacing, the last of them to x0."""
    sampler = GuidedSampler(
        generator.denoiser("cpu", torch.float32),
        schedule=generator.schedule,
        method="ddim",
        steps=10,
        spacing="ddim",
        prediction=generator.prediction,
        null_class=generator.null_class,
        cfg_channels=generator.cfg_channels,
        **{"guidance": None, "cfg_scale": 7.5, "backend": "eager", "batch_size": 8} | options,
    )
    ids = torch.arange(len(noise))
    return sampler.sample(ids, None, None, latent_shape=SHAPE, noise=lambda step, index: noise[index])


@pytest.mark.parametrize(
    ("theirs", "ours"), [("epsilon", "epsilon"), ("v_prediction", "v")], ids=["epsilon", "v"]
)
def test_the_sampler_reproduces_diffusers_pipeline(
    theirs: str, ours: str, changed: Callable[..., Path]
) -> None:
    from diffusers import StableDiffusionPipeline

    folder = changed("scheduler/scheduler_config.json", prediction_type=theirs)
    generator = opened(folder)
    assert (generator.prediction, generator.resolution, generator.latent_shape) == (ours, 32, SHAPE)
    pipe = StableDiffusionPipeline.from_pretrained(folder, requires_safety_checker=False)
    # Without this it is "corrected" to begin at timestep 1.
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, steps_offset=0)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
    want = pipe(
        list(PROMPTS.texts),
        negative_prompt=[PROMPTS.negative] * 2,
        guidance_scale=7.5,
        num_inference_steps=10,
        latents=noise,
        output_type="latent",
    ).images
    got = sampled(generator.for_prompts(PROMPTS), noise)
    assert (got - want).abs().max() <= BOUND * want.abs().max()
    # each of what was given matters
    for other in (
        replace(PROMPTS, texts=("a cat, sitting", "dogs")),
        replace(PROMPTS, negative="cartoon"),
    ):
        difference = (sampled(generator.for_prompts(other), noise) - want)[1]
        assert difference.abs().max() > 500 * BOUND * want.abs().max()


def test_the_context_of_a_prompt_does_not_depend_on_the_others(pipeline: Path) -> None:
    network = opened(pipeline).for_prompts(PROMPTS).denoiser("cpu", torch.float32)
    fewer = ClassPrompts(class_names=("two",), texts=PROMPTS.texts[1:], negative=PROMPTS.negative)
    alone = opened(pipeline).for_prompts(fewer).denoiser("cpu", torch.float32)
    assert network.contexts.shape == (3, LENGTH, WIDTH)
    assert torch.equal(network.contexts[1:], alone.contexts)


def test_the_network_can_be_captured(pipeline: Path) -> None:
    """A forward pass reads no value on the host: it runs on a device that has none."""
    network = opened(pipeline).for_prompts(PROMPTS).denoiser("cpu", torch.float32).to("meta")
    x, numbers = torch.empty(3, *SHAPE, device="meta"), torch.empty(3, dtype=torch.int64, device="meta")
    assert network(x, numbers, numbers).shape == x.shape


@pytest.mark.gpu
def test_graphs_of_a_gpu_hold_the_network(pipeline: Path) -> None:
    generator = opened(pipeline).for_prompts(PROMPTS)

    def made(device: str, graphs: str) -> Tensor:
        sampler = GuidedSampler(
            generator.denoiser(device, torch.float32),
            schedule=generator.schedule,
            steps=6,
            cfg_scale=7.5,
            null_class=generator.null_class,
            guidance=ModeGuidance(t_stop=2),
            backend="eager",
            batch_size=8,
            graphs=graphs,
        )
        ids = torch.arange(8) % 2
        return [sampler.sample(ids, torch.ones(8, *SHAPE), torch.arange(8)) for _ in range(2)][1]

    captured = made("cuda", "on")
    assert torch.equal(captured, made("cuda", "off"))
    want = made("cpu", "off")
    assert (captured - want).abs().max() <= 1e-3 * want.abs().max()


def test_half_precision_keeps_timesteps(pipeline: Path) -> None:
    generator = opened(pipeline).for_prompts(PROMPTS)
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(5))
    timestep, ids = torch.tensor([750, 751, 752, 753]), torch.tensor([0, 1, 2, 0])
    want = generator.denoiser("cpu", torch.float32)(x, timestep, ids)
    network = generator.denoiser("cpu", torch.bfloat16)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.bfloat16}
    got = network(x.bfloat16(), timestep, ids)
    assert (got - want).square().mean().sqrt() <= 0.02 * want.square().mean().sqrt()
    # bfloat16 cannot tell these timesteps apart: they must reach the sinusoids as they are
    sinusoids = network.unet.get_time_embed(x.bfloat16(), timestep).float()
    exact = network.unet.time_proj(timestep)
    assert exact.dtype == torch.float32
    assert (sinusoids - exact).abs().max() <= 2**-8


def test_layouts_of_one_network_have_one_digest(pipeline: Path, tmp_path: Path) -> None:
    """PyTorch files, the encoder's older names and positions beside them."""
    from safetensors.torch import load_file

    old = tmp_path / "old"
    shutil.copytree(pipeline, old)
    for part, stem, written in (
        ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("text_encoder", "model", "pytorch_model"),
    ):
        weights = load_file(old / part / f"{stem}.safetensors")
        if part == "text_encoder":
            weights = {f"text_model.{name.removeprefix('text_model.')}": weights[name] for name in weights}
            weights["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
        torch.save(weights, old / part / f"{written}.bin")
        (old / part / f"{stem}.safetensors").unlink()
    generator = opened(old).for_prompts(PROMPTS)
    assert generator.digest == opened(pipeline).digest
    contexts = opened(pipeline).for_prompts(PROMPTS).denoiser("cpu", torch.float32).contexts
    assert torch.equal(generator.denoiser("cpu", torch.float32).contexts, contexts)
    (old / "tokenizer/merges.txt").write_text("#version: 0.2\nc a\n")
    assert opened(old).digest != generator.digest


def dataset_of(*names: str, opened: tuple[int, ...] | None = None) -> Dataset:
    images = ArrayImages(np.zeros((1, 4, 4, 3), np.uint8))
    labels = range(len(names)) if opened is None else opened
    return Dataset("some", tuple(ImageClass(names[label], label, images) for label in labels), names)


def test_classes_are_called_by_their_names() -> None:
    dataset = dataset_of("n01440764", "sea_snake", "golf ball", CRANES[0], CRANES[1])
    prompts = class_prompts(dataset)
    assert prompts.texts == ("tench", "sea snake", "golf ball", "crane", "crane")
    assert prompts.negative == ""
    assert prompts.describe().splitlines() == [
        f"prompts: 'tench' for n01440764, 'sea snake' for sea_snake, 'golf ball' for golf ball, 'crane' for"
        f" {CRANES[0]} and 1 more",
        f"warning: classes {', '.join(CRANES)} share the prompt 'crane'; --prompts can tell them apart",
    ]
    photos = class_prompts(dataset, template="a photo of a {}, {}", negative="cartoon")
    assert photos.texts[1] == "a photo of a sea snake, sea snake"
    assert photos.negative == "cartoon"


def test_three_pairs_of_imagenet_share_a_first_synonym() -> None:
    warnings = class_prompts(dataset_of(*WNIDS)).describe().splitlines()[1:]
    assert [line.split("'")[1].lower() for line in warnings] == ["crane", "cardigan", "maillot"]


def test_prompts_of_a_file(tmp_path: Path) -> None:
    file, names = tmp_path / "prompts.txt", ("ant", "bee", "cow")
    file.write_text("bee\ta bumble bee\n\nant \t an ant\n")
    assert class_prompts(dataset_of(*names), file=file).texts == ("an ant", "a bumble bee", "cow")
    assert class_prompts(dataset_of(*names, opened=(1,)), file=file).texts == ("a bumble bee",)
    file.write_text("red ant\nblack bee\nwhite cow\n")
    some = dataset_of(*names, opened=(0, 2))
    assert class_prompts(some, file=file, template="a {}").texts == ("a red ant", "a white cow")
    file.write_text("red ant\nwhite cow\n")
    assert class_prompts(some, file=file).texts == ("red ant", "white cow")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bea\tx", "prompts must be of classes of the dataset, got 'bea' in FILE (did you mean 'bee'?)"),
        ("bee\tx\nbee\ty", "prompts must name a class once, got 'bee' twice in FILE"),
        ("bee\tx\ncow", "prompts must be lines of class, tab and prompt, got 'cow' in FILE"),
        (
            "x\ny",
            "prompts must be lines of class, tab and prompt, or 3 lines in label order, got 2 lines without a"
            " tab in FILE",
        ),
        (b"\xff\xfe", "prompts must be a text file in UTF-8, got FILE"),
        (None, "prompts must be a file that can be read, got FILE: No such file or directory"),
    ],
    ids=["unknown class", "class twice", "no prompt", "too few lines", "no text", "no file"],
)
def test_files_that_are_refused(text: str | bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        class_prompts(dataset_of("ant", "bee", "cow"), file=file)
    assert str(caught.value).replace(str(file), "FILE") == message


def test_template_and_names_that_are_refused() -> None:
    with pytest.raises(UserError, match=r"prompt_template must hold \{\} where the class goes, got 'a"):
        class_prompts(dataset_of("ant"), template="a photo")
    with pytest.raises(UserError, match="prompts must name class 'n99999999', whose name in words"):
        class_prompts(dataset_of("n99999999"))


@pytest.fixture
def run(pipeline: Path, pictures: Path, cache: Path, tmp_path: Path) -> Callable[..., Path]:
    """Distil the three classes of pictures, two images each, and return the output folder."""

    def distilled(out: str, **changes: Any) -> Path:
        settings: dict[str, Any] = {
            "dataset": str(pictures),
            "generator": str(pipeline),
            "ipc": 2,
            "steps": 4,
            "batch_size": 8,
            "out": tmp_path / out,
        }
        return distill(DistillConfig(**settings | changes)).folder

    return distilled


def images_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*.png")}


def test_a_run_from_pictures_to_manifest(run: Callable[..., Path], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("bee\ta bumble bee\n")
    options: dict[str, Any] = {"prompts": prompts, "negative_prompt": "cartoon"}
    out = run("out", **options)
    manifest, whole = json.loads((out / "manifest.json").read_text()), images_of(out)
    assert len(whole) == 6
    assert manifest["prompts"] == {"ant": "ant", "bee": "a bumble bee", "cow": "cow"}
    settings = manifest["settings"]
    assert (settings["prompt_template"], settings["negative_prompt"]) == ("{}", "cartoon")
    assert (settings["cfg_scale"], settings["mode_scale"], settings["t_stop"]) == (7.5, 0.1, 2)
    assert (manifest["generator"]["name"], manifest["generator"]["resolution"]) == ("tiny-diffusion", 32)
    # taken up again: an image that is gone is made anew, with the same bytes
    (out / "bee/1.png").unlink()
    assert images_of(run("out", **options)) == whole
    # by shards, and a class alone
    for shard in ("2/2", "1/2"):
        parts = run("parts", shard=shard, **options)
    assert images_of(parts) == whole
    alone = run("alone", classes="bee", **options)
    assert images_of(alone) == {name: whole[name] for name in ("bee/0.png", "bee/1.png")}
    # another prompt, template or negative prompt is another run
    prompts.write_text("bee\ta honey bee\n")
    for changes, name in (
        ({}, "prompts"),
        ({"negative_prompt": "anime"}, "negative_prompt"),
        ({"prompt_template": "a {}"}, "prompt_template"),
    ):
        with pytest.raises(UserError, match=f"holds a run of other settings, whose {name} is '"):
            run("out", **options | changes)


def test_the_prompt_decides_the_image(run: Callable[..., Path]) -> None:
    plain, photo = run("plain", classes="ant"), run("photo", classes="ant", prompt_template="a photo of {}")
    assert images_of(plain).keys() == images_of(photo).keys()
    assert all(images_of(plain)[name] != images_of(photo)[name] for name in images_of(plain))


def test_encoding_needs_the_autoencoder_alone(pipeline: Path, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "autoencoder only"
    shutil.copytree(pipeline, folder, ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    config = EncodeConfig(dataset=str(pictures), generator=str(folder), cache_dir=tmp_path / "cache")
    report, _ = encode(config, SILENT)
    assert report.images == 21


def test_as_mgd3s_script_ran_it(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """`--preset paper`, and the same in options of their own: one set of images."""
    from PIL import Image

    paper = run("paper", preset="paper", steps=None, image_size=16)
    manifest = json.loads((paper / "manifest.json").read_text())
    settings, guidance = manifest["settings"], manifest["guidance"]
    wanted = {"sampler": "ddpm", "steps": 50, "spacing": "leading", "steps_offset": 1, "cfg_scale": 8.0}
    wanted |= {"mode_scale": 0.1, "t_stop": 24, "posterior": "sample", "image_size": 16}
    assert {name: settings[name] for name in wanted} == wanted
    assert guidance["guided_steps"] == 25  # timesteps 501, 521, .. 981
    with Image.open(paper / "bee/0.png") as image:
        assert image.size == (16, 16)
    own = {name: value for name, value in wanted.items() if name != "image_size"}
    assert images_of(run("own", **own, synonyms="all", image_size=16)) == images_of(paper)


def test_the_guided_steps_are_those_of_the_script(pipeline: Path) -> None:
    """diffusers' DDPM on timesteps 1 to 981, x += 0.1 sigma (m - x0) above 500, with the same noise."""
    from diffusers import DDPMScheduler

    generator = opened(pipeline).for_prompts(PROMPTS)
    network, ids = generator.denoiser("cpu", torch.float32), torch.arange(2)
    modes = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(9))
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDPMScheduler(**betas, timestep_spacing="leading", steps_offset=1, clip_sample=False)
    scheduler.set_timesteps(50)

    def noise(step: int, images: Tensor) -> Tensor:
        return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(step))[images]

    x = noise(50, ids)
    for i, t in zip(range(49, -1, -1), scheduler.timesteps, strict=True):
        eps, null = network(torch.cat([x, x]), t.expand(4), torch.cat([ids, torch.full((2,), 2)])).chunk(2)
        eps = null + 8.0 * (eps - null)
        step = scheduler.step(eps, t, x, generator=torch.Generator().manual_seed(i))
        push = 0.1 * scheduler._get_variance(int(t)).sqrt() * (modes - step.pred_original_sample)
        x = step.prev_sample + (push if t > 500 else 0.0)
    sampler = GuidedSampler(
        network,
        schedule=generator.schedule,
        spacing="leading",
        steps_offset=1,
        cfg_scale=8.0,
        null_class=2,
        guidance=ModeGuidance(0.1, t_stop=24),
        backend="eager",
        batch_size=8,
    )
    got = sampler.sample(ids, modes, None, noise=noise)
    assert (got - x).abs().max() <= SCRIPT_BOUND * x.abs().max()


@pytest.mark.parametrize(
    ("changes", "t_stop", "others"),
    [
        ({}, 24, {"spacing": "leading", "steps_offset": 1}),
        ({"steps": 10}, 5, {"spacing": "leading"}),
        ({"spacing": "ddim"}, 24, {"spacing": "ddim", "steps_offset": None}),
        ({"steps_offset": 0}, 24, {"spacing": "leading", "steps_offset": 0}),
        ({"t_stop": 3, "cfg_scale": 2.0, "posterior": "mean"}, 3, {"cfg_scale": 2.0, "posterior": "mean"}),
        ({"method": "unguided"}, None, {"mode_scale": None, "image_size": 256}),
    ],
)
def test_what_is_given_goes_before_the_preset(
    changes: dict[str, Any], t_stop: int | None, others: dict[str, Any], pipeline: Path
) -> None:
    config = DistillConfig(dataset="d", ipc=1, out="o", preset="paper", **changes)
    completed = config.completed(opened(pipeline).presets)
    assert completed.t_stop == t_stop
    assert {name: getattr(completed, name) for name in others} == others


def test_the_preset_of_a_dit_is_its_defaults(tiny_generator: Path) -> None:
    generator = load_generator("dit-xl-2-256")
    config = DistillConfig(dataset="d", ipc=1, out="o")
    paper = replace(config, preset="paper").completed(generator.presets)
    assert paper.sampling(generator.defaults) == config.sampling(generator.defaults)
    assert (paper.spacing, paper.posterior, paper.image_size) == (None, None, None)
    # the demo's defaults are its own, and the paper's are those of DiT
    trained = load_generator("demo-mnist5k")
    assert replace(config, preset="paper").completed(trained.presets).sampling(trained.defaults) == (
        SamplingDefaults()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "slow"}, "preset must be one of paper, fast, got 'slow'"),
        ({"steps_offset": 1}, "steps_offset must come with spacing leading, got 1 alone"),
        ({"steps_offset": -1, "spacing": "leading"}, "steps_offset must be a whole number of at least 0"),
        ({"image_size": 0}, "image_size must be a whole number of at least 1, got 0"),
        ({"method": "random", "preset": "paper"}, "preset must be left out with method random"),
        ({"method": "herding", "synonyms": "all"}, "synonyms must be left out with method herding"),
    ],
)
def test_options_of_the_preset_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        DistillConfig(dataset="mnist5k", ipc=1, out="x", **options)
    assert message in str(refused.value)


def test_classes_are_called_by_all_their_synonyms() -> None:
    dataset = dataset_of("n01440764", "sea_snake", *CRANES)
    prompts = class_prompts(dataset, synonyms="all", template="{}, photo")
    assert prompts.texts[:2] == ("tench, Tinca tinca, photo", "sea snake, photo")
    assert class_prompts(dataset, synonyms="first").texts[0] == "tench"


def test_sampled_latents_have_a_store_of_their_own(pipeline: Path, pictures: Path, tmp_path: Path) -> None:
    """Each is the mean plus a deviation times noise that the image's pixels alone decide."""
    common = {"dataset": str(pictures), "generator": str(pipeline), "cache_dir": tmp_path / "cache"}
    found = {}
    for posterior in ("mean", "sample"):
        report, sources = encode(EncodeConfig(**common, posterior=posterior), SILENT)
        assert report.images == 21
        found[posterior] = [sources.store.get(cls) for cls in sources.dataset.classes]
    again, _ = encode(EncodeConfig(**common, posterior="sample"), SILENT)
    assert (again.images, again.reused) == (0, 21)
    gaps = torch.cat([a - b for a, b in zip(*found.values(), strict=True)])
    assert gaps.abs().min() > 0
    assert gaps.abs().max() < 12
    elsewhere = common | {"classes": "bee", "cache_dir": tmp_path / "another"}
    _, sources = encode(EncodeConfig(**elsewhere, posterior="sample"), SILENT)
    assert torch.equal(sources.store.get(sources.dataset.classes[0]), found["sample"][1])


def test_a_repository_is_fetched_part_by_part(pipeline: Path, hub: Hub) -> None:
    repository = hub.root / "repositories/someone/tiny"
    shutil.copytree(pipeline, repository)
    (repository / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"large")
    (repository / "text_encoder/pytorch_model.bin").write_bytes(b"large too")
    generator = opened("someone/tiny")
    assert generator.resolution == 32
    assert generator.licence == "see huggingface.co/someone/tiny"
    weights = {"vae/diffusion_pytorch_model.safetensors"}
    assert {name for name in hub.downloaded("someone/tiny") if not name.endswith(".json")} == weights
    generator.for_prompts(PROMPTS).denoiser("cpu", torch.float32)
    weights |= {
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
    }
    assert {name for name in hub.downloaded("someone/tiny") if not name.endswith(".json")} == weights
    assert generator.digest == opened(pipeline).digest


@pytest.mark.parametrize("name", ["stable-diffusion-1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"])
def test_the_preset_is_known_without_the_hub(name: str, hub: Hub) -> None:
    generator = opened(name)
    assert (generator.name, generator.resolution) == ("stable-diffusion-1-5", 512)
    assert (generator.latent_shape, generator.autoencoder.scaling_factor) == ((4, 64, 64), 0.18215)
    for fetch, option in (
        (lambda: generator.for_prompts(PROMPTS).denoiser("cpu", torch.float32), "--generator"),
        (lambda: generator.autoencoder.digest, "--vae"),
    ):
        with pytest.raises(UserError) as caught:
            fetch()
        assert str(caught.value).endswith(
            f"give a local copy with {option} PATH (licence of these weights: CreativeML OpenRAIL-M)"
        )


def as_half_precision(pipeline: Path, folder: Path) -> Path:
    """Leave of a pipeline's weights the variants that diffusers and transformers call fp16."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(pipeline, folder)
    for path in (
        *folder.glob("*/diffusion_pytorch_model.safetensors"),
        folder / "text_encoder/model.safetensors",
    ):
        half = {name: tensor.half() for name, tensor in load_file(path).items()}
        save_file(half, path.with_name(f"{path.stem}.fp16.safetensors"))
        path.unlink()
    return folder


def test_a_pipeline_in_half_precision(pipeline: Path, tmp_path: Path) -> None:
    half = opened(as_half_precision(pipeline, tmp_path / "half")).for_prompts(PROMPTS)
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
    got, want = sampled(half, noise), sampled(opened(pipeline).for_prompts(PROMPTS), noise)
    assert 0 < (got - want).abs().max() < 0.02 * want.abs().max()
    images = half.autoencoder.decode(got)
    assert images.shape == (2, 3, 32, 32)


def test_a_repository_in_half_precision(pipeline: Path, hub: Hub) -> None:
    as_half_precision(pipeline, hub.root / "repositories/someone/half")
    opened("someone/half").for_prompts(PROMPTS).denoiser("cpu", torch.float32)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in hub.downloaded("someone/half")


@pytest.mark.parametrize(
    ("file", "tensor"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "conv_out.bias"),
        ("text_encoder/model.safetensors", "final_layer_norm.bias"),
        ("vae/diffusion_pytorch_model.safetensors", "quant_conv.bias"),
    ],
)
def test_nan_in_a_part_is_named(file: str, tensor: str, changed: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    folder = changed("model_index.json")
    weights = load_file(folder / file)
    stored = next(name for name in weights if name.endswith(tensor))
    weights[stored][0] = torch.nan
    save_file(weights, folder / file)
    generator = opened(folder).for_prompts(PROMPTS)
    with pytest.raises(
        UserError, match=f"{file.split('/')[0]} is no usable .*{tensor} holds NaN or infinity"
    ):
        _ = generator.denoiser("cpu", torch.float32), generator.autoencoder.decode(torch.zeros(1, *SHAPE))


@pytest.mark.parametrize(
    ("file", "tensor"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "conv_out.weight"),
        ("text_encoder/model.safetensors", "final_layer_norm.weight"),
    ],
)
def test_quantised_parts_are_refused(file: str, tensor: str, changed: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    folder = changed("model_index.json")
    weights = load_file(folder / file)
    stored = next(name for name in weights if name.endswith(tensor))
    save_file(weights | {stored: weights[stored].to(torch.int8)}, folder / file)
    with pytest.raises(
        UserError, match=f"is no usable .*{tensor} holds torch.int8, and weights are floating"
    ):
        opened(folder).for_prompts(PROMPTS).denoiser("cpu", torch.float32)


@pytest.mark.parametrize(
    ("name", "setting"),
    [("unet/config.json", "layers_per_block"), ("text_encoder/config.json", "num_hidden_layers")],
)
def test_settings_of_a_million_layers_build_none(
    name: str, setting: str, changed: Callable[..., Path]
) -> None:
    folder = changed(name, **{setting: 10**6})
    with pytest.raises(UserError, match=r"is no usable .* 1000000"):
        opened(folder).for_prompts(PROMPTS).denoiser("cpu", torch.float32)


SCHEDULER, UNET = "scheduler/scheduler_config.json", "unet/config.json"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionXLPipeline"},
            "generator must be a pipeline of class StableDiffusionPipeline or DiTPipeline, got FOLDER, a"
            " StableDiffusionXLPipeline",
        ),
        (
            SCHEDULER,
            {"prediction_type": "sample"},
            f"prediction_type of FOLDER/{SCHEDULER} must be epsilon or v_prediction, got 'sample'",
        ),
        (
            SCHEDULER,
            {"beta_schedule": "laplace"},
            f"beta_schedule of FOLDER/{SCHEDULER} must be linear, scaled_linear, squaredcos_cap_v2 or"
            " sigmoid, got 'laplace'",
        ),
        (
            SCHEDULER,
            {"rescale_betas_zero_snr": True},
            f"rescale_betas_zero_snr of FOLDER/{SCHEDULER} must be false, got true: its last abar would be 0",
        ),
        (SCHEDULER, {"beta_end": None}, f"FOLDER/{SCHEDULER} must state beta_end, got none"),
        (
            UNET,
            {"addition_embed_type": "text_time"},
            "unet of FOLDER must take latents, timesteps and text alone, got one with addition_embed_type"
            " 'text_time'",
        ),
        (UNET, {"in_channels": 9}, "vae must have 9 latent channels for changed, got 4"),
        (UNET, {"sample_size": None}, "unet of FOLDER must state sample_size, a number, got None"),
    ],
    ids=["SDXL", "prediction", "betas", "zero SNR", "no betas", "two encoders", "inpainting", "size"],
)
def test_pipelines_that_are_refused(
    name: str, settings: dict[str, Any], message: str, changed: Callable[..., Path]
) -> None:
    folder = changed(name, **settings)
    with pytest.raises(UserError) as caught:
        load_generator(str(folder))
    assert str(caught.value).replace(str(folder), "FOLDER") == message


@pytest.mark.parametrize("missing", ["unet/config.json", "text_encoder/config.json", "tokenizer/vocab.json"])
def test_a_missing_part_is_named(missing: str, changed: Callable[..., Path]) -> None:
    folder = changed("model_index.json")
    (folder / missing).unlink()
    with pytest.raises(UserError, match=f"changed must hold {missing}"):
        opened(folder).for_prompts(PROMPTS).denoiser("cpu", torch.float32)


def test_networks_that_do_not_fit_together(changed: Callable[..., Path]) -> None:
    folder = changed("unet/config.json", cross_attention_dim=24)
    with pytest.raises(UserError, match="unet is no usable UNet2DConditionModel: "):
        opened(folder).for_prompts(PROMPTS).denoiser("cpu", torch.float32)


def test_prompts_that_are_too_long(pipeline: Path) -> None:
    long = replace(PROMPTS, texts=("dog", "a b c d e f g h i j k l m n o"))
    with pytest.raises(UserError, match="prompts must have at most 14 tokens, got 15 in 'a b c d"):
        opened(pipeline).for_prompts(long).denoiser("cpu", torch.float32)


def test_what_takes_no_text_refuses_prompts(
    tiny_generator: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = load_generator("demo-mnist5k")
    for name in ("prompts", "prompt_template", "negative_prompt"):
        with pytest.raises(
            UserError, match=f"{name} must be left out with generator demo-mnist5k, which takes"
        ):
            for_run(demo, dataset_of("ant"), **{name: "{}"})
    words = ["distill", "--dataset", str(pictures), "--generator", str(tiny_generator), "--ipc", "2"]
    out = tmp_path / "out"
    assert cli.main([*words, "--out", str(out), "--negative-prompt", "cartoon", "--quiet"]) == 2
    assert capsys.readouterr().err.startswith(
        "mgd3-fast: error: --negative-prompt must be left out with generator"
    )
    assert not out.exists()
    with pytest.raises(UserError, match="prompts must be left out with method random"):
        DistillConfig(dataset="mnist5k", ipc=1, out="x", method="random", prompts="prompts.txt")


def test_what_needs_classes_or_a_dit_refuses_it(pipeline: Path, run: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="generator must have classes of its own here, got tiny-diffusion"):
        export_network(ExportConfig(generator=str(pipeline)))
    generator = opened(pipeline).for_prompts(PROMPTS)
    with pytest.raises(UserError, match="precision must be auto, fp32, bf16 or fp16 for tiny-diffusion"):
        place_network(generator, torch.device("cpu"), "fp8")
    with pytest.raises(ValueError, match=r"denoiser must be a mgd3_engine.dit.DiT for backend onnxruntime"):
        run("out", backend="onnxruntime")


def test_backends_are_compared_on_prompts_of_their_own(pipeline: Path) -> None:
    generator = replace(opened(pipeline), defaults=SamplingDefaults(steps=3, cfg_scale=7.5, t_stop=1))
    outcome = accuracy._Bench(generator, torch.device("cpu")).outcome("eager", "bf16")
    assert outcome["reason"] is None
    assert 0 < outcome["relative_rms"] < 0.1


def test_without_transformers_the_extra_is_named(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=re.escape(install_command("stable-diffusion"))):
        opened(pipeline).for_prompts(PROMPTS).denoiser("cpu", torch.float32)
