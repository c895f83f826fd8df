import functools
import threading
import time

import jax
import jax.numpy as jnp
import optax
import pytest
import toy_training

from ddpm_jax.diffusion import schedules
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.digests import digest, digests
from ddpm_jax.training.checkpoints import WRITER, Checkpoints


def placed(state, mesh):
    return jax.device_put(state, sharding.state_sharding(mesh, state))


@pytest.fixture
def state():
    """A state whose every part has values of its own."""
    start, train_step = toy_training.setup(schedules.linear(num_steps=8))
    return train_step(start, toy_training.batch(8))[0]


@pytest.mark.wide(3)
def test_a_restored_state_is_the_saved_one_bit_for_bit(state, tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state)
    with Checkpoints(tmp_path) as again:
        restored = again.restore(1, placed(state, sharding.make_mesh(1)))
    assert digests(restored) == digests(state)
    assert restored.key.dtype == state.key.dtype
    assert (jax.random.bits(restored.key) == jax.random.bits(state.key)).all()
    assert jax.tree.structure(restored) == jax.tree.structure(state)


@pytest.mark.parametrize(("before", "after"), [((8, 1), (1, 1)), ((1, 1), (2, 4))])
@pytest.mark.wide(2)
def test_a_state_moves_to_other_devices(state, tmp_path, before, after, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 8)
    with Checkpoints(tmp_path) as saved:
        saved.save(1, placed(state, sharding.make_mesh(*before)))
    wanted = sharding.state_sharding(sharding.make_mesh(*after), state)
    shapes = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, wanted
    )
    with Checkpoints(tmp_path, read_only=True) as again:
        restored = again.restore(1, shapes)
    assert digest(restored) == digest(state)
    for leaf, place in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


def test_a_save_that_ended_is_never_stuck(state, tmp_path):
    with Checkpoints(tmp_path, deadline=20.0) as saved:
        saved.save(1, state)
        while any(thread.name == WRITER for thread in threading.enumerate()):
            time.sleep(0.05)
        saved._began -= 20  # so much time passes until the next save
        assert saved.latest() == 1
        assert saved.complaints() == []


def test_the_latest_are_kept(state, tmp_path):
    with Checkpoints(tmp_path, keep=2) as saved:
        assert saved.latest() is None
        for step in (1, 5, 7, 20):
            saved.save(step, state)
        saved.wait()
        assert saved.steps() == [7, 20]
        assert saved.latest() == 20
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [7, 20]


def test_a_step_that_is_there_is_not_written_again(state, tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state)
        saved.save(1, state._replace(step=state.step + 5))
        assert digest(saved.restore(1, state)) == digest(state)


def test_steps_that_follow_at_once_do_not_disturb_a_save(tmp_path):
    schedule = schedules.linear(num_steps=8)
    start, train_step = toy_training.setup(schedule, learning_rate=0.1)
    # Large enough to be still on its way when the next steps reuse its buffers.
    start = start._replace(extra=start.extra | {"large": jnp.arange(2.0**21)})

    def grow(state, batch):
        state, metrics = train_step(state, batch)
        return state._replace(extra=state.extra | {"large": state.extra["large"] + 1}), metrics

    # A digest's view of a buffer on the CPU would keep it from being donated: twice the run, then.
    expected = {}
    state, compiled = start, jax.jit(grow)
    for step in range(1, 13):
        state, _ = compiled(state, toy_training.batch(8))
        expected[step] = digest(state)
    deleted = 0
    state, compiled = placed(start, sharding.make_mesh(1)), jax.jit(grow, donate_argnums=0)
    with Checkpoints(tmp_path, keep=9) as saved:
        for step in range(1, 13):
            before = state
            state, _ = compiled(state, toy_training.batch(8))
            deleted += before.extra["large"].is_deleted()
            if step % 4 == 0:
                saved.save(step, state)
        assert deleted > 6  # or there was nothing to disturb
        for step in (4, 8, 12):
            assert digest(saved.restore(step, state)) == expected[step]
    assert len(set(expected.values())) == 12


def test_the_parameters_come_alone(state, tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(3, state)
    like = jax.eval_shape(lambda: state.params)
    mesh = sharding.make_mesh(8)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(mesh)), like
    )
    with Checkpoints(tmp_path, read_only=True) as again:
        raw = again.restore_params(3, "raw", like)
        average = again.restore_params(3, "default", like)
    assert digest(raw) == digest(state.params)
    assert digest(average) == digest(state.ema["default"])
    assert digest(raw) != digest(average)


def test_a_missing_step_says_which_there_are(state, tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(10, state)
        saved.save(20, state)
        saved.wait()
        for ask in (saved.check, functools.partial(saved.restore, like=state)):
            with pytest.raises(UserError, match=r"step 15 .*there are 10, 20"):
                ask(15)
        assert saved.check(None) == 20
        assert saved.check(10) == 10


def test_reading_where_nothing_was_written_makes_nothing(tmp_path):
    with Checkpoints(tmp_path / "none", read_only=True) as saved:
        assert saved.steps() == []
        assert saved.latest() is None
        with pytest.raises(UserError, match=r"no checkpoint in .*none"):
            saved.check(None)
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_named(state, tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state)
    (tmp_path / "checkpoints" / "2").mkdir()
    with (
        Checkpoints(tmp_path, read_only=True) as again,
        pytest.raises(UserError, match=r"no checkpoint of step 2 .*there are 1"),
    ):
        again.restore(2, state)


def test_another_optimizers_state_is_refused(state, tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state)
    other = state._replace(opt_state=optax.sgd(0.1, momentum=0.9).init(state.params))
    with (
        Checkpoints(tmp_path, read_only=True) as again,
        pytest.raises(UserError, match=r"holds another network or optimiser: \.opt_state"),
    ):
        again.restore(1, other)
