"""Long steps, from an alpha near 0 or over many levels: nothing that a solver adds may run away."""

import functools
import itertools

import jax
import numpy as np
import oracles
import pytest

from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import evaluations, grids
from ddpm_jax.samplers.euler import LARGEST_CORRECTION, correction_size

part = functools.partial
KEY = jax.random.key(1)
DATA = oracles.Gaussian(0.0, 0.25)  # of deviation 0.5
COSINE = schedules.cosine()
GRIDS = {"uniform": grids.uniform, "linspace": grids.linspace, "quadratic": grids.quadratic}
HEUN = {"heun": samplers.heun, "edm": part(samplers.edm_stochastic, S_churn=1.0)}
OTHERS = {
    "euler": samplers.euler,
    "3M": part(samplers.dpm_solver_pp, order=3),
    "3S": part(samplers.dpm_solver_pp, order=3, method="singlestep"),
    "unipc 3": part(samplers.unipc, order=3),
    "pndm": samplers.pndm,
    "reverse diffusion": samplers.predictor_corrector,
    "euler-maruyama": part(samplers.predictor_corrector, predictor="euler_maruyama"),
    "ancestral predictor": part(samplers.predictor_corrector, predictor="ancestral"),
}


def deviation(sampler, schedule, times, data=DATA):
    x = samplers.initial_noise(jax.random.key(0), schedule, times, (8000, 1))
    denoise = data.denoiser(schedule)
    return float(jax.jit(lambda x: sampler(denoise, schedule, times, KEY, x))(x).std())


@pytest.mark.parametrize("grid", ["linspace", "quadratic"])
@pytest.mark.parametrize("name", HEUN)
@pytest.mark.wide(4)
def test_three_steps_of_heun_are_near_the_datas_deviation(name, grid):
    # The first step, from alpha = 5e-5, is Euler's; the second is Heun's own. By hand it makes 1.21
    # (linspace) and 0.92 (quadratic) of 0.5; churned noise adds to that.
    spread = {"heun": 0.25, "edm": 0.6}[name]
    assert deviation(HEUN[name], COSINE, GRIDS[grid](COSINE, 3)) == pytest.approx(0.5, rel=spread)


@pytest.mark.wide(7)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", OTHERS)
def test_no_solver_runs_away_in_three_steps(name, grid):
    # Euler-Maruyama adds noise of variance g² dt. On cosine g² = pi tan(pi t / 2): from t = 1/2 to
    # 0 that is pi / 2, of deviation 1.25, beside what is left of x.
    largest = 1.6 if name == "euler-maruyama" else 1.0
    assert 0.1 < deviation(OTHERS[name], COSINE, GRIDS[grid](COSINE, 3)) < largest


@pytest.mark.parametrize("path", ["vp", "edm"])
def test_the_size_of_a_correction_is_what_heun_adds_to_euler(path):
    schedule = {"vp": schedules.vp_continuous(), "edm": schedules.edm()}[path]
    times = np.array({"vp": [0.5, 0.45], "edm": [0.025, 0.02]}[path])
    with jax.enable_x64(True):
        x = np.ones((1, 1))
        denoise = DATA.denoiser(schedule)
        first, second = (
            float(sampler(denoise, schedule, times, KEY, jax.numpy.asarray(x))[0, 0])
            for sampler in (samplers.euler, samplers.heun)
        )
        exact = float(DATA.flow_map(schedule, jax.numpy.asarray(x), *times)[0, 0])
    size = correction_size(*evaluations.points_at(schedule, times), 0.5)
    assert size > 1e-4
    np.testing.assert_allclose(abs(second - first) / exact, size, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        *((schedules.edm(), grids.karras(schedules.edm(), n)) for n in (10, 18, 40)),
        *((COSINE, grids.uniform(COSINE, n)) for n in (50, 1000)),
        *((schedules.linear(), grids.uniform(schedules.linear(), n)) for n in (3, 20)),
    ],
)
@pytest.mark.wide(4)
def test_grids_in_use_keep_every_correction(schedule, times):
    levels = evaluations.plan(schedule, times)
    inner = [(t, s) for t, s in itertools.pairwise(levels) if t.finite and s.finite]
    sizes = [correction_size(t, s, std) for t, s in inner for std in (0.5, 1.0)]
    assert max(sizes) < LARGEST_CORRECTION
