"""What `project` does in every sampler that takes steps."""

import collections
import functools
import itertools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import base, grids, inpainting

part = functools.partial
SCHEDULE = schedules.linear(100)
TIMES = grids.uniform(SCHEDULE, 5)
DATA = oracles.Gaussian(np.array([0.3, -0.8]), 0.2)
X = jax.random.normal(jax.random.key(0), (4, 2))
dpm, unipc = samplers.dpm_solver_pp, samplers.unipc
# Below this level nothing is churned: all but the first step starts where the one before ended.
CHURNED = float(np.exp(-base.signal_noise(SCHEDULE, 0.9).lam))
SOLVERS = {
    "euler": samplers.euler,
    "heun": samplers.heun,
    "2M": part(dpm, order=2),
    "3M": part(dpm, order=3),
    "3S": part(dpm, order=3, method="singlestep"),
    "unip 2": part(unipc, order=2, corrector=False),
    "unipc 2": part(unipc, order=2),
    "unipc 3": part(unipc, order=3),
    "unipc 3 published": part(unipc, order=3, form="published"),
    "pndm": samplers.pndm,
}
NOISY = {
    "ancestral": samplers.ancestral,
    "ddim": part(samplers.ddim, eta=0.5),
    "euler ancestral": samplers.euler_ancestral,
    "edm": part(samplers.edm_stochastic, S_churn=2.0, S_min=CHURNED),
    "SDE 2M": part(dpm, order=2, sde=True),
    "langevin": part(samplers.langevin, steps_per_level=3),
    "predictor-corrector": samplers.predictor_corrector,
}
ALL = SOLVERS | NOISY


def run(name, key, x, denoise=None, times=TIMES, **options):
    denoise = DATA.denoiser(SCHEDULE) if denoise is None else denoise
    return ALL[name](denoise, SCHEDULE, times, key, x, **options)


@pytest.mark.wide(7)
@pytest.mark.parametrize("name", ALL)
def test_an_identity_changes_no_bit(name):
    key, options = jax.random.key(1), {"return_trajectory": True}
    projects = {"project": lambda key, x, s: x}
    plain, same = (
        jax.jit(lambda x, o=o: run(name, key, x, **o), compiler_options=compiling.TO_THE_BIT)(X)
        for o in (options, options | projects)
    )
    jax.tree.map(np.testing.assert_array_equal, same, plain)


@pytest.mark.wide(3)
# Langevin's updates go on at the last time, if that is above 0.
@pytest.mark.parametrize(("name", "end"), [*((name, 0.0) for name in ALL), ("langevin", 0.1)])
def test_the_network_and_the_result_see_what_was_put_in_place(name, end):
    """The first number is set to 7 + s: each grid time is asked about with it, and ends with it."""
    shown = collections.defaultdict(list)

    def denoise(xt, t):
        jax.debug.callback(lambda x, t: shown[float(t)].append(np.asarray(x)), xt[:, 0], t[0])
        return DATA.denoiser(SCHEDULE)(xt, t)

    def project(key, x, s):
        assert s.shape == x.shape[:1]
        return x.at[:, 0].set(7 + s)

    times = np.append(TIMES[:-1], end)
    options = {"project": project, "return_trajectory": True}
    last, path = run(name, jax.random.key(1), X, denoise, times, **options)
    jax.block_until_ready(path)
    jax.effects_barrier()
    for t, x in zip(times[1:], path[1:], strict=True):
        np.testing.assert_array_equal(x[:, 0], np.float32(7) + np.float32(t))
    np.testing.assert_array_equal(path[-1], last)
    for t in map(np.float32, times[1:-1]):
        # Heun's corrector and Langevin's updates ask about the same time more than once.
        assert any((x == np.float32(7) + t).all() for x in shown[float(t)]), t
    assert np.abs(np.diff(path[:, :, 1], axis=0)).min() > 0


@pytest.mark.parametrize("name", ["heun", "3M", "3S", "unipc 2", "unipc 3"])
@pytest.mark.wide(4)
def test_a_solver_goes_on_from_where_it_was_put(name):
    """On a point mass every solver is exact, so each step is the flow of the projected x."""
    data = oracles.point_mass(np.array([0.3, -0.8]))
    with jax.enable_x64(True):
        x = jnp.asarray(X, jnp.float64)
        _, path = run(
            name,
            jax.random.key(1),
            x,
            data.denoiser(SCHEDULE),
            project=lambda key, x, s: x * jnp.asarray([[1.5, 1.0]]) + 0.1,
            return_trajectory=True,
        )
        for (t, s), x, moved in zip(itertools.pairwise(TIMES), path[:-1], path[1:], strict=True):
            there = data.flow_map(SCHEDULE, x, t, s) * jnp.asarray([[1.5, 1.0]]) + 0.1
            np.testing.assert_allclose(moved, there, rtol=1e-9, atol=1e-12)


@pytest.mark.wide(7)
@pytest.mark.parametrize("name", ALL)
def test_an_image_is_projected_with_its_own_key(name):
    project = inpainting.replacement(SCHEDULE, jnp.full((4, 2), 0.5), jnp.array([[0, 1]]))
    options = {"project": project, "return_trajectory": True}
    sample = jax.jit(lambda keys, x: run(name, keys, x, **options)[1])
    keys = jax.random.split(jax.random.key(1), 4)
    others = jax.random.split(jax.random.key(2), 4).at[2].set(keys[2])
    first, second = sample(keys, X), sample(others, (2 * X).at[2].set(X[2]))
    np.testing.assert_array_equal(first[:, 2], second[:, 2])
    drawn = np.delete(np.asarray(first - second), 2, axis=1)[1:-1, :, 0]
    assert np.abs(drawn).min() > 0
    # Every time has its own draw: alpha x_0 taken away, none is a multiple of another.
    alpha, sigma = SCHEDULE.values(TIMES[1:-1])
    noise = (np.asarray(first)[1:-1, :, 0] - 0.5 * alpha[:, None]) / sigma[:, None]
    assert len(np.unique(noise.round(4))) == noise.size
