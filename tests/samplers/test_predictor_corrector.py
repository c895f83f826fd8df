"""Predictor-corrector sampling against marginals in closed form, orders and diffusers' VE class."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import prediction, schedules
from ddpm_jax.samplers import base, grids
from ddpm_jax.samplers.predictor_corrector import PREDICTORS, predictor_corrector

KEY = jax.random.key(1)
DATA = oracles.Gaussian(0.5, 0.3)
MIXTURE = oracles.Mixture([0.3, 0.7], [[-1.5, 0.0], [1.5, 0.0]], [0.1, 0.1])
PATHS = {
    "vp": schedules.vp_continuous(),
    "sub-vp": schedules.sub_vp(),
    "ve": schedules.ve(0.01, 20.0),
    "flow": schedules.flow(),
    "linear": schedules.linear(1000),
    "zero terminal SNR": schedules.zero_terminal_snr(schedules.linear(1000)),
}
each_predictor = pytest.mark.parametrize("predictor", PREDICTORS)


def start(schedule, shape, data=DATA):
    """Draws of q(x_1), of one-dimensional data."""
    mean, std = (float(f(jnp.ones(()))) for f in (schedule.alpha, schedule.sigma))
    spread = np.sqrt(mean**2 * data.variance + std**2)
    return mean * data.mean + spread * jax.random.normal(jax.random.key(0), shape)


def sample(name, times, x, key=KEY, data=DATA, **options):
    schedule = PATHS[name]
    denoise = data.denoiser(schedule)
    return predictor_corrector(denoise, schedule, times, key, x, **options)


def variance_at(name, t):
    alpha, sigma = (float(f(jnp.array(t))) for f in (PATHS[name].alpha, PATHS[name].sigma))
    return alpha**2 * DATA.variance + sigma**2, alpha * DATA.mean


@pytest.mark.wide(7)
@pytest.mark.parametrize(
    ("name", "predictor"),
    [
        ("vp", "reverse_diffusion"),
        ("vp", "euler_maruyama"),
        ("vp", "ancestral"),
        ("sub-vp", "reverse_diffusion"),
        ("sub-vp", "euler_maruyama"),
        ("ve", "reverse_diffusion"),
        ("ve", "ancestral"),
        ("flow", "euler_maruyama"),
    ],
)
def test_it_reaches_the_marginal_of_the_last_level(name, predictor):
    times, n = np.linspace(1, 0.1, 1001), 100_000
    options = {"predictor": predictor, "final_denoise": False, "snr": 0.03}
    x = start(PATHS[name], (n // 500, 500))
    out = jax.jit(lambda x: sample(name, times, x, **options))(x)
    variance, mean = variance_at(name, 0.1)
    # The bounds of chance, and what 1000 steps and corrections of this snr leave.
    assert abs(out.mean() - mean) < 4 * np.sqrt(variance / n) + 2e-3 * np.sqrt(variance)
    assert abs(out.var() / variance - 1) < 4 * np.sqrt(2 / n) + 4e-3


def variance_reached(name, times, monkeypatch, **options):
    """The exact variance of a sampler whose steps are a x + c + b z, read off three runs."""
    runs = []
    for first, z in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        monkeypatch.setattr(base, "normal", lambda key, like, z=z: jnp.full_like(like, z))
        x = jnp.full((1, 1), first, jnp.float64)
        _, path = sample(name, times, x, return_trajectory=True, **options)
        runs.append(np.asarray(path)[:, 0, 0])
    still, moved, noisy = runs
    slopes = np.diff([still, moved], axis=0)[0]
    slopes = slopes[1:] / slopes[:-1]
    noises = noisy[1:] - (still[1:] + slopes * (noisy[:-1] - still[:-1]))
    variance, _ = variance_at(name, float(times[0]))
    for slope, noise in zip(slopes, noises, strict=True):
        variance = slope**2 * variance + noise**2
    return variance


@pytest.mark.wide(7)
@each_predictor
@pytest.mark.parametrize("name", ["vp", "sub-vp", "ve"])
def test_the_bias_of_the_variance_falls_with_the_first_power_of_the_step(
    name, predictor, monkeypatch
):
    options = {"predictor": predictor, "num_corrections": 0, "final_denoise": False}
    sizes = (50, 100, 200, 400)
    with jax.enable_x64(True):
        exact, _ = variance_at(name, 0.2)
        biases = [
            abs(
                variance_reached(name, np.linspace(1, 0.2, n + 1), monkeypatch, **options) / exact
                - 1
            )
            for n in sizes
        ]
    slope = -np.polyfit(np.log(sizes), np.log(biases), 1)[0]
    assert slope > 0.85, (slope, biases)
    assert biases[0] > 1e-4, biases  # it is there to fall
    assert biases[-1] < 0.03, biases


@pytest.mark.parametrize("d", [1, 2000])
@pytest.mark.parametrize("snr", [0.16, 0.5])
@pytest.mark.wide(4)
def test_corrections_alone_end_in_the_known_variance(snr, d):
    # a = 2 snr² sigma² in any dimension, and v' = (1 - a / v)² v' + 2 a has the solution
    # v' = v / (1 - a / (2 v)).
    times = [0.5, 0.5 - 1e-6]
    x = jnp.zeros((200_000 // d, d))
    options = {"num_corrections": int(8 / snr**2), "snr": snr, "final_denoise": False}
    out = jax.jit(lambda x: sample("flow", times, x, **options))(x)
    variance, mean = variance_at("flow", 0.5)
    assert abs(out.mean() - mean) < 4 * np.sqrt(variance / x.size)
    expected = variance / (1 - snr**2 * 0.5**2 / variance)
    assert abs(out.var() / expected - 1) < 4 * np.sqrt(2 / x.size)


def textbook_deviation(betas, num_steps, snr):
    """Of N(0, 1) data after the authors' loop in beta and alpha_bar, the norms expected ones.

    The exact score of N(0, 1) is -x at every time, so that each line multiplies x and adds noise.
    """
    nodes = np.rint(np.linspace(len(betas), 0, num_steps + 1)).astype(int)
    alpha_bars = np.append(1.0, np.cumprod(1 - betas))
    variance = 1 - alpha_bars[nodes[0]]
    for t, s in itertools.pairwise(nodes):
        beta, noise = 1 - alpha_bars[t] / alpha_bars[s], 1 - alpha_bars[t]
        a = 2 * (1 - beta) * snr**2 * noise
        variance = (1 - a) ** 2 * variance + 2 * a
        if s == 0:  # to x_0-hat, alpha x
            return np.sqrt(alpha_bars[t] * variance)
        variance = (2 - np.sqrt(1 - beta) - beta) ** 2 * variance + beta
    raise AssertionError("the nodes end at 0")


@pytest.mark.parametrize("d", [1, 2, 64])
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.wide(4)
def test_the_defaults_keep_the_deviation_of_any_dimension(name, d):
    schedule = {"linear": schedules.linear, "cosine": schedules.cosine}[name]()
    x = jax.random.normal(jax.random.key(0), (64_000 // d, d))
    data, times = oracles.Gaussian(0.0, 1.0), grids.uniform(schedule, 200)
    denoise = data.denoiser(schedule)
    out = jax.jit(lambda x: predictor_corrector(denoise, schedule, times, KEY, x))(x)
    expected = textbook_deviation(np.asarray(schedule.betas), 200, 0.16)
    assert abs(out.std() / expected - 1) < 4 / np.sqrt(2 * x.size)
    # The bias that the docstring states.
    assert abs(expected - {"linear": 1.004, "cosine": 1.003}[name]) < 5e-4


@pytest.mark.wide(3)
def test_corrections_mend_a_coarse_predictor():
    # The last step has no corrections after it: a short one.
    times = np.append(np.linspace(1, 0.22, 12), 0.2)
    x = start(PATHS["vp"], (100, 500))
    variance, _ = variance_at("vp", 0.2)
    options = {"snr": 0.2, "final_denoise": False}
    bias = [
        abs(sample("vp", times, x, num_corrections=n, **options).var() - variance) for n in (0, 50)
    ]
    assert bias[1] < 0.5 * bias[0], bias


@pytest.mark.wide(6)
@each_predictor
def test_the_mixture_keeps_its_weights(predictor):
    n = 40_000
    x = jax.random.normal(jax.random.key(0), (n, 2))
    times = np.append(np.linspace(1, 0.01, 500), 0)
    options = {"predictor": predictor, "num_corrections": 0}
    out = np.asarray(jax.jit(lambda x: sample("vp", times, x, data=MIXTURE, **options))(x))
    assert abs((out[:, 0] < 0).mean() - 0.3) < 4 * np.sqrt(0.21 / n) + 0.005
    for k, sign in ((0, -1), (1, 1)):
        mode = out[sign * out[:, 0] > 0]
        np.testing.assert_allclose(mode.mean(axis=0), MIXTURE.means[k], atol=0.03)
        np.testing.assert_allclose(mode.var(axis=0), 0.1, rtol=0.1)


@pytest.mark.wide(8)
@each_predictor
@pytest.mark.parametrize(("name", "end"), [*((name, 0.0) for name in PATHS), ("flow", 0.1)])
def test_it_makes_the_stated_calls_above_0_and_stays_finite(name, predictor, end):
    schedule, seen = PATHS[name], []

    def watched(xt, t):
        jax.debug.callback(lambda t: seen.append(np.asarray(t)), t)
        return oracles.point_mass(0.2).denoiser(schedule)(xt, t)

    x = start(schedule, (3, 4))
    times = [1.0, 0.7, 0.4, end]
    last, path = predictor_corrector(
        watched,
        schedule,
        times,
        KEY,
        x,
        predictor=predictor,
        num_corrections=2,
        return_trajectory=True,
    )
    jax.effects_barrier()
    assert np.isfinite(path).all()
    np.testing.assert_array_equal(path[-1], last)
    assert len(seen) == 3 * (1 + 2)
    assert schedule.sigma(jnp.asarray(np.concatenate(seen))).min() > 0
    if float(schedule.sigma(jnp.array(end))) == 0:
        np.testing.assert_allclose(last, 0.2, rtol=1e-5)


def test_where_the_score_vanishes_a_correction_is_its_noise_alone():
    x, schedule = jnp.full((100, 300), 0.5), schedules.ve(0.01, 20.0)

    def flat(xt, t):
        return prediction.Denoised(xt, jnp.zeros_like(xt))

    out = predictor_corrector(flat, schedule, [0.5, 0.4], KEY, x, num_corrections=3, snr=0.2)
    # Of variance 2 a = 4 (snr sigma)² each.
    expected = np.sqrt(3 * 4) * 0.2 * float(schedule.sigma(jnp.array(0.5)))
    assert abs(out.mean() - 0.5) < 4 * expected / np.sqrt(x.size)
    assert abs(out.std() / expected - 1) < 4 / np.sqrt(2 * x.size)


def test_an_image_does_not_depend_on_its_neighbours():
    keys, x = jax.random.split(KEY, 4), start(PATHS["vp"], (4, 8))
    times = [1.0, 0.6, 0.2]
    first = sample("vp", times, x, keys)
    np.testing.assert_allclose(first[2:3], sample("vp", times, x[2:3], keys[2:3]), rtol=1e-5)
    # Much larger neighbours: norms over the batch would tell.
    second = sample("vp", times, (50 * x).at[2].set(x[2]), keys)
    np.testing.assert_array_equal(first[2], second[2])
    jitted = jax.jit(lambda keys, x: sample("vp", times, x, keys))
    np.testing.assert_allclose(jitted(keys, x), first, rtol=1e-5, atol=1e-6)


def test_each_step_is_that_of_diffusers_on_the_ve_path(monkeypatch):
    # Their norms are drawn: the snr that they are handed undoes it, and makes of them ours.
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    drawn: Iterator[Any] = iter([])
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_sde_ve.randn_tensor", lambda *_, **__: next(drawn)
    )
    name, snr, nodes = "ve", 0.16, 5
    schedule = PATHS[name]
    peer = diffusers.ScoreSdeVeScheduler(nodes, snr=snr, sigma_min=0.01, sigma_max=20.0)
    peer.set_timesteps(nodes)
    peer.set_sigmas(nodes)
    levels = peer.discrete_sigmas.numpy()[::-1]
    times = np.clip(np.log(levels / 0.01) / np.log(20.0 / 0.01), 0, 1)
    with jax.enable_x64(True):
        data = oracles.Mixture([0.3, 0.7], [[-1.5] * 6, [1.5] * 6], [0.1, 0.1])
        x = 20 * jax.random.normal(jax.random.key(0), (1, 6), jnp.float64)
        _, path = predictor_corrector(
            data.denoiser(schedule),
            schedule,
            times,
            KEY,
            x,
            snr=snr,
            final_denoise=False,
            return_trajectory=True,
        )
        theirs = torch.tensor(np.asarray(x))
        for i, ours in enumerate(path[1:]):
            t = times[i]
            key = jax.random.fold_in(KEY, i)
            noise = [jax.random.normal(jax.random.fold_in(key, j), (1, 6), x.dtype) for j in (0, 1)]
            drawn = iter([torch.tensor(np.asarray(z)) for z in noise])
            for act in (peer.step_correct, peer.step_pred):
                score = torch.tensor(
                    np.asarray(data.score(schedule, jnp.asarray(theirs.numpy()), t))
                )
                if act == peer.step_correct:
                    drawn_norms = np.linalg.norm(score) / np.linalg.norm(noise[0])
                    sigma = float(schedule.sigma(jnp.asarray(t)))
                    peer.register_to_config(snr=float(snr * sigma * drawn_norms))
                    theirs = act(score, theirs).prev_sample
                else:
                    theirs = act(score, peer.timesteps[i], theirs).prev_sample
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictor": "heun"}, "reverse_diffusion.*'heun'"),
        ({"num_corrections": -1}, "num_corrections=-1"),
        ({"snr": 0.0}, "snr=0.0"),
        ({"snr": 1.0}, "snr=1.0"),
        ({"snr": np.nan}, "snr=nan"),
        ({"times": [1.0, 0.0], "final_denoise": False}, "final_denoise=False.*sigma = 0"),
        ({"times": [0.0, 1.0]}, "descend"),
    ],
)
def test_bad_input_is_refused(options, message):
    options = {"times": [1.0, 0.5]} | options
    with pytest.raises(ValueError, match=message):
        sample("vp", x=jnp.ones((2, 2)), **options)
