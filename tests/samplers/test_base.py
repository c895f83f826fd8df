"""What every sampler inherits from the scan: keys, shapes, one compilation, any number of devices.

The samplers that draw are run at their noisiest, so that a wrong draw shows.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import base, grids

SCHEDULE = schedules.linear(100)
TIMES = grids.uniform(SCHEDULE, 10)
DATA = oracles.Mixture([0.5, 0.5], [[-1.0, 0.5, 0.0], [1.0, 0.0, -0.5]], [0.2, 0.05])
part = functools.partial
NOISY = {
    "ancestral": part(samplers.ancestral, variance="fixed_large"),
    "ddim": part(samplers.ddim, eta=1.0),
    "euler_ancestral": samplers.euler_ancestral,
    "edm_stochastic": part(samplers.edm_stochastic, S_churn=4.0, S_noise=1.1),
    "dpm_solver_pp": part(samplers.dpm_solver_pp, order=3, sde=True),
    "langevin": part(samplers.langevin, steps_per_level=3),
    "predictor_corrector": samplers.predictor_corrector,
}
DETERMINISTIC = {
    "euler": samplers.euler,
    "heun": samplers.heun,
    "dpm_solver_pp, multistep": part(samplers.dpm_solver_pp, order=3),
    "dpm_solver_pp, singlestep": part(samplers.dpm_solver_pp, order=3, method="singlestep"),
    "unipc": part(samplers.unipc, order=3),
    "pndm": samplers.pndm,
}
SAMPLERS = NOISY | DETERMINISTIC
each_sampler = pytest.mark.parametrize("name", SAMPLERS)
each_noisy = pytest.mark.parametrize("name", NOISY)
# Kinds of keys make a difference where there is noise.
each_with_keys = pytest.mark.parametrize(
    ("name", "per_image"), [(n, False) for n in SAMPLERS] + [(n, True) for n in NOISY]
)


def sample(name, key, x, denoise=None, times=TIMES, **options):
    denoise = DATA.denoiser(SCHEDULE) if denoise is None else denoise
    return SAMPLERS[name](denoise, SCHEDULE, times, key, x, **options)


def start(batch=8, seed=0):
    return jax.random.normal(jax.random.key(seed), (batch, 3))


@pytest.mark.wide(8)
@each_with_keys
def test_the_trajectory_runs_from_the_start_to_the_result(name, per_image):
    key = jax.random.split(jax.random.key(1), 8) if per_image else jax.random.key(1)
    last, path = sample(name, key, start(), return_trajectory=True)
    assert path.shape == (11, 8, 3)
    np.testing.assert_array_equal(path[0], start())
    np.testing.assert_array_equal(path[-1], last)
    np.testing.assert_array_equal(last, sample(name, key, start()))
    assert (np.abs(np.diff(path, axis=0)).max(axis=(1, 2)) > 0).all()


@pytest.mark.wide(8)
@each_sampler
def test_a_batch_of_8_equals_8_of_1(name):
    keys, x = jax.random.split(jax.random.key(1), 8), start()
    run = jax.jit(functools.partial(sample, name))
    together = run(keys, x)
    alone = [run(keys[k : k + 1], x[k : k + 1]) for k in range(8)]
    np.testing.assert_allclose(together, jnp.concatenate(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.wide(8)
@each_sampler
def test_an_image_does_not_depend_on_its_neighbours(name):
    keys, x = jax.random.split(jax.random.key(1), 8), start()
    run = jax.jit(functools.partial(sample, name))
    first = run(keys, x)
    others = jax.random.split(jax.random.key(2), 8).at[3].set(keys[3])
    second = run(others, (2 * start(seed=5)).at[3].set(x[3]))
    np.testing.assert_array_equal(first[3], second[3])
    assert (np.abs(np.delete(first - second, 3, axis=0)).max(axis=1) > 0).all()


def random_bits(key, x):
    """24 random bits for every number of x, from the keys that the noise is drawn with."""
    if key.ndim:
        return jax.vmap(random_bits)(key, x)
    return (jax.random.bits(key, x.shape) >> 8).astype(jnp.float32)


def draws(key, x, num_steps, draw=base.normal):
    """The noise of every step of a scan, [num_steps, B, ...]."""

    def step(x, s, t, key):
        return draw(key, x)

    times = np.linspace(1, 0, num_steps + 1)
    return base.scan_steps(step, times, key, x, return_trajectory=True)[1][1:]


@pytest.mark.parametrize("per_image", [False, True])
def test_every_step_and_every_image_has_its_own_standard_normal_noise(per_image):
    key = jax.random.key(3)
    z = np.asarray(draws(jax.random.split(key, 8) if per_image else key, jnp.zeros((8, 200)), 10))
    assert len(np.unique(z)) > 0.99 * z.size
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / z.size)
    for first, second in ((z[:-1], z[1:]), (z[:, :-1], z[:, 1:])):
        assert abs(np.mean(first * second)) < 4 / np.sqrt(first.size)


@each_noisy
@pytest.mark.wide(4)
def test_other_keys_give_other_draws_and_equal_keys_equal_ones(name):
    key, run = jax.random.key(4), jax.jit(functools.partial(sample, name))
    np.testing.assert_array_equal(run(key, start()), run(key, start()))
    assert np.abs(run(jax.random.key(5), start()) - run(key, start())).min() > 0


@pytest.mark.parametrize("name", ["ancestral", "edm_stochastic", "langevin"])
@pytest.mark.wide(3)
def test_raw_keys_are_keys(name):
    raw, typed = jax.random.PRNGKey(6), jax.random.key(6)
    np.testing.assert_array_equal(sample(name, raw, start()), sample(name, typed, start()))
    raw, typed = jax.random.split(raw, 8), jax.random.split(typed, 8)
    assert raw.dtype == jnp.uint32
    np.testing.assert_array_equal(sample(name, raw, start()), sample(name, typed, start()))
    for key in (raw, typed):
        x = samplers.initial_noise(key, SCHEDULE, TIMES, (8, 3))
        np.testing.assert_array_equal(x, samplers.initial_noise(typed, SCHEDULE, TIMES, (8, 3)))


@pytest.mark.wide(8)
@each_sampler
def test_compiled_equals_uncompiled(name):
    key = jax.random.key(7)
    compiled = jax.jit(lambda key, x: sample(name, key, x))(key, start())
    np.testing.assert_allclose(compiled, sample(name, key, start()), rtol=1e-5, atol=1e-6)


@pytest.mark.wide(8)
@each_sampler
def test_it_is_one_program_compiled_once(name):
    traces = []

    def counted(xt, t):
        traces.append(1)
        assert t.shape == xt.shape[:1]
        assert t.dtype == xt.dtype
        return DATA.denoiser(SCHEDULE)(xt, t)

    def count(num_steps):
        traces.clear()
        times = grids.uniform(SCHEDULE, num_steps)
        jitted = jax.jit(lambda key, x: sample(name, key, x, counted, times))
        jitted(jax.random.key(0), start())
        first = len(traces)
        jitted(jax.random.key(1), start(seed=1))
        assert len(traces) == first  # the second call runs what the first compiled
        return first

    assert count(5) == count(100) <= 2


@pytest.mark.wide(8)
@each_sampler
def test_shapes_and_dtypes_are_kept(name):
    one_number = oracles.Gaussian(0.2, 0.5).denoiser(SCHEDULE)
    for shape in [(2,), (2, 4, 6, 3), (1, 5, 2)]:
        x = jnp.ones(shape)
        out = sample(name, jax.random.key(0), x, one_number)
        assert out.shape == shape
        assert out.dtype == jnp.float32
    with jax.enable_x64(True):
        out = sample(name, jax.random.key(0), jnp.ones((2, 3), jnp.float64), one_number)
        assert out.dtype == jnp.float64


def on_8_devices(function, key, x):
    """The function, compiled, with x and per-image keys split over 8 devices."""
    devices = jax.devices()
    if len(devices) < 8:
        pytest.skip("needs JAX_NUM_CPU_DEVICES=8")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:8])
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    key = jax.device_put(key, sharding) if key.ndim else key
    out = jax.jit(function)(key, jax.device_put(x, sharding))
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(out))
    return out


@pytest.mark.parametrize("per_image", [False, True])
def test_8_devices_draw_what_1_draws(per_image):
    key, x = jax.random.key(8), start(16)
    key = jax.random.split(key, 16) if per_image else key
    noise = functools.partial(draws, num_steps=10)
    # The random bits are the same. Their way to a normal number may round differently where fewer
    # rows of a batch share a vector register: jax 0.10 never does, jax 0.12 does by up to 3 ulp.
    np.testing.assert_array_max_ulp(on_8_devices(noise, key, x), jax.jit(noise)(key, x), maxulp=4)
    bits = functools.partial(draws, num_steps=10, draw=random_bits)
    np.testing.assert_array_equal(on_8_devices(bits, key, x), jax.jit(bits)(key, x))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 7e-4), ("float64", 1e-9)])
@pytest.mark.wide(6)
def test_8_devices_solve_the_adaptive_ode_as_1_does(dtype, tolerance):
    # Its steps differ from image to image, and its field has a batching rule of its own.
    def run(key, x):
        denoise = DATA.denoiser(SCHEDULE)
        return samplers.probability_flow(denoise, SCHEDULE, TIMES[::5], key, x, return_nfe=True)

    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(start(16) * np.linspace(0.1, 5, 16, dtype="float32")[:, None], dtype)
        together, calls = on_8_devices(run, jax.random.key(8), x)
        alone, calls_alone = jax.jit(run)(jax.random.key(8), x)
    # float32's last bit decides about some steps. The images then agree to what the tolerance of
    # 1e-5 leaves, here less than a tenth of a grey level (2 / 255).
    np.testing.assert_allclose(together, alone, rtol=0, atol=tolerance)
    assert len(set(np.asarray(calls_alone))) > 1
    if dtype == "float64":
        np.testing.assert_array_equal(calls, calls_alone)


@pytest.mark.wide(8)
@each_with_keys
def test_8_devices_sample_what_1_samples(name, per_image):
    key, x = jax.random.key(8), start(16)
    key = jax.random.split(key, 16) if per_image else key
    run = functools.partial(sample, name)
    # The draws are equal; the arithmetic differs in its last bit where XLA fuses otherwise.
    np.testing.assert_allclose(
        on_8_devices(run, key, x), jax.jit(run)(key, x), rtol=1e-5, atol=1e-5
    )


def largest_array(program):
    """The size of the largest array that a jaxpr computes, in the jaxprs within it too."""
    jaxpr = getattr(program, "jaxpr", program)
    sizes = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "size")]
    inner = [p for eqn in jaxpr.eqns for p in jax.tree.leaves(eqn.params)]
    inner = [p for p in inner if hasattr(getattr(p, "jaxpr", p), "eqns")]
    return max([0, *sizes, *map(largest_array, inner)])


@pytest.mark.wide(8)
@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize("name", SAMPLERS)
def test_no_trajectory_is_held_unless_asked_for(name, end):
    x, times = jnp.ones((8, 64)), np.linspace(1, end, 41)
    denoise = oracles.Gaussian(0.2, 0.5).denoiser(SCHEDULE)

    def images(**options):
        def run(key, x):
            return sample(name, key, x, denoise, times, **options)

        return largest_array(jax.make_jaxpr(run)(jax.random.key(0), x)) / x.size

    # A few estimates of x_0 are carried by multistep solvers.
    assert images() <= 5
    assert images(return_trajectory=True) >= 40


def test_the_initial_noise_has_the_level_of_its_time():
    betas = SCHEDULE.betas
    for times in (TIMES, [0.3, 0.0]):
        level = 1 - oracles.exact_alphas_cumprod(betas)[round(100 * times[0])]
        x = np.asarray(samplers.initial_noise(jax.random.key(0), SCHEDULE, times, (9000, 2)))
        assert abs(x.mean()) < 4 * np.sqrt(float(level) / x.size)
        assert abs(x.var() / float(level) - 1) < 4 * np.sqrt(2 / x.size)
    # Image k's noise is that of its own key.
    keys = jax.random.split(jax.random.key(1), 4)
    x = samplers.initial_noise(keys, SCHEDULE, TIMES, (4, 2))
    alone = samplers.initial_noise(keys[2:3], SCHEDULE, TIMES, (1, 2))
    np.testing.assert_allclose(x[2:3], alone, rtol=1e-6)


@each_sampler
@pytest.mark.wide(4)
def test_bad_input_is_refused(name):
    with pytest.raises(ValueError, match=r"each of 8.*\(3,\)"):
        sample(name, jax.random.split(jax.random.key(0), 3), start())
    with pytest.raises(ValueError, match=r"descend strictly.*grids"):
        sample(name, jax.random.key(0), start(), times=TIMES[::-1])


def test_half_precision_is_refused():
    x = jnp.zeros((2, 3), jnp.bfloat16)
    with pytest.raises(ValueError, match="float32 or float64, got bfloat16"):
        base.scan_steps(lambda x, s, t, key: x, [1.0, 0.0], jax.random.key(0), x)
