import itertools
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.training import loop


def counting_step(state, batch):
    """A state that remembers what it was given."""
    return (*state, batch), {"loss": jnp.float32(batch)}


def train(start, num_steps, **options):
    return loop.train((), counting_step, itertools.count(start), start=start, num_steps=num_steps,
                      **options)  # fmt: skip


def test_every_step_takes_its_batch_and_calls_the_actions_in_order():
    calls = []
    actions = [
        lambda step, state, metrics: calls.append(("a", step, state[-1], float(metrics["loss"]))),
        lambda step, state, metrics: calls.append(("b", step)),
    ]
    state, reached = train(3, 6, actions=actions)
    assert reached == 6
    assert state == (3, 4, 5)
    assert calls == [("a", 4, 3, 3.0), ("b", 4), ("a", 5, 4, 4.0), ("b", 5), ("a", 6, 5, 5.0),
                     ("b", 6)]  # fmt: skip


def test_a_stop_comes_after_the_step_and_its_actions():
    done = []
    state, reached = train(
        0, 10, actions=[lambda step, *_: done.append(step)], stop=lambda: len(done) == 4
    )
    assert reached == 4
    assert state == (0, 1, 2, 3)


def test_a_run_that_is_over_takes_no_step():
    state, reached = train(7, 7, actions=[lambda *_: pytest.fail("no step, no action")])
    assert (state, reached) == ((), 7)


@pytest.mark.parametrize(
    ("period", "last", "at"),
    [(3, 10, [3, 6, 9, 10]), (5, 10, [5, 10]), (0, 10, []), (99, 10, [10]), (1, 3, [1, 2, 3])],
)
def test_an_action_comes_at_its_period_and_at_the_last_step(period, last, at):
    seen = []
    train(0, last, actions=[loop.every(period, last, lambda step, state: seen.append(step))])
    assert seen == at


def test_a_negative_period_is_refused():
    with pytest.raises(ValueError, match="-1"):
        loop.every(-1, 5, lambda step, state: None)


def test_the_means_are_over_the_steps_since_the_last():
    means = loop.MeanMetrics()
    for loss in (1.0, 2.0, 6.0):
        means.add(
            {
                "loss": jnp.float32(loss),
                "grad_norm": jnp.float32(2 * loss),
                "learning_rate": jnp.float32(0.5),
                "skipped": jnp.int32(0),
                "skipped_total": jnp.int32(0),
                # Of four examples, the first quarter saw one of loss 1, the third all the others.
                "quarter_loss_sum": jnp.array([1.0, 0.0, loss, 0.0]),
                "quarter_count": jnp.array([1.0, 0.0, 3.0, 0.0]),
            }
        )
    values = means.pop()
    assert values == pytest.approx(
        {"loss": 3, "grad_norm": 6, "learning_rate": 0.5, "loss_q1": 1, "loss_q3": 1}
    )
    means.add(
        dict.fromkeys(
            ("loss", "grad_norm", "learning_rate", "skipped", "skipped_total"), jnp.float32(0)
        )
        | {"quarter_loss_sum": np.zeros(4), "quarter_count": np.ones(4)}
    )
    assert means.pop()["loss"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_is_the_systems(number):
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with loop.StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        # The next one would end this process, whichever of the two it is.
        assert {signal.getsignal(n) for n in before} == {signal.SIG_DFL}
    assert {n: signal.getsignal(n) for n in before} == before


def test_the_handlers_come_back_without_a_signal():
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with loop.StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    assert {n: signal.getsignal(n) for n in before} == before
