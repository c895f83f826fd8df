"""Likelihood against closed forms, scipy and symmetries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.experimental import ode
from scipy import stats

from ddpm_jax.diffusion import likelihood, process, schedules
from ddpm_jax.diffusion.prediction import Denoised

LINEAR = schedules.linear()
PATHS = {
    "linear": LINEAR,
    "zero-snr": schedules.zero_terminal_snr(LINEAR),
    "cosine": schedules.cosine_continuous(),
    "vp": schedules.vp_continuous(),
    "sub-vp": schedules.sub_vp(),
    "ve": schedules.ve(),
    "edm": schedules.edm(),
    "flow": schedules.flow(3.0),
    "gamma": schedules.from_gamma(lambda t: 20 * t - 13.3),
}
BITS = 1 / np.log(2)


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


def corners(variance, dtype=jnp.float32):
    """x_0 and eps whose four pairs have the second moments of N(0, variance) and N(0, 1).

    The mean of anything quadratic over them is its exact expectation.
    """
    x0 = jnp.array([[1.0], [1.0], [-1.0], [-1.0]], dtype) * np.sqrt(variance)
    return x0.astype(dtype), jnp.array([[1.0], [-1.0], [1.0], [-1.0]], dtype)


def chain_terms(schedule, variance, x0, eps, denoise, size=1000):
    """vlb_term of every step with this one noise, [T, B] nats; the decoder's first."""

    def one(carry, i):
        s, t = (jnp.full(len(x0), j / size, x0.dtype) for j in (i - 1, i))
        xt = process.add_noise(schedule, x0, t, eps)
        return carry, likelihood.vlb_term(schedule, denoise(xt, t), x0, xt, s, t, variance=variance)

    return np.asarray(jax.jit(lambda: jax.lax.scan(one, 0, jnp.arange(1, size + 1))[1])())


def excess_over_the_truth(schedule, variance, data_variance, dtype=jnp.float32):
    """The expected bound less the entropy, in bits, of an exact denoiser of N(0, variance)."""
    x0, eps = corners(data_variance, dtype)
    denoise = oracles.Gaussian(0.0, data_variance).denoiser(schedule)
    terms = chain_terms(schedule, variance, x0, eps, denoise).astype(np.float64)
    bound = terms.sum(axis=0).mean() + float(likelihood.prior_kl(schedule, x0).mean())
    return (bound - stats.norm(scale=np.sqrt(data_variance)).entropy()) * BITS


def closed_form_gap(betas, data_variance, fixed):
    """sum over i of KL(p(x_{i-1} | x_i) || the chain's step), in bits, in the textbook's symbols.

    The true reverse step of Gaussian data is a Gaussian; with an exact denoiser the chain's step
    has its mean, so only the variances differ. The prior's KL comes on top.
    """
    bars = oracles.exact_alphas_cumprod(betas)
    marginal = bars * data_variance + 1 - bars
    # Var(x_{i-1} | x_i) of a jointly Gaussian pair with x_i = sqrt(1 - beta) x_{i-1} + noise.
    true = marginal[:-1] - (1 - betas) * marginal[:-1] ** 2 / marginal[1:]
    if fixed == "fixed_large":
        step = betas.copy()
    else:
        step = betas * (1 - bars[:-1]) / (1 - bars[1:])
        step[0] = step[1]
    ratio = true / step
    end = marginal[-1] / (1 - bars[-1])
    kl = 0.5 * (np.sum(ratio - 1 - np.log(ratio)) + end - 1 - np.log(end))
    return float(kl * BITS)


@pytest.mark.parametrize(
    ("data_variance", "published"), [(1.0, 0.000), (0.25, 0.002), (0.05, 0.009)]
)
def test_the_chain_of_fixed_large_variance_is_nearly_tight(data_variance, published):
    gap = excess_over_the_truth(LINEAR, "fixed_large", data_variance)
    assert abs(gap - published) < 5e-4
    assert abs(gap - closed_form_gap(LINEAR.betas, data_variance, "fixed_large")) < 2e-5


@pytest.mark.parametrize("data_variance", [1.0, 0.25, 0.05])
def test_the_gap_of_fixed_small_variance_is_its_sum_of_divergences(data_variance):
    expected = closed_form_gap(LINEAR.betas, data_variance, "fixed_small")
    assert 0.75 < expected < 0.85
    gap = excess_over_the_truth(LINEAR, "fixed_small", data_variance)
    assert abs(gap - expected) < 1e-4


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("fixed", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("schedule", [LINEAR, schedules.cosine(1000)])
@pytest.mark.wide(4)
def test_the_gaps_are_closed_forms_to_ten_digits(schedule, fixed):
    gap = excess_over_the_truth(schedule, fixed, 0.3, jnp.float64)
    expected = closed_form_gap(schedule.betas, 0.3, fixed)
    np.testing.assert_allclose(gap, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.usefixtures("_float64")
def test_a_step_is_the_divergence_of_two_normals_by_quadrature():
    schedule, s, t = schedules.flow(), 0.4, 0.7
    x0, xt, guess = (jnp.full((1, 1), value) for value in (0.8, -0.2, 0.5))
    q = process.posterior(schedule, xt, x0, s, t)
    mean = process.posterior_mean(schedule, xt, guess, s, t)
    variance = process.transition_variance(schedule, s, t)
    q = stats.norm(float(q.mean[0, 0]), float(jnp.sqrt(q.variance)))
    p = stats.norm(float(mean[0, 0]), float(jnp.sqrt(variance)))
    expected = q.expect(lambda x: q.logpdf(x) - p.logpdf(x), lb=q.ppf(1e-15), ub=q.ppf(1 - 1e-15))
    eps = (xt - schedule.alpha(t) * guess) / schedule.sigma(t)
    term = likelihood.vlb_term(schedule, Denoised(guess, eps), x0, xt, s, t)
    np.testing.assert_allclose(term, expected, rtol=1e-7)


@pytest.mark.wide(3)
@pytest.mark.parametrize("levels", [None, 17])
@pytest.mark.parametrize("s", [0.0, 0.3])
def test_the_learned_range_is_the_fixed_variances_at_its_ends(s, levels):
    x0, eps = corners(0.3)
    x0 = jnp.round(x0 * 8) / 8
    t = 0.001 if s == 0 else 0.301
    xt = process.add_noise(LINEAR, x0, t, eps)
    out = oracles.Gaussian(0.0, 0.3).denoiser(LINEAR)(xt, jnp.full(4, t))
    term = functools.partial(likelihood.vlb_term, LINEAR, decoder_levels=levels)
    for fraction, fixed in [(-1.0, "fixed_small"), (1.0, "fixed_large")]:
        learned = out._replace(variance_fraction=jnp.full_like(xt, fraction))
        got = term(learned, x0, xt, s, t, variance="learned_range")
        np.testing.assert_allclose(got, term(out, x0, xt, s, t, variance=fixed), rtol=1e-5)
    middle = out._replace(variance_fraction=jnp.zeros_like(xt))
    between = term(middle, x0, xt, s, t, variance="learned_range")
    assert not np.allclose(between, got, rtol=1e-3)
    # Pixels have variances of their own, in the middle of the logarithms.
    mixed = out._replace(variance_fraction=jnp.array([[-1.0], [0.0], [1.0], [0.0]]))
    got = term(mixed, x0, xt, s, t, variance="learned_range")
    np.testing.assert_allclose(got[1], between[1], rtol=1e-6)
    assert got[0] != between[0]


def test_gradients_are_finite_on_both_branches():
    _, eps = corners(1.0)
    x0 = jnp.array([[-1.0], [0.25], [1.0], [0.25]])
    # The last guess is 200 standard deviations off.
    error = jnp.array([[0.01], [0.1], [-0.3], [2.0]])
    for levels in (None, 9, 256):
        for s, t in [(0.0, 0.001), (0.001, 0.002), (0.999, 1.0)]:

            def total(guess, fraction, s=s, t=t, levels=levels):
                xt = process.add_noise(LINEAR, x0, t, eps)
                out = Denoised(guess, eps, fraction)
                return likelihood.vlb_term(
                    LINEAR, out, x0, xt, s, t, variance="learned_range", decoder_levels=levels
                ).sum()

            grads = jax.grad(total, argnums=(0, 1))(x0 + error, jnp.zeros_like(x0))
            assert all(np.isfinite(g).all() for g in grads)
            # The guess beyond its pixel's value is pulled back to it.
            assert np.all(np.sign(grads[0][1:]) == np.sign(error[1:]))
            assert np.all(grads[1][3] < 0)


@pytest.mark.wide(7)
@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("std", [0.003, 0.05, 2.0])
def test_the_decoder_is_a_difference_of_normal_cdfs(levels, std):
    # Pixel k owns [k - 1/2, k + 1/2] in units of pixels; the first and the last are open.
    for mean in (-1.3, -0.51, 0.02, 0.98):
        centre = (mean + 1) / 2 * (levels - 1)
        normal = stats.norm(centre, std / 2 * (levels - 1))
        k = np.arange(levels)
        upper, lower = (
            np.where(k == levels - 1, np.inf, k + 0.5),
            np.where(k == 0, -np.inf, k - 0.5),
        )
        mass = np.where(
            k < centre, normal.cdf(upper) - normal.cdf(lower), normal.sf(lower) - normal.sf(upper)
        )
        x0 = jnp.linspace(-1, 1, levels)[:, None]
        nll = likelihood.decoder_nll(
            x0, jnp.full_like(x0, mean), jnp.full_like(x0, 2 * np.log(std)), levels
        )[:, 0]
        seen = mass > 1e-280
        assert seen.any()
        np.testing.assert_allclose(nll[seen], -np.log(mass[seen]), rtol=1e-8, atol=1e-12)
        assert np.all(nll[~seen] > 600)
        np.testing.assert_allclose(np.exp(-nll).sum(), 1, rtol=1e-12)


def test_the_decoder_holds_its_digits_in_float32():
    x0 = jnp.linspace(-1, 1, 256)[:, None]
    for mean, std in [(0.3, 0.01), (-1.0, 0.5), (0.0, 1e-3)]:
        single = likelihood.decoder_nll(
            x0, jnp.full_like(x0, mean), jnp.full_like(x0, 2 * np.log(std)), 256
        )
        assert np.isfinite(single).all()
        with jax.enable_x64(True):
            double = np.linspace(-1, 1, 256)[:, None]
            full = np.full_like(double, mean), np.full_like(double, 2 * np.log(std))
            exact = likelihood.decoder_nll(jnp.asarray(double), *map(jnp.asarray, full), 256)
        np.testing.assert_allclose(single, exact, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("path", ["linear", "ve", "flow"])
@pytest.mark.wide(3)
def test_the_discrete_bound_and_its_terms(path):
    schedule = PATHS[path]
    data = oracles.Gaussian(0.4, 0.25)
    x0 = data.sample(jax.random.key(0), (256, 16))
    truth = -data.log_density(schedules.flow(), x0, 0.0) / 16 * BITS
    times = np.linspace(1, 0, 401) if schedule.betas is None else None
    bound = jax.jit(
        lambda: likelihood.discrete_vlb(
            data.denoiser(schedule), schedule, x0, jax.random.key(1), times=times
        )
    )()
    parts = bound.prior + bound.denoising + bound.decoder
    np.testing.assert_allclose(bound.total, parts, rtol=1e-5, atol=1e-5)
    # Each by itself: the prior is SNR(1) x_0² / 2, the decoder that of N(x_0, sigma_1²).
    last = float(schedule.log_snr(jnp.float32(1)))
    expected = 0.5 * np.exp(last) * (x0**2).mean(axis=1) * BITS
    np.testing.assert_allclose(bound.prior, expected, rtol=1e-4, atol=1e-12)
    assert (bound.denoising > 0).all()
    excess = np.asarray(bound.total - truth)
    slack = {"linear": 0.002, "ve": 0.11, "flow": 0.01}[path]
    error = 4 * excess.std() / np.sqrt(len(x0))
    assert -error < excess.mean() < slack + error


@pytest.mark.wide(3)
def test_a_subset_of_the_steps_estimates_their_sum():
    data = oracles.Gaussian(0.0, 0.25)
    schedule = schedules.cosine(100)
    x0 = jnp.broadcast_to(data.sample(jax.random.key(0), (1, 64)), (2048, 64))
    bound = functools.partial(likelihood.discrete_vlb, data.denoiser(schedule), schedule, x0)
    some = jax.jit(lambda: bound(jax.random.key(1), num_terms=7))()
    whole = jax.jit(lambda: bound(jax.random.key(2)))()
    difference = float(some.denoising.mean() - whole.denoising.mean())
    error = np.hypot(some.denoising.std(), whole.denoising.std()) / np.sqrt(len(x0))
    assert abs(difference) < 4 * error < 0.1
    np.testing.assert_allclose(some.prior, whole.prior, rtol=1e-6)
    assert abs(float(some.decoder.mean() - whole.decoder.mean())) < 0.02


def continuous_excess(schedule, data_variance, shape, num_draws):
    """The continuous bound less the truth, in bits: its mean over examples, and four errors."""
    data = oracles.Gaussian(0.3, data_variance)
    x0 = data.sample(jax.random.key(0), shape)
    truth = -data.log_density(schedules.flow(), x0, 0.0) / shape[1] * BITS
    bound = jax.jit(
        lambda: likelihood.continuous_vlb(
            data.denoiser(schedule), schedule, x0, jax.random.key(1), num_draws=num_draws
        )
    )()
    parts = bound.prior + bound.denoising + bound.decoder
    np.testing.assert_allclose(bound.total, parts, rtol=1e-5, atol=1e-5)
    excess = np.asarray(bound.total - truth)
    return excess.mean(), 4 * excess.std() / np.sqrt(len(x0))


@pytest.mark.wide(7)
@pytest.mark.parametrize("path", PATHS)
def test_the_continuous_bound_holds_on_every_path(path):
    excess, error = continuous_excess(PATHS[path], 0.05, (1024, 16), 32)
    assert error < 0.12
    assert abs(excess) < 0.01 + error


@pytest.mark.wide(6)
@pytest.mark.parametrize("data_variance", [1.0, 0.25, 0.05])
def test_the_continuous_bound_is_tight(data_variance):
    excess, error = continuous_excess(LINEAR, data_variance, (128, 8192), 80)
    assert error < 0.01
    assert abs(excess) < 0.01


def test_a_chain_of_one_step_is_prior_and_decoder():
    schedule = schedules.from_betas([0.5])
    x0 = jnp.array([[0.1, 0.4]])
    denoise = oracles.point_mass(0.0).denoiser(schedule)
    bound = likelihood.discrete_vlb(denoise, schedule, x0, jax.random.key(0))
    assert bound.denoising == 0
    normal = stats.norm(0, np.sqrt(0.5))
    np.testing.assert_allclose(bound.decoder, -normal.logpdf(x0).mean() * BITS, rtol=1e-6)
    # KL(N(a, v) || N(0, v)) = a² / 2v.
    np.testing.assert_allclose(bound.prior, (x0**2).mean() / 2 * BITS, rtol=1e-6)


def test_a_worse_denoiser_has_a_larger_bound():
    data, schedule = oracles.Gaussian(0.0, 0.25), schedules.flow()
    x0 = data.sample(jax.random.key(0), (256, 8))
    exact = data.denoiser(schedule)

    def biased(xt, t):
        out = exact(xt, t)
        return Denoised(out.x0, out.eps + 0.2)

    good, bad = (
        likelihood.continuous_vlb(d, schedule, x0, jax.random.key(1), num_draws=32)
        for d in (exact, biased)
    )
    # E|eps - eps-hat|² rises by 0.04; the integral is half of it over log-SNR 13.3 to -20.
    rise = float(bad.denoising.mean() - good.denoising.mean())
    assert abs(rise - 0.5 * 0.04 * 33.3 * BITS) < 0.05


def runge_kutta(num_steps):
    def integrate(field, y, t0, t1):
        h = (t1 - t0) / num_steps

        def step(y, k):
            t = t0 + k * h
            k1 = field(t, y)
            k2 = field(t + h / 2, y + h / 2 * k1)
            k3 = field(t + h / 2, y + h / 2 * k2)
            k4 = field(t + h, y + h * k3)
            return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

        return jax.lax.scan(step, y, jnp.arange(num_steps))[0]

    return integrate


@pytest.mark.wide(7)
@pytest.mark.parametrize("path", PATHS)
def test_the_flow_has_the_density_of_a_gaussian(path):
    schedule = PATHS[path]
    data = oracles.Gaussian(jnp.array([0.3, -0.5]), jnp.array([1.0, 0.05]))
    x0 = data.sample(jax.random.key(0), (512, 2))
    truth = -data.log_density(schedules.flow(), x0, 0.0) / 2 * BITS
    bits = jax.jit(
        lambda: likelihood.probability_flow(
            data.denoiser(schedule), schedule, x0, integrate=runge_kutta(64)
        )
    )()
    assert abs(np.mean(bits - truth)) < 0.005
    assert np.abs(bits - truth).max() < 0.1


@pytest.mark.usefixtures("_float64")
@pytest.mark.wide(3)
def test_the_flow_has_the_density_of_a_mixture():
    # x_0 is scored by the density of x_t / alpha at t_min, here far from 0. The prior is
    # that of alpha = 0, at log-SNR -20: exp(-10) off.
    data = oracles.Mixture([0.3, 0.7], [[-1.0, 0.5], [0.8, 0.0]], [0.05, 0.2])
    schedule, t_min = PATHS["cosine"], 0.1
    alpha = float(schedule.alpha(t_min))
    x0 = data.sample(jax.random.key(0), 32, jnp.float64)
    truth = -(data.log_density(schedule, alpha * x0, t_min) / 2 + np.log(alpha)) * BITS
    integrate = functools.partial(_odeint, rtol=1e-9, atol=1e-9)
    flow = functools.partial(
        likelihood.probability_flow, data.denoiser(schedule), schedule, x0, t_min=t_min
    )
    exact = jax.jit(lambda: flow(integrate=integrate))()
    np.testing.assert_allclose(exact, truth, atol=5e-5)
    many = jnp.repeat(x0, 64, axis=0)
    flow = functools.partial(
        likelihood.probability_flow, data.denoiser(schedule), schedule, many, t_min=t_min
    )

    def probed(num_probes, seed):
        key = jax.random.key(seed)
        integrate = runge_kutta(100)
        return jax.jit(lambda: flow(key, integrate=integrate, num_probes=num_probes))()

    one, four = (probed(n, seed).reshape(32, 64) for seed, n in enumerate((1, 4)))
    error = one.std(axis=1) / np.sqrt(64)
    assert error.max() > 1e-3
    z = (one.mean(axis=1) - exact) / error
    assert np.abs(z).max() < 5
    assert 0.5 < float(z.std()) < 1.5
    assert abs(float(np.mean(four.std(axis=1) / one.std(axis=1))) - 0.5) < 0.06


def _odeint(field, y0, t0, t1, **tolerance):
    return ode.odeint(lambda y, t: field(t, y), y0, jnp.stack([t0, t1]), **tolerance)[-1]


def test_the_density_of_dequantised_data_bounds_their_entropy():
    # Pixels uniform on 4 levels: 2 bits each, and a uniform density on [-1, 1) has just these.
    levels = 4
    pixels = jax.random.randint(jax.random.key(0), (64, 500), 0, levels)
    x0 = likelihood.dequantise(jax.random.key(1), pixels * (2 / (levels - 1)) - 1, levels)
    assert stats.kstest(np.asarray(x0).ravel(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert np.array_equal(np.floor((x0 + 1) / 2 * levels), pixels)
    density = jnp.full(64, -stats.uniform(-1, 2).logpdf(0) * BITS)
    np.testing.assert_allclose(likelihood.bits_per_cell(density, levels), 2, rtol=1e-6)
    # An example's noise is its own key's.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), jnp.arange(64))
    alone = likelihood.dequantise(keys[3:4], pixels[3:4] * (2 / (levels - 1)) - 1, levels)
    np.testing.assert_array_equal(alone[0], x0[3])


@pytest.mark.parametrize("which", ["discrete", "some", "continuous", "flow"])
@pytest.mark.wide(4)
def test_an_example_does_not_depend_on_its_neighbours(which):
    data, schedule = oracles.Gaussian(0.1, 0.3), schedules.cosine(20)
    x0 = data.sample(jax.random.key(0), (8, 3))
    keys = jax.random.split(jax.random.key(1), 8)

    @jax.jit
    def score(x0, keys):
        denoise = data.denoiser(schedule)
        if which == "continuous":
            return likelihood.continuous_vlb(denoise, schedule, x0, keys, num_draws=8).total
        if which == "flow":
            return likelihood.probability_flow(
                denoise, schedule, x0, keys, integrate=runge_kutta(8), num_probes=2
            )
        terms = 5 if which == "some" else None
        return likelihood.discrete_vlb(denoise, schedule, x0, keys, num_terms=terms).total

    together = score(x0, keys)
    alone = jnp.concatenate([score(x0[k : k + 1], keys[k : k + 1]) for k in range(8)])
    np.testing.assert_allclose(alone, together, rtol=2e-5, atol=2e-5)


@pytest.mark.wide(6)
def test_a_lattice_is_never_scored_by_a_density():
    data, schedule = oracles.Gaussian(0.0, 0.3), schedules.cosine(10)
    denoise = data.denoiser(schedule)
    lattice = jax.random.randint(jax.random.key(0), (8, 64), 0, 17) / 8 - 1
    key = jax.random.key(1)
    with pytest.raises(ValueError, match=r"decoder_levels=None.*17 values.*state"):
        likelihood.discrete_vlb(denoise, schedule, lattice, key)
    with pytest.raises(ValueError, match=r"decoder_levels=None.*17 values.*dequantise"):
        likelihood.continuous_vlb(denoise, schedule, lattice, key)
    with pytest.raises(ValueError, match=r"levels=None.*17 values.*dequantise"):
        likelihood.probability_flow(denoise, schedule, lattice, integrate=runge_kutta(2))
    with pytest.raises(ValueError, match=r"levels=None.*256"):
        likelihood.dequantise(key, lattice, None)
    for levels in (17, 256):  # one example is enough
        image = jax.random.randint(jax.random.key(0), (1, 64), 0, levels) * (2 / (levels - 1)) - 1
        with pytest.raises(ValueError, match="state their number"):
            likelihood.discrete_vlb(denoise, schedule, image, key)
    likelihood.discrete_vlb(denoise, schedule, jax.random.normal(key, (1, 16)), key)
    stated = likelihood.discrete_vlb(denoise, schedule, lattice, key, decoder_levels=17)
    assert np.isfinite(stated.total).all()
    spread = likelihood.dequantise(key, lattice, 17)
    assert np.isfinite(likelihood.continuous_vlb(denoise, schedule, spread, key).total).all()


def test_bad_input_is_refused():
    data, schedule, key = oracles.Gaussian(0.0, 0.3), schedules.cosine(10), jax.random.key(0)
    x0, denoise = jnp.ones((2, 3)) * 0.1, data.denoiser(schedule)
    discrete = functools.partial(likelihood.discrete_vlb, denoise, schedule, x0, key)
    flow = functools.partial(
        likelihood.probability_flow, denoise, schedule, x0, integrate=runge_kutta(2)
    )
    for call, message in [
        (lambda: discrete(variance="small"), r"fixed_small.*'small'"),
        (lambda: discrete(decoder_levels=1), r"levels >= 2.*levels=1"),
        (lambda: discrete(num_terms=10), r"1 <= num_terms <= 9.*got 10"),
        (lambda: discrete(num_terms=0), r"1 <= num_terms"),
        (lambda: discrete(times=[1.0, 0.5]), r"from 1 to 0.*grids"),
        (lambda: discrete(times=[1.0, 0.2, 0.5, 0.0]), r"descend"),
        (lambda: discrete(variance="learned_range"), r"variance fraction"),
        (lambda: flow(t_min=1.0), r"0 <= t_min < 1.*t_min=1.0"),
        (lambda: flow(t_min=0.0), r"t_min=0.*above 0"),
        (lambda: flow(num_probes=0), r"num_probes >= 1"),
        (lambda: flow(num_probes=1), r"key=None"),
        (
            lambda: likelihood.continuous_vlb(denoise, schedule, x0, key, num_draws=0),
            r"num_draws >= 1",
        ),
        (
            lambda: likelihood.discrete_vlb(denoise, schedules.flow(), x0, key),
            r"continuous",
        ),
        (
            lambda: likelihood.vlb_term(schedule, denoise(x0, 0.5), x0, x0[:1], 0.4, 0.5),
            r"one shape",
        ),
        (
            lambda: likelihood.discrete_vlb(denoise, schedule, x0, jax.random.split(key, 3)),
            r"one for each of 2.*\(3,\)",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
