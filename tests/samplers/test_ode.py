"""The adaptive ODE against closed-form flow maps and scipy, and the network calls it reports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import integrate

from ddpm_jax import samplers
from ddpm_jax.diffusion import prediction, schedules
from ddpm_jax.samplers import ode

KEY = jax.random.key(1)
DATA = oracles.Gaussian(0.4, 0.3)
SCHEDULES = {
    "linear": schedules.linear(1000),
    "cosine": schedules.cosine(1000),
    "zero terminal SNR": schedules.zero_terminal_snr(schedules.linear(1000)),
    "vp": schedules.vp_continuous(),
    "sub-vp": schedules.sub_vp(),
    "ve": schedules.ve(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
    "shifted flow": schedules.flow(3.0),
    "cosine, continuous": schedules.cosine_continuous(),
}
each_schedule = pytest.mark.parametrize("name", SCHEDULES)


def start(schedule, batch=4, dtype=jnp.float32, seed=0):
    x = jax.random.normal(jax.random.key(seed), (batch, 3), dtype)
    return x * schedule.sigma(jnp.ones((), dtype))


def sample(name, x, times=(1.0, 0.01), data=DATA, **options):
    schedule = SCHEDULES[name]
    denoise = data.denoiser(schedule)
    return ode.probability_flow(denoise, schedule, times, KEY, x, **options)


@pytest.mark.wide(7)
@pytest.mark.parametrize(
    ("name", "solver"),
    [*((name, "tsit5") for name in SCHEDULES), ("linear", "dopri8"), ("flow", "dopri8")],
)
def test_at_a_fine_tolerance_it_is_the_exact_flow(name, solver):
    # flow, zero terminal SNR and the continuous cosine start at alpha = 0.
    options = {"rtol": 1e-8, "atol": 1e-8, "solver": solver, "return_trajectory": True}
    times = [1.0, 0.7, 0.2, 0.01]
    with jax.enable_x64(True):
        x = start(SCHEDULES[name], dtype=jnp.float64)
        last, path = jax.jit(lambda x: sample(name, x, times, **options))(x)
        np.testing.assert_array_equal(path[0], x)
        np.testing.assert_array_equal(path[-1], last)
        for s, xs in zip(times, path, strict=True):
            exact = DATA.flow_map(SCHEDULES[name], x, 1.0, s)
            np.testing.assert_allclose(xs, exact, rtol=0, atol=1e-6)


@pytest.mark.wide(7)
@each_schedule
def test_in_float32_it_goes_all_the_way_to_0_and_never_asks_there(name):
    schedule, seen = SCHEDULES[name], []

    def watched(xt, t):
        jax.debug.callback(lambda t: seen.append(np.asarray(t)), t)
        return DATA.denoiser(schedule)(xt, t)

    @jax.jit
    def run(x):
        times = [1.0, 0.5, 0.0]
        return ode.probability_flow(watched, schedule, times, KEY, x, return_trajectory=True)

    x = start(schedule)
    last, path = run(x)
    jax.effects_barrier()
    assert np.max(seen) <= 1
    assert schedule.sigma(jnp.asarray(np.concatenate(seen))).min() > 0
    exact = DATA.flow_map(schedule, x, 1.0, 0.0)
    assert last.dtype == jnp.float32
    assert path.shape == (3, 4, 3)
    np.testing.assert_array_equal(path[-1], last)
    np.testing.assert_allclose(last, exact, rtol=0, atol=1e-3)


@pytest.mark.wide(3)
@pytest.mark.parametrize(
    ("schedule", "level"),
    [(schedules.edm(sigma_min=0.05), 0.05), (schedules.edm(), 0.002), (schedules.ve(), 0.01)],
    ids=["edm, 0.05", "edm", "ve"],
)
def test_it_asks_down_to_the_level_that_the_schedule_names(schedule, level):
    seen = []

    def watched(xt, t):
        jax.debug.callback(lambda sigma: seen.append(sigma.min()), schedule.sigma(t))
        return DATA.denoiser(schedule)(xt, t)

    _, calls = ode.probability_flow(
        watched, schedule, [1.0, 0.0], KEY, start(schedule, batch=1), return_nfe=True
    )
    jax.effects_barrier()
    np.testing.assert_allclose(min(seen), level, rtol=1e-5)
    assert len(seen) == calls[0]
    # From a level above 0 there is no step to 0: 6 calls a step and 1 at the start.
    assert calls[0] % 6 == (1 if schedule.sigma(0.0) > 0 else 2)


def test_on_a_mixture_it_is_what_scipy_finds():
    # The other form of the ODE: f x - g² score / 2 with the rates of Song et al. 2021, (32).
    data = oracles.Mixture([0.3, 0.7], [[-1.0, 0.5, 0.0], [1.0, 0.0, -0.5]], [0.2, 0.05])
    vp = SCHEDULES["vp"]
    with jax.enable_x64(True):
        x = start(vp, batch=2, dtype=jnp.float64)
        out = sample("vp", x, [1.0, 0.05], data, rtol=1e-9, atol=1e-9)
        score = jax.jit(lambda x, t: data.score(vp, x, t))

        def slope(t, y):
            beta = 0.1 + 19.9 * t
            return -0.5 * beta * (y + np.asarray(score(jnp.asarray(y)[None], t))[0])

        for x_k, out_k in zip(x, out, strict=True):
            peer = integrate.solve_ivp(slope, (1, 0.05), np.asarray(x_k), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(out_k, peer.y[:, -1], rtol=0, atol=1e-6)


@pytest.mark.wide(6)
def test_the_error_follows_the_tolerance():
    exact = functools.partial(DATA.flow_map, SCHEDULES["vp"], t=1.0, s=0.01)
    with jax.enable_x64(True):
        x = start(SCHEDULES["vp"], dtype=jnp.float64)
        errors, calls = [], []
        for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
            out, nfe = sample("vp", x, rtol=tolerance, atol=tolerance, return_nfe=True)
            errors.append(np.abs(out - exact(x)).max())
            calls.append(nfe.max())
    assert np.all(np.array(errors[1:]) < 0.2 * np.array(errors[:-1])), errors
    assert np.all(np.diff(calls) > 0)


@pytest.mark.wide(5)
@pytest.mark.parametrize("solver", ode.SOLVERS)
@pytest.mark.parametrize(("name", "times"), [("linear", (1.0, 0.01)), ("flow", (1.0, 0.0))])
def test_it_reports_the_calls_that_it_made(name, times, solver):
    calls = []

    def counted(xt, t):
        jax.debug.callback(lambda: calls.append(1))
        return DATA.denoiser(SCHEDULES[name])(xt, t)

    @jax.jit
    def run(x):
        return ode.probability_flow(
            counted, SCHEDULES[name], times, KEY, x, solver=solver, return_nfe=True
        )

    single = []
    for x in start(SCHEDULES[name])[:, None]:
        calls.clear()
        _, nfe = run(3 * x)
        jax.effects_barrier()
        assert len(calls) == nfe[0]
        single.append(len(calls))
    calls.clear()
    _, nfe = run(3 * start(SCHEDULES[name]))
    jax.effects_barrier()
    np.testing.assert_array_equal(nfe, single)
    assert len(calls) == max(single)


@pytest.mark.wide(3)
def test_an_image_does_not_depend_on_its_neighbours():
    run = jax.jit(lambda x: sample("vp", x, return_nfe=True))
    x = start(SCHEDULES["vp"])
    first, steps = run(x)
    others = (20 * start(SCHEDULES["vp"], seed=5)).at[2].set(x[2])
    second, other_steps = run(others)
    np.testing.assert_array_equal(first[2], second[2])
    assert steps[2] == other_steps[2]
    assert (other_steps != steps).any()  # the others were other work
    alone = jnp.concatenate([run(x[k : k + 1])[0] for k in range(4)])
    np.testing.assert_allclose(first, alone, rtol=1e-5, atol=1e-6)


def test_each_image_keeps_its_own_condition():
    # A network that is told the mean of each image's data, as it would be told a label.
    schedule, means = SCHEDULES["flow"], jnp.array([-1.0, 0.0, 2.0, 5.0])

    def apply(variables, xt, time, conditions):
        assert xt.shape == (4, 3)
        u = time[:, None]
        mean = conditions["mean"][:, None]
        return u * (xt - (1 - u) * mean) / ((1 - u) ** 2 * 0.3 + u**2)  # its exact eps

    @jax.jit
    def run(means, x):
        denoise = prediction.denoiser(apply, None, schedule, conditions={"mean": means})
        return ode.probability_flow(denoise, schedule, [0.99, 0.01], KEY, x)

    x = start(schedule)
    exact = oracles.Gaussian(0.0, 0.3).flow_map(schedule, x - 0.01 * means[:, None], 0.99, 0.01)
    np.testing.assert_allclose(run(means, x), exact + 0.99 * means[:, None], atol=1e-3)


@pytest.mark.wide(3)
def test_compiled_equals_uncompiled_and_a_second_call_compiles_nothing():
    traces = []

    def run(x):
        traces.append(1)
        return sample("linear", x, [1.0, 0.0])

    jitted = jax.jit(run)
    x = start(SCHEDULES["linear"])
    np.testing.assert_allclose(jitted(x), sample("linear", x, [1.0, 0.0]), rtol=1e-5, atol=1e-5)
    jitted(2 * x)
    assert len(traces) == 1


def test_clipping_bounds_the_result():
    x = start(SCHEDULES["flow"])
    schedule, data = SCHEDULES["flow"], oracles.point_mass(1.7)
    denoise = data.denoiser(schedule)
    out = samplers.probability_flow(denoise, schedule, [1.0, 0.0], KEY, x, clip_x0=True)
    np.testing.assert_allclose(out, 1, atol=1e-4)


@pytest.mark.parametrize("solver", ode.SOLVERS)
@pytest.mark.wide(2)
def test_the_integrator_takes_any_pytree_in_either_direction(solver):
    # A rotation, and the integral of its first coordinate.
    solve = ode.integrator(1e-9, 1e-9, solver=solver)

    def field(t, y):
        x, _ = y
        return jnp.stack([-x[1], x[0]]), x[0]

    with jax.enable_x64(True):
        y0 = (jnp.array([1.0, 0.0]), jnp.zeros(()))
        x, area = jax.jit(lambda y0: solve(field, y0, 0.0, 1.0))(y0)
        np.testing.assert_allclose(x, [np.cos(1), np.sin(1)], atol=1e-7)
        np.testing.assert_allclose(area, np.sin(1), atol=1e-7)
        back = solve(field, (x, area), 1.0, 0.0)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-7), back, y0)
        rates = jnp.array([0.5, 3.0])
        batch = jax.vmap(lambda r: solve(lambda t, y: -r * y, jnp.ones(()), 0.0, 2.0))(rates)
        np.testing.assert_allclose(batch, np.exp(-2 * rates), atol=1e-7)


def test_the_field_is_asked_within_the_ends_alone():
    # Where y hardly moves the probe for the first step is long: 0.01 |y| / |dy/dt|, here 100.
    seen = []

    def field(t, y):
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        return jnp.where((t >= 0.2) & (t <= 1), 1.0, jnp.nan) + 0 * y

    out = ode.integrator()(field, jnp.full(3, 1e4), 0.2, 1.0)
    jax.effects_barrier()
    assert (min(seen), max(seen)) == (np.float32(0.2), 1)
    np.testing.assert_allclose(out, 1e4 + 0.8)


@pytest.mark.wide(6)
def test_what_is_not_solved_is_no_number():
    assert np.isnan(ode.integrator(max_steps=2)(lambda t, y: -30 * y, jnp.ones(2), 0.0, 1.0)).all()
    assert np.isnan(sample("vp", start(SCHEDULES["vp"]), max_steps=3)).all()
    # dy/dt = y² leaves every bound at t = 1.
    assert np.isnan(ode.integrator()(lambda t, y: y**2, jnp.ones(1), 0.0, 2.0)).all()
    # Each example by itself: dy/dt = y² from 1/4 is 1/2 at t = 2.
    solve = jax.vmap(lambda y: ode.integrator()(lambda t, y: y**2, y, 0.0, 2.0))
    np.testing.assert_allclose(solve(jnp.array([1.0, 0.25])), [np.nan, 0.5], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 0.0}, "rtol=0.0"),
        ({"atol": -1.0}, "atol=-1.0"),
        *(
            ({option: value}, f"{option}={value}")
            for option in ("rtol", "atol", "t_min")
            for value in (np.nan, np.inf)
        ),
        ({"max_steps": 0}, "max_steps=0"),
        ({"solver": "euler"}, "tsit5, dopri8.*'euler'"),
        ({"t_min": 0.5}, r"times\[-2\] = 0.3, got t_min=0.5"),
        ({"t_min": 0.0}, "t_min=0.0"),
        ({"t_min": 0.1, "times": [1.0, 0.2]}, r"t_min=0.1.*times\[-1\]=0.2: leave it out"),
        ({"times": [0.0, 1.0]}, "descend"),
        ({"x": jnp.ones((2, 3), jnp.bfloat16)}, "bfloat16"),
    ],
)
def test_bad_input_is_refused(options, message):
    options = {"x": jnp.ones((2, 3)), "times": [1.0, 0.3, 0.0]} | options
    with pytest.raises(ValueError, match=message):
        sample("vp", **options)
