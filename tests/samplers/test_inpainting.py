"""Inpainting on a mixture whose conditional law is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from conformance import inpainting as problem
from scipy import integrate

from ddpm_jax import samplers
from ddpm_jax.samplers import grids, inpainting

DATA, KNOWN, MASK, LAW = problem.DATA, problem.KNOWN, problem.MASK, problem.LAW
SCHEDULE = problem.SCHEDULE
COUNT = 4000


def test_the_oracles_law_is_that_of_bayes():
    def joint(y):
        parts = [
            w * np.exp(-((KNOWN[0] - m[0]) ** 2 + (y - m[1]) ** 2) / (2 * v)) / v
            for w, m, v in zip(DATA.weights, DATA.means, DATA.variances, strict=True)
        ]
        return np.array(parts).sum(axis=0)

    total = integrate.quad(joint, -4, 4)[0]
    above = integrate.quad(joint, 0, 4)[0] / total
    mean = integrate.quad(lambda y: y * joint(y), -4, 4)[0] / total
    assert LAW.weights @ LAW.means[:, 0] == pytest.approx(mean, abs=1e-8)
    # Each component lies almost whole on its side of 0.
    assert LAW.weights[1] == pytest.approx(above, abs=1e-3)
    assert 0.75 < LAW.weights[1] < 0.95


@pytest.mark.wide(3)
def test_resampling_closes_the_gap_that_replacement_leaves_step_by_step():
    gaps = []
    for way in (problem.by_replacement, problem.by_repaint(10), problem.by_repaint(30)):
        x0 = problem.draw(way, COUNT)
        np.testing.assert_array_equal(x0[:, 0], np.float32(KNOWN[0]))
        gaps.append(LAW.weights[1] - (x0[:, 1] > 0).mean())
    error = 0.5 / np.sqrt(COUNT)
    assert gaps[0] > 30 * error  # 0.26: replacement all but ignores what is known
    assert gaps[1] < gaps[0] - 5 * error
    assert gaps[2] < gaps[1] - 3 * error


def test_posterior_sampling_comes_nearer_at_one_call_a_step():
    x0 = problem.draw(problem.by_observation(problem.OF_THE_DATA), COUNT)
    np.testing.assert_allclose(x0[:, 0], KNOWN[0], atol=0.01)
    # 0.74 of 0.82, where replacement has 0.56 and RePaint of 9 times the calls 0.63.
    assert LAW.weights[1] - (x0[:, 1] > 0).mean() < 0.12


@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.wide(2)
def test_replacement_finds_the_mode_that_the_known_part_names_in_any_solver(sde):
    # Here the known part tells the modes apart at every noise level, and there is no gap to speak
    # of: 2% by the ODE, 0.2% by the SDE.
    data = oracles.Mixture([0.5, 0.5], [[-2.0, -1.0], [2.0, 1.0]], [0.1, 0.1])
    sampler = functools.partial(samplers.dpm_solver_pp, sde=sde)
    way = functools.partial(problem.by_replacement, sampler=sampler)
    for known, weight in ((2.0, 1.0), (-2.0, 0.0)):
        x0 = problem.draw(way, COUNT, data=data, known=np.array([known, 0.0]))
        np.testing.assert_array_equal(x0[:, 0], known)
        assert (x0[:, 1] > 0).mean() == pytest.approx(weight, abs=0.03)


def test_the_conditional_denoiser_samples_the_conditional_law():
    x0 = problem.conditional_draw(COUNT)
    error = np.sqrt(LAW.weights[1] * (1 - LAW.weights[1]) / COUNT)
    assert abs((x0 > 0).mean() - LAW.weights[1]) < 4 * error


@pytest.mark.parametrize(
    ("num_steps", "jump", "resamples", "calls"),
    # By hand from Algorithm 1: all but the noisiest stretch of `jump` steps, `resamples` times.
    [(250, 10, 10, 10 + 240 * 10), (25, 10, 3, 5 + 20 * 3), (4, 10, 10, 4), (6, 1, 2, 1 + 5 * 2)],
)
@pytest.mark.wide(4)
def test_network_calls_are_counted(num_steps, jump, resamples, calls):
    assert inpainting.nfe(num_steps, jump, resamples) == calls
    counted = []

    def denoise(xt, t):
        jax.debug.callback(lambda: counted.append(1))
        return DATA.denoiser(SCHEDULE)(xt, t)

    samplers.repaint(
        denoise,
        SCHEDULE,
        grids.uniform(SCHEDULE, num_steps),
        jax.random.key(0),
        jnp.zeros((2, 2)),
        known=jnp.zeros((2, 2)),
        mask=jnp.ones((1, 2)),
        jump_length=jump,
        num_resamples=resamples,
    ).block_until_ready()
    jax.effects_barrier()
    assert len(counted) == calls


def test_painting_everything_is_ancestral_sampling():
    times, x = grids.uniform(SCHEDULE, 20), jax.random.normal(jax.random.key(0), (3, 2))
    denoise, key = DATA.denoiser(SCHEDULE), jax.random.key(1)
    free = samplers.ancestral(denoise, SCHEDULE, times, key, x)
    everything = {"known": jnp.zeros((3, 2)), "mask": jnp.ones((1, 1))}
    once = samplers.repaint(denoise, SCHEDULE, times, key, x, num_resamples=1, **everything)
    np.testing.assert_allclose(once, free, rtol=1e-5, atol=1e-5)


@pytest.mark.wide(6)
def test_one_image_is_painted_without_the_others():
    times, x = grids.uniform(SCHEDULE, 12), jax.random.normal(jax.random.key(0), (3, 2))
    keys, known = jax.random.split(jax.random.key(1), 3), jnp.array([[0.5, 0], [1, 0], [-1, 0]])

    def run(keys, x, known):
        return samplers.repaint(
            DATA.denoiser(SCHEDULE), SCHEDULE, times, keys, x,
            known=known, mask=jnp.asarray(MASK[None]), jump_length=3, num_resamples=2,
        )  # fmt: skip

    together = run(keys, x, known)
    for k in range(3):
        alone = run(keys[k : k + 1], x[k : k + 1], known[k : k + 1])
        np.testing.assert_allclose(alone[0], together[k], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jump_length": 0}, "jump_length=0"),
        ({"num_resamples": 0}, "num_resamples=0"),
        ({"mask": jnp.ones((2, 3))}, r"broadcasts to \(2, 2\), got \(2, 3\)"),
        ({"mask": jnp.ones(2)}, r"got \(2,\)"),
        ({"variance": "none"}, "variance"),
    ],
)
def test_bad_options_are_refused(options, words):
    options = {"known": jnp.zeros((2, 2)), "mask": jnp.ones((1, 2))} | options
    with pytest.raises(ValueError, match=words):
        samplers.repaint(
            DATA.denoiser(SCHEDULE), SCHEDULE, grids.uniform(SCHEDULE, 4), jax.random.key(0),
            jnp.zeros((2, 2)), **options,
        )  # fmt: skip
