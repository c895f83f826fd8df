import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training
from toy_training import CLASSES, SHAPE

from ddpm_jax.diffusion import losses, schedules
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.digests import digest
from ddpm_jax.training import learning_rates, optimizers, step
from ddpm_jax.training.objectives import denoise, draws

SCHEDULE = schedules.linear(num_steps=8)
THOUSAND = schedules.linear(num_steps=1000)
KEY = jax.random.key(7)


def run(state, train_step, num_steps, batch_size=16, mesh=None):
    """The state after some steps and the metrics of each, on a mesh if there is one."""
    if mesh is None:
        compiled = jax.jit(train_step)
    else:
        states, rows = sharding.state_sharding(mesh, state), sharding.batch_sharding(mesh)
        compiled = jax.jit(train_step, in_shardings=(states, rows))
    metrics = []
    for k in range(num_steps):
        batch = toy_training.batch(batch_size, seed=k)
        if mesh is not None:
            batch = sharding.put_batch(batch, sharding.batch_sharding(mesh))
        state, seen = compiled(state, batch)
        metrics.append(jax.device_get(seen))
    return state, metrics


def test_draws_do_not_depend_on_the_rest_of_the_batch():
    images = jnp.zeros((8, *SHAPE))
    whole = draws.draw(KEY, images, THOUSAND, drop_rates={"label": 0.5})
    half = draws.draw(KEY, images[:4], THOUSAND, drop_rates={"label": 0.5})
    np.testing.assert_array_equal(whole.t[:4], half.t)
    np.testing.assert_array_equal(whole.drop["label"][:4], half.drop["label"])
    np.testing.assert_array_max_ulp(np.asarray(whole.eps[:4]), np.asarray(half.eps), maxulp=4)
    assert len(np.unique(whole.t)) > 4
    assert len(np.unique(whole.eps)) == whole.eps.size


def test_draws_do_not_depend_on_the_devices():
    images = jnp.zeros((16, *SHAPE))
    drawn = []
    for devices in (1, 8):
        rows = sharding.batch_sharding(sharding.make_mesh(devices))
        draw = jax.jit(
            lambda: draws.draw(KEY, images, THOUSAND, drop_rates={"label": 0.5}), out_shardings=rows
        )
        drawn.append(draw())
    assert len(drawn[1].eps.devices()) == 8
    one, eight = drawn
    np.testing.assert_array_equal(one.t, eight.t)
    np.testing.assert_array_equal(one.drop["label"], eight.drop["label"])
    # The bits are the same; from them to a normal, other loops may round apart.
    np.testing.assert_array_max_ulp(np.asarray(one.eps), np.asarray(eight.eps), maxulp=4)


def test_draws_have_their_laws():
    num = 40_000
    drawn = jax.jit(lambda x: draws.draw(KEY, x, SCHEDULE, drop_rates={"label": 0.1}))(
        jnp.zeros((num, 2))
    )
    steps = np.asarray(drawn.t) * 8
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    counts = np.bincount(np.round(steps).astype(int), minlength=9)
    assert counts[0] == 0
    # Five standard deviations of a binomial.
    assert np.all(abs(counts[1:] - num / 8) < 5 * np.sqrt(num / 8))
    assert abs(drawn.drop["label"].mean() - 0.1) < 5 * np.sqrt(0.09 / num)
    assert abs(drawn.eps.mean()) < 5 / np.sqrt(2 * num)
    assert abs(drawn.eps.var() - 1) < 5 * np.sqrt(2 / (2 * num))
    # The three come from keys of their own.
    together = np.corrcoef(np.stack([drawn.t, *drawn.drop.values(), *drawn.eps.T]))
    assert np.abs(together - np.eye(4)).max() < 5 / np.sqrt(num)


def seen_labels(train, label_dropout):
    """What the network is given, and the mask of its dropout key."""
    seen = {}

    def network(variables, xt, time, conditions, *, train, rngs):
        seen.update(conditions, train=train, rngs=rngs)
        return xt

    objective = denoise.denoising(
        network,
        lambda params: SCHEDULE,
        dropout={"label": label_dropout},
    )
    batch = jax.tree.map(jnp.asarray, toy_training.batch(200))
    objective({}, batch, KEY, train, {})
    return seen, np.asarray(batch["label"])


def test_labels_are_dropped_at_their_rate_in_training_alone():
    seen, labels = seen_labels(train=True, label_dropout=0.3)
    dropped = np.asarray(seen["label"]) != labels
    assert abs(dropped.mean() - 0.3) < 5 * np.sqrt(0.21 / len(labels))
    np.testing.assert_array_equal(seen["label"][dropped], -1)
    assert (seen_labels(train=True, label_dropout=1.0)[0]["label"] == -1).all()

    seen, labels = seen_labels(train=False, label_dropout=1.0)
    np.testing.assert_array_equal(seen["label"], labels)


def test_dropout_is_for_training_alone():
    seen, _ = seen_labels(train=True, label_dropout=0.0)
    assert seen["train"]
    assert "dropout" in seen["rngs"]
    seen, _ = seen_labels(train=False, label_dropout=0.0)
    assert not seen["train"]
    assert not seen["rngs"]


def test_the_gradient_is_the_one_on_paper():
    # L = mean (a x_t + b - eps)² with a = b = 0: dL/da = mean -2 eps x_t, dL/db = mean -2 eps.
    schedule = schedules.linear(num_steps=1, beta_start=0.5, beta_end=0.5)
    state, train_step = toy_training.setup(schedule, dropout=None)
    seen = {}

    def spy(gradients, opt_state, params):
        seen.update(gradients)
        return gradients, opt_state

    spying = optax.GradientTransformation(lambda params: (), spy)
    state, train_step = toy_training.setup(schedule, dropout=None, optimizer=spying)
    batch = toy_training.batch(16)
    _, metrics = train_step(state, batch)
    key = jax.random.split(jax.random.fold_in(state.key, 0))[0]
    eps = np.asarray(draws.draw(key, jnp.asarray(batch["x0"]), schedule).eps, np.float64)
    xt = np.sqrt(0.5) * batch["x0"] + np.sqrt(0.5) * eps
    expected = {"scale": np.mean(-2 * eps * xt), "bias": np.mean(-2 * eps)}
    np.testing.assert_allclose(seen["scale"], [expected["scale"]], rtol=1e-4)
    np.testing.assert_allclose(seen["bias"], [expected["bias"]], rtol=1e-4)
    np.testing.assert_allclose(metrics["grad_norm"], np.hypot(*expected.values()), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], np.mean(eps**2), rtol=1e-5)


def test_constant_data_are_learned_to_the_last_digit():
    # All data are c, so eps = (x_t - alpha c) / sigma is a line in x_t at each time, and the loss
    # of the best network is 0.
    c = 0.5
    schedule = schedules.linear(num_steps=3, beta_start=0.2, beta_end=0.4)
    # A fall to 0 at the end, or Adam goes on shaking.
    decay = learning_rates.cosine(warmup_steps=0, num_steps=500)
    rate = learning_rates.learning_rate(0.1, warmup_steps=0, decay=decay)
    state, train_step = toy_training.setup(schedule, dropout=None, optimizer=optimizers.adam(rate))
    train_step = jax.jit(train_step)
    batch = {"x0": jnp.full((32, *SHAPE), c), "label": jnp.zeros(32, jnp.int32)}
    state, first = train_step(state, batch)
    for _ in range(499):
        state, last = train_step(state, batch)
    assert first["loss"] > 0.5
    assert last["loss"] < 1e-4
    alphas_cumprod = np.cumprod([0.8, 0.7, 0.6])
    sigma = np.sqrt(1 - alphas_cumprod)
    np.testing.assert_allclose(state.params["scale"], 1 / sigma, rtol=0.02)
    np.testing.assert_allclose(
        state.params["bias"], -np.sqrt(alphas_cumprod) * c / sigma, rtol=0.02
    )


def test_the_metrics_by_quarter_add_up_to_the_loss():
    state, train_step = toy_training.setup(SCHEDULE)
    _, metrics = run(state, train_step, 3, batch_size=24)
    for m in metrics:
        assert m["quarter_count"].sum() == 24
        np.testing.assert_allclose(m["quarter_loss_sum"].sum() / 24, m["loss"], rtol=1e-5)


@pytest.mark.parametrize("num_steps", [4, 12, 100, 1000])
def test_a_quarter_is_a_quarter_of_the_steps(num_steps):
    t = jnp.arange(1, num_steps + 1) / num_steps
    sums = jax.jit(step.by_quarter)(t, t)
    np.testing.assert_array_equal(sums["quarter_count"], num_steps / 4)
    # Each quarter's mean t lies in it.
    means = np.asarray(sums["quarter_loss_sum"] / sums["quarter_count"])
    np.testing.assert_allclose(means, (np.arange(4) + 0.5) / 4 + 0.5 / num_steps, rtol=1e-5)


def test_a_run_counts_its_steps_and_draws_anew_in_each():
    state, train_step = toy_training.setup(SCHEDULE, learning_rate=1e-6)
    compiled = jax.jit(train_step)
    same = toy_training.batch(16)
    after, first = compiled(state, same)
    after, second = compiled(after, same)
    assert after.step == 2
    assert digest(after.key) == digest(state.key)
    assert abs(first["loss"] - second["loss"]) > 1e-3
    again, _ = compiled(state, same)
    assert digest(compiled(again, same)[0]) == digest(after)


def test_the_average_is_that_of_the_parameters_after_each_step():
    state, train_step = toy_training.setup(SCHEDULE, ema_decay=0.8, learning_rate=0.1)
    compiled = jax.jit(train_step)
    expected = np.asarray(state.params["table"], np.float64)
    for k in range(6):
        state, _ = compiled(state, toy_training.batch(16, seed=k))
        expected = 0.8 * expected + 0.2 * np.asarray(state.params["table"], np.float64)
    np.testing.assert_allclose(state.ema["default"]["table"], expected, atol=1e-6)
    assert abs(expected - state.params["table"]).max() > 0.01


def test_the_learning_rate_of_a_step_is_the_one_it_used():
    rate = learning_rates.learning_rate(0.1, warmup_steps=4, decay=learning_rates.constant())
    objective = denoise.denoising(
        toy_training.apply,
        lambda params: SCHEDULE,
    )
    descent = optax.sgd(rate)
    train_step = step.make_train_step(objective, descent, rate, ema_decay=0.9, ema_warmup=False)
    state, _ = toy_training.setup(SCHEDULE, optimizer=descent)
    for expected in (0, 0.025, 0.05, 0.075, 0.1, 0.1):
        before = state.params
        state, metrics = jax.jit(train_step)(state, toy_training.batch(8))
        moved = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, before))
        np.testing.assert_allclose(metrics["learning_rate"], expected, rtol=1e-6)
        np.testing.assert_allclose(moved, expected * metrics["grad_norm"], rtol=1e-4)


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (2, 4)])
@pytest.mark.wide(2)
def test_a_run_does_not_depend_on_the_devices(data, fsdp, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 8)
    state, train_step = toy_training.setup(SCHEDULE)
    one, seen_one = run(state, train_step, 5, mesh=sharding.make_mesh(1))
    many, seen_many = run(state, train_step, 5, mesh=sharding.make_mesh(data, fsdp))
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(seen_one, seen_many, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
        np.testing.assert_array_equal(a["quarter_count"], b["quarter_count"])


@pytest.mark.parametrize("weighting", [None, "fixed_small", "fixed_large"])
@pytest.mark.wide(3)
def test_the_lecture_notes_first_objective_trains(weighting):
    weight = losses.inverse_variance(SCHEDULE, weighting) if weighting else None
    state, train_step = toy_training.setup(
        SCHEDULE,
        loss=functools.partial(losses.simple, prediction="posterior_mean", weight=weight),
        learning_rate=0.02,
    )
    state, metrics = run(state, train_step, 100)
    values = np.array([m["loss"] for m in metrics])
    assert np.isfinite(values).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert values[-10:].mean() < 0.5 * values[:10].mean()


def validation(batch, key=KEY, params=None):
    objective = denoise.denoising(
        toy_training.apply,
        lambda params: SCHEDULE,
        dropout={"label": 1.0},
    )
    params = params or toy_training.init_params(jax.random.key(0), 8)
    return jax.device_get(jax.jit(step.make_validation_step(objective))(params, batch, key))


def test_validation_leaves_out_what_the_mask_does():
    mask = np.arange(12) < 9
    batch = toy_training.batch(12) | {"mask": mask}
    sums = validation(batch)
    assert sums["quarter_count"].sum() == 9
    other = batch | {"x0": np.where(mask[:, None, None, None], batch["x0"], 100.0)}
    np.testing.assert_array_equal(validation(other)["quarter_loss_sum"], sums["quarter_loss_sum"])
    nine = {name: rows[:9] for name, rows in batch.items()}
    np.testing.assert_allclose(
        validation(nine)["quarter_loss_sum"], sums["quarter_loss_sum"], rtol=1e-6
    )


def test_validation_draws_the_same_each_time_and_keeps_the_labels():
    batch = toy_training.batch(12) | {"mask": np.ones(12, bool)}
    first, again = validation(batch), validation(batch)
    np.testing.assert_array_equal(first["quarter_loss_sum"], again["quarter_loss_sum"])
    # Another row for "no class" changes nothing, another row for a class does.
    params = toy_training.init_params(jax.random.key(0), 8)
    for row, same in ((CLASSES, True), (0, False)):
        table = params["table"].at[row].add(1.0)
        sums = validation(batch, params=params | {"table": table})
        equal = (sums["quarter_loss_sum"] == first["quarter_loss_sum"]).all()
        assert equal == same
