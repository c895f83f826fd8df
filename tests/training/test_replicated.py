"""A group of runs in one program is the runs one by one; a member gone wrong stays as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training

from ddpm_jax.diffusion import schedules
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.digests import digest
from ddpm_jax.training import replicated

RATES = np.asarray([1e-2, 3e-3, 1e-1, 3e-2, 1e-2, 3e-3, 1e-1, 3e-2], np.float32)
DECAYS = np.asarray([0.9, 0.99, 0.5, 0.0, 0.9, 0.99, 0.5, 0.0], np.float32)


def member_step(state, batch, numbers):
    rate, decay = numbers
    return toy_training.setup(schedules.cosine(10), learning_rate=rate, ema_decay=decay)[1](
        state, batch
    )


def member(k):
    """The state of a run of its own, and its step with constants in place of numbers."""
    rate, decay = float(RATES[k]), float(DECAYS[k])
    state, step = toy_training.setup(schedules.cosine(10), learning_rate=rate, ema_decay=decay)
    return state._replace(key=jax.random.key(k)), jax.jit(step)


def batches(step, num, bad=()):
    """A batch of its own for each member; NaN images for those in `bad`."""
    several = [toy_training.batch(16, seed=100 * step + k) for k in range(num)]
    for k in bad:
        several[k]["x0"] = np.full_like(several[k]["x0"], np.nan)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *several)


def group(num, devices=1, *, max_skipped=0, active=None, bad=lambda step: (), steps=20):
    """The states and metrics of a group after so many steps."""
    mesh = sharding.make_mesh(devices)
    place = replicated.members_sharding(mesh, num)
    step = replicated.make_group_step(member_step, mesh, num, max_skipped=max_skipped)
    states = replicated.stacked([member(k)[0] for k in range(num)], mesh)
    active = np.ones(num, bool) if active is None else np.asarray(active)
    numbers = jax.device_put((RATES[:num], DECAYS[:num]), place)
    history = []
    for n in range(steps):
        states, metrics = step(states, batches(n, num, bad(n)), numbers, active)
        history.append(jax.device_get(metrics))
    assert jax.tree.leaves(states)[0].sharding == place
    return states, history


def of(states, k):
    return jax.tree.map(lambda leaf: leaf[k], states)


@pytest.mark.wide(6)
@pytest.mark.parametrize(("num", "devices"), [(3, 1), (8, 8), (3, 8)])
def test_each_member_is_its_run_alone(num, devices):
    states, history = group(num, devices)
    for k in range(num):
        state, step = member(k)
        for n in range(20):
            state, metrics = step(state, of(batches(n, num), k))
            assert history[n]["loss"][k] == pytest.approx(float(metrics["loss"]), rel=1e-4)
        # Adam divides by the root of squares that are rounding where gradients are nearly 0.
        for ours, alone in zip(
            jax.tree.leaves(of(states, k).ema), jax.tree.leaves(state.ema), strict=True
        ):
            np.testing.assert_allclose(ours, alone, rtol=1e-3, atol=1e-4)
        assert digest(of(states, k).key) == digest(state.key)


def test_members_are_split_where_they_divide():
    mesh = sharding.make_mesh(8)
    whole = sharding.replicated(mesh)
    assert replicated.members_sharding(mesh, 3) == whole
    shards = jax.device_put(np.zeros(16), replicated.members_sharding(mesh, 16)).addressable_shards
    assert [shard.data.shape for shard in shards] == [(2,)] * 8


def test_a_member_of_skipped_steps_is_frozen_and_the_others_never_know():
    well, expected = group(3, max_skipped=4, steps=20)
    # NaN from step 5 to step 11; a run of its own would stop after step 9, with 4 in a row.
    states, history = group(
        3, max_skipped=4, steps=20, bad=lambda step: (1,) if 5 <= step < 12 else ()
    )
    for k in (0, 2):
        assert digest(of(states, k)) == digest(of(well, k))
        assert [m["loss"][k] for m in history] == [m["loss"][k] for m in expected]
    assert [bool(m["moved"][1]) for m in history] == [True] * 9 + [False] * 11
    assert int(states.step[1]) == 9
    assert np.asarray(replicated.is_frozen(states, 4)).tolist() == [False, True, False]
    assert not replicated.is_frozen(states, 0).any()
    # What it had learned before is kept bit for bit.
    before, _ = group(3, max_skipped=4, steps=5)
    assert digest(of(states, 1).params) == digest(of(before, 1).params)


def test_fewer_skipped_steps_are_a_pause():
    states, history = group(
        2, max_skipped=4, steps=20, bad=lambda step: (1,) if 5 <= step < 8 else ()
    )
    assert all(m["moved"].all() for m in history)
    assert states.extra["guard"]["skipped"].tolist() == [0, 3]


def test_a_member_that_is_not_active_stays_and_the_others_never_know():
    all_of_them, _ = group(3, steps=10)
    states, history = group(3, steps=10, active=[True, False, True])
    assert digest(of(states, 1)) == digest(member(1)[0])
    assert not any(m["moved"][1] for m in history)
    for k in (0, 2):
        assert digest(of(states, k)) == digest(of(all_of_them, k))


def test_a_member_comes_out_as_it_went_in():
    states = [member(k)[0] for k in range(3)]
    mesh = sharding.make_mesh(8)
    shardings = sharding.state_sharding(mesh, states[0])
    take = replicated.make_member_of(shardings)
    together = replicated.stacked(states, mesh)
    for k, state in enumerate(states):
        out = take(together, k)
        assert digest(out) == digest(state)
        assert jnp.issubdtype(out.key.dtype, jax.dtypes.prng_key)
        assert jax.tree.leaves(out.params)[0].sharding == sharding.replicated(mesh)
