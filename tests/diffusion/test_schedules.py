"""Schedules against diffusers' tables, extended-precision products and the papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import schedules

SIZES = (10, 1000, 4000)
BUILDERS = {"linear": schedules.linear, "cosine": schedules.cosine}
ALL = [(name, size) for name in BUILDERS for size in SIZES]
PEER_NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def nodes(num_steps: int, dtype=np.float32) -> jax.Array:
    """The times i / T, i = 0..T, each rounded once."""
    return jnp.asarray(np.arange(num_steps + 1) / num_steps, dtype)


@pytest.mark.parametrize(("name", "size"), ALL)
@pytest.mark.wide(4)
def test_tables_equal_those_of_diffusers(name, size):
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.DDPMScheduler(num_train_timesteps=size, beta_schedule=PEER_NAMES[name])
    schedule = BUILDERS[name](size)
    np.testing.assert_allclose(schedule.betas, peer.betas.numpy(), rtol=2e-5)
    alphas_cumprod = np.asarray(schedule.alpha(nodes(size)[1:]), np.float64) ** 2
    np.testing.assert_allclose(alphas_cumprod, peer.alphas_cumprod.numpy(), rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(alphas_cumprod, peer.alphas_cumprod.numpy(), atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_linear_betas_are_those_of_ho_et_al(size):
    betas = schedules.linear(size).betas
    assert (betas[0], betas[-1]) == pytest.approx((1e-4, 0.02), rel=1e-12)
    np.testing.assert_allclose(np.diff(betas, 2), 0, atol=1e-15)


@pytest.mark.parametrize("size", SIZES)
def test_cosine_follows_the_paper_until_its_betas_are_clipped(size):
    schedule = schedules.cosine(size)
    clipped = schedule.betas == 0.999
    assert clipped[-1]
    assert schedule.betas.max() == 0.999
    kept = np.flatnonzero(~clipped)
    assert np.array_equal(kept, np.arange(len(kept)))  # only the last steps are clipped
    # alpha_bar(t) = f(t) / f(0), Nichol & Dhariwal 2021, equation 17, independent of T.
    t = kept[[0, len(kept) // 2, -1]] + 1
    angle = (t / size + 0.008) / 1.008 * np.pi / 2
    expected = np.cos(angle) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    with jax.enable_x64(True):
        np.testing.assert_allclose(schedule.alpha(jnp.asarray(t / size)) ** 2, expected, rtol=1e-9)


@pytest.mark.parametrize(("name", "size"), ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_node_reads_the_exact_product(name, size, dtype):
    schedule = BUILDERS[name](size)
    exact = oracles.exact_alphas_cumprod(schedule.betas)
    with jax.enable_x64(True):
        t = nodes(size, dtype)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert alpha.dtype == sigma.dtype == dtype
    # One float32 rounding of log alpha_bar, at most 16.6 here, is 1e-6 of alpha.
    tolerance = 1e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(np.asarray(alpha, np.float64), np.sqrt(exact), rtol=tolerance)
    np.testing.assert_allclose(np.asarray(sigma, np.float64), np.sqrt(1 - exact), rtol=tolerance)
    # Neighbours differ by far more: an off-by-one cannot hide in the tolerance.
    gaps = (1 - np.sqrt(exact[1:] / exact[:-1]), 1 - np.sqrt((1 - exact[:-1]) / (1 - exact[1:])))
    assert np.maximum(*gaps).min() > 100 * tolerance


@pytest.mark.parametrize(("name", "size"), ALL)
def test_both_ends_and_the_first_step_are_precise_in_float32(name, size):
    schedule = BUILDERS[name](size)
    assert schedule.alpha(jnp.float32(0)) == 1
    assert schedule.sigma(jnp.float32(0)) == 0
    assert not np.signbit(schedule.sigma(jnp.float32(0)))
    first = float(schedule.sigma(jnp.float32(1 / size)))
    assert first == pytest.approx(np.sqrt(schedule.betas[0]), rel=1e-7)


@pytest.mark.parametrize(("name", "size"), ALL)
@pytest.mark.parametrize("jit", [False, True])
def test_the_network_sees_the_index_exactly(name, size, jit):
    network_time = BUILDERS[name](size).network_time
    time = (jax.jit(network_time) if jit else network_time)(nodes(size))
    assert time.dtype == jnp.float32
    assert np.array_equal(time, [0, *range(size)])  # i - 1, clipped to 0 at i = 0


def test_network_time_is_clipped_to_the_trained_range():
    schedule = schedules.linear(10)
    np.testing.assert_array_equal(schedule.network_time(jnp.array([-0.5, 0.02, 1.3])), [0, 0, 9])
    assert schedule.network_time(jnp.float32(0.55)) == pytest.approx(4.5)  # between i = 5 and 6


@pytest.mark.parametrize(("name", "size"), ALL)
@pytest.mark.wide(4)
def test_variance_is_preserved_and_the_snr_falls(name, size):
    schedule, t = BUILDERS[name](size), nodes(size)
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, atol=3e-7)
    log_snr = np.asarray(schedule.log_snr(t))
    assert log_snr[0] == np.inf
    assert np.isfinite(log_snr[1:]).all()
    assert (np.diff(log_snr[1:]) < 0).all()


@pytest.mark.parametrize("name", BUILDERS)
def test_log_alpha_bar_is_linear_between_nodes(name):
    schedule = BUILDERS[name](10)
    with jax.enable_x64(True):
        log_alpha = np.log(schedule.alpha(nodes(10, np.float64)))
        for fraction in (0.25, 0.5, 0.9):
            t = (jnp.arange(10) + fraction) / 10
            between = (1 - fraction) * log_alpha[:-1] + fraction * log_alpha[1:]
            np.testing.assert_allclose(jnp.log(schedule.alpha(t)), between, rtol=1e-12, atol=1e-15)


def test_a_time_of_any_shape_compiled_or_not():
    schedule = schedules.cosine(50)
    t = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 3, 5)), jnp.float32)
    for function in (schedule.alpha, schedule.sigma, schedule.network_time, schedule.log_snr):
        assert function(t).shape == t.shape
        assert function(t[0, 0, 0]).shape == ()
        np.testing.assert_allclose(jax.jit(function)(t), function(t), rtol=2e-6)


def test_levels_are_differentiable_in_t():
    schedule = schedules.linear(1000)
    # d log alpha / dt = T log(1 - beta_i) / 2 inside the interval of step i = 501.
    rate = jax.grad(lambda t: jnp.log(schedule.alpha(t)))(jnp.float32(0.5004))
    assert rate == pytest.approx(500 * np.log1p(-schedule.betas[500]), rel=1e-4)


def test_from_betas_keeps_the_step_of_the_chain():
    betas = [0.5, 0.75]
    schedule = schedules.from_betas(betas)
    assert schedule.num_steps == 2
    np.testing.assert_allclose(schedule.alpha(nodes(2)) ** 2, [1, 1 / 2, 1 / 8], rtol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        schedule.betas[0] = 0.1


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: schedules.linear(0), ["num_steps=0"]),
        (lambda: schedules.cosine(-3), ["num_steps=-3"]),
        (lambda: schedules.linear(10, beta_start=0.0), ["beta_start=0.0"]),
        (lambda: schedules.linear(10, beta_start=0.3, beta_end=0.2), ["beta_end=0.2"]),
        (lambda: schedules.linear(10, beta_end=1.0), ["beta_end=1.0"]),
        (lambda: schedules.cosine(10, s=-0.1), ["s=-0.1"]),
        (lambda: schedules.cosine(10, max_beta=1.0), ["max_beta=1.0"]),
        (lambda: schedules.from_betas([0.1, 1.0, 0.1]), ["beta", "1.0"]),
        (lambda: schedules.from_betas([0.1, np.nan]), ["beta", "nan"]),
        (lambda: schedules.from_betas([]), ["betas", "(0,)"]),
        (lambda: schedules.from_betas([[0.1]]), ["betas", "(1, 1)"]),
    ],
)
def test_bad_input_is_refused_with_its_name_and_value(build, words):
    with pytest.raises(ValueError, match="need") as error:
        build()
    for word in words:
        assert word in str(error.value)


def test_a_continuous_schedule_has_no_steps():
    schedule = schedules.Schedule(alpha=jnp.cos, sigma=jnp.sin, network_time=lambda t: t)
    with pytest.raises(ValueError, match="continuous"):
        _ = schedule.num_steps


def test_a_pinned_schedule_has_the_values_given_and_is_itself_elsewhere():
    schedule = schedules.scaled_linear(1000)
    # One within the width of a node, which the table would read as the node.
    times = np.array([0.9, 0.4567, 0.1005, 0.001])
    alpha, sigma, shown = (np.linspace(*ends, 4) for ends in ((0.1, 0.9), (0.8, 0.3), (901, 3)))
    pinned = schedules.pinned(schedule, times, alpha, sigma, shown)
    for dtype in (jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            elsewhere = [0.9001, 0.4566, 0.1004, 0.0]
            t = jnp.asarray([times, elsewhere], dtype)
            for name, values in (("alpha", alpha), ("sigma", sigma), ("network_time", shown)):
                found = getattr(pinned, name)(t)
                assert found.dtype == dtype
                np.testing.assert_array_equal(found[0], np.asarray(values, dtype))
                np.testing.assert_array_equal(found[1], getattr(schedule, name)(t)[1])
    assert pinned.betas is schedule.betas


@pytest.mark.parametrize(
    ("times", "alpha", "words"),
    [
        ([0.5, 1.2], [0.5, 0.1], r"times in \[0, 1\], got 0.5 to 1.2"),
        ([0.5, 0.6], [0.5], "columns of one length"),
    ],
)
def test_pins_that_cannot_be_are_refused(times, alpha, words):
    with pytest.raises(ValueError, match=words):
        schedules.pinned(schedules.linear(), times, alpha, [0.1, 0.2], [1, 2])
