"""A step whose numbers went wrong leaves the state as it was, bit for bit, but for the counts."""

import dataclasses
import functools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training

from ddpm_jax.diffusion import losses, schedules, time_draws, weightings
from ddpm_jax.runtime.digests import digest
from ddpm_jax.training import ema, guard, loop, step
from ddpm_jax.training.objectives import cascaded, denoise, dequantised

SCHEDULE = schedules.linear(num_steps=8)
IMPORTANCE = time_draws.importance(history_size=3)
SPIKE = guard.Spike(sigma=6.0, window=10)


def objective_with(change):
    """An objective around the objective: the same with its outcome changed by (outcome, batch)."""

    def around(objective):
        def outcome(params, batch, key, train, extra):
            assert guard.NAME not in extra
            return change(objective.outcome(params, batch, key, train, extra), params, batch)

        return dataclasses.replace(objective, outcome=outcome)

    return around


@jax.custom_vjp
def blown_up(x, factor):
    """x, whose gradient is multiplied by the factor."""
    return x


blown_up.defvjp(lambda x, factor: (x, factor), lambda factor, g: (g * factor, None))


def gradient_of_batch(outcome, params, batch):
    """The batch says what its gradient is multiplied by."""
    return outcome._replace(loss=blown_up(outcome.loss, batch["factor"]))


def kept_of_batch(outcome, params, batch):
    """What is kept of the batch is the batch's own word."""
    return outcome._replace(extra=outcome.extra | {"kept": outcome.extra["kept"] * batch["factor"]})


def with_kept(objective):
    """An objective that keeps a number, which each batch multiplies."""
    changed = objective_with(kept_of_batch)(objective)
    init = objective.init_extra
    return dataclasses.replace(
        changed, init_extra=lambda params: init(params) | {"kept": jnp.ones(2)}
    )


KINDS = {
    "simple": {},
    "importance": {"time_draw": IMPORTANCE},
    "vlb": {"loss": functools.partial(losses.vlb, variance="fixed_large"), "dropout": None},
    "min_snr on v": {
        "loss": functools.partial(losses.weighted, prediction="v", weighting=weightings.min_snr()),
        "dropout": None,
    },
    "dequantised": {"around": lambda objective: dequantised.dequantised(objective, 256)},
    "cascaded": {"around": lambda objective: cascaded.cascaded(objective, 2, 0.5)},
    "no clip": {"optimizer": optax.adam(1e-2)},
    "clip": {"optimizer": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))},
    "of variance": {
        "around": lambda objective: dataclasses.replace(
            objective, of_variance=lambda params: jax.tree.map(lambda leaf: leaf.ndim == 1, params)
        )
    },
}


def bits(tree):
    """{path: bytes} of every leaf."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(leaf) if leaf.dtype == jax.random.key(0).dtype else leaf
        ).tobytes()
        for path, leaf in paths
    }


def assert_untouched(before, after, in_a_row=1):
    """Every leaf of the state is the one before, but the step and the counts."""
    changed = {name for name, value in bits(after).items() if bits(before)[name] != value}
    assert changed == {".step", ".extra['guard']['skipped']", ".extra['guard']['in_a_row']"}
    assert after.step == before.step + 1
    record = after.extra[guard.NAME]
    assert record["skipped"] == before.extra[guard.NAME]["skipped"] + 1
    assert record["in_a_row"] == in_a_row


def warm(kind, num_steps=3, compiler_options=None, **more):
    """A state some steps after its first, and its compiled step."""
    state, train_step = toy_training.setup(SCHEDULE, **kind, **more)
    compiled = jax.jit(train_step, compiler_options=compiler_options)
    for k in range(num_steps):
        state, metrics = compiled(state, toy_training.batch(16, seed=k))
        assert not metrics["skipped"]
    return state, compiled


@pytest.mark.wide(5)
@pytest.mark.parametrize("kind", KINDS)
def test_a_number_in_a_batch_that_is_none_changes_nothing(kind):
    state, train_step = warm(KINDS[kind])
    good = toy_training.batch(16, seed=9)
    for in_a_row, value in enumerate((np.nan, np.inf, 1e30), start=1):
        bad = good["x0"].copy()
        bad[5, 1, 2] = value
        after, metrics = train_step(state, good | {"x0": bad})
        assert_untouched(state, after, in_a_row)
        assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (1, in_a_row)
        state = after
    after, metrics = train_step(state, good)
    assert (metrics["skipped"], metrics["skipped_in_a_row"], metrics["skipped_total"]) == (0, 0, 3)
    assert not metrics["wrong"].any()
    names = {name for name, value in bits(after).items() if bits(state)[name] != value}
    assert any(name.startswith(".params") for name in names)
    assert any(name.startswith(".ema") for name in names)
    assert after.extra[guard.NAME]["skipped"] == 3


@pytest.mark.parametrize("factor", [np.inf, np.nan, 1e25])
def test_a_gradient_that_is_none_changes_nothing_though_the_loss_is_finite(factor):
    state, train_step = toy_training.setup(SCHEDULE, around=objective_with(gradient_of_batch))
    train_step = jax.jit(train_step)
    good = toy_training.batch(16) | {"factor": np.float32(1)}
    for _ in range(2):
        state, _ = train_step(state, good)
    after, metrics = train_step(state, good | {"factor": np.float32(factor)})
    assert_untouched(state, after)
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["grad_norm"])
    assert [*metrics["wrong"]] == [False, True, False, False, False]


def test_the_largest_gradient_that_is_taken_leaves_a_finite_state():
    # Adam squares it: just below what the norm can say, the second moment is still a number.
    state, train_step = toy_training.setup(SCHEDULE, around=objective_with(gradient_of_batch))
    train_step = jax.jit(train_step)
    good = toy_training.batch(16)
    taken = 0
    for exponent in np.arange(17, 21, 0.125):
        factor = np.float32(10**exponent)
        state, metrics = train_step(state, good | {"factor": factor})
        taken += int(metrics["skipped"] == 0)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state._replace(key=0)))
    assert 5 < taken < 27


def test_a_history_that_overflows_changes_nothing():
    state, train_step = toy_training.setup(SCHEDULE, around=with_kept)
    train_step = jax.jit(train_step)
    good = toy_training.batch(16) | {"factor": np.float32(1e20)}
    state, metrics = train_step(state, good)
    np.testing.assert_array_equal(state.extra["kept"], np.float32(1e20))
    after, metrics = train_step(state, good)
    assert_untouched(state, after)
    assert np.isfinite([metrics["loss"], metrics["grad_norm"]]).all()
    assert [*metrics["wrong"]] == [False, False, True, False, False]


@pytest.mark.parametrize("kind", ["importance", "clip"])
@pytest.mark.wide(6)
def test_steps_that_are_fine_are_the_steps_without_a_guard(kind, monkeypatch):
    warmed = functools.partial(warm, KINDS[kind], 8, compiling.TO_THE_BIT)
    guarded, _ = warmed()
    spied, _ = warmed(spike=guard.Spike(sigma=1e6, window=2))
    monkeypatch.setattr(guard, "keep", lambda ok, new, old: new)
    free, _ = warmed()
    assert digest(guarded) == digest(free)
    parts = ("params", "ema", "opt_state")
    assert all(digest(getattr(spied, part)) == digest(getattr(free, part)) for part in parts)


def test_a_run_goes_on_as_if_it_had_never_seen_a_bad_batch():
    # Adam's count, the warm-ups of rate and average, the time of a power average: all go by the
    # steps that were taken.
    rate = optax.linear_schedule(0.0, 0.1, 10)
    averages = {"0.9": ema.constant(0.9), "std:0.1": ema.power(0.1)}
    options = {"optimizer": optax.adam(rate), "ema_warmup": True, "averages": averages}
    state, train_step = toy_training.setup(SCHEDULE, **options)
    train_step = jax.jit(train_step)
    never = state
    for k in range(12):
        batch = toy_training.batch(16, seed=k)
        if k % 3 == 1:
            bad = batch | {"x0": np.full_like(batch["x0"], np.nan)}
            state, _ = train_step(state, bad)
            record = never.extra[guard.NAME]
            counted = {"skipped": record["skipped"] + 1, "in_a_row": record["in_a_row"] + 1}
            never = never._replace(step=never.step + 1, extra={guard.NAME: counted})
        else:
            state, _ = train_step(state, batch)
            never, _ = train_step(never, batch)
    assert digest(state) == digest(never)
    assert len({digest(tree) for tree in state.ema.values()}) == 3
    assert state.opt_state[0].count == 8


def test_the_learning_rate_told_is_the_one_that_the_optimiser_used():
    descent = optax.sgd(optax.linear_schedule(0.0, 0.1, 10))
    state, _ = toy_training.setup(SCHEDULE, optimizer=descent)
    objective = denoise.denoising(toy_training.apply, lambda params: SCHEDULE)
    rate = optax.linear_schedule(0.0, 0.1, 10)
    train_step = jax.jit(
        step.make_train_step(objective, descent, rate, ema_decay=0.9, ema_warmup=False)
    )
    told = []
    for k in range(6):
        batch = toy_training.batch(8, seed=k)
        if k in (1, 2):
            batch["x0"][0] = np.inf
        before = state.params
        state, metrics = train_step(state, batch)
        moved = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, before))
        if k not in (1, 2):
            told.append(float(metrics["learning_rate"]))
            np.testing.assert_allclose(moved, told[-1] * metrics["grad_norm"], rtol=1e-4)
    np.testing.assert_allclose(told, [0, 0.01, 0.02, 0.03], atol=1e-8)


def statistics(values, window):
    """Mean and standard deviation with weights (1 - 1/window)^n, in float64, as on paper."""
    values = np.asarray(values, np.float64)
    weights = (1 - 1 / window) ** np.arange(len(values))[::-1]
    mean = np.average(values, weights=weights, axis=0)
    return mean, np.sqrt(np.average((values - mean) ** 2, weights=weights, axis=0))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-6, 1.0), (1e25, 1e26), (1e-20, 0.0)])
def test_the_statistics_are_the_weighted_ones_from_the_first_step_on(scale, shift):
    spike = guard.Spike(sigma=1e9, window=20)
    record = guard.init(spike)
    values = np.random.default_rng(0).lognormal(size=(60, 2)).astype(np.float32)
    values = np.float32(shift) + np.float32(scale) * values
    judge = jax.jit(functools.partial(guard.judge, history={}, spike=spike))
    for n, (loss, norm) in enumerate(values):
        verdict = judge(record, loss, norm, updates=jnp.int32(n))
        assert verdict.ok
        record = verdict.record
        mean, std = statistics(values[: n + 1], 20)
        np.testing.assert_allclose(record["mean"], mean, rtol=1e-5)
        # A deviation is no better known than the values' own last digits.
        np.testing.assert_allclose(record["std"], std, rtol=1e-3, atol=np.abs(mean).max() * 1e-6)


@pytest.mark.parametrize("which", [0, 1])
def test_a_spike_is_what_lies_above_the_bound_once_there_are_enough_steps(which):
    window, sigma = 10, 3.0
    spike = guard.Spike(sigma=sigma, window=window)
    values = np.random.default_rng(1).uniform(1, 2, (40, 2)).astype(np.float32)
    record = guard.init(spike)
    for n in range(40):
        mean, std = statistics(values[:n], window) if n else (np.ones(2), np.ones(2))
        for factor, expected in ((0.99, False), (1.01, n >= window)):
            above = values[n].copy()
            above[which] = mean[which] + sigma * factor * std[which]
            verdict = guard.judge(record, *above, {}, updates=jnp.int32(n), spike=spike)
            assert (not verdict.ok) == expected
            if expected:
                assert verdict.metrics["wrong"][3 + which]
                assert bits((verdict.record["mean"], verdict.record["std"])) == bits(
                    (record["mean"], record["std"])
                )
                name = ("loss_bound", "grad_norm_bound")[which]
                bound = mean[which] + sigma * std[which]
                np.testing.assert_allclose(verdict.metrics[name], bound, rtol=1e-5)
        # Far below is no spike.
        assert guard.judge(record, 0.0, 0.0, {}, updates=jnp.int32(n), spike=spike).ok
        record = guard.judge(record, *values[n], {}, updates=jnp.int32(n), spike=spike).record


def test_values_that_the_statistics_cannot_hold_do_not_enter_them():
    spike = guard.Spike(sigma=3.0, window=5)
    record = guard.init(spike)
    for n, loss in enumerate((3e38, -3e38, 3e38)):
        verdict = guard.judge(record, jnp.float32(loss), 1.0, {}, updates=jnp.int32(n), spike=spike)
        record = verdict.record
        assert np.isfinite([*record["mean"], *record["std"]]).all()
    assert record["skipped"] == 1  # -3e38 is 6e38 away, which is no float32


def spiked_batch(k):
    """Now and then a thousandfold image, which is a millionfold loss."""
    batch = toy_training.batch(16, seed=k)
    return batch | {"x0": batch["x0"] * np.float32(1000 if k in (12, 19, 20, 27) else 1)}


def test_spikes_are_skipped_alike_in_a_run_that_is_stopped_anywhere():
    options = {"spike": SPIKE, "time_draw": IMPORTANCE, "learning_rate": 0.05}
    begin, train_step = toy_training.setup(SCHEDULE, **options)
    train_step = jax.jit(train_step)
    states, skipped = [begin], []
    for k in range(32):
        state, metrics = train_step(states[-1], spiked_batch(k))
        states.append(state)
        if metrics["skipped"]:
            skipped.append(k)
            assert_untouched(states[-2], state, metrics["skipped_in_a_row"])
            assert metrics["wrong"][3:].all()
    assert skipped == [12, 19, 20, 27]
    assert states[-1].extra[guard.NAME]["skipped"] == 4
    for stop in (11, 12, 13, 20, 21, 30):
        state = jax.tree.map(jnp.copy, states[stop])
        again = []
        for k in range(stop, 32):
            state, metrics = train_step(state, spiked_batch(k))
            again += [k] * int(metrics["skipped"])
        assert again == [k for k in skipped if k >= stop]
        assert digest(state) == digest(states[-1])


@pytest.mark.parametrize(
    ("sigma", "window"), [(0.0, 10), (-1.0, 10), (np.nan, 10), (np.inf, 10), (3.0, 1), (3.0, -1)]
)
def test_a_spike_guard_out_of_range_is_refused(sigma, window):
    with pytest.raises(ValueError, match="need spike_"):
        guard.Spike(sigma, window)


def test_a_state_without_the_counts_is_refused():
    state, train_step = toy_training.setup(SCHEDULE)
    with pytest.raises(ValueError, match=r"has no 'guard'.*init_state"):
        train_step(state._replace(extra={}), toy_training.batch(8))


def test_means_leave_out_what_was_skipped():
    state, train_step = toy_training.setup(SCHEDULE)
    train_step = jax.jit(train_step)
    means, loss = loop.MeanMetrics(), []
    for k in range(6):
        batch = toy_training.batch(16, seed=k)
        if k in (2, 3):
            batch["x0"][:] = np.nan
        state, metrics = train_step(state, batch)
        means.add(metrics)
        loss.append(float(metrics["loss"]))
        if k == 1:
            assert "skipped" not in means.pop()
        elif k == 3:
            values = means.pop()
            assert np.isnan([values["loss"], values["grad_norm"]]).all()
            assert values["skipped"] == 2
            assert "loss_q1" not in values
    values = means.pop()
    assert values["loss"] == pytest.approx(np.mean(loss[4:]))
    assert values["skipped"] == 2
