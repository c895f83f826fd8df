import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training

from ddpm_jax.diffusion import schedules
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.digests import digests
from ddpm_jax.training import ema, state, step


def averaged(decay, warmup, num_steps):
    """The average of parameters that are 1 (and 2) in each of so many steps, from 0 (and 5)."""
    average = {"a": jnp.zeros(3), "b": {"c": jnp.full((2, 2), 5.0)}}
    params = {"a": jnp.ones(3), "b": {"c": jnp.full((2, 2), 2.0)}}
    share = ema.constant(decay, warmup)
    for taken in range(num_steps):
        average = ema.update(average, params, share(jnp.int32(taken)))
    return average


@pytest.mark.parametrize("num_steps", [1, 7, 200])
def test_constant_parameters_leave_decay_to_the_n_of_the_start(num_steps):
    average = averaged(0.98, False, num_steps)
    left = 0.98**num_steps
    np.testing.assert_allclose(average["a"], 1 - left, rtol=2e-5)
    np.testing.assert_allclose(average["b"]["c"], 2 + 3 * left, rtol=2e-5)


def test_warm_up_forgets_the_start_as_a_binomial():
    # prod over k < n of (1 + k) / (10 + k) = n! 9! / (n + 9)! = 1 / binomial(n + 9, 9)
    for num_steps in (1, 3, 10):
        left = 1 / math.comb(num_steps + 9, 9)
        average = averaged(0.9999, True, num_steps)
        np.testing.assert_allclose(average["a"], 1 - left, rtol=1e-6)


def test_warm_up_ends_at_the_decay():
    # (1 + k) / (10 + k) passes 0.9 at k = 80.
    decays = [float(ema.decay_at(jnp.int32(k), 0.9, True)) for k in (0, 8, 79, 81, 10_000)]
    np.testing.assert_allclose(decays, [0.1, 0.5, 80 / 89, 0.9, 0.9], rtol=1e-6)


def test_a_half_precision_average_stays_one():
    average = ema.update(jnp.zeros(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16), jnp.float32(0.5))
    assert average.dtype == jnp.bfloat16
    np.testing.assert_array_equal(average.astype(np.float32), 0.5)


def weights(share, num_steps):
    """Of the parameters after each of so many updates, in the average of unit vectors."""

    def one(average, taken):
        params = jnp.arange(num_steps) == taken
        return ema.update(average, params.astype(jnp.float32), share(taken)), None

    # From a start that would show.
    return jax.lax.scan(one, jnp.full(num_steps, 9.0), jnp.arange(num_steps))[0]


@pytest.mark.parametrize("std", [0.02, 0.05, 0.1, 0.25])
def test_a_power_average_is_as_wide_as_it_is_called(std):
    num = 2000
    share = np.asarray(weights(ema.power(std), num), np.float64)
    assert share.min() >= 0
    assert share.sum() == pytest.approx(1, abs=1e-4)  # nothing is left of the start
    time = (np.arange(num) + 0.5) / num
    mean = share @ time
    assert np.sqrt(share @ (time - mean) ** 2) == pytest.approx(std, rel=2e-3)
    # A power law: equal ratios of times have equal ratios of weights.
    ratios = share[[1999, 1599]] / share[[1599, 1279]]
    assert ratios[0] == pytest.approx(ratios[1], rel=2e-2)


def test_the_first_update_of_a_power_average_takes_the_parameters():
    share = ema.power(0.1)(jnp.int32(0))
    assert share == 1


def test_a_power_average_keeps_its_digits_late_in_a_run():
    # (1 - 1/t)^n = 1 - n/t + O(1/t²), with n = 7.94 for std 0.1 (Karras et al. 2024).
    share = ema.power(0.1)(jnp.int32(10**7 - 1))
    assert float(share) == pytest.approx(7.94e-7, rel=1e-3)
    shares = [float(ema.power(0.1)(jnp.int32(t))) for t in (10**7 - 1, 2 * 10**7 - 1)]
    assert shares[0] / shares[1] == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("std", [0.0, -0.1, 12**-0.5, 0.5, float("nan")])
def test_a_width_that_no_power_average_has_is_refused(std):
    with pytest.raises(ValueError, match=r"need a std above 0 and below 0\.2887"):
        ema.power(std)


AVERAGES = {"0.5": ema.constant(0.5), "std:0.1": ema.power(0.1), "std:0.2": ema.power(0.2)}


@pytest.mark.wide(3)
def test_each_average_is_the_one_that_is_kept_alone():
    """Side by side, sharded, as alone; and the first of several has the digest that it had."""
    schedule, mesh = schedules.linear(num_steps=8), sharding.make_mesh(4, 2)
    init, several = toy_training.setup(schedule, averages=AVERAGES)
    _, alone = toy_training.setup(schedule)
    places = sharding.state_sharding(mesh, init)
    compiled = jax.jit(several, in_shardings=(places, sharding.batch_sharding(mesh)))
    now, one = init, init._replace(ema={"default": init.ema["default"]})
    path = []
    for k in range(6):
        batch = toy_training.batch(8, seed=k)
        now, _ = compiled(now, batch)
        one, _ = jax.jit(alone)(one, batch)
        path.append(np.asarray(now.params["table"], np.float64))
    np.testing.assert_allclose(now.params["table"], one.params["table"], rtol=1e-6)
    for tree, other in zip(
        jax.tree.leaves(now.ema["default"]), jax.tree.leaves(one.ema["default"]), strict=True
    ):
        np.testing.assert_allclose(tree, other, rtol=1e-5, atol=1e-7)
    halves = [0.5**k for k in (6, 6, 5, 4, 3, 2, 1)]
    start = np.asarray(init.params["table"], np.float64)
    np.testing.assert_allclose(
        now.ema["0.5"]["table"], np.tensordot(halves, [start, *path], 1), rtol=1e-5, atol=1e-7
    )
    seen = digests(now)
    assert set(seen["averages_sha256"]) == set(AVERAGES)
    assert len({seen["ema_sha256"], *seen["averages_sha256"].values()}) == 4
    without = now._replace(ema={"default": now.ema["default"]})
    assert digests(without)["ema_sha256"] == seen["ema_sha256"]
    assert "averages_sha256" not in digests(without)


def test_no_first_average_and_others_all_the_same():
    def init(key):
        return {"x": jnp.float32(1)}

    objective = toy_training.denoise.Objective(
        lambda params, batch, key, train, extra: toy_training.denoise.Outcome(
            params["x"] * jnp.ones(2), jnp.ones(2), jnp.ones(2), extra
        )
    )
    descent, averages = optax.sgd(0.5), {"std:0.2": ema.power(0.2)}
    now = state.init_state(init, descent, 0, average=False, averages=[*averages])
    moved = step.make_train_step(objective, descent, ema_decay=None, averages=averages)
    after, _ = moved(now, {})
    assert after.ema == {"std:0.2": {"x": 0.5}}
    for wrong in ({}, {"std:0.1": ema.power(0.1)}):
        train_step = step.make_train_step(objective, descent, ema_decay=None, averages=wrong)
        with pytest.raises(ValueError, match=r"keeps the averages \['std:0.2'\]"):
            train_step(now, {})


def test_names_are_read_back():
    assert ema.power_name(0.05) == "std:0.05"
    assert ema.std_of("std:0.05") == 0.05
    assert ema.std_of("0.999") is None
