"""Recipes of the protocols: the numbers of the papers' code, what is open and how it is chosen."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.mixing import Mix
from mgd3_fast.evaluate.networks import build_network
from mgd3_fast.evaluate.objective import batch_loss, make_optimizer
from mgd3_fast.evaluate.presets import affordable_preset, default_networks, find_preset
from mgd3_fast.evaluate.recipe import Recipe, make_recipe
from mgd3_fast.fit import rate_share


def recipe_of(
    protocol: str = "hard",
    *,
    preset: str = "imagenet",
    network: str = "resnet18",
    ipc: int = 10,
    num_classes: int = 10,
    side: int = 256,
    dataset: str = "d",
    **changes: Any,
) -> Recipe:
    if protocol == "soft":
        changes.setdefault("teacher", "teacher.pth")
    config = EvaluateConfig(folders=("x",), dataset=dataset, protocol=protocol, **changes)
    found = find_preset(preset, dataset, side, False)
    return make_recipe(config, found, network, ipc=ipc, num_classes=num_classes, side=side)


# The hard-label protocol


@pytest.mark.parametrize(
    ("ipc", "epochs", "of_100_classes"),
    [
        (1, 3000, 2000),
        (2, 2000, 1300),
        (10, 2000, 1300),
        (11, 1500, 1000),
        (50, 1500, 1000),
        (51, 1000, 600),
        (200, 1000, 600),
        (201, 500, 300),
        (500, 500, 300),
        (501, 300, 200),
    ],
)
def test_hard_epochs_follow_the_code(ipc: int, epochs: int, of_100_classes: int) -> None:
    assert recipe_of(ipc=ipc).epochs == epochs
    assert recipe_of(ipc=ipc, num_classes=100).epochs == of_100_classes
    assert recipe_of(ipc=ipc).test_every == epochs // 100


@pytest.mark.parametrize(
    ("ipc", "num_classes", "epochs"),
    [(10, 10, 2000), (20, 10, 1500), (50, 100, 1500), (100, 10, 1500), (1, 10, 3000), (200, 10, 1000)],
)
def test_paper_epochs_follow_the_appendix(ipc: int, num_classes: int, epochs: int) -> None:
    assert recipe_of(ipc=ipc, num_classes=num_classes, epochs="paper").epochs == epochs


def test_hard_numbers() -> None:
    recipe = recipe_of()
    assert (recipe.size, recipe.stored_size, recipe.test_resize) == (224, 224, 224)
    assert (recipe.augmentation, recipe.flip, recipe.crop_area) == ("imagenet", True, (0.5, 1.0))
    assert (recipe.mix, recipe.mix_alpha, recipe.mix_probability) == ("cutmix", 1.0, 1.0)
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay) == ("sgd", 0.01, 5e-4)
    assert (recipe.schedule, recipe.batch_size, recipe.score) == ("steps", 64, "best")
    assert (recipe.temperature, recipe.ema, recipe.bn_momentum) == (None, None, 0.1)


@pytest.mark.parametrize(
    ("num_classes", "rule", "large"),
    [
        (99, "idc", False),
        (100, "minmax", False),
        (100, "idc", True),
        (101, "minmax", True),
        (1000, "idc", True),
    ],
)
def test_many_classes_take_another_optimiser(num_classes: int, rule: str, large: bool) -> None:
    recipe = recipe_of(num_classes=num_classes, large_rule=rule)
    numbers = (recipe.lr, recipe.weight_decay, recipe.batch_size)
    assert numbers == ((0.1, 1e-4, 128) if large else (0.01, 5e-4, 64))


def test_small_images_follow_the_small_sets_of_the_same_code() -> None:
    recipe = recipe_of(preset="small", side=32)
    assert (recipe.size, recipe.epochs, recipe.test_every) == (32, 1000, 1000)
    assert (recipe.augmentation, recipe.mix_probability, recipe.flip) == ("shift", 0.5, True)


def test_mnist5k_is_never_mirrored() -> None:
    for protocol in ("hard", "soft", "cross"):
        assert not recipe_of(protocol, preset="mnist5k", side=32).flip
    assert recipe_of(preset="mnist5k", side=32, flip="on").flip


def test_steps_schedule() -> None:
    shares = [rate_share("steps", epoch, 2000) for epoch in (0, 1332, 1333, 1665, 1666, 1999)]
    assert shares == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])


def test_sgd_has_momentum_and_decays_everything() -> None:
    optimizer = make_optimizer(build_network("convnet3w32-in", 10, 32), recipe_of())
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (
        0.01,
        0.9,
        5e-4,
        False,
    )


def test_cutmix_loss_weighs_two_labels() -> None:
    logits, labels, partner = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.tensor([1, 0, 3, 2])
    loss = batch_loss(logits, labels, Mix(torch.empty(0), partner, 0.7), None, None)
    logs = logits.log_softmax(1)
    wanted = -sum(0.7 * logs[k, labels[k]] + 0.3 * logs[k, labels[partner[k]]] for k in range(4)) / 4
    torch.testing.assert_close(loss, wanted)


# The soft-label protocol


@pytest.mark.parametrize(
    ("ipc", "num_classes", "batch"),
    [(1, 10, 10), (10, 10, 50), (50, 10, 100), (1, 1000, 20), (10, 100, 100), (50, 1000, 200), (1, 4, 4)],
)
def test_soft_batches_follow_rded(ipc: int, num_classes: int, batch: int) -> None:
    assert recipe_of("soft", ipc=ipc, num_classes=num_classes).batch_size == batch


def test_soft_needs_a_batch_where_rded_has_none() -> None:
    with pytest.raises(UserError, match="batch_size must be given for soft at 20 images per class"):
        recipe_of("soft", ipc=20)
    assert recipe_of("soft", ipc=20, batch_size=64).batch_size == 64
    assert recipe_of("soft", ipc=2, batch_size=64).batch_size == 20  # never above all images


@pytest.mark.parametrize(
    ("network", "lr"),
    [
        ("resnet18", 1e-3),
        ("resnet101", 1e-3),
        ("convnet5-bn", 1e-3),
        ("vgg11", 5e-4),
        ("alexnet", 1e-4),
        ("vit_b_16", 1e-4),
    ],
)
def test_soft_numbers(network: str, lr: float) -> None:
    recipe = recipe_of("soft", network=network)
    assert (recipe.size, recipe.stored_size, recipe.test_resize) == (224, None, 256)
    assert (recipe.augmentation, recipe.patches, recipe.crop_area) == ("patches", 2, (0.5, 1.0))
    assert (recipe.mix, recipe.mix_probability, recipe.temperature) == ("cutmix", 1.0, 20.0)
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay) == ("adamw", lr, 0.01)
    assert (recipe.schedule, recipe.epochs) == ("half-cosine", 300)


@pytest.mark.parametrize(
    ("dataset", "network", "teacher", "size"),
    [
        ("imagenette", "convnet5-bn", None, 128),
        ("imagewoof", "convnet6-bn", None, 128),
        ("imagenet100", "convnet6-bn", "resnet18", 128),
        ("imagewoof", "resnet18", "convnet5-bn", 128),  # the teacher labels what the student sees
        ("imagewoof", "resnet18", None, 224),
        ("imagewoof", "convnet4-bn", None, 224),
        ("imagenet1k", "convnet6-bn", "convnet6-bn", 224),
        ("imagenet-a", "convnet5-bn", None, 224),
    ],
)
def test_soft_sees_small_images_where_rded_has_convnets(
    dataset: str, network: str, teacher: str | None, size: int
) -> None:
    recipe = recipe_of("soft", dataset=dataset, network=network, teacher_network=teacher)
    assert (recipe.size, recipe.test_resize, recipe.stored_size) == (size, size // 7 * 8, None)
    asked = recipe_of("soft", dataset=dataset, network=network, teacher_network=teacher, size=192)
    assert asked.size == 192
    if teacher is None:  # the other protocols and presets know nothing of it
        assert recipe_of("hard", dataset=dataset, network=network).size == 224
        small = recipe_of("soft", dataset=dataset, network=network, preset="small", side=64)
        assert small.size == 64


def test_soft_is_tested_every_tenth_epoch_of_the_last_fifth() -> None:
    recipe = recipe_of("soft")
    # RDED counts from 0: 249, 259, ..., 299.
    assert [epoch for epoch in range(1, 301) if recipe.is_tested(epoch)] == [250, 260, 270, 280, 290, 300]


def test_tests_can_be_asked_for() -> None:
    recipe = recipe_of("soft", tests=3)
    assert [epoch for epoch in range(1, 301) if recipe.is_tested(epoch)] == [100, 200, 300]
    recipe = recipe_of(epochs=7, tests=3)
    assert [epoch for epoch in range(1, 8) if recipe.is_tested(epoch)] == [2, 4, 6, 7]


def test_mixup_has_its_own_alpha_and_temperature() -> None:
    recipe = recipe_of("soft", mix="mixup")
    assert (recipe.mix_alpha, recipe.temperature) == (0.8, 4.0)


def test_crops_follow_the_number_of_patches() -> None:
    assert recipe_of("soft", patches=4).crop_area == (0.25, 1.0)
    assert recipe_of("soft", patches=1).crop_area == (1.0, 1.0)
    assert recipe_of("soft", patches=1, crop_area=0.3).crop_area == (0.3, 1.0)


def test_half_cosine_ends_at_half() -> None:
    shares = [rate_share("half-cosine", epoch, 300) for epoch in range(300)]
    assert shares == pytest.approx([0.5 * (1 + math.cos(math.pi * e / 600)) for e in range(300)])
    assert shares[-1] == pytest.approx(0.5, abs=0.003)


def test_adamw_decays_weights_of_two_axes_alone() -> None:
    network = build_network("resnet18_modified", 10, 32)
    optimizer = make_optimizer(network, recipe_of("soft"))
    decayed, free = optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"], decayed["betas"]) == (0.01, 0.0, (0.9, 0.999))
    assert {parameter.ndim for parameter in free["params"]} == {1}
    assert len(decayed["params"]) + len(free["params"]) == len(list(network.parameters()))


def test_position_embeddings_are_not_decayed() -> None:
    network = build_network("vit-glad", 10, 32)
    _, free = make_optimizer(network, recipe_of("soft")).param_groups
    assert any(parameter is network.pos_embedding for parameter in free["params"])


def test_soft_loss_is_the_divergence_without_the_squared_temperature() -> None:
    student, teacher = torch.randn(4, 5), 3 * torch.randn(4, 5)
    loss = batch_loss(student, torch.zeros(4, dtype=torch.int64), None, teacher, 20.0)
    p, q = (teacher / 20).softmax(1), (student / 20).softmax(1)
    torch.testing.assert_close(loss, (p * (p.log() - q.log())).sum() / 4)


@pytest.mark.parametrize(("updates", "momentum"), [(None, 0.19), (2, 0.19), (1, 0.1)])
def test_two_statistics_updates_are_one_of_larger_momentum(updates: int | None, momentum: float) -> None:
    assert recipe_of("soft", bn_updates=updates).bn_momentum == pytest.approx(momentum)
    twice, once = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3, momentum=0.19)
    maps = torch.randn(4, 3, 5, 5)
    twice(maps), twice(maps), once(maps)
    torch.testing.assert_close(twice.running_mean, once.running_mean)
    torch.testing.assert_close(twice.running_var, once.running_var)


# The cross-architecture protocol


def test_cross_numbers() -> None:
    recipe = recipe_of("cross", network="alexnet-glad")
    assert (recipe.size, recipe.stored_size, recipe.test_resize) == (128, 128, 128)
    assert (recipe.augmentation, recipe.mix) == ("siamese", "none")
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.batch_size) == ("sgd", 1e-3, 5e-4, 256)
    assert (recipe.schedule, recipe.epochs, recipe.test_every, recipe.ema) == (
        "warmup-cosine",
        1000,
        1000,
        0.995,
    )
    assert recipe_of("cross", network="vgg11-glad").lr == 1e-4


def test_cross_can_train_as_hard_does() -> None:
    assert recipe_of("cross", cross_recipe="hard") == recipe_of("hard")


def test_warmup_cosine_follows_torchs_schedulers() -> None:
    """GLaD's loop: a linear warm-up, then, one epoch late, a cosine, both torch's own."""
    epochs = 40
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-7, 1.0, epochs // 2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs // 2)
    scheduler: Any = warmup
    rates = []
    for epoch in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        if epoch == epochs // 2:
            scheduler = cosine
    assert [rate_share("warmup-cosine", epoch, epochs) for epoch in range(epochs)] == pytest.approx(
        rates, abs=1e-6
    )


# Presets and options


@pytest.mark.parametrize(
    ("dataset", "side", "imagenet", "name"),
    [
        ("mnist5k", 32, False, "mnist5k"),
        ("imagenette", 64, True, "imagenet"),
        ("birds", 64, False, "small"),
        ("birds", 65, False, "imagenet"),
    ],
)
def test_auto_preset(dataset: str, side: int, imagenet: bool, name: str) -> None:
    assert find_preset("auto", dataset, side, imagenet).name == name


@pytest.mark.parametrize(
    ("preset", "protocol", "size", "networks"),
    [
        ("imagenet", "hard", 224, ("convnet6-in", "resnetap10-in", "resnet18-in")),
        ("small", "hard", 64, ("convnet4-in", "resnetap10-in", "resnet18-in")),
        ("mnist5k", "hard", 32, ("convnet3w32-in",)),
        ("imagenet", "soft", 224, ("resnet18",)),
        ("small", "soft", 32, ("resnet18_modified",)),
        ("imagenet", "cross", 128, ("alexnet-glad", "vgg11-glad", "resnet18-glad", "vit-glad")),
    ],
)
def test_default_networks(preset: str, protocol: str, size: int, networks: tuple[str, ...]) -> None:
    assert default_networks(find_preset(preset, "d", size, False), protocol, size) == networks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "harder"}, "protocol must be one of hard, soft, cross, got 'harder'"),
        ({"protocol": "soft"}, "teacher must be given for protocol soft"),
        ({"teacher": "t.pth"}, "teacher must be left out unless protocol is soft"),
        ({"bn_updates": 1}, "bn_updates must be left out unless protocol is soft"),
        ({"cross_recipe": "hard"}, "cross_recipe must be left out unless protocol is cross"),
        ({"folders": ()}, "folders must be at least one"),
        ({"repeats": 0}, "repeats must be a whole number of at least 1, got 0"),
        ({"epochs": "many"}, "epochs must be code, paper or a whole number, got 'many'"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": math.nan}, "lr must be a finite number"),
        ({"crop_area": 1.5}, "crop_area must be a finite number from 0 to 1"),
        ({"mix_probability": -0.1}, "mix_probability must be a finite number from 0 to 1"),
        ({"networks": ()}, "networks must be names"),
        ({"flip": "yes"}, "flip must be one of off, on"),
        ({"device": "gpu"}, "device must be auto, cpu, cuda"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EvaluateConfig(**{"folders": ("x",), "dataset": "mnist5k", **changes})


def test_augmentations_that_do_not_crop_need_images_of_the_size() -> None:
    with pytest.raises(UserError, match="stored_size must be 32, the size, for augment shift, got 40"):
        recipe_of(preset="mnist5k", side=32, stored_size=40)


@pytest.mark.parametrize(
    ("side", "size", "network"), [(28, 28, "convnet3w32-in"), (256, 64, "convnet4w32-in")]
)
def test_quick_is_one_narrow_network_on_small_images(side: int, size: int, network: str) -> None:
    preset = find_preset("quick", "photos", side, False)
    assert (preset.rows["hard"].size, default_networks(preset, "hard", size)) == (size, (network,))


@pytest.mark.parametrize(
    ("asked", "dataset", "device", "taken"),
    [
        ("auto", "photos", "cpu", "quick"),
        ("auto", "photos", "cuda", "auto"),
        ("auto", "mnist5k", "cpu", "auto"),
        ("auto", "imagenette", "cpu", "auto"),
        ("small", "photos", "cpu", "small"),
    ],
)
def test_own_images_on_a_processor_get_the_quick_preset(
    asked: str, dataset: str, device: str, taken: str
) -> None:
    assert affordable_preset(asked, dataset, device) == taken
