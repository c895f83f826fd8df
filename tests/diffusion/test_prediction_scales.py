"""Flow velocity, EDM's preconditioning, and what holds of every form at every noise level."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_jax.diffusion import prediction, process, schedules
from ddpm_jax.diffusion.prediction import Denoised

# Every form that needs no neighbouring step.
CONTINUOUS = tuple(name for name in prediction.PARAMETERISATIONS if name != "posterior_mean")
PATHS = {
    "vp": schedules.from_gamma(lambda t: 40 * t - 20),  # log-SNR from 20 to -20
    "ve": schedules.ve(np.exp(-10.0), np.exp(10.0)),
    "flow": schedules.flow(),
    "sub_vp": schedules.sub_vp(),
}
numbers = st.floats(-3, 3, width=32)


def network(value):
    return lambda variables, xt, time, conditions: value


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["vp", "ve", "flow"]),
    st.floats(-20, 20, width=32),
    st.lists(numbers, min_size=3, max_size=3),
    st.lists(numbers, min_size=3, max_size=3),
    st.sampled_from(list(itertools.permutations(CONTINUOUS, 2))),
)
@pytest.mark.wide(3)
def test_round_trips_of_every_pair_at_every_log_snr(path, log_snr, x0, eps, pair):
    # float32. What one form's rounding can do to another is the ratio of their scales: the
    # tolerance follows from that condition number, not from what was seen.
    schedule = PATHS[path]
    t = schedules.time_of_log_snr(schedule, jnp.array([log_snr], jnp.float32))
    alpha, sigma = (float(level(t)[0]) for level in (schedule.alpha, schedule.sigma))
    truth = Denoised(jnp.array([x0], jnp.float32), jnp.array([eps], jnp.float32))
    xt = process.add_noise(schedule, truth.x0, t, truth.eps)
    here, there = pair
    output = prediction.encode(here, schedule, xt, t, truth)
    first = prediction.decode(here, schedule, xt, t, output)
    other = prediction.encode(there, schedule, xt, t, first)
    second = prediction.decode(there, schedule, xt, t, other)
    for out in (first, second):
        assert np.isfinite(out.x0).all()
        assert np.isfinite(out.eps).all()
        size = max(1.0, float(jnp.abs(xt).max()), sigma * 3, alpha * 3)
        rounding = 64 * np.finfo(np.float32).eps * size
        np.testing.assert_allclose(out.x0, truth.x0, atol=rounding * max(1, 1 / alpha, sigma))
        np.testing.assert_allclose(out.eps, truth.eps, atol=rounding * max(1, 1 / sigma, alpha))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("form", CONTINUOUS)
def test_the_scale_of_eps_is_its_derivative(path, form):
    schedule, t = PATHS[path], jnp.array([0.05, 0.3, 0.7, 0.95])
    with jax.enable_x64(True):
        t = t.astype(jnp.float64)
        xt, output, change = jax.random.normal(jax.random.key(0), (3, 4, 2), jnp.float64)
        _, rate = jax.jvp(
            lambda o: prediction.decode(form, schedule, xt, t, o).eps, (output,), (change,)
        )
        scale = prediction.PARAMETERISATIONS[form].eps_scale(schedule, t)
        np.testing.assert_allclose(rate, scale[:, None] * change, rtol=1e-9)


def test_the_posterior_mean_has_its_scale_too():
    schedule, t = schedules.linear(50), jnp.array([0.02, 0.3, 1.0])
    with jax.enable_x64(True):
        t = t.astype(jnp.float64)
        xt, output, change = jax.random.normal(jax.random.key(0), (3, 3, 2), jnp.float64)
        form = prediction.PARAMETERISATIONS["posterior_mean"]
        _, rate = jax.jvp(lambda o: form.decode(schedule, xt, t, o).eps, (output,), (change,))
        np.testing.assert_allclose(rate, form.eps_scale(schedule, t)[:, None] * change, rtol=1e-9)


def test_the_flow_is_the_velocity_of_rectified_flow():
    schedule = schedules.flow()
    x0, eps = jax.random.normal(jax.random.key(1), (2, 3, 2))
    t = jnp.array([0.2, 0.5, 0.9])
    _, rate = jax.jvp(lambda t: process.add_noise(schedule, x0, t, eps), (t,), (jnp.ones_like(t),))
    xt = process.add_noise(schedule, x0, t, eps)
    velocity = prediction.encode("flow", schedule, xt, t, Denoised(x0, eps))
    np.testing.assert_allclose(velocity, rate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 7.0, 80.0])
def test_edm_is_table_1_of_karras_et_al(sigma):
    # c_skip, c_out, c_in and c_noise as the paper prints them.
    schedule, sigma_data = schedules.edm(), 0.5
    x = jax.random.normal(jax.random.key(2), (1, 5)) * sigma
    t = jnp.array([sigma / 80.0])
    seen = []

    def network(variables, xt, time, conditions):
        seen.extend([xt, time])
        return jnp.tanh(xt) + 0.1

    out = prediction.denoiser(network, None, schedule, prediction="edm")(x, t)
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data / np.sqrt(sigma_data**2 + sigma**2)
    c_in = 1 / np.sqrt(sigma_data**2 + sigma**2)
    np.testing.assert_allclose(seen[0], c_in * x, rtol=1e-5)
    np.testing.assert_allclose(seen[1], [np.log(sigma) / 4], rtol=1e-4, atol=1e-5)
    expected = c_skip * x + c_out * (np.tanh(c_in * x) + 0.1)
    np.testing.assert_allclose(out.x0, expected, rtol=1e-5, atol=1e-5)


def test_edm_on_a_vp_path_is_minus_v():
    schedule, t = schedules.vp_continuous(), jnp.array([0.1, 0.6])
    xt, v = jax.random.normal(jax.random.key(3), (2, 2, 4))
    of_v = prediction.decode("v", schedule, xt, t, v)
    of_f = prediction.decode(prediction.edm(sigma_data=1.0), schedule, xt, t, -v)
    np.testing.assert_allclose(of_f.x0, of_v.x0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_f.eps, of_v.eps, rtol=1e-5, atol=1e-5)


def test_edm_gives_targets_of_unit_variance():
    # What the preconditioning is for (Karras et al. 2022, appendix B.6), on data of std 0.3.
    form, schedule = prediction.edm(sigma_data=0.3), schedules.edm()
    x0 = 0.3 * jax.random.normal(jax.random.key(4), (20_000, 1))
    eps = jax.random.normal(jax.random.key(5), x0.shape)
    for sigma in (0.01, 0.3, 10.0):
        t = jnp.full(len(x0), sigma / 80)
        xt = process.add_noise(schedule, x0, t, eps)
        target = np.asarray(form.encode(schedule, xt, t, Denoised(x0, eps)))
        assert abs(target.var() - 1) < 5 * np.sqrt(2 / target.size)
        shown = np.asarray(form.scale_input(schedule, xt, t))
        assert abs(shown.var() - 1) < 5 * np.sqrt(2 / shown.size)


@pytest.mark.parametrize("form", CONTINUOUS)
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_no_form_is_nan_at_the_ends_of_a_path(form, t):
    t = jnp.array([t])
    for schedule in (
        schedules.flow(),
        schedules.cosine_continuous(),
        schedules.zero_terminal_snr(schedules.linear()),
    ):
        out = prediction.denoiser(network(jnp.ones((1, 3))), None, schedule, prediction=form)(
            jnp.full((1, 3), 0.5), t
        )
        assert np.isfinite(out.x0).all()
        assert np.isfinite(out.eps).all()


def test_a_learned_range_network_brings_its_fraction():
    schedule, t = schedules.linear(), jnp.array([0.5, 0.7])
    xt = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    both = jax.random.normal(jax.random.key(1), (2, 4, 4, 6))
    out = prediction.denoiser(network(both), None, schedule, learned_variance=True)(xt, t)
    plain = prediction.denoiser(network(both[..., :3]), None, schedule)(xt, t)
    np.testing.assert_array_equal(out.x0, plain.x0)
    np.testing.assert_array_equal(out.variance_fraction, both[..., 3:])
    for channels in (3, 5, 12):
        wrong = prediction.denoiser(
            network(jnp.zeros((2, 4, 4, channels))), None, schedule, learned_variance=True
        )
        with pytest.raises(ValueError, match=rf"6 output channels.*4, {channels}\)"):
            wrong(xt, t)


@pytest.mark.parametrize("sigma_data", [0, -0.5, np.nan, np.inf])
def test_a_bad_sigma_data_is_refused(sigma_data):
    with pytest.raises(ValueError, match=f"sigma_data={sigma_data}"):
        prediction.edm(sigma_data)
