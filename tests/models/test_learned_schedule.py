"""The learned schedule against finite differences and what theory promises of its two gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate

from ddpm_jax.diffusion import losses, schedules
from ddpm_jax.models import DiT, learned_schedule
from ddpm_jax.training import guard, step
from ddpm_jax.training.objectives import denoise
from ddpm_jax.training.state import TrainState

VARIANCE = 0.4
SMALL = learned_schedule.Gamma(width=8)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def layers(seed=0, module=SMALL):
    drawn = jax.jit(module.init)(jax.random.key(seed), jnp.zeros(()))["params"]
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), dict(drawn))


def params_of(seed=0, scale=1.0):
    """The oracle has one parameter: what its answer is multiplied by."""
    return {"gamma": layers(seed), "network": {"scale": jnp.full((), scale, jnp.float64)}}


def oracle(variables, xt, time, conditions=None, **_):
    """E[eps | x_t] of data N(0, VARIANCE), read from the clock: gamma, scaled to 0..999."""
    ends = variables["params"]["gamma"]
    level = ends["gamma_0"] + time / 999 * (ends["gamma_1"] - ends["gamma_0"])
    level = level.reshape(level.shape + (1,) * (xt.ndim - level.ndim))
    alpha2, sigma2 = jax.nn.sigmoid(-level), jax.nn.sigmoid(level)
    exact = jnp.sqrt(sigma2) / (alpha2 * VARIANCE + sigma2) * xt
    return variables["params"]["network"]["scale"] * exact


def data(size, seed=0):
    images = np.random.default_rng(seed).normal(0, VARIANCE**0.5, (size, 2))
    return {"x0": jnp.asarray(images)}


OBJECTIVE = denoise.denoising(
    oracle,
    learned_schedule.schedule_of,
    loss=losses.continuous_vlb,
    of_variance=learned_schedule.of_variance,
)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.wide(3)
def test_gamma_rises_and_ends_where_it_should(seed):
    t = jnp.linspace(0, 1, 1001)
    values = learned_schedule.gamma(layers(seed), t)
    assert (np.diff(values) > 0).all()
    np.testing.assert_allclose(values[jnp.array([0, -1])], [-13.3, 5.0], rtol=1e-7)
    # Whatever training does to the weights.
    wild = jax.tree.map(lambda leaf: -3 * leaf, layers(seed))
    assert (np.diff(learned_schedule.gamma(wild, t)) > 0).all()


def test_the_schedule_is_that_of_its_gamma():
    schedule, t = learned_schedule.schedule_of(params_of()), jnp.linspace(0, 1, 11)
    np.testing.assert_allclose(
        schedule.log_snr(t), -learned_schedule.gamma(layers(), t), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, rtol=1e-12)


@jax.jit
def bound_at(params, t):
    """The objective's mean over x_0 and eps at one t, in bits."""
    schedule = learned_schedule.schedule_of(params)
    # The loss is quadratic: four points with the right first two moments give its mean exactly.
    x0 = np.sqrt(VARIANCE) * jnp.asarray([1.0, 1, -1, -1])[:, None]
    eps = jnp.asarray([1.0, -1, 1, -1])[:, None]
    network = functools.partial(oracle, {"params": params})
    return losses.continuous_vlb(network, schedule, x0, jnp.full(4, t), eps).mean()


def bound(params):
    """Its mean over t too, by quadrature."""
    return integrate.quad(lambda t: float(bound_at(params, t)), 0, 1, epsabs=1e-9, limit=200)[0]


def test_the_bound_is_the_entropy_of_the_data_whatever_the_interior():
    entropy = 0.5 * np.log2(2 * np.pi * np.e * VARIANCE)
    bounds = [bound(params_of(seed)) for seed in range(3)]
    np.testing.assert_allclose(bounds, bounds[0], atol=1e-8)
    # From above; of the gap, the prior's share is about (SNR(1) VARIANCE)² / 4.
    assert 0 < bounds[0] - entropy < 1e-5


def test_a_worse_network_has_a_worse_bound():
    assert bound(params_of(scale=0.8)) > bound(params_of()) + 0.01


def test_the_end_points_have_gradients():
    def total(ends, key):
        params = {**params_of(), "gamma": {**layers(), **ends}}
        return OBJECTIVE(params, data(64), key, True, {}).loss.mean()

    ends = {name: layers()[name] for name in learned_schedule.ENDS}
    gradients = jax.jit(jax.grad(total))(ends, jax.random.key(0))
    assert all(abs(gradient) > 1e-9 for gradient in gradients.values())


def gradients_of(params, batch):
    """The gradients that a step gives to its optimiser."""
    seen = {}

    def spy(gradients, opt_state, params):
        seen.update(gradients)
        return gradients, opt_state

    train_step = step.make_train_step(
        OBJECTIVE,
        optax.GradientTransformation(lambda params: (), spy),
        optax.constant_schedule(0.0),
        ema_decay=None,
    )
    key = jax.random.key(3)
    state = TrainState(jnp.int32(0), key, params, {}, (), {"guard": guard.init()})
    # What the spy saw is an output of the compiled program.
    gradients = jax.jit(lambda state, batch: (train_step(state, batch), dict(seen))[1])
    return gradients(state, batch), jax.random.fold_in(key, 0)


@pytest.mark.wide(3)
def test_the_interior_follows_the_second_moment_and_the_rest_the_bound():
    params, batch = params_of(scale=0.9), data(32)
    gradients, key = gradients_of(params, batch)

    @functools.partial(jax.jit, static_argnums=1)
    def moment(params, power):
        return (OBJECTIVE(params, batch, key, True, {}).loss ** power).mean()

    flat, tree = jax.tree.flatten(params)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    inner = 0
    for k, (name, leaf) in enumerate(zip(names, flat, strict=True)):
        is_end = any(end in name for end in learned_schedule.ENDS)
        power = 1 if is_end or "network" in name else 2
        inner += power == 2
        direction = jnp.asarray(np.random.default_rng(k).normal(size=leaf.shape))
        ahead, behind = (
            moment(jax.tree.unflatten(tree, [*flat[:k], moved, *flat[k + 1 :]]), power)
            for moved in (leaf + 1e-5 * direction, leaf - 1e-5 * direction)
        )
        slope = (ahead - behind) / 2e-5
        along = (jax.tree.leaves(gradients)[k] * direction).sum()
        np.testing.assert_allclose(along, slope, rtol=1e-5, atol=1e-9, err_msg=name)
    assert inner == 4


@pytest.mark.wide(3)
def test_training_the_interior_makes_the_estimate_steadier():
    params = params_of()
    rate = optax.constant_schedule(0.03)
    # The exact network and the end points stay.
    frozen = jax.tree.map(lambda chosen: not chosen, learned_schedule.of_variance(params))
    optimizer = optax.chain(optax.masked(optax.set_to_zero(), frozen), optax.adam(rate))
    train_step = jax.jit(step.make_train_step(OBJECTIVE, optimizer, rate, ema_decay=None))
    extra = {"guard": guard.init()}
    state = TrainState(jnp.int32(0), jax.random.key(0), params, {}, optimizer.init(params), extra)
    for k in range(100):
        state, _ = train_step(state, data(256, seed=k))

    @jax.jit
    def seen(params):
        return OBJECTIVE(params, data(20_000, seed=999), jax.random.key(9), True, {}).loss

    before, after = np.asarray(seen(params)), np.asarray(seen(state.params))
    assert after.var() < 0.8 * before.var()
    assert abs(after.mean() - before.mean()) < 5 * before.std() / np.sqrt(20_000)
    # Only the interior moved.
    for name in learned_schedule.ENDS:
        assert state.params["gamma"][name] == params["gamma"][name]


def test_a_network_with_a_schedule_is_called_as_the_network():
    network = DiT(width=4, depth=1, num_heads=1, out_channels=1)
    both = learned_schedule.WithSchedule(network, SMALL)
    xt, time = jnp.ones((2, 4, 4, 1), jnp.float32), jnp.asarray([3.0, 900.0], jnp.float32)
    params = jax.jit(both.init)(jax.random.key(0), xt, time)["params"]
    assert set(params) == {"network", "gamma"}
    np.testing.assert_array_equal(
        both.apply({"params": params}, xt, time, None, train=False),
        network.apply({"params": params["network"]}, xt, time, None, train=False),
    )
    schedule = learned_schedule.schedule_of(params)
    assert isinstance(schedule, schedules.Schedule)
    interior = jax.tree.leaves(learned_schedule.of_variance(params))
    assert sum(interior) == 4


def test_end_points_out_of_order_are_refused():
    with pytest.raises(ValueError, match="gamma_0 < gamma_1"):
        learned_schedule.Gamma(5.0, -5.0).init(jax.random.key(0), jnp.zeros(()))
