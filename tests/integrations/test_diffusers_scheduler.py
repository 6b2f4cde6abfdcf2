"""ModeGuidedScheduler in diffusers' own pipelines, against GuidedSampler and against the base scheduler."""

from __future__ import annotations

import copy
import inspect
import math

import pytest
import torch
from torch import Tensor

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule
from mgd3_fast.integrations.diffusers import ModeGuidedScheduler

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE, CLASS_IDS = (4, 8, 8), [3, 981]
# Largest difference over the root mean square of the latents. Measured: 9.1e-6.
BOUND = 3e-5


@pytest.fixture(scope="module")
def pipeline():
    """A DiTPipeline of random weights; `decoded` collects the latents that reach its autoencoder."""
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
    ).eval()
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=4,
    ).eval()
    pipe = diffusers.DiTPipeline(transformer, vae, make_base("DDIMScheduler"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_base(name: str, **config):
    return getattr(diffusers, name)(**{"clip_sample": False} | config)


def make_modes(count: int = len(CLASS_IDS)) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(4))


def run(pipe, scheduler, guidance_scale: float = 4.0, steps: int = 50) -> Tensor:
    """Sample with the pipeline and return the latents that it decodes, `[N, C, H, W]`."""
    decoded = []
    torch.manual_seed(5)  # DiTPipeline draws the noise of its steps from the global generator
    pipe = copy.copy(pipe)
    pipe.scheduler = scheduler
    decode = pipe.vae.decode

    def record(latents: Tensor):
        decoded.append(latents * pipe.vae.config.scaling_factor)
        return decode(latents)

    pipe.vae.decode = record
    try:
        images = pipe(
            class_labels=CLASS_IDS,
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(7),
            output_type="pt",
        ).images
    finally:
        pipe.vae.decode = decode
    assert torch.isfinite(images).all()
    return decoded[0]


def starting_noise() -> Tensor:
    return torch.randn(len(CLASS_IDS), *SHAPE, generator=torch.Generator().manual_seed(7))


def engine(pipe, guidance: ModeGuidance | None, guidance_scale: float, **options) -> Tensor:
    network = pipe.transformer

    def denoiser(x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        return network(x, timestep=timestep, class_labels=class_ids).sample[:, :4]  # as DiTPipeline does

    sampler = GuidedSampler(
        denoiser,
        schedule=NoiseSchedule.linear(),
        steps=50,
        spacing="ddim",
        cfg_scale=guidance_scale,
        null_class=1000,
        guidance=guidance,
        batch_size=8,
        backend="eager",
        **options,
    )
    noise = starting_noise()
    return sampler.sample(torch.tensor(CLASS_IDS), make_modes(), None, noise=lambda step, image: noise[image])


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.square().mean().sqrt())


@pytest.mark.parametrize(
    ("form", "t_stop", "guidance_scale"),
    [("auto", 0, 4.0), ("auto", 25, 4.0), ("auto", 25, 1.0), ("x0", 25, 4.0), ("posterior", 25, 4.0)],
)
def test_dit_pipeline_with_ddim_equals_the_engine(pipeline, form, t_stop, guidance_scale):
    guidance = ModeGuidance(0.1, t_stop, form)
    scheduler = ModeGuidedScheduler(make_base("DDIMScheduler"), modes=make_modes(), guidance=guidance)
    got = run(pipeline, scheduler, guidance_scale)
    want = engine(pipeline, guidance, guidance_scale, method="ddim")
    error = relative_error(got, want)
    print(f"ddim {form} t_stop={t_stop} cfg={guidance_scale}: {error:.1e}")
    assert error < BOUND
    assert relative_error(got, engine(pipeline, None, guidance_scale, method="ddim")) > 10 * BOUND


def test_guidance_of_no_step_is_refused(pipeline):
    scheduler = ModeGuidedScheduler(
        make_base("DDIMScheduler"), modes=make_modes(), guidance=ModeGuidance(t_stop=49)
    )
    with pytest.raises(ValueError, match=r"t_stop must be below 49, .* got 49"):
        run(pipeline, scheduler)


@pytest.mark.parametrize("guidance", [ModeGuidance(0.0, 50), ModeGuidance(0.0, 0)], ids=str)
@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_without_guidance_the_base_steps_to_the_byte(pipeline, name, guidance):
    plain = run(pipeline, make_base(name))
    assert torch.equal(
        run(pipeline, ModeGuidedScheduler(make_base(name), modes=make_modes(), guidance=guidance)), plain
    )


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("form", ["posterior", "epsilon", "x0"])
def test_one_ddpm_step_is_the_formula(form, prediction_type, variance_type):
    """A guided step minus the base's own, both with the same noise, is the displacement of the form."""
    base = make_base("DDPMScheduler", prediction_type=prediction_type, variance_type=variance_type)
    scheduler = ModeGuidedScheduler(base, modes=make_modes(), guidance=ModeGuidance(0.1, 25, form))
    scheduler.set_timesteps(50)
    channels = 8 if variance_type == "learned_range" else 4
    output, sample = torch.randn(2, channels, 8, 8).tanh(), torch.randn(2, *SHAPE)
    abars = NoiseSchedule.linear().alphas_cumprod
    for i in (49, 26, 25, 0):
        timestep = scheduler.timesteps[49 - i]
        guided, plain = (
            s.step(output, timestep, sample, generator=torch.Generator().manual_seed(1)).prev_sample
            for s in (scheduler, base)
        )
        abar, previous = abars[20 * i], abars[20 * (i - 1)] if i else 1.0
        beta = 1 - abar / previous
        low, fraction = math.log(max(beta * (1 - previous) / (1 - abar), 1e-20)), (output[:, 4:] + 1) / 2
        log_variance = {"fixed_small": low, "fixed_large": math.log(beta)}.get(variance_type)
        if log_variance is None:
            log_variance = fraction * math.log(beta) + (1 - fraction) * low
        sigma = torch.exp(0.5 * torch.as_tensor(log_variance))
        x0 = {
            "epsilon": sample / math.sqrt(abar) - math.sqrt(1 / abar - 1) * output[:, :4],
            "v_prediction": math.sqrt(abar) * sample - math.sqrt(1 - abar) * output[:, :4],
            "sample": output[:, :4],
        }[prediction_type]
        c_x0 = math.sqrt(previous) * beta / (1 - abar)
        strength = {"posterior": sigma, "epsilon": c_x0 * (1 - abar) / math.sqrt(abar), "x0": c_x0}[form]
        expected = 0.1 * strength * (make_modes() - x0) if i > 25 else torch.zeros(())
        torch.testing.assert_close(guided - plain, expected.expand_as(plain), rtol=1e-4, atol=3e-5)


def test_dit_pipeline_with_ddpm_is_pulled_to_the_modes(pipeline):
    pulled, plain = (
        run(pipeline, ModeGuidedScheduler(make_base("DDPMScheduler"), modes=make_modes(), guidance=guidance))
        for guidance in (ModeGuidance(0.1, 0), ModeGuidance(0.0))
    )
    distance = [(latents - make_modes()).flatten(1).norm(dim=1) for latents in (pulled, plain)]
    assert (distance[0] < distance[1]).all()


def test_an_unconditional_pipeline_is_guided_too():
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()
    pipe = diffusers.DDPMPipeline(unet, make_base("DDPMScheduler"))
    pipe.set_progress_bar_config(disable=True)

    def distance_to_modes(scale: float) -> Tensor:
        base, seen = make_base("DDPMScheduler"), []
        step = base.step
        base.step = lambda *args, **kwargs: seen.append(step(*args, **kwargs)) or seen[-1]
        pipe.scheduler = ModeGuidedScheduler(base, modes=make_modes(3), guidance=ModeGuidance(scale, 0))
        pipe(
            batch_size=3, num_inference_steps=20, generator=torch.Generator().manual_seed(0), output_type="np"
        )
        assert len(seen) == 20
        return (seen[-1].prev_sample - make_modes(3)).flatten(1).norm(dim=1)

    assert (distance_to_modes(0.1) < 0.5 * distance_to_modes(0.0)).all()


def test_everything_but_the_step_is_the_bases_own():
    base = make_base("DDIMScheduler", timestep_spacing="leading")
    scheduler = ModeGuidedScheduler(base, modes=make_modes())
    scheduler.set_timesteps(10)
    assert scheduler.timesteps is base.timesteps
    assert scheduler.config is base.config
    assert scheduler.init_noise_sigma == base.init_noise_sigma
    assert scheduler.order == base.order
    assert len(scheduler) == len(base) == 1000
    noise = torch.ones(2, *SHAPE)
    assert torch.equal(scheduler.scale_model_input(noise, 3), noise)
    timestep = torch.tensor([500])
    assert torch.equal(
        scheduler.add_noise(make_modes(), noise, timestep), base.add_noise(make_modes(), noise, timestep)
    )
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = scheduler.no_such_thing
    assert copy.deepcopy(scheduler).guidance == scheduler.guidance


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_pipelines_see_the_arguments_of_the_base(name):
    base = make_base(name)
    scheduler = ModeGuidedScheduler(base, modes=make_modes())
    assert inspect.signature(scheduler.step) == inspect.signature(base.step)
    assert inspect.signature(scheduler.set_timesteps) == inspect.signature(base.set_timesteps)


@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize("form", ["posterior", "epsilon"])
def test_tuples_and_half_precision(form, return_dict):
    scheduler = ModeGuidedScheduler(
        make_base("DDIMScheduler"), modes=make_modes(), guidance=ModeGuidance(0.1, 0, form)
    )
    scheduler.set_timesteps(50)
    sample = torch.randn(2, *SHAPE, dtype=torch.bfloat16)
    result = scheduler.step(sample * 0.5, scheduler.timesteps[20], sample, return_dict=return_dict)
    previous = result.prev_sample if return_dict else result[0]
    assert previous.dtype == torch.bfloat16
    assert torch.isfinite(previous).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: make_base("DDIMScheduler", clip_sample=True),
            "base must have clip_sample and thresholding off",
        ),
        (
            lambda: make_base("DDPMScheduler", thresholding=True),
            "got clip_sample=False and thresholding=True",
        ),
        (lambda: make_base("DDPMScheduler", variance_type="learned"), "variance_type, got learned"),
        (lambda: diffusers.EulerDiscreteScheduler(), "a DDPMScheduler or a DDIMScheduler, got EulerDiscrete"),
    ],
)
def test_wrong_bases_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        ModeGuidedScheduler(make(), modes=make_modes())


def test_wrong_modes_are_refused(pipeline):
    with pytest.raises(
        ValueError, match=r"modes must be finite float \[N, C, H, W\], got torch.float32 \[2, 256\]"
    ):
        ModeGuidedScheduler(make_base("DDIMScheduler"), modes=make_modes().flatten(1))
    with pytest.raises(ValueError, match="modes must be finite"):
        ModeGuidedScheduler(make_base("DDIMScheduler"), modes=make_modes() / 0)
    for count in (1, 3):
        scheduler = ModeGuidedScheduler(make_base("DDIMScheduler"), modes=make_modes(count))
        with pytest.raises(ValueError, match=r"modes must be \[4, 4, 8, 8\], one for each image"):
            run(pipeline, scheduler)
    # Half as many modes as images is not a doubled batch: its halves differ.
    scheduler = ModeGuidedScheduler(make_base("DDIMScheduler"), modes=make_modes(1))
    with pytest.raises(ValueError, match=r"modes must be \[2, 4, 8, 8\]"):
        run(pipeline, scheduler, guidance_scale=1.0)


def test_a_timestep_of_another_run_is_refused():
    scheduler = ModeGuidedScheduler(make_base("DDIMScheduler"), modes=make_modes())
    scheduler.set_timesteps(50)
    with pytest.raises(ValueError, match="timestep must be one that set_timesteps chose, got 999"):
        scheduler.step(make_modes(), 999, make_modes())


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}


def stepped(scheduler, outputs: Tensor, sample: Tensor) -> list[Tensor]:
    """Step through five timesteps with the same output of the network each time."""
    scheduler.set_timesteps(5)
    samples = []
    for timestep in scheduler.timesteps:
        noise = torch.Generator().manual_seed(int(timestep))
        sample = scheduler.step(outputs, timestep, sample, generator=noise).prev_sample
        samples.append(sample)
    return samples


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
@pytest.mark.parametrize("form", ["auto", "epsilon", "x0", "posterior"])
def test_zero_terminal_snr_is_sampled(name, form):
    base, modes = make_base(name, **ZERO_SNR), make_modes()
    assert base.alphas_cumprod[-1] == 0
    outputs, sample = 0.1 * make_modes().flip(0), starting_noise()
    free = stepped(base, outputs, sample)
    guided = stepped(
        ModeGuidedScheduler(base, modes=modes, guidance=ModeGuidance(0.1, 1, form)), outputs, sample
    )
    assert all(torch.isfinite(latents).all() for latents in guided)
    assert not torch.equal(guided[-1], free[-1])
    resolved = ModeGuidance(0.1, 1, form).resolve("ddim" if name == "DDIMScheduler" else "ddpm").form
    # at abar 0 the form epsilon is not defined: that step is the base's own
    assert torch.equal(guided[0], free[0]) == (resolved == "epsilon")


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_noise_alone_cannot_be_predicted_from(name):
    base = make_base(name, **ZERO_SNR | {"prediction_type": "epsilon"})
    scheduler = ModeGuidedScheduler(base, modes=make_modes(), guidance=ModeGuidance(t_stop=1))
    with pytest.raises(ValueError, match=r"at timestep 999, got epsilon: .* nothing but noise"):
        stepped(scheduler, make_modes(), starting_noise())


@pytest.mark.parametrize("rows", [1, 2], ids=["one half", "both halves"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_that_returns_nan_is_named(rows, value):
    guidance = ModeGuidance(t_stop=1)
    scheduler = ModeGuidedScheduler(make_base("DDIMScheduler"), modes=make_modes(), guidance=guidance)
    outputs, sample = make_modes().repeat(rows, 1, 1, 1), starting_noise().repeat(rows, 1, 1, 1)
    damaged = outputs.clone()
    damaged[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="the output of the network at timestep 800 holds NaN or infinity"):
        stepped(scheduler, damaged, sample)
    sample[-1, 0, 0, 0] = value
    with pytest.raises(ValueError, match="the sample at timestep 800 holds NaN or infinity"):
        stepped(scheduler, outputs, sample)
