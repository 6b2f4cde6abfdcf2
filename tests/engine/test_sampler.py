"""GuidedSampler: what an image depends on, what the network is shown, and what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule, image_seed, image_seeds
from mgd3_engine.dit import DiT, DiTConfig
from mgd3_engine.sampling.guidance import StepState
from mgd3_kernels import philox_normal
from tests.fakes.recording import record_phases

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES, SHAPE = 10, (4, 8, 8)
# Largest difference of float32 latents between batch sizes, over their root mean square. Measured: 5.3e-6.
ACROSS_BATCH_SIZES = 2e-5


def randomize(network: nn.Module) -> nn.Module:
    """Give every parameter a size at which the network's output is of unit scale and nonlinear."""
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
        parameter.data = torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in)
    return network.requires_grad_(False).eval()


def small_dit() -> nn.Module:
    return randomize(
        DiT(DiTConfig(input_size=8, patch_size=2, hidden_size=48, depth=2, num_heads=3, num_classes=CLASSES))
    )


class ConvNet(nn.Module):
    """Convolutions, group norm and an embedding: the operations of a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)
        self.norm, self.classes = nn.GroupNorm(4, 16), nn.Embedding(CLASSES + 1, 16)

    def forward(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        condition = self.classes(class_ids) + torch.sin(timestep[:, None] * 0.01).to(x.dtype)
        return self.leave(torch.tanh(self.norm(self.enter(x)) + condition[:, :, None, None]))


NETWORKS = {"dit": small_dit, "convnet": lambda: randomize(ConvNet())}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


def make_sampler(network=None, **options) -> GuidedSampler:
    defaults = {"schedule": NoiseSchedule.linear(), "steps": 6, "null_class": CLASSES, "batch_size": 8}
    defaults |= {"guidance": ModeGuidance(t_stop=3), "backend": "eager"}
    return GuidedSampler(network or randomize(ConvNet()), **defaults | options)


def make_images(count: int) -> tuple[Tensor, Tensor, Tensor]:
    class_ids = torch.arange(count) * 7 % CLASSES
    modes = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))
    return class_ids, modes, image_seeds(0, [(str(int(c)), k) for k, c in enumerate(class_ids)])


def assert_bytes_depend_on_the_image_alone(network, **options) -> None:
    sampler = make_sampler(network, cfg_channels=3, **options)
    class_ids, modes, seeds = make_images(20)
    whole = sampler.sample(class_ids, modes, seeds)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    assert torch.equal(sampler.sample(class_ids[order], modes[order], seeds[order]), whole[order])
    for part in (slice(0, 1), slice(1, 4), slice(4, 20)):
        assert torch.equal(sampler.sample(class_ids[part], modes[part], seeds[part]), whole[part])
    strangers = torch.randn(20, *SHAPE) * 3
    for place in (0, 5, 7, 19):
        others_ids, others_modes, others_seeds = class_ids.flip(0), strangers.clone(), seeds.flip(0) + 17
        others_ids[place], others_modes[place], others_seeds[place] = class_ids[11], modes[11], seeds[11]
        assert torch.equal(sampler.sample(others_ids, others_modes, others_seeds)[place], whole[11])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", ["ddpm", "ddim", "dpmpp-sde"])
def test_bytes_do_not_depend_on_company_place_order_or_calls(network, method, dtype):
    network = copy.deepcopy(network).to(dtype)
    assert_bytes_depend_on_the_image_alone(network, method=method, dtype=dtype)


def test_bytes_do_not_depend_on_company_with_two_threads(network):
    torch.set_num_threads(2)
    assert_bytes_depend_on_the_image_alone(network)


def test_batch_sizes_60_7_and_1_agree(network):
    images = make_images(13)
    runs = [
        make_sampler(network, steps=25, guidance=ModeGuidance(t_stop=12), batch_size=size).sample(*images)
        for size in (60, 7, 1)
    ]
    scale = float(runs[0].square().mean().sqrt())
    error = max(float((other - runs[0]).abs().max()) / scale for other in runs[1:])
    print(f"batch size 60 against 7 and 1: {error:.1e}")
    assert error < ACROSS_BATCH_SIZES


@pytest.mark.parametrize(("batch_size", "rows"), [(1, 1), (2, 8), (8, 8), (9, 16), (60, 64), (64, 64)])
def test_every_batch_has_the_same_shape(batch_size, rows):
    seen = []

    def denoiser(x, timestep, class_ids):
        seen.append((x.clone(), timestep.clone(), class_ids.clone()))
        return x

    sampler = make_sampler(denoiser, batch_size=batch_size, steps=3, guidance=ModeGuidance(t_stop=1))
    assert sampler.batch_shape == rows
    class_ids, modes, seeds = make_images(rows + 1)
    sampler.sample(class_ids, modes, seeds)
    assert len(seen) == 2 * 3
    for call, (x, timestep, ids) in enumerate(seen):
        assert x.shape == (2 * rows, *SHAPE)
        assert torch.equal(x[:rows], x[rows:])
        assert timestep.dtype == torch.int64
        assert timestep.tolist() == [(999, 500, 0)[call % 3]] * (2 * rows)
        real = class_ids[:rows] if call < 3 else class_ids[rows:].expand(rows)
        assert ids.tolist() == [*real.tolist(), *[CLASSES] * rows]


@pytest.mark.parametrize("off", [{"cfg_scale": 1.0}, {"cfg_channels": 0}], ids=str)
def test_without_cfg_the_network_runs_once_per_image(off):
    network, rows = randomize(ConvNet()), []

    def denoiser(x, timestep, class_ids):
        rows.append(len(x))
        return network(x, timestep, class_ids)

    images = make_images(5)
    alone = make_sampler(denoiser, **off, null_class=None if "cfg_scale" in off else CLASSES).sample(*images)
    assert set(rows) == {8}
    # With guidance at (almost) scale 1 both halves run, and the conditional half is what comes out.
    both = make_sampler(denoiser, cfg_scale=1.0 + 1e-7).sample(*images)
    assert set(rows) == {8, 16}
    torch.testing.assert_close(alone, both, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t_stop", [5, 50])
def test_guidance_of_no_step_is_refused(t_stop):
    with pytest.raises(
        ValueError, match=f"t_stop must be below 5, .* got {t_stop}; guidance=None or scale 0"
    ):
        make_sampler(guidance=ModeGuidance(t_stop=t_stop))


@pytest.mark.parametrize(
    ("steps", "stop"), [(50, 25), (20, 10), (5, 2), (3, 1), (2, 0)], ids=lambda value: str(value)
)
def test_without_a_stop_half_of_the_steps_are_guided(steps, stop):
    assert make_sampler(steps=steps, guidance=ModeGuidance()).guidance.t_stop == stop


def test_of_one_step_none_can_be_guided():
    with pytest.raises(ValueError, match="t_stop must be below 0"):
        make_sampler(steps=1, guidance=ModeGuidance())


def test_guidance_of_no_step_of_a_run_that_starts_at_the_mode_is_refused():
    with pytest.raises(ValueError, match="t_stop must be below 2"):
        make_sampler(guidance=ModeGuidance(t_stop=2), start_strength=0.5)


def test_no_guidance_and_scale_0_are_the_same_bytes():
    images = make_images(3)
    off = [None, ModeGuidance(0.0, 0), ModeGuidance(0.0, 50)]
    runs = [make_sampler(guidance=guidance).sample(*images) for guidance in off]
    assert all(torch.equal(run, runs[0]) for run in runs[1:])
    assert not torch.equal(make_sampler().sample(*images), runs[0])


@pytest.mark.parametrize(
    ("method", "form"),
    [
        ("ddpm", "posterior"),
        ("ddim", "epsilon"),
        ("ddim", "x0"),
        ("dpmpp", "epsilon"),
        ("dpmpp", "x0"),
        ("dpmpp-sde", "posterior"),
    ],
)
def test_guidance_pulls_each_image_to_its_own_mode(method, form):
    class_ids, modes, seeds = make_images(12)
    options = {"method": method, "steps": 50}
    pulled, free = (
        make_sampler(guidance=guidance, **options).sample(class_ids, modes, seeds)
        for guidance in (ModeGuidance(0.1, 0, form), None)
    )
    distance = [(latents - modes).flatten(1).norm(dim=1) for latents in (pulled, free)]
    assert (distance[0] < distance[1]).all()


def test_uint64_seeds_are_the_same_bit_patterns():
    class_ids, modes, seeds = make_images(6)
    assert (seeds < 0).any(), "one of the seeds must need the 64th bit"
    sampler = make_sampler()
    assert torch.equal(
        sampler.sample(class_ids, modes, seeds), sampler.sample(class_ids, modes, seeds.view(torch.uint64))
    )


def test_image_seed_is_a_fixed_function_of_its_three_arguments():
    assert image_seed(0, "n01440764", 0) == 0xD7DF0B4F2844B7F5
    seeds = {image_seed(run, name, k) for run in range(4) for name in ("1", "11", "a") for k in range(20)}
    assert len(seeds) == 4 * 3 * 20
    assert max(seeds) > 2**63
    tensor = image_seeds(3, [("a", 0), ("a", 1)])
    assert [seed % 2**64 for seed in tensor.tolist()] == [image_seed(3, "a", 0), image_seed(3, "a", 1)]
    with pytest.raises(ValueError, match="mode_index must be at least 0, got -1"):
        image_seed(0, "a", -1)


@pytest.mark.parametrize(("method", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 1.0), ("dpmpp-sde", 0.0)])
def test_given_noise_takes_the_place_of_the_counter(method, eta):
    class_ids, modes, seeds = make_images(11)
    sampler = make_sampler(method=method, eta=eta)

    def noise(step: int, image: int) -> Tensor:
        return philox_normal(seeds[image : image + 1], step, SHAPE)[0]

    assert torch.equal(
        sampler.sample(class_ids, modes, None, noise=noise), sampler.sample(class_ids, modes, seeds)
    )


def test_callback_sees_every_step_of_every_batch_and_the_result():
    class_ids, modes, seeds = make_images(11)
    steps, last = [], torch.full((11, *SHAPE), float("nan"))

    def callback(step: int, image_index: Tensor, x: Tensor) -> None:
        steps.append((step, image_index.tolist()))
        if step == 0:
            last[image_index] = x

    latents = make_sampler().sample(class_ids, modes, seeds, callback=callback)
    batches = [list(range(8)), [8, 9, 10]]
    assert steps == [(step, batch) for batch in batches for step in (5, 4, 3, 2, 1, 0)]
    assert torch.equal(last, latents)


def test_one_step_returns_x0_of_the_starting_noise():
    class_ids, modes, seeds = make_images(2)
    sampler = make_sampler(lambda x, t, c: x * 0.5, steps=1, guidance=None)
    start, abar = philox_normal(seeds, 1, SHAPE), 1 - 1e-4
    expected = start / math.sqrt(abar) - math.sqrt(1 / abar - 1) * 0.5 * start
    torch.testing.assert_close(sampler.sample(class_ids, modes, seeds), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("strength", "first"), [(1.0, 49), (0.7, 34), (0.02, 0)])
def test_a_start_at_the_noised_mode(strength, first):
    class_ids, modes, seeds = make_images(3)
    steps, states = [], []

    def denoiser(x, timestep, class_ids):
        states.append(x[:3].clone())
        return x * 0

    sampler = make_sampler(denoiser, steps=50, guidance=None, start_strength=strength)
    sampler.sample(class_ids, modes, seeds, callback=lambda step, index, x: steps.append(step))
    assert steps == list(range(first, -1, -1))
    abar = float(sampler.respaced.alphas_cumprod[first])
    start = math.sqrt(abar) * modes + math.sqrt(1 - abar) * philox_normal(seeds, 50, SHAPE)
    torch.testing.assert_close(states[0], start, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="modes must be"):
        sampler.sample(class_ids, None, seeds, latent_shape=SHAPE)


def test_networks_may_return_another_dtype_than_they_take():
    network = randomize(ConvNet()).bfloat16()
    images = make_images(4)
    upcast = make_sampler(lambda x, t, c: network(x, t, c).float(), dtype=torch.bfloat16).sample(*images)
    assert torch.equal(upcast, make_sampler(network, dtype=torch.bfloat16).sample(*images))


def test_no_images_are_no_latents():
    sampler = make_sampler()
    assert sampler.sample(*(tensor[:0] for tensor in make_images(3))).shape == (0, *SHAPE)


def test_latents_are_ordinary_tensors_that_later_calls_leave_alone():
    sampler, images = make_sampler(), make_images(3)
    latents = sampler.sample(*images)
    kept = latents.clone()
    sampler.sample(*(tensor.flip(0) for tensor in images))
    assert torch.equal(latents, kept)
    latents.requires_grad_().sum().backward()


def test_unguided_run_needs_only_a_shape():
    class_ids, modes, seeds = make_images(3)
    sampler = make_sampler(guidance=None)
    assert torch.equal(
        sampler.sample(class_ids, None, seeds, latent_shape=SHAPE), sampler.sample(class_ids, modes, seeds)
    )


def with_nan(modes: Tensor) -> Tensor:
    modes = modes.clone()
    modes[1, 0, 0, 0] = float("nan")
    return modes


IDS, MODES, SEEDS = make_images(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IDS.int(), MODES, SEEDS), r"class_ids must be int64 \[N\], got torch.int32 \[3\]"),
        ((IDS[None], MODES, SEEDS), r"class_ids must be int64 \[N\], got torch.int64 \[1, 3\]"),
        ((IDS - 1, MODES, SEEDS), "class_ids must be from 0 to 9, got -1 for image 0"),
        ((IDS + 6, MODES, SEEDS), "class_ids must be from 0 to 9, got 13 for image 1"),
        (
            (IDS, MODES[:2], SEEDS),
            r"modes must be float32 \[3, C, H, W\], one for each .* got torch.float32 \[2,",
        ),
        ((IDS, MODES.double(), SEEDS), "modes must be float32 .* got torch.float64"),
        ((IDS, MODES.flatten(1), SEEDS), r"modes must be \[N, C, H, W\], got \[3, 256\]"),
        ((IDS, with_nan(MODES), SEEDS), "modes must be finite, got NaN or infinity for image 1"),
        ((IDS, None, SEEDS), "latent_shape must be .* where modes is None, got None"),
        ((IDS, MODES, None), r"seeds must be int64 or uint64 \[N\] where no noise is given, got None"),
        ((IDS, MODES, SEEDS[:1]), r"seeds must be int64 or uint64 \[3\], .* got torch.int64 \[1\]"),
        ((IDS, MODES, SEEDS.int()), "seeds must be int64 or uint64 .* got torch.int32"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_sampler().sample(*arguments)


def test_wrong_keyword_arguments_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"modes must be float32 \[N, C, H, W\] for a guided run, got None"):
        make_sampler().sample(IDS, None, SEEDS, latent_shape=SHAPE)
    with pytest.raises(ValueError, match=r"\(C, H, W\) = \(4, 4, 4\), got \[3, 4, 8, 8\]"):
        make_sampler().sample(IDS, MODES, SEEDS, latent_shape=(4, 4, 4))
    with pytest.raises(ValueError, match=r"noise must return \[4, 8, 8\], got \[8, 8\] at step 6"):
        make_sampler().sample(IDS, MODES, None, noise=lambda step, image: torch.zeros(8, 8))
    with pytest.raises(ValueError, match="class_ids must be above the null class 0, got 0 for image 0"):
        make_sampler(null_class=0).sample(IDS, MODES, SEEDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1001}, "steps must be a whole number from 1 to 1000, got 1001"),
        ({"eta": 0.5}, "eta must be 0 for ddpm"),
        ({"method": "dpm"}, "method must be one of ddpm, ddim"),
        ({"method": "dpmpp", "eta": 0.5}, "eta must be 0 for dpmpp, it is an option of ddim, got 0.5"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"cfg_scale": float("nan")}, "cfg_scale must be a finite number of at least 0, got nan"),
        ({"cfg_scale": -1.0}, "got -1.0"),
        ({"cfg_channels": -1}, "cfg_channels must be at least 0, or None for all, got -1"),
        ({"null_class": None}, "null_class must be the id of the null class for cfg_scale 4.0, got None"),
        ({"start_strength": 0.0}, "start_strength must be above 0, at most 1 and at least one of 6 steps"),
        ({"start_strength": 0.1}, "at least one of 6 steps, got 0.1"),
        ({"dtype": torch.float64}, "dtype must be float32, bfloat16 or float16, got torch.float64"),
        ({"backend": "xla"}, r"backend must be one of auto, eager, compiled.*, got 'xla'"),
    ],
)
def test_wrong_options_say_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(**options)


@pytest.mark.parametrize(
    ("denoiser", "options", "message"),
    [
        (lambda x, t, c: x[:, :3], {}, r"denoiser must return \[16, 4 or 8, 8, 8\] .* got \[16, 3, 8, 8\]"),
        (lambda x, t, c: x[:8], {}, r"got \[8, 4, 8, 8\]"),
        (lambda x, t, c: x.repeat(1, 2, 1, 1), {"variance": "fixed_large"}, "for a network of 8 channels"),
        (lambda x, t, c: x, {"variance": "learned_range"}, "for a network of 4 channels"),
        (lambda x, t, c: x, {"cfg_channels": 5}, "cfg_channels must be from 0 to 4, got 5"),
        (lambda x, t, c: x / 0, {}, "the latents of image 0 became NaN or infinite"),
    ],
)
def test_wrong_networks_say_what_is_expected(denoiser, options, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(denoiser, **options).sample(IDS, MODES, SEEDS)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cuda_equals_cpu(network, dtype):
    images = make_images(20)
    network = copy.deepcopy(network).to(dtype)
    cpu = make_sampler(network, dtype=dtype).sample(*images)
    cuda = make_sampler(network.cuda(), dtype=dtype).sample(*images)
    assert cuda.device == cpu.device
    scale = float(cpu.square().mean().sqrt())
    assert float((cuda - cpu).abs().max()) / scale < (1e-4 if dtype == torch.float32 else 0.2)


class InPlaces:
    """A DiT that says nothing of its patches: its output is put in its places by itself."""

    def __init__(self, network: DiT) -> None:
        self._network = network
        self.modulation, self.denoise = network.modulation, network.denoise

    def __call__(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        return self._network(x, timestep, class_ids)


class Pull:
    """A guidance term that needs the network's gradient."""

    needs_grad, needs_group = True, False

    def __call__(self, state: StepState) -> Tensor:
        (slope,) = torch.autograd.grad(state.x0.square().sum(), state.x_t)
        return -1e-3 * slope


@pytest.mark.parametrize("terms", [(), (Pull(),)], ids=["fused", "with a gradient term"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_output_read_in_patches_changes_no_byte(dtype: torch.dtype, terms: tuple[Pull, ...]) -> None:
    network, images = small_dit().to(dtype), make_images(5)
    seen: list[int] = []
    patches = network.denoise_patches

    def watched(x: Tensor, modulation: Tensor) -> Tensor:
        seen.append(patches(x, modulation).ndim)
        return patches(x, modulation)

    network.denoise_patches = watched
    options = {"cfg_channels": 3, "dtype": dtype, "terms": terms}
    got = make_sampler(network, **options).sample(*images)
    assert seen == [6] * 6
    want = make_sampler(InPlaces(network), **options).sample(*images)
    assert torch.equal(got, want)


def test_wrong_patches_are_refused() -> None:
    network = small_dit()
    patches = network.denoise_patches
    network.denoise_patches = lambda x, modulation: patches(x, modulation)[..., :1]
    with pytest.raises(ValueError, match=r"denoiser must return .* got \[16, 8, 4, 2, 4, 1\]"):
        make_sampler(network).sample(*make_images(2))


@pytest.mark.parametrize(
    ("backend", "captures", "words"),
    [
        ("eager", False, ""),
        ("eager", True, "capturing CUDA graphs"),
        ("compiled", False, "compiling the network"),
        ("compiled", True, "compiling the network and capturing CUDA graphs"),
    ],
)
def test_says_what_the_first_batch_does_beside_sampling(backend: str, captures: bool, words: str) -> None:
    sampler = make_sampler(randomize(ConvNet()))
    sampler.backend = backend
    if captures:
        record_phases(sampler)
    assert sampler.preparation == words
