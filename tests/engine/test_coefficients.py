"""The step table: published displacements, and agreement with each formula evaluated by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mgd3_engine import ModeGuidance, NoiseSchedule, step_table
from mgd3_kernels import Coefficient as K

STEPS = (49, 45, 40, 35, 30, 26)
# Net displacement of x_{t-1} per unit of lambda g at STEPS, then its sum over 26..49, as published.
DISPLACEMENT = {
    ("ddpm", "posterior"): (0.574, 0.554, 0.538, 0.508, 0.473, 0.433, 12.32),
    # 0.1365 is 0.13647 in full, and so 0.136 to three digits (published as 0.137).
    ("ddim", "epsilon"): (0.222, 0.201, 0.187, 0.161, 0.1365, 0.111, 4.05),
    ("ddim", "x0"): (0.0014, 0.0028, 0.0064, 0.0122, 0.0207, 0.0282, 0.265),
    ("ddpm", "x0"): (0.0026, 0.0052, 0.0117, 0.0226, 0.0389, 0.0533, 0.496),
}
DIGITS = {("ddpm", "posterior"): 3, ("ddim", "epsilon"): 3, ("ddim", "x0"): 4, ("ddpm", "x0"): 4}
SUM_DIGITS = {("ddpm", "posterior"): 2, ("ddim", "epsilon"): 2, ("ddim", "x0"): 3, ("ddpm", "x0"): 3}


@pytest.fixture(scope="module")
def respaced():
    return NoiseSchedule.linear().respaced(50)


def columns(table):
    return dict(zip(K, table.double().numpy().T, strict=True))


def displacement(respaced, method, form, t_stop=0):
    c = columns(step_table(respaced, method=method, guidance=ModeGuidance(1.0, t_stop, form)))
    return c[K.NEXT_FROM_X0] * c[K.X0_SHIFT] + c[K.PUSH] * np.exp(0.5 * c[K.LOG_VAR_MIN])


@pytest.mark.parametrize(("method", "form"), DISPLACEMENT)
def test_net_displacement_per_unit_of_lambda_g(respaced, method, form):
    *rows, total = DISPLACEMENT[method, form]
    push = displacement(respaced, method, form)
    half_a_digit = 0.5001 * 10.0 ** -DIGITS[method, form]
    np.testing.assert_allclose(push[list(STEPS)], rows, rtol=0, atol=half_a_digit)
    assert push[26:].sum() == pytest.approx(total, abs=0.5001 * 10.0 ** -SUM_DIGITS[method, form])


def test_displacement_of_algorithm_1_in_closed_form(respaced):
    abar, previous = respaced.alphas_cumprod, respaced.alphas_cumprod_prev
    push = np.sqrt(1 - abar) * np.sqrt(previous / abar) - np.sqrt(1 - previous)
    expected = np.sqrt(1 - abar) * push
    np.testing.assert_allclose(displacement(respaced, "ddim", "epsilon")[1:], expected[1:], rtol=1e-6)


def test_forms_differ_46_fold_at_equal_scale(respaced):
    strongest, weakest = (
        displacement(respaced, *k)[26:].sum() for k in (("ddpm", "posterior"), ("ddim", "x0"))
    )
    assert strongest / weakest == pytest.approx(46.5, abs=0.1)


@pytest.mark.parametrize(("t_stop", "guided"), [(0, 49), (25, 24), (48, 1), (49, 0), (50, 0), (1000, 0)])
@pytest.mark.parametrize(("method", "form"), DISPLACEMENT)
def test_stop_is_strict(respaced, method, form, t_stop, guided):
    table = step_table(respaced, method=method, guidance=ModeGuidance(0.1, t_stop, form))
    acts = (table[:, [K.X0_SHIFT, K.PUSH]] != 0).any(dim=1)
    assert acts.tolist() == [i >= 50 - guided for i in range(50)]


def test_ddpm_rows_are_ho_et_al_eq_7(respaced):
    c = columns(step_table(respaced))
    np.testing.assert_allclose(c[K.NEXT_FROM_X0], respaced.posterior_mean_x0, rtol=6e-8)
    np.testing.assert_allclose(c[K.NEXT_FROM_X], respaced.posterior_mean_xt, rtol=6e-8)
    assert c[K.NOISE_SIGMA].tolist() == [0.0] + [1.0] * 49
    assert not c[K.NOISE_STD].any()
    assert not c[K.X0_SHIFT].any()
    assert not c[K.PUSH].any()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_rows_are_song_et_al_eq_12(respaced, eta):
    abar, previous = respaced.alphas_cumprod, respaced.alphas_cumprod_prev
    c = columns(step_table(respaced, method="ddim", eta=eta))
    x, eps = 0.7, -1.3  # any pair: the row must be the same linear map as the equation
    x0 = (x - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
    std = eta * np.sqrt((1 - previous) / (1 - abar)) * np.sqrt(1 - abar / previous)
    expected = np.sqrt(previous) * x0 + np.sqrt(np.clip(1 - previous - std**2, 0, None)) * eps
    got_x0 = c[K.X0_FROM_X] * x + c[K.X0_FROM_OUT] * eps
    np.testing.assert_allclose(
        c[K.NEXT_FROM_X0] * got_x0 + c[K.NEXT_FROM_X] * x, expected, rtol=3e-7, atol=3e-7
    )
    np.testing.assert_allclose(c[K.NOISE_STD], std, rtol=6e-8)
    assert not c[K.NOISE_SIGMA].any()


def test_ddim_at_eta_1_is_ddpm(respaced):
    ddim, ddpm = columns(step_table(respaced, method="ddim", eta=1.0)), columns(step_table(respaced))
    np.testing.assert_allclose(ddim[K.NEXT_FROM_X0], ddpm[K.NEXT_FROM_X0], rtol=1e-6)
    np.testing.assert_allclose(ddim[K.NEXT_FROM_X], ddpm[K.NEXT_FROM_X], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ddim[K.NOISE_STD][1:], np.exp(0.5 * ddpm[K.LOG_VAR_MIN][1:]), rtol=1e-6)
    assert ddim[K.NOISE_STD][0] == 0.0


def test_v_prediction_recovers_x0(respaced):
    abar = respaced.alphas_cumprod
    x0, eps = 0.7, -1.3
    x, v = np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps, np.sqrt(abar) * eps - np.sqrt(1 - abar) * x0
    c = columns(step_table(respaced, prediction="v"))
    np.testing.assert_allclose(c[K.X0_FROM_X] * x + c[K.X0_FROM_OUT] * v, x0, atol=2e-7)


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_variance_bounds(respaced, variance):
    c = columns(step_table(respaced, variance=variance))
    np.testing.assert_allclose(c[K.LOG_VAR_MIN], respaced.posterior_log_variance_clipped, rtol=6e-8)
    np.testing.assert_allclose(c[K.LOG_VAR_MAX], np.log(respaced.betas), rtol=6e-8)


def test_fixed_large_is_beta_with_the_first_clipped(respaced):
    c = columns(step_table(respaced, variance="fixed_large"))
    np.testing.assert_allclose(c[K.LOG_VAR_MIN][1:], np.log(respaced.betas[1:]), rtol=6e-8)
    assert c[K.LOG_VAR_MIN][0] == pytest.approx(respaced.posterior_log_variance_clipped[0])


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("method", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 1.0), ("dpmpp", 0.0), ("dpmpp-sde", 0.0)]
)
def test_every_length_is_finite_float32_and_ends_at_x0(steps, method, eta):
    table = step_table(
        NoiseSchedule.linear().respaced(steps), method=method, eta=eta, guidance=ModeGuidance(t_stop=0)
    )
    assert table.dtype == torch.float32
    assert table.shape == (steps, len(K))
    assert torch.isfinite(table).all()
    last = [
        K.NEXT_FROM_X0,
        K.NEXT_FROM_X,
        K.NEXT_FROM_PREVIOUS,
        K.X0_SHIFT,
        K.PUSH,
        K.NOISE_SIGMA,
        K.NOISE_STD,
    ]
    assert table[0, last].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "euler"}, "method must be one of ddpm, ddim, dpmpp, dpmpp-sde, got 'euler'"),
        ({"prediction": "x0"}, "prediction must be one of epsilon, v, got 'x0'"),
        (
            {"variance": "learned"},
            "variance must be one of fixed_small, fixed_large, learned_range, got 'learned'",
        ),
        ({"method": "ddim", "eta": 1.5}, "eta must be from 0 to 1, got 1.5"),
        ({"method": "ddim", "eta": float("nan")}, "eta must be from 0 to 1, got nan"),
        ({"eta": 0.5}, "eta must be 0 for ddpm, which has its own noise, got 0.5"),
    ],
)
def test_wrong_options_say_what_is_allowed(respaced, options, message):
    with pytest.raises(ValueError, match=message):
        step_table(respaced, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -0.1}, "mode scale must be a finite number of at least 0, got -0.1"),
        ({"scale": float("inf")}, "got inf"),
        ({"t_stop": -1}, "t_stop must be a whole number of at least 0, got -1"),
        ({"t_stop": 2.5}, "got 2.5"),
        ({"form": "mean"}, "guidance form must be one of auto, posterior, epsilon, x0, got 'mean'"),
    ],
)
def test_wrong_guidance_says_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        ModeGuidance(**options)


def test_auto_form_follows_the_sampler(respaced):
    assert ModeGuidance().resolve("ddpm").form == "posterior"
    assert {ModeGuidance().resolve(m).form for m in ("ddim", "dpmpp", "dpmpp-sde")} == {"epsilon"}
    assert ModeGuidance(form="x0").resolve("ddim") == ModeGuidance(form="x0")
    for method, form in (("ddpm", "posterior"), ("ddim", "epsilon")):
        auto, named = (
            step_table(respaced, method=method, guidance=ModeGuidance(form=f)) for f in ("auto", form)
        )
        assert torch.equal(auto, named)
