"""The variational objectives against torch's divergences, and what of a network they train."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import integrate, stats

from ddpm_jax.diffusion import losses, prediction, process, schedules, time_draws
from ddpm_jax.training.objectives import denoise

STEPS = 50
SCHEDULE = schedules.linear(STEPS, 1e-3, 0.2)
INDEX = np.array([1, 2, 7, 30, 50])
T = INDEX / STEPS
BARS = oracles.exact_alphas_cumprod(SCHEDULE.betas).astype(np.float64)
BETA = SCHEDULE.betas[INDEX - 1]
DATA = oracles.Gaussian(0.1, 0.3)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def batch(channels=3):
    x0, eps = jax.random.normal(jax.random.key(0), (2, len(INDEX), 4, channels), jnp.float64)
    return 0.5 * x0, jnp.asarray(T), eps


def two_headed(mean, fraction):
    """A learned-range network of constants: outputs mean x_t, and the fraction."""

    def network(xt, time):
        return jnp.concatenate([mean * xt, fraction * jnp.ones_like(xt)], axis=-1)

    return network


def of_torch(x0, eps, guess, fraction, levels):
    """T times each step's term in bits: torch's KL divergence, scipy's mass for the decoder."""
    torch = pytest.importorskip("torch")
    bar, before = BARS[INDEX][:, None, None], BARS[INDEX - 1][:, None, None]
    beta = BETA[:, None, None]
    xt = np.sqrt(bar) * x0 + np.sqrt(1 - bar) * eps
    x0_hat = (xt - np.sqrt(1 - bar) * guess(xt)) / np.sqrt(bar)
    # Ho et al. 2020, equation 7.
    small = (1 - before) / (1 - bar) * beta
    means = [
        (np.sqrt(before) * beta * x + np.sqrt(1 - beta) * (1 - before) * xt) / (1 - bar)
        for x in (x0, x0_hat)
    ]
    clipped = np.where(small == 0, (1 - BARS[1]) / (1 - BARS[2]) * SCHEDULE.betas[1], small)
    share = (fraction + 1) / 2  # Nichol & Dhariwal 2021, equation 15
    std = np.exp(0.5 * (share * np.log(beta) + (1 - share) * np.log(clipped)))
    normal = torch.distributions.Normal
    truth = normal(*(torch.tensor(x[1:]) for x in (means[0], np.sqrt(small) * np.ones_like(x0))))
    model = normal(*(torch.tensor(x[1:]) for x in (means[1], std * np.ones_like(x0))))
    kl = torch.distributions.kl_divergence(truth, model).numpy().mean(axis=(1, 2))
    law = stats.norm(means[1][0], std[0])
    if levels is None:
        decoder = -law.logpdf(x0[0])
    else:
        half = 1 / (levels - 1)
        upper = np.where(x0[0] > 1 - half, np.inf, x0[0] + half)
        lower = np.where(x0[0] < -1 + half, -np.inf, x0[0] - half)
        decoder = -np.log(law.cdf(upper) - law.cdf(lower))
    return STEPS / np.log(2) * np.concatenate([[decoder.mean()], kl])


@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("fraction", [-1.0, 0.3, 1.0])
@pytest.mark.wide(4)
def test_the_bound_is_a_sum_of_torchs_divergences(fraction, levels):
    x0, t, eps = batch()
    if levels:
        x0 = jnp.round(2 * jnp.clip(x0, -1, 1)) / 2  # -1, -1/2, 0, 1/2, 1
    network = two_headed(0.4, fraction)
    loss = losses.vlb(network, SCHEDULE, x0, t, eps, decoder_levels=levels)
    expected = of_torch(np.asarray(x0), np.asarray(eps), lambda xt: 0.4 * xt, fraction, levels)
    # The reference's decoder is a difference of cdfs near 1: its own rounding is 1e-16 / ln 2 x T.
    np.testing.assert_allclose(loss, expected, rtol=1e-7, atol=1e-14)
    # L_simple + 0.001 L_vlb.
    simple = losses.simple(lambda xt, time: 0.4 * xt, SCHEDULE, x0, t, eps)
    both = losses.hybrid(network, SCHEDULE, x0, t, eps, decoder_levels=levels)
    np.testing.assert_allclose(both, simple + 0.001 * expected, rtol=1e-9)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.wide(2)
def test_fixed_variances_are_the_ends_of_the_learned_range(variance):
    x0, t, eps = batch()
    fixed = losses.vlb(lambda xt, time: 0.4 * xt, SCHEDULE, x0, t, eps, variance=variance)
    network = two_headed(0.4, {"fixed_small": -1.0, "fixed_large": 1.0}[variance])
    np.testing.assert_allclose(fixed, losses.vlb(network, SCHEDULE, x0, t, eps), rtol=1e-9)


def test_the_mean_over_steps_is_the_bound_on_the_density():
    # The exact denoiser's bound with beta as variance is the entropy, up to what a reverse step of
    # finite length loses: each step's best Gaussian has variance beta (1 + O(beta)).
    n, steps = 4000, 200
    schedule = schedules.linear(steps, 5e-4, 0.1)
    x0 = DATA.sample(jax.random.key(1), (n, 1), jnp.float64)
    eps = jax.random.normal(jax.random.key(2), (n, 1), jnp.float64)
    t = time_draws.stratified().draw(schedule, jnp.zeros((n, 2)), jax.random.key(3), {})[0]

    def exact(xt, time):
        return DATA.denoiser(schedule)(xt, t).eps

    loss = losses.vlb(exact, schedule, x0, t, eps, variance="fixed_large")
    entropy = stats.norm(0, DATA.variance**0.5).entropy() / np.log(2)
    assert abs(loss.mean() - entropy) < 4 * loss.std() / np.sqrt(n) + 0.02


def gradients(loss):
    """d mean loss / d (mean, fraction) of a learned-range network, x_t shared."""
    x0, t, eps = batch()

    def mean(heads):
        return loss(two_headed(*heads), SCHEDULE, x0, t, eps).mean()

    return jax.grad(mean)((jnp.float64(0.4), jnp.float64(0.2)))


def test_the_bound_in_hybrid_trains_the_variance_alone():
    hybrid, bound = gradients(losses.hybrid), gradients(losses.vlb)
    x0, t, eps = batch()
    simple = jax.grad(
        lambda a: losses.simple(lambda xt, time: a * xt, SCHEDULE, x0, t, eps).mean()
    )(jnp.float64(0.4))
    np.testing.assert_allclose(hybrid[0], simple, rtol=1e-12)
    np.testing.assert_allclose(hybrid[1], 0.001 * bound[1], rtol=1e-12)
    assert abs(bound[0]) > 0.1  # without the stop it would show
    assert abs(bound[1]) > 0.1


def test_only_the_bounds_part_of_hybrid_scales_with_its_weight():
    none = gradients(functools.partial(losses.hybrid, vlb_weight=0.0))
    twice = gradients(functools.partial(losses.hybrid, vlb_weight=0.002))
    once = gradients(losses.hybrid)
    assert none[1] == 0
    np.testing.assert_allclose(twice[1], 2 * once[1], rtol=1e-12)
    assert none[0] == once[0]


def test_hybrid_weighs_its_simple_part():
    x0, t, eps = batch()

    def weighting(schedule, t):
        return jnp.arange(1.0, 6.0)

    plain = losses.hybrid(two_headed(0.4, 0.2), SCHEDULE, x0, t, eps, vlb_weight=0)
    weighted = losses.hybrid(
        two_headed(0.4, 0.2), SCHEDULE, x0, t, eps, vlb_weight=0, weighting=weighting
    )
    np.testing.assert_allclose(weighted, np.arange(1, 6) * plain, rtol=1e-12)


@pytest.mark.parametrize("form", ["eps", "x0", "v"])
def test_the_bound_does_not_depend_on_what_is_predicted(form):
    x0, t, eps = batch()
    xt = process.add_noise(SCHEDULE, x0, t, eps)
    guess = DATA.denoiser(SCHEDULE)(xt, t)

    def network(xt, time):
        output = prediction.encode(form, SCHEDULE, xt, t, guess)
        return jnp.concatenate([output, jnp.zeros_like(output)], axis=-1)

    loss = losses.vlb(network, SCHEDULE, x0, t, eps, prediction=form)
    halfway = of_torch(np.asarray(x0), np.asarray(eps), lambda _: np.asarray(guess.eps), 0.0, None)
    np.testing.assert_allclose(loss, halfway, rtol=1e-7)


@pytest.mark.parametrize("schedule", [SCHEDULE, schedules.zero_terminal_snr(SCHEDULE)])
@pytest.mark.parametrize("loss", [losses.vlb, losses.hybrid])
@pytest.mark.wide(4)
def test_bounds_and_gradients_are_finite_in_half_and_single_precision(loss, schedule):
    x0, t, eps = (x.astype(jnp.float32) for x in batch())
    with jax.enable_x64(False):
        x0 = jnp.clip(x0, -1, 1)

        def total(heads):
            def network(xt, time):
                return two_headed(*heads)(xt, time).astype(jnp.bfloat16)

            values = loss(network, schedule, x0, t, eps, prediction="v", decoder_levels=256)
            return values.sum(), values

        gradient, values = jax.jit(jax.grad(total, has_aux=True))((0.4, 0.2))
    assert values.dtype == jnp.float32
    assert np.isfinite(values).all()
    assert np.isfinite(gradient).all()


def test_learned_range_trains_to_the_best_variance():
    # On N(0, v) with the exact mean, the reverse step's variance is that of q(x_s | x_t):
    # beta-tilde + (weight of x_0)² Var[x_0 | x_t], between beta-tilde and beta.
    schedule, i = schedules.linear(10, 0.05, 0.6), 6
    bars, beta = oracles.exact_alphas_cumprod(schedule.betas), schedule.betas[i - 1]
    bar, before = float(bars[i]), float(bars[i - 1])
    small = (1 - before) / (1 - bar) * beta
    uncertain = 0.3 * (1 - bar) / (bar * 0.3 + 1 - bar)
    best = small + (np.sqrt(before) * beta / (1 - bar)) ** 2 * uncertain
    expected = 2 * np.log(best / small) / np.log(beta / small) - 1
    # Four points with the right first two moments make the mean exact.
    x0 = 0.1 + np.sqrt(0.3) * jnp.asarray([1.0, 1, -1, -1])[:, None]
    eps = jnp.asarray([1.0, -1, 1, -1])[:, None]
    t = jnp.full(4, i / 10)

    def total(fraction):
        def network(xt, time):
            exact = DATA.denoiser(schedule)(xt, t).eps
            return jnp.concatenate([exact, fraction * jnp.ones_like(xt)], axis=-1)

        return losses.hybrid(network, schedule, x0, t, eps).sum()

    slope, curvature = jax.jit(jax.grad(total)), jax.jit(jax.grad(jax.grad(total)))
    fraction = jnp.float64(0.0)
    for _ in range(8):
        fraction = fraction - slope(fraction) / curvature(fraction)
    # The divergence's series near equal variances is cut at a relative 4e-9.
    np.testing.assert_allclose(fraction, expected, rtol=1e-7)
    assert -1 < expected < 1


def test_the_continuous_bound_without_its_ends_is_the_information_in_bits():
    # As in nats by `weighted`: with the exact denoiser, the fall of I(x_0; x_t).
    schedule = schedules.vp_continuous()
    x0 = 0.1 + np.sqrt(0.3) * jnp.asarray([1.0, 1, -1, -1])[:, None]
    eps = jnp.asarray([1.0, -1, 1, -1])[:, None]

    @jax.jit
    def integrand(t):
        t = jnp.full(4, t)
        output = DATA.denoiser(schedule)(process.add_noise(schedule, x0, t, eps), t).eps
        return losses.continuous_vlb(
            lambda *_: output, schedule, x0, t, eps, with_ends=False
        ).mean()

    bound, _ = integrate.quad(lambda t: float(integrand(t)), 0.05, 0.97, epsrel=1e-9)
    snr = np.exp(schedule.log_snr(jnp.asarray([0.05, 0.97])))
    information = 0.5 * np.log2(1 + 0.3 * snr)
    assert bound == pytest.approx(information[0] - information[1], rel=1e-7)


def test_bad_input_is_refused():
    x0, t, eps = batch()
    with pytest.raises(ValueError, match="6 output channels for data of 3"):
        losses.hybrid(lambda xt, time: xt, SCHEDULE, x0, t, eps)
    with pytest.raises(ValueError, match="6 output channels for data of 3"):
        losses.vlb(lambda xt, time: xt, SCHEDULE, x0, t, eps)
    with pytest.raises(ValueError, match="shape"):
        losses.vlb(two_headed(1.0, 1.0), SCHEDULE, x0, t, eps, variance="fixed_small")
    with pytest.raises(ValueError, match="variance must be"):
        losses.vlb(lambda xt, time: xt, SCHEDULE, x0, t, eps, variance="learned")
    with pytest.raises(ValueError, match="continuous"):
        losses.hybrid(two_headed(1.0, 1.0), schedules.flow(), x0, t, eps)
    with pytest.raises(ValueError, match="needs a continuous schedule"):
        losses.continuous_vlb(lambda xt, time: xt, SCHEDULE, x0, t, eps)
    objective = denoise.denoising(
        lambda variables, xt, *_, **__: xt, lambda params: SCHEDULE, loss=losses.hybrid
    )
    with pytest.raises(ValueError, match="6 output channels"):
        objective({}, {"x0": x0}, jax.random.key(0), True, {})
