"""What networks predict: every form against the truth, autodiff, diffusers and every other form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_jax.diffusion import prediction, process, schedules
from ddpm_jax.diffusion.prediction import Denoised

NAMES = tuple(prediction.PARAMETERISATIONS)
STEPS = 100
SCHEDULES = {"linear": schedules.linear(STEPS), "cosine": schedules.cosine(STEPS)}

numbers = st.floats(-3, 3, width=32)
points = st.tuples(numbers, numbers, numbers)
steps = st.integers(1, STEPS)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_all_forms_are_there():
    assert set(NAMES) == {"eps", "x0", "v", "score", "posterior_mean", "flow", "edm"}


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=25, deadline=None)
@given(x0=points, eps=points, i=steps)
@pytest.mark.wide(2)
def test_every_form_tells_the_truth_back(name, x0, eps, i):
    schedule, t = SCHEDULES[name], jnp.array([i / STEPS])
    truth = Denoised(jnp.array([x0]), jnp.array([eps]))
    xt = process.add_noise(schedule, truth.x0, t, truth.eps)
    for form in NAMES:
        output = prediction.encode(form, schedule, xt, t, truth)
        assert output.shape == xt.shape
        decoded = prediction.decode(form, schedule, xt, t, output)
        # alpha is 5e-4 at the end of the cosine schedule: eps tells x_0 with 3 digits less.
        np.testing.assert_allclose(decoded.x0, truth.x0, atol=1e-8)
        np.testing.assert_allclose(decoded.eps, truth.eps, atol=1e-8)
        assert decoded.variance_fraction is None


@pytest.mark.parametrize("pair", list(itertools.permutations(NAMES, 2)), ids="-".join)
def test_any_output_converts_to_any_form_and_back(pair):
    schedule = SCHEDULES["linear"]
    # Outputs of an untrained network: no truth behind them, and x_t drawn apart.
    xt, output = jax.random.normal(jax.random.key(0), (2, 6, 4), jnp.float64)
    t = jnp.array([1, 2, 10, 50, 99, 100]) / STEPS
    here, there = pair
    first = prediction.decode(here, schedule, xt, t, output)
    other = prediction.encode(there, schedule, xt, t, first)
    second = prediction.decode(there, schedule, xt, t, other)
    np.testing.assert_allclose(second.x0, first.x0, rtol=1e-8, atol=1e-9)
    back = prediction.encode(here, schedule, xt, t, second)
    np.testing.assert_allclose(back, output, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("form", NAMES)
def test_every_estimate_lies_on_the_path(form):
    schedule = SCHEDULES["linear"]
    xt, output = jax.random.normal(jax.random.key(1), (2, STEPS, 3), jnp.float64)
    t = jnp.arange(1, STEPS + 1) / STEPS
    out = prediction.decode(form, schedule, xt, t, output)
    alphas_cumprod = oracles.exact_alphas_cumprod(schedule.betas)[1:, None].astype(np.float64)
    again = np.sqrt(alphas_cumprod) * out.x0 + np.sqrt(1 - alphas_cumprod) * out.eps
    scale = np.abs(out.x0).max()
    np.testing.assert_allclose(again, xt, atol=1e-12 * scale)


def test_the_score_is_the_gradient_of_the_log_density():
    data, schedule = oracles.Gaussian([0.5, -1.0], [0.3, 2.0]), SCHEDULES["linear"]
    xt = jax.random.normal(jax.random.key(2), (4, 2), jnp.float64)
    t = jnp.array([0.01, 0.2, 0.6, 1.0])
    score = jax.grad(lambda x: data.log_density(schedule, x, t).sum())(xt)
    exact = data.denoiser(schedule)(xt, t)
    np.testing.assert_allclose(prediction.encode("score", schedule, xt, t, exact), score, 1e-8)
    decoded = prediction.decode("score", schedule, xt, t, score)
    np.testing.assert_allclose(decoded.x0, exact.x0, rtol=1e-7)
    np.testing.assert_allclose(decoded.eps, exact.eps, rtol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_v_is_that_of_diffusers(name):
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    schedule, i = SCHEDULES[name], np.array([1, 7, 50, 100])
    peer_name = {"linear": "linear", "cosine": "squaredcos_cap_v2"}[name]
    peer = diffusers.DDPMScheduler(STEPS, beta_schedule=peer_name)
    x0, eps = np.random.default_rng(0).normal(size=(2, 4, 3))
    theirs = peer.get_velocity(torch.tensor(x0), torch.tensor(eps), torch.tensor(i - 1)).numpy()
    t, truth = jnp.asarray(i / STEPS), Denoised(jnp.asarray(x0), jnp.asarray(eps))
    xt = process.add_noise(schedule, truth.x0, t, truth.eps)
    np.testing.assert_allclose(
        prediction.encode("v", schedule, xt, t, truth), theirs, rtol=1e-4, atol=1e-5
    )
    decoded = prediction.decode("v", schedule, xt, t, jnp.asarray(theirs))
    np.testing.assert_allclose(decoded.x0, x0, atol=1e-5)


def test_v_is_the_rate_of_turning():
    # With alpha = cos(phi), sigma = sin(phi): v = d x_t / d phi (Salimans & Ho 2022, appendix D).
    turn = schedules.Schedule(
        alpha=lambda t: jnp.cos(jnp.pi * t / 2),
        sigma=lambda t: jnp.sin(jnp.pi * t / 2),
        network_time=lambda t: t,
    )
    x0, eps = jax.random.normal(jax.random.key(3), (2, 1, 3), jnp.float64)
    t = jnp.array([0.3])
    _, rate = jax.jvp(lambda t: process.add_noise(turn, x0, t, eps), (t,), (jnp.array([1.0]),))
    xt = process.add_noise(turn, x0, t, eps)
    v = prediction.encode("v", turn, xt, t, Denoised(x0, eps))
    np.testing.assert_allclose(v, rate / (jnp.pi / 2), rtol=1e-10)
    # At t = 1 all is noise: eps tells nothing of x_0, v = -x_0 still does.
    end = prediction.decode("v", turn, eps, jnp.array([1.0]), -x0)
    np.testing.assert_allclose(end.x0, x0, rtol=1e-10)


def test_v_holds_on_a_path_that_preserves_no_variance():
    straight = schedules.Schedule(lambda t: 1 - t, lambda t: t, lambda t: t)
    x0, eps = jax.random.normal(jax.random.key(4), (2, 3, 2), jnp.float64)
    t = jnp.array([0.1, 0.5, 1.0])
    xt = process.add_noise(straight, x0, t, eps)
    v = prediction.encode("v", straight, xt, t, Denoised(x0, eps))
    out = prediction.decode("v", straight, xt, t, v)
    np.testing.assert_allclose(out.x0, x0, rtol=1e-10)
    np.testing.assert_allclose(out.eps, eps, rtol=1e-10)


def test_the_posterior_mean_is_that_of_diffusers():
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    peer = diffusers.DDPMScheduler(STEPS, prediction_type="sample", clip_sample=False)
    xt, x0 = np.random.default_rng(1).normal(size=(2, 1, 3))
    # At their index 0, i = 1, step() adds no noise, so it is the mean; elsewhere test_process does.
    theirs = peer.step(torch.tensor(x0), 0, torch.tensor(xt)).prev_sample.numpy()
    t = jnp.array([1 / STEPS])
    truth = prediction.from_x0(SCHEDULES["linear"], jnp.asarray(xt), t, jnp.asarray(x0))
    ours = prediction.encode("posterior_mean", SCHEDULES["linear"], jnp.asarray(xt), t, truth)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_the_posterior_mean_is_the_best_guess_of_the_step_before():
    # E[x_{i-1} | x_t] on Gaussian data, by regression of x_{i-1} on x_t in closed form.
    data, schedule, i = oracles.Gaussian(0.4, 0.5), SCHEDULES["linear"], 30
    bars = oracles.exact_alphas_cumprod(schedule.betas).astype(np.float64)
    mean_s, mean_t = 0.4 * np.sqrt(bars[[i - 1, i]])
    variance_s, variance_t = 1 - 0.5 * bars[[i - 1, i]]
    covariance = np.sqrt(1 - schedule.betas[i - 1]) * variance_s
    xt, t = jnp.array([[0.9]]), jnp.array([i / STEPS])
    out = data.denoiser(schedule)(xt, t)
    ours = prediction.encode("posterior_mean", schedule, xt, t, out)
    expected = mean_s + covariance / variance_t * (0.9 - mean_t)
    np.testing.assert_allclose(ours, [[expected]], rtol=1e-10)


def test_a_denoiser_passes_the_network_time_and_conditions():
    schedule, seen = schedules.linear(1000), {}

    def network(variables, xt, time, conditions):
        seen.update(variables=variables, time=time, conditions=conditions)
        return 2 * xt

    conditions = {"label": jnp.array([3, 4])}
    denoise = prediction.denoiser(network, "params", schedule, conditions=conditions)
    xt, t = jnp.ones((2, 3)), jnp.array([0.001, 1.0])
    out = denoise(xt, t)
    assert seen["variables"] == {"params": "params"}
    assert seen["conditions"] is conditions
    np.testing.assert_array_equal(seen["time"], [0, 999])
    np.testing.assert_array_equal(out.eps, 2 * xt)
    v = prediction.denoiser(network, None, schedule, prediction="v")(xt, t)
    np.testing.assert_allclose(prediction.encode("v", schedule, xt, t, v), 2 * xt, rtol=1e-9)
    assert seen["conditions"] is None


def test_the_previous_step_is_on_the_node_before():
    schedule = schedules.linear(1000)
    t = jnp.asarray(np.arange(1, 1001) / 1000, jnp.float32)
    before = schedule.network_time(prediction.previous_time(schedule, t))
    np.testing.assert_array_equal(before, [0, 0, *range(1, 999)])
    assert prediction.previous_time(schedule, t[0]) == 0


def test_bad_input_is_refused():
    schedule, x, t = SCHEDULES["linear"], jnp.ones((2, 3)), jnp.array([0.5, 0.5])
    for call in (
        lambda: prediction.decode("noise", schedule, x, t, x),
        lambda: prediction.encode("noise", schedule, x, t, Denoised(x, x)),
        lambda: prediction.denoiser(lambda *_: x, None, schedule, prediction="noise"),
    ):
        with pytest.raises(ValueError, match=r"eps, x0, v, score, posterior_mean.*'noise'"):
            call()
    with pytest.raises(ValueError, match=r"\(2, 1\).*\(2, 3\)"):
        prediction.decode("eps", schedule, x, t, x[:, :1])
    continuous = schedules.Schedule(jnp.cos, jnp.sin, lambda t: t)
    with pytest.raises(ValueError, match="continuous"):
        prediction.encode("posterior_mean", continuous, x, t, Denoised(x, x))
