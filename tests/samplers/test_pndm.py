"""PNDM: its order, what it remembers, and the list of calls on a grid."""

import functools

import jax
import numpy as np
import oracles
import pytest
from conformance import orders

from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.prediction import Denoised
from ddpm_jax.samplers import base, evaluations, grids
from ddpm_jax.samplers.pndm import calls_on

IN_V = functools.partial(samplers.pndm, combined="v")


# Strides that are even in log-SNR, in t, and in neither.
@pytest.mark.parametrize(
    ("path", "spacing"), [("vp", "lam"), ("flow", "time"), ("edm", "karras"), ("cosine", "time")]
)
@pytest.mark.wide(2)
def test_it_is_of_second_order_on_any_smooth_grid(path, spacing):
    # Liu et al. 2022: DDIM's step in place of a straight one caps the four-step formula at 2.
    curve = orders.curve(samplers.pndm, (64, 128), path=path, spacing=spacing)
    assert 1.85 < curve.slope < 2.15, curve


def test_combining_v_is_of_first_order():
    # v of another time is that of another direction: an error of the stride in every step.
    curve = orders.curve(IN_V, (64, 128))
    assert 0.85 < curve.slope < 1.15, curve


def even_in_ratio(schedule, num_steps):
    """Times at which sigma / alpha falls evenly: there the sum of the steps is the integral."""
    levels = np.linspace(3.0, 0.5, num_steps + 1)
    return np.array([base.times_of(schedule, -np.log(level)) for level in levels])


def test_a_linear_eps_is_integrated_exactly():
    """On even strides of rho = sigma / alpha, dy / drho = a + b rho is within every formula.

    Not so for a formula of first order, nor for wrong weights of the second to the fourth step.
    """
    schedule = schedules.ve(0.01, 50.0)  # x is y, and sigma is rho
    for num_steps in (2, 3, 4, 6):
        times = even_in_ratio(schedule, num_steps)

        def denoise(xt, t):
            sigma = schedules.expand(schedule.sigma(t), xt)
            eps = 0.3 + 0.7 * sigma
            return Denoised(xt - sigma * eps, eps)

        with jax.enable_x64(True):
            x = jax.numpy.ones((2, 3), jax.numpy.float64)
            out = samplers.pndm(denoise, schedule, times, jax.random.key(0), x)
        exact = 1 + 0.3 * (0.5 - 3.0) + 0.35 * (0.5**2 - 3.0**2)
        np.testing.assert_allclose(out, exact, rtol=1e-9)


def test_the_calls_on_a_grid():
    schedule = schedules.scaled_linear(1000)
    times = grids.leading(schedule, 50, steps_offset=1)
    calls = calls_on(evaluations.plan(schedule, times))
    indices = [round(1000 * call.asked.time) - 1 for call in calls]
    # As diffusers' PNDMScheduler lists them for 50 steps.
    assert indices == [981, 961, *range(961, 0, -20)]
    assert not any(call.alone for call in calls)


def test_a_step_from_alpha_0_is_of_first_order_and_forgotten():
    points = evaluations.plan(schedules.flow(), grids.uniform(schedules.flow(), 4))
    calls = calls_on(points)
    assert [(c.asked.time, c.alone) for c in calls] == [
        (1.0, True),
        (0.75, False),
        (0.5, False),
        (0.5, False),
        (0.25, False),
    ]


@pytest.mark.parametrize("sampler", [samplers.pndm, IN_V], ids=["eps", "v"])
def test_it_is_exact_on_a_point_mass_in_one_and_in_many_steps(sampler):
    data, schedule = oracles.point_mass(0.3), schedules.linear(100)
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (4, 2), jax.numpy.float64)
        for num_steps in (1, 2, 7) if sampler is samplers.pndm else (1,):
            times = grids.uniform(schedule, num_steps)
            out = sampler(data.denoiser(schedule), schedule, times, jax.random.key(1), x)
            np.testing.assert_allclose(out, 0.3, rtol=1e-9)
