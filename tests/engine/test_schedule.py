"""Schedules: the published golden numbers, and rules that hold at every length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgd3_engine import NoiseSchedule

DIT_50 = (
    "0 20 41 61 82 102 122 143 163 183 204 224 245 265 285 306 326 347 367 387 408 428 449 469 489 "
    "510 530 550 571 591 612 632 652 673 693 714 734 754 775 795 816 836 856 877 897 917 938 958 979 999"
)

# i: S, beta, abar, sigma low, sigma high, c(x0), c(x_t), rounded as published
GOLDEN_50 = {
    0: (0, 0.000100, 0.999900, 0.00992, 0.01000, 1.00000, 0.00000),
    1: (20, 0.006165, 0.993735, 0.00992, 0.07852, 0.98409, 0.01591),
    25: (510, 0.191302, 0.070238, 0.43345, 0.43738, 0.06064, 0.88321),
    26: (530, 0.189797, 0.056907, 0.43257, 0.43566, 0.05334, 0.88739),
    35: (714, 0.258226, 0.005623, 0.50766, 0.50816, 0.02261, 0.85957),
    49: (999, 0.329809, 0.000040, 0.57428, 0.57429, 0.00256, 0.81864),
}


def test_50_steps_of_dit():
    assert NoiseSchedule.linear(1000, 1e-4, 2e-2).respaced(50).timesteps.tolist() == [
        int(S) for S in DIT_50.split()
    ]


@pytest.mark.parametrize("i", GOLDEN_50)
def test_golden_numbers_of_50_steps(i):
    respaced = NoiseSchedule.linear(1000, 1e-4, 2e-2).respaced(50)
    S, beta, abar, sigma_low, sigma_high, c_x0, c_xt = GOLDEN_50[i]
    assert respaced.timesteps[i] == S
    assert respaced.betas[i] == pytest.approx(beta, abs=5e-7)
    assert respaced.alphas_cumprod[i] == pytest.approx(abar, abs=5e-7)
    assert np.exp(0.5 * respaced.posterior_log_variance_clipped[i]) == pytest.approx(sigma_low, abs=5e-6)
    assert np.sqrt(respaced.betas[i]) == pytest.approx(sigma_high, abs=5e-6)
    assert respaced.posterior_mean_x0[i] == pytest.approx(c_x0, abs=5e-6)
    assert respaced.posterior_mean_xt[i] == pytest.approx(c_xt, abs=5e-6)


@pytest.mark.parametrize(
    ("i", "S", "beta", "abar"), [(26, 520, 0.186528, 0.063285), (49, 980, 0.324614, 0.000059)]
)
def test_golden_numbers_of_ddim50(i, S, beta, abar):
    respaced = NoiseSchedule.linear(1000, 1e-4, 2e-2).respaced(50, "ddim")
    assert respaced.timesteps.tolist() == list(range(0, 1000, 20))
    assert respaced.timesteps[i] == S
    assert respaced.betas[i] == pytest.approx(beta, abs=5e-7)
    assert respaced.alphas_cumprod[i] == pytest.approx(abar, abs=5e-7)


def test_scaled_linear_is_linear_in_its_root():
    roots = np.sqrt(NoiseSchedule.scaled_linear(1000, 0.00085, 0.012).betas)
    np.testing.assert_allclose(np.diff(roots), (0.012**0.5 - 0.00085**0.5) / 999, rtol=1e-9)
    assert NoiseSchedule.scaled_linear().alphas_cumprod[-1] == pytest.approx(0.004660, abs=5e-7)


@pytest.mark.parametrize("spacing", ["linspace", "ddim"])
def test_all_steps_are_the_schedule_itself(spacing):
    schedule = NoiseSchedule.linear()
    respaced = schedule.respaced(1000, spacing)
    assert respaced.timesteps.tolist() == list(range(1000))
    np.testing.assert_allclose(respaced.betas, schedule.betas, rtol=1e-11)


@pytest.mark.parametrize("spacing", ["linspace", "ddim"])
def test_one_step_is_timestep_0_and_lands_on_x0(spacing):
    respaced = NoiseSchedule.linear().respaced(1, spacing)
    assert respaced.timesteps.tolist() == [0]
    assert (respaced.posterior_mean_x0[0], respaced.posterior_mean_xt[0]) == (1.0, 0.0)
    assert respaced.posterior_log_variance_clipped[0] == pytest.approx(np.log(1e-4))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 1500), share=st.floats(0.0, 1.0))
def test_any_length_ends_at_both_ends_and_keeps_abar(n, share):
    steps = 1 + round(share * (n - 1))
    schedule = NoiseSchedule.linear(n)
    respaced = schedule.respaced(steps)
    assert len(respaced) == steps
    assert respaced.timesteps[0] == 0
    assert steps == 1 or respaced.timesteps[-1] == n - 1
    assert (np.diff(respaced.timesteps) > 0).all()
    kept = schedule.alphas_cumprod[respaced.timesteps]
    # 1 - beta is exact to the last place of 1, whatever its own size: of few steps, it is near 0.
    lost = np.abs(respaced.alphas_cumprod_prev * (1.0 - respaced.betas) - kept)
    assert (lost <= 4e-16 * respaced.alphas_cumprod_prev).all()
    # The posterior mean of an x_t that lies exactly on its x0 is exactly on it again.
    c_x0, c_xt, abar = respaced.posterior_mean_x0, respaced.posterior_mean_xt, respaced.alphas_cumprod
    np.testing.assert_allclose(c_x0 + c_xt * np.sqrt(abar), np.sqrt(respaced.alphas_cumprod_prev), rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 1200), steps=st.integers(1, 1200))
def test_ddim_is_one_whole_stride_or_an_error(n, steps):
    schedule = NoiseSchedule.linear(n)
    if steps > n or not any(len(range(0, n, stride)) == steps for stride in range(1, n + 1)):
        with pytest.raises(ValueError, match="steps must"):
            schedule.respaced(steps, "ddim")
        return
    timesteps = schedule.respaced(steps, "ddim").timesteps
    assert timesteps[0] == 0
    assert len(timesteps) == steps
    assert len(set(np.diff(timesteps))) <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseSchedule([]), "betas must be a sequence of at least one number"),
        (lambda: NoiseSchedule([[0.1]]), r"got shape \[1, 1\]"),
        (lambda: NoiseSchedule([0.1, 1.0]), "betas must be above 0 and below 1, got 1.0 at timestep 1"),
        (lambda: NoiseSchedule([0.1, float("nan")]), "got nan at timestep 1"),
        (lambda: NoiseSchedule.linear(0), "n must be at least 1, got 0"),
        (lambda: NoiseSchedule.scaled_linear(10, -0.1), "above 0 and below 1, got start -0.1"),
        (lambda: NoiseSchedule.linear(10).respaced(11), "steps must be a whole number from 1 to 10, got 11"),
        (lambda: NoiseSchedule.linear(10).respaced(0), "got 0"),
        (lambda: NoiseSchedule.linear(10).respaced(2.5), "got 2.5"),
        (
            lambda: NoiseSchedule.linear(10).respaced(5, "karras"),
            "linspace, ddim, leading, got 'karras'",
        ),
        (lambda: NoiseSchedule.linear(1000).respaced(400, "ddim"), r"\(as 334 or 500\), got 400"),
    ],
)
def test_wrong_values_say_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_schedules_are_values():
    assert NoiseSchedule.linear() == NoiseSchedule(np.linspace(1e-4, 2e-2, 1000))
    assert hash(NoiseSchedule.linear()) == hash(NoiseSchedule.linear())
    assert NoiseSchedule.linear() != NoiseSchedule.scaled_linear()
    with pytest.raises(ValueError, match="read-only"):
        NoiseSchedule.linear().betas[0] = 0.5


@pytest.mark.parametrize(("steps", "offset"), [(50, 1), (50, 0), (30, 1), (7, 0), (1, 1), (1000, 0)])
def test_leading_is_diffusers_spacing(steps: int, offset: int) -> None:
    """Stable Diffusion's schedule, as MGD3's text-to-image script visits it: 1, 21, ... 981."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=offset,
    )
    scheduler.set_timesteps(steps)
    ours = NoiseSchedule.scaled_linear().respaced(steps, "leading", offset=offset)
    assert ours.timesteps.tolist() == scheduler.timesteps.flip(0).tolist()
    abar = scheduler.alphas_cumprod.double().numpy()
    # Theirs are float32. Measured: 9.3e-7, and 7.8e-5 for variances, differences of almost equal numbers.
    assert np.allclose(ours.alphas_cumprod, abar[ours.timesteps], rtol=3e-6, atol=0)
    before = [int(scheduler.previous_timestep(t)) for t in ours.timesteps]
    want = [abar[t] if t >= 0 else 1.0 for t in before]
    assert np.allclose(ours.alphas_cumprod_prev, want, rtol=3e-6, atol=0)
    variances = [float(scheduler._get_variance(int(t))) for t in ours.timesteps]
    assert np.allclose(ours.posterior_variance, variances, rtol=2e-4, atol=1e-19)  # theirs is at least 1e-20


def test_offsets_that_do_not_fit() -> None:
    schedule = NoiseSchedule.linear()
    with pytest.raises(ValueError, match=r"offset must be from 0 to 19 for 50 steps of 1000 .*, got 20"):
        schedule.respaced(50, "leading", offset=20)
    with pytest.raises(ValueError, match="offset must be 0 with spacing ddim, got 1"):
        schedule.respaced(50, "ddim", offset=1)


def test_a_stop_counted_in_other_steps_is_at_the_same_noise():
    schedule = NoiseSchedule.linear()
    for spacing, counted, steps in (("linspace", 50, 20), ("linspace", 20, 50), ("ddim", 50, 25)):
        long, short = schedule.respaced(counted, spacing), schedule.respaced(steps, spacing)
        for t_stop in range(counted):
            stop = schedule.stop_index(t_stop, of=counted, steps=steps, spacing=spacing)
            guided = short.timesteps > long.timesteps[t_stop]
            assert np.array_equal(guided, np.arange(steps) > stop)
    assert schedule.stop_index(25, of=50, steps=20) == 9
    assert [schedule.stop_index(stop, of=20, steps=20) for stop in (0, 7, 25)] == [0, 7, 25]
    assert schedule.stop_index(50, of=50, steps=20) == 20
    with pytest.raises(ValueError, match="t_stop must be at least 0, got -1"):
        schedule.stop_index(-1, of=50, steps=20)
