"""What a run sends to its devices and fetches from them, and compiles, once it is under way."""

import contextlib

import jax
import numpy as np
import pytest
from compiling import compilations
from tiny_runs import BRIEF, tiny_config

from ddpm_jax import experiment
from ddpm_jax.runtime import sharding
from ddpm_jax.training import guard, loop

STEPS, LOGGED_EVERY = 9, 3
QUIET = {
    "train.num_steps": STEPS,
    "train.log_every": LOGGED_EVERY,
    "train.checkpoint_every": 0,
}
ARRAY = type(jax.numpy.zeros(()))


@pytest.fixture
def fetched(monkeypatch):
    """A list that gets the shape of each array of several devices that comes to the host.

    A guard sees nothing of it here: the devices of a CPU are the host, and numpy reads the memory
    of a single one of them without asking.
    """
    shapes, value = [], ARRAY._value

    def seen(array):
        shapes.append(array.shape)
        return value.fget(array)

    monkeypatch.setattr(ARRAY, "_value", property(seen))
    return shapes


def under_way(monkeypatch, watched):
    """Runs are trained within `watched()` from their second step on, to the end of the loop."""
    train = loop.train

    def watched_train(*args, actions, **options):
        with contextlib.ExitStack() as stack:

            def begin(step, state, metrics):
                if step == 1:
                    jax.block_until_ready((state, metrics))
                    stack.enter_context(watched())

            return train(*args, actions=[*actions, begin], **options)

    monkeypatch.setattr(loop, "train", watched_train)


def test_what_is_fetched_is_seen(fetched):
    numbers = jax.device_put(np.zeros(3), sharding.replicated(sharding.make_mesh(2)))
    assert fetched == []
    for fetch in (np.asarray, jax.device_get, lambda array: array.tolist()):
        fetch(numbers + 0)
    bool(numbers[0] == 1)
    assert fetched == [(3,), (3,), (3,), ()]


@pytest.mark.wide(2)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_nothing_is_sent_or_compiled_but_batches(tmp_path, monkeypatch, accumulate):
    seen = []

    @contextlib.contextmanager
    def watched():
        # Of this thread: another one places the batches.
        with jax.transfer_guard_host_to_device("disallow_explicit"), compilations() as compiled:
            yield
        seen.extend(compiled)
        seen.append("the end")

    under_way(monkeypatch, watched)
    config = tiny_config(BRIEF | QUIET | {"train.accumulate": accumulate})
    assert experiment.train(experiment.build(config), tmp_path / "run") == 0
    assert seen == ["the end"]


@pytest.mark.wide(3)
def test_only_logged_scalars_are_fetched(tmp_path, monkeypatch, fetched):
    seen = []

    @contextlib.contextmanager
    def watched():
        fetched.clear()
        yield
        seen.extend(fetched)

    under_way(monkeypatch, watched)
    config = tiny_config(BRIEF | QUIET | {"mesh.data": 2})
    assert experiment.train(experiment.build(config), tmp_path / "run") == 0
    assert seen
    # A bool a step, whether it was skipped; the rest where it is logged. None is of a batch's or a
    # parameter's size: by quarter of t and by cause there are four numbers or fewer.
    # A bool a step, whether it was skipped, and where it is logged what a step says: numbers, some
    # by quarter of t or by cause of skipping. Nothing of a batch's or a parameter's size.
    assert max(np.prod(shape, dtype=int) for shape in seen) <= max(4, len(guard.REASONS))
    assert seen[: LOGGED_EVERY - 1] == [()] * (LOGGED_EVERY - 1)
