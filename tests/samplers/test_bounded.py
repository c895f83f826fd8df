"""clip_x0 and threshold of the public samplers: the denoiser bounded first, and nothing else."""

import inspect

import jax
import numpy as np
import oracles
import pytest

from ddpm_jax import samplers
from ddpm_jax.diffusion import guidance, schedules
from ddpm_jax.samplers.bounded import bounded
from ddpm_jax.samplers.ddim import ddim
from ddpm_jax.samplers.langevin import langevin
from ddpm_jax.samplers.ode import probability_flow

SCHEDULE = schedules.linear(100)
TIMES = samplers.grids.uniform(SCHEDULE, 4)
WIDE = oracles.Gaussian(0.5, 1.5)
PUBLIC = (
    "ancestral",
    "ddim",
    "dpm_solver_pp",
    "edm_stochastic",
    "euler",
    "euler_ancestral",
    "heun",
    "langevin",
    "pndm",
    "predictor_corrector",
    "probability_flow",
    "repaint",
    "unipc",
)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_sampler_shows_its_own_options_and_the_bounds(name):
    public = getattr(samplers, name)
    own = inspect.signature(public.__wrapped__).parameters
    shown = inspect.signature(public).parameters
    assert not {"clip_x0", "threshold"} & set(own)
    assert list(shown) == [*own, "clip_x0", "threshold"]
    assert {option: shown[option] for option in own} == dict(own)
    assert (shown["clip_x0"].default, shown["threshold"].default) == (False, None)
    assert public.__name__ == name
    assert public.__doc__.startswith(inspect.getdoc(public.__wrapped__))


@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ({"clip_x0": True}, guidance.clip_x0),
        ({"threshold": 0.9}, lambda denoise, s: guidance.threshold_x0(denoise, s, 0.9)),
        ({}, lambda denoise, s: denoise),
    ],
)
@pytest.mark.parametrize("sampler", [ddim, langevin, probability_flow])
@pytest.mark.wide(4)
def test_a_bound_is_that_of_the_denoiser_bit_for_bit(sampler, options, bound):
    denoise, x = WIDE.denoiser(SCHEDULE), jax.random.normal(jax.random.key(0), (4, 3))
    own = {"steps_per_level": 2} if sampler is langevin else {}
    key = jax.random.key(1)
    here = bounded(sampler)(denoise, SCHEDULE, TIMES, key, x, **own, **options)
    there = sampler(bound(denoise, SCHEDULE), SCHEDULE, TIMES, key, x, **own)
    np.testing.assert_array_equal(here, there)


def test_an_option_that_a_sampler_lacks_is_refused():
    x = jax.random.normal(jax.random.key(0), (4, 3))
    with pytest.raises(TypeError, match="eta"):
        samplers.heun(WIDE.denoiser(SCHEDULE), SCHEDULE, TIMES, jax.random.key(1), x, eta=0.5)
