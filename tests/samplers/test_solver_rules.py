"""Rules of every sampler: calls of the network, ends of a path, precision, bounds, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import grids

part = functools.partial
KEY = jax.random.key(1)
DATA = oracles.Gaussian(0.3, 0.5)
dpm, unipc = samplers.dpm_solver_pp, samplers.unipc

# Each with its network calls, of n steps, `ends` of which leave alpha = 0 or reach sigma = 0.
SOLVERS = {
    "euler": (samplers.euler, lambda n, ends: n),
    "euler ancestral": (samplers.euler_ancestral, lambda n, ends: n),
    "ddim": (samplers.ddim, lambda n, ends: n),
    "ancestral": (samplers.ancestral, lambda n, ends: n),
    "heun": (samplers.heun, lambda n, ends: 2 * n - ends),
    "edm": (part(samplers.edm_stochastic, S_churn=5.0), lambda n, ends: 2 * n - ends),
    "1M": (part(dpm, order=1), lambda n, ends: n),
    "2M": (part(dpm, order=2), lambda n, ends: n),
    "3M": (part(dpm, order=3), lambda n, ends: n + 1),
    "3M published": (part(dpm, order=3, form="published"), lambda n, ends: n),
    "2M lower final": (part(dpm, order=2, lower_order_final=True), lambda n, ends: n),
    "1S": (part(dpm, order=1, method="singlestep"), lambda n, ends: n),
    "2S": (part(dpm, order=2, method="singlestep"), lambda n, ends: 2 * n - ends),
    "3S": (part(dpm, order=3, method="singlestep"), lambda n, ends: 3 * n - 2 * ends),
    "SDE 2M": (part(dpm, order=2, sde=True), lambda n, ends: n),
    "SDE 3M": (part(dpm, order=3, sde=True), lambda n, ends: n),
    "unip 2": (part(unipc, order=2, corrector=False), lambda n, ends: n),
    "unipc 2": (part(unipc, order=2), lambda n, ends: n),
    "unipc 3": (part(unipc, order=3), lambda n, ends: n + 2),
    "unipc 3 published": (part(unipc, order=3, form="published"), lambda n, ends: n),
    "pndm": (samplers.pndm, lambda n, ends: n + 1),
}
NOISY = ("euler ancestral", "ancestral", "edm", "SDE 2M", "SDE 3M")
# One setting of every function, its most intricate.
EACH = ("euler", "euler ancestral", "ddim", "ancestral", "heun", "edm", "3M", "unipc 3", "pndm")
# Paths with their grids, and how many of the steps leave alpha = 0 or reach sigma = 0.
ENDS = {
    "flow": (schedules.flow(), grids.uniform, 2),
    "shifted flow": (schedules.flow(3.0), grids.uniform, 2),
    "zero terminal SNR": (schedules.zero_terminal_snr(schedules.linear(100)), grids.uniform, 2),
    "cosine": (schedules.cosine_continuous(), grids.uniform, 2),
    "edm": (schedules.edm(), grids.karras, 1),
    "vp": (schedules.vp_continuous(), grids.uniform, 1),
    "ve": (schedules.ve(), grids.uniform, 0),
}


def run(name, path, num_steps, count=8):
    """x at the end, the exact flow's x there, and (time, sigma) of each call, in float32."""
    sampler, _ = SOLVERS[name]
    schedule, grid, _ = ENDS[path]
    times, asked = grid(schedule, num_steps), []

    def denoise(xt, t):
        jax.debug.callback(lambda t, sigma: asked.append((t, sigma)), t[0], schedule.sigma(t)[0])
        return DATA.denoiser(schedule)(xt, t)

    x = samplers.initial_noise(jax.random.key(0), schedule, times, (count, 2))
    out = jax.block_until_ready(jax.jit(lambda x: sampler(denoise, schedule, times, KEY, x))(x))
    jax.effects_barrier()
    with jax.enable_x64(True):
        exact = DATA.flow_map(schedule, jnp.asarray(x, jnp.float64), 1.0, 0.0)
    return np.asarray(out), np.asarray(exact), np.array(asked)


ON_PATHS = [(name, "flow") for name in SOLVERS] + [
    (name, path)
    for path in ENDS
    if path != "flow"
    for name in ("heun", "edm", "3M", "3S", "SDE 3M", "unipc 3", "pndm")
]


@pytest.mark.wide(16)
@pytest.mark.parametrize(("name", "path"), ON_PATHS)
def test_the_ends_of_a_path_are_safe_and_every_call_is_accounted_for(name, path):
    out, exact, asked = run(name, path, 20)
    _, calls = SOLVERS[name]
    assert len(asked) == calls(20, ENDS[path][2])
    assert np.isfinite(out).all()
    # Nobody asks a network what an image without noise is.
    assert asked[:, 1].min() > 0
    if name not in NOISY:
        assert np.abs(out - exact).max() < 0.2


def test_two_steps_are_enough_for_any_solver():
    for name in ("heun", "edm", "3M", "3S", "SDE 3M", "unipc 3", "pndm"):
        _, calls = SOLVERS[name]
        out, _, asked = run(name, "flow", 2)
        assert np.isfinite(out).all(), name
        # Both steps touch an end, so there is none to open with.
        assert len(asked) == min(calls(2, 2), 2), name


MIXTURE = oracles.Mixture([0.4, 0.6], [[-1.0, 0.5], [0.7, 0.0]], [0.1, 0.3])


def sample(name, dtype=jnp.float32, schedule=None, times=None, data=MIXTURE, **options):
    schedule = ENDS["vp"][0] if schedule is None else schedule
    times = grids.uniform(schedule, 20) if times is None else times
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 2)), dtype)
    return SOLVERS[name][0](data.denoiser(schedule), schedule, times, KEY, x, **options)


@pytest.mark.parametrize("name", ["euler", "ddim", "heun", "3M", "3S", "unipc 3", "pndm"])
@pytest.mark.wide(4)
def test_float32_follows_float64(name):
    with jax.enable_x64(True):
        exact = sample(name, jnp.float64)
    np.testing.assert_allclose(sample(name), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.wide(4)
def test_bounds_of_x0_are_kept(name):
    # All data at 1.7: the bounded estimate is 1, and at sigma = 0 the result is the estimate.
    far = oracles.point_mass(1.7)
    np.testing.assert_allclose(sample(name, data=far, clip_x0=True), 1.0, rtol=1e-4)
    np.testing.assert_allclose(sample(name, data=far, threshold=0.9), 1.0, rtol=1e-4)


def learned(gamma):
    return schedules.from_gamma(lambda t: gamma + 10 * t)


FLAT = schedules.Schedule(
    alpha=lambda t: jnp.where(t < 0.4, 1 - t, jnp.where(t < 0.6, 0.6, 1.2 - t)),
    sigma=lambda t: jnp.where(t < 0.4, t, jnp.where(t < 0.6, 0.4, t - 0.2)),
    network_time=lambda t: t,
)
BAD = {
    "dpm order": (part(sample, "2M", order=4), "order must be 1, 2 or 3, got 4"),
    "dpm method": (part(sample, "2M", method="multi"), "one of multistep, singlestep.*'multi'"),
    "dpm form": (part(sample, "2M", form="paper"), "one of exact, published.*'paper'"),
    "dpm sde": (part(sample, "2S", sde=True), "sde.* multistep.*'singlestep'.*leave it out"),
    "dpm final": (part(sample, "2S", lower_order_final=True), "lower_order_final.*'singlestep'"),
    "3S published": (part(sample, "3S", form="published"), "'published' of order 3.*'singlestep'"),
    "unipc order": (part(sample, "unipc 2", order=0), "order must be 1, 2 or 3, got 0"),
    "unipc form": (part(sample, "unipc 2", form="paper"), "one of exact, published.*'paper'"),
    "unipc variant": (part(sample, "unipc 2", variant="bh3"), "bh1 or bh2, got 'bh3'"),
    "unipc exact": (
        part(sample, "unipc 2", variant="bh1"),
        "variant='bh1' has no effect with form='exact'.*leave it out, or set form='published'",
    ),
    "unip 1": (
        part(sample, "unip 2", order=1, form="published", variant="bh1"),
        "no effect with form='published', order=1, corrector=False",
    ),
    "pndm combined": (part(sample, "pndm", combined="x0"), "one of eps, v, got 'x0'"),
    "heun": (
        part(sample, "heun", largest_correction=0.0),
        "largest_correction > 0, got largest_correction=0.0",
    ),
    "eta": (part(sample, "ddim", eta=1.5), "0 <= eta <= 1, got eta=1.5"),
    "ancestral eta": (part(sample, "euler ancestral", eta=-1.0), "0 <= eta <= 1, got eta=-1"),
    "S_churn": (part(sample, "edm", S_churn=-1.0), "S_churn >= 0.*S_churn=-1"),
    "S_min": (part(sample, "edm", S_min=2.0, S_max=1.0), "S_min <= S_max.*S_min=2.0, S_max=1.0"),
    "both bounds": (
        part(sample, "heun", clip_x0=True, threshold=0.9),
        "threshold=0.9.*choose one, clip_x0=False to threshold",
    ),
    "threshold": (part(sample, "heun", threshold=1.5), "1.5"),
}
NO_NUMBERS = {
    ("edm", "S_churn"): (np.nan, np.inf),
    ("edm", "S_noise"): (np.nan, np.inf),
    ("edm", "S_min"): (np.nan, np.inf),
    ("edm", "S_max"): (np.nan, -np.inf),
    ("ddim", "eta"): (np.nan, np.inf),
    ("heun", "threshold"): (np.nan, np.inf),
    ("heun", "largest_correction"): (np.nan, -np.inf),
}
BAD |= {
    f"{option}={value}": (part(sample, name, **{option: value}), f"={value}")
    for (name, option), values in NO_NUMBERS.items()
    for value in values
}


@pytest.mark.parametrize("case", BAD)
def test_options_out_of_range_are_refused(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


# Every option of a solver that is a choice or a switch, and settings that it can be added to.
CHOICES = {
    "1M, form": ("2M", {"form": "published"}),
    "3M, final": ("3M", {"lower_order_final": True}),
    "SDE 3M, final": ("SDE 3M", {"lower_order_final": True}),
    "2S, form": ("2S", {"form": "published"}),
    "3M, form": ("3M", {"form": "published"}),
    "SDE 2M, form": ("SDE 2M", {"form": "published"}),
    "unipc 2, form": ("unipc 2", {"form": "published"}),
    "unipc 3, variant": ("unipc 3 published", {"variant": "bh1"}),
    "unipc 3, final": ("unipc 3", {"lower_order_final": True}),
    "unipc 2, corrector": ("unipc 2", {"corrector": False}),
    "pndm, combined": ("pndm", {"combined": "v"}),
}


@pytest.mark.parametrize("case", CHOICES)
@pytest.mark.wide(4)
def test_an_option_that_is_taken_has_an_effect(case):
    name, option = CHOICES[case]
    with jax.enable_x64(True):
        with_it, without = sample(name, jnp.float64, **option), sample(name, jnp.float64)
    assert np.abs(with_it - without).max() > 1e-9


@pytest.mark.parametrize("sigma_min", [0.002, 0.05])
@pytest.mark.parametrize("name", ["heun", "3M", "unipc 3", "pndm"])
@pytest.mark.wide(4)
def test_no_solver_asks_below_the_level_that_the_schedule_names(name, sigma_min):
    schedule, asked = schedules.edm(sigma_min=sigma_min), []

    def denoise(xt, t):
        jax.debug.callback(lambda t: asked.append(80 * float(t)), t[0])
        return DATA.denoiser(schedule)(xt, t)

    x = 80 * jnp.ones((2, 2))
    SOLVERS[name][0](denoise, schedule, grids.karras(schedule, 10), KEY, x)
    jax.effects_barrier()
    np.testing.assert_allclose(min(asked), sigma_min, rtol=1e-5)


# Those that divide by differences of levels.
@pytest.mark.parametrize("name", ["euler", "heun", "edm", "2M", "3S", "SDE 2M", "unipc 3", "pndm"])
def test_grids_that_cannot_be_solved_are_refused(name):
    with pytest.raises(ValueError, match=r"descend strictly.*grids"):
        sample(name, times=[1.0, 0.2, 0.5, 0.0])
    with pytest.raises(ValueError, match=r"0.55 and 0.45 have the same noise level.*leave one out"):
        sample(name, schedule=FLAT, times=[1.0, 0.55, 0.45, 0.0])


@pytest.mark.parametrize("name", EACH)
@pytest.mark.wide(4)
def test_a_schedule_of_traced_parameters_is_refused(name):
    with pytest.raises(ValueError, match=r"traced parameters: build .* outside of jit"):
        jax.jit(lambda gamma: sample(name, schedule=learned(gamma), times=[1.0, 0.5, 0.0]))(-5.0)
    # Of known ones it is a schedule like any other.
    assert np.isfinite(sample(name, schedule=learned(-5.0))).all()
