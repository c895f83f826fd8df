"""What an objective draws and keeps between steps, and that each kind of it trains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training

from ddpm_jax.diffusion import losses, process, schedules, time_draws, weightings
from ddpm_jax.runtime.digests import digests
from ddpm_jax.training import guard, step
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.objectives import cascaded, classify, denoise, dequantised
from ddpm_jax.training.state import TrainState

SCHEDULE = schedules.linear(num_steps=8)
DRAWS = {
    "uniform": time_draws.uniform(),
    "stratified": time_draws.stratified(),
    "importance": time_draws.importance(history_size=3),
    "log_normal": time_draws.log_normal(),
    "logit_normal": time_draws.logit_normal(),
}


def run(state, train_step, start, stop):
    compiled = jax.jit(train_step)
    seen = []
    for k in range(start, stop):
        state, metrics = compiled(state, toy_training.batch(16, seed=k))
        seen.append(jax.device_get(metrics))
    return state, seen


def shapes_of(state):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state)


@pytest.mark.wide(3)
def test_a_history_resumes_exactly(tmp_path):
    begin, train_step = toy_training.setup(SCHEDULE, time_draw=DRAWS["importance"])
    assert begin.extra["time_draw"]["loss"].shape == (8, 3)
    straight, _ = run(begin, train_step, 0, 24)
    half, _ = run(begin, train_step, 0, 12)
    # By then importance decides: a history that was lost would show.
    assert (half.extra["time_draw"]["count"] >= 3).all()
    with Checkpoints(tmp_path) as saved:
        saved.save(12, half)
        saved.wait()
        restored = saved.restore(12, shapes_of(half))
    assert digests(restored) == digests(half)
    resumed, _ = run(restored, train_step, 12, 24)
    assert digests(resumed) == digests(straight)
    forgot, _ = run(restored._replace(extra=begin.extra), train_step, 12, 24)
    assert digests(forgot)["params_sha256"] != digests(straight)["params_sha256"]


def test_the_digest_of_a_state_sees_its_history():
    begin, train_step = toy_training.setup(SCHEDULE, time_draw=DRAWS["importance"])
    state, _ = run(begin, train_step, 0, 1)
    lost = state._replace(extra=begin.extra)
    assert digests(lost)["state_sha256"] != digests(state)["state_sha256"]
    assert digests(lost)["params_sha256"] == digests(state)["params_sha256"]


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.wide(4)
def test_only_importance_keeps_anything(name):
    state, train_step = toy_training.setup(SCHEDULE, time_draw=DRAWS[name])
    after, _ = run(state, train_step, 0, 2)
    assert isinstance(after, TrainState)
    if name != "importance":
        assert [*after.extra] == [*state.extra] == ["guard"]
    else:
        assert after.extra["time_draw"]["count"].sum() > 0


def gradient(time_draw, extra, batch):
    """The gradient of a step in which importance weighs the losses, by a network of one number."""
    seen = {}

    def spy(gradients, opt_state, params):
        seen.update(gradients)
        return gradients, opt_state

    objective = denoise.denoising(
        lambda variables, xt, time, conditions, **_: variables["params"]["a"] * xt,
        lambda params: SCHEDULE,
        time_draw=time_draw,
    )
    spying = optax.GradientTransformation(lambda params: (), spy)
    train_step = step.make_train_step(
        objective, spying, optax.constant_schedule(1.0), ema_decay=0.9, ema_warmup=False
    )
    params = {"a": jnp.ones(())}
    key = jax.random.key(0)
    state = TrainState(
        jnp.int32(0), key, params, {"default": params}, (), extra | {"guard": guard.init()}
    )
    # Compiled, as the batch is large; what the spy saw is then an output of the program.
    step_of = jax.jit(lambda s, b: (train_step(s, b)[1]["loss"], dict(seen)))
    loss, gradients = step_of(state, batch)
    return float(gradients["a"]), float(loss)


def test_importance_does_not_change_what_is_minimised():
    # The same batch, 16 times as large: the two estimates of loss and gradient agree.
    images = np.random.default_rng(0).uniform(-1, 1, (40_000, 2)).astype(np.float32)
    losses_ = np.array([9.0, 1, 1, 1, 1, 1, 1, 0.3], np.float32)
    history = {
        "loss": jnp.broadcast_to(losses_[:, None], (8, 3)),
        "count": jnp.full(8, 3, jnp.int32),
    }
    uniform = gradient(DRAWS["uniform"], {}, {"x0": images})
    importance = gradient(DRAWS["importance"], {"time_draw": history}, {"x0": images})
    np.testing.assert_allclose(importance, uniform, rtol=0.03)
    assert abs(uniform[0] - importance[0]) > 0


def test_validation_neither_reads_nor_writes_a_history():
    objective = denoise.denoising(
        toy_training.apply, lambda params: SCHEDULE, time_draw=DRAWS["importance"]
    )
    params = toy_training.init_params(jax.random.key(0), 8)
    batch = {"x0": toy_training.batch(64)["x0"]}
    outcome = objective(params, batch, jax.random.key(1), False, {})
    assert outcome.extra == {}
    np.testing.assert_array_equal(outcome.weight, 1)
    plain = denoise.denoising(toy_training.apply, lambda params: SCHEDULE)
    same = plain(params, batch, jax.random.key(1), False, {})
    np.testing.assert_array_equal(outcome.t, same.t)


def test_quarters_are_means_of_the_objective_not_of_the_draws():
    # By importance, step 1 was drawn three times as often as step 2 and weighs a third.
    loss, t = jnp.asarray([6.0, 6, 6, 2]), jnp.asarray([1, 1, 1, 2]) / 8
    weight = jnp.asarray([1 / 3, 1 / 3, 1 / 3, 1])
    sums = step.by_quarter(loss, t, weight)
    assert sums["quarter_loss_sum"][0] / sums["quarter_count"][0] == pytest.approx(4)


CONTINUOUS = schedules.vp_continuous()
KINDS = {
    "min_snr on v": (
        SCHEDULE,
        functools.partial(losses.weighted, prediction="v", weighting=weightings.min_snr()),
        DRAWS["stratified"],
    ),
    "score matching": (schedules.linear(8, 0.1, 0.7), losses.score_matching, DRAWS["uniform"]),
    "edm": (
        CONTINUOUS,
        functools.partial(losses.weighted, prediction="edm", weighting=weightings.edm()),
        DRAWS["log_normal"],
    ),
    "flow matching": (
        schedules.flow(),
        functools.partial(losses.simple, prediction="flow"),
        DRAWS["logit_normal"],
    ),
    "vlb": (
        SCHEDULE,
        functools.partial(losses.vlb, variance="fixed_large"),
        DRAWS["importance"],
    ),
}


@pytest.mark.wide(3)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_objective_trains(kind):
    schedule, loss, time_draw = KINDS[kind]

    def apply(variables, xt, time, conditions, **_):
        params = variables["params"]
        share = (time / jnp.maximum(jnp.abs(time).max(), 1))[:, None, None, None]
        return (params["a"] + params["b"] * share) * xt + params["c"] + params["d"] * share

    objective = denoise.denoising(apply, lambda params: schedule, loss=loss, time_draw=time_draw)
    rate = optax.constant_schedule(0.03)
    train_step = step.make_train_step(
        objective, optax.adam(rate), rate, ema_decay=0.9, ema_warmup=False
    )
    params = {name: jnp.full((), 1.5) for name in "abcd"}
    begin = TrainState(
        jnp.int32(0),
        jax.random.key(0),
        params,
        {"default": params},
        optax.adam(rate).init(params),
        objective.init_extra(params) | {"guard": guard.init()},
    )
    _, metrics = run(begin, train_step, 0, 120)
    values = np.array([m["loss"] for m in metrics])
    assert np.isfinite(values).all()
    assert values[-20:].mean() < 0.7 * values[:20].mean()


def test_draws_are_what_the_loss_and_the_network_are_given():
    def apply_fn(variables, xt, time, conditions, train, rngs):
        return conditions["low_resolution"]

    def loss(network, schedule, x0, t, eps):
        seen = network(x0, t)
        return t + sum(k * part.mean(axis=(1, 2, 3)) for k, part in enumerate((x0, eps, seen), 1))

    objective = denoise.denoising(
        apply_fn,
        SCHEDULE,
        loss=loss,
        dropout={"low_resolution": 0.5},
        time_draw=DRAWS["stratified"],
    )
    objective = cascaded.cascaded(dequantised.dequantised(objective, 256), 2, 0.3)
    batch = {"x0": jax.random.uniform(jax.random.key(1), (16, 4, 4, 1), minval=-1)}
    arguments = {}, batch, jax.random.key(2), True, {}
    outcome, draws = objective(*arguments), jax.device_get(objective.draws(*arguments))
    assert set(draws) == {"low_resolution", "x0", "t", "weight", "eps", "drop"}
    dropped = draws["drop"]["low_resolution"]
    assert 0 < dropped.sum() < 16
    seen = np.where(dropped[:, None, None, None], 0, draws["low_resolution"])
    parts = (draws["x0"], draws["eps"], seen)
    expected = sum(k * part.mean(axis=(1, 2, 3)) for k, part in enumerate(parts, 1)) + draws["t"]
    np.testing.assert_allclose(outcome.loss, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outcome.t, draws["t"])
    np.testing.assert_array_equal(outcome.weight, draws["weight"])


def test_draws_are_what_a_classifier_is_given():
    def apply_fn(variables, xt, time, train, rngs):
        mean = xt.mean(axis=(1, 2, 3))
        return jnp.stack([mean, jnp.zeros_like(mean)], axis=1)

    objective = classify.classification(apply_fn, SCHEDULE, time_draw=DRAWS["uniform"])
    x0 = jax.random.normal(jax.random.key(1), (16, 4, 4, 1))
    arguments = {}, {"x0": x0, "label": jnp.zeros(16, int)}, jax.random.key(2), True, {}
    draws = objective.draws(*arguments)
    mean = process.add_noise(SCHEDULE, x0, draws["t"], draws["eps"]).mean(axis=(1, 2, 3))
    # -log p(0) of the logits (mean, 0)
    np.testing.assert_allclose(objective(*arguments).loss, np.log1p(np.exp(-mean)), rtol=1e-5)
