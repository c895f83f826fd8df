"""A batch shown in parts: the draws, the update and the metrics of the whole, on any devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training

from ddpm_jax.diffusion import schedules, time_draws
from ddpm_jax.runtime import sharding
from ddpm_jax.training import guard, inspection, plans, players, state, step
from ddpm_jax.training.dispatched import Dispatched
from ddpm_jax.training.objectives import augmented, cascaded, denoise, dequantised, draws
from ddpm_jax.training.objectives.base import PART, Objective, Outcome, Part, places
from ddpm_jax.training.parts import Parts

SCHEDULE = schedules.linear(num_steps=8)
KEY = jax.random.key(7)
SIZE = 16
MESHES = {"1": (1, 1), "8": (8, 1), "2x4": (2, 4)}


def mesh_of(name):
    return sharding.make_mesh(*MESHES[name])


def parts_of(batch, parts):
    """Every part of a batch."""
    return [parts.part(batch, jnp.int32(k)) for k in range(parts.count)]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("count", [1, 2])
def test_parts_are_the_batch_and_no_row_moves(mesh, count):
    parts = Parts(count, mesh_of(mesh))
    rows = sharding.batch_sharding(parts.mesh)
    batch = {"x0": np.arange(2.0 * SIZE).reshape(SIZE, 2), "label": np.arange(SIZE)}
    batch = sharding.put_batch(batch, rows)
    home = {row: s.device for s in batch["label"].addressable_shards for row in s.data.tolist()}
    compiled = jax.jit(parts.part).lower(batch, jnp.int32(0)).compile()
    assert not re.search("all-|collective-", compiled.as_text())
    seen = []
    for number in range(count):
        part = compiled(batch, jnp.int32(number))
        labels = part["label"]
        assert labels.shape == (SIZE // count,)
        assert part["x0"].shape == (SIZE // count, 2)
        for shard in labels.addressable_shards:
            assert {home[row] for row in shard.data.tolist()} == {shard.device}
        # The labels are the places here.
        np.testing.assert_array_equal(part[PART].place, labels)
        assert part[PART].size == SIZE
        np.testing.assert_array_equal(part["x0"][:, 0], 2.0 * labels)
        seen.append(labels)
    np.testing.assert_array_equal(parts.whole(jnp.stack(seen)), np.arange(SIZE))


@pytest.mark.parametrize(
    ("count", "mesh", "message"),
    [(3, "1", "16 examples do not divide into 3 equal parts"), (4, "8", "on each of 8 devices")],
)
def test_what_does_not_divide_is_refused(count, mesh, message):
    with pytest.raises(ValueError, match=message):
        Parts(count, mesh_of(mesh)).part({"x0": jnp.zeros((SIZE, 2))}, jnp.int32(0))
    with pytest.raises(ValueError, match="at least one part, got 0"):
        Parts(0)


TIME_DRAWS = {
    "uniform": time_draws.uniform(),
    "stratified": time_draws.stratified(),
    "importance": time_draws.importance(history_size=1),
    "log_normal": time_draws.log_normal(),
}


@pytest.mark.parametrize("name", TIME_DRAWS)
@pytest.mark.wide(2)
def test_a_part_draws_what_the_batch_draws_there(name):
    x0 = jnp.zeros((SIZE, 4))
    # A history that is full, so that steps are drawn by it.
    history = {"loss": jnp.arange(1.0, 9.0)[:, None], "count": jnp.ones(8, jnp.int32)}
    options = {"time_draw": TIME_DRAWS[name], "history": history, "joint_rate": 0.3}
    draw = functools.partial(draws.draw, KEY, schedule=SCHEDULE, drop_rates={"a": 0.5}, **options)
    whole = jax.jit(lambda: draw(x0=x0))()
    place = np.random.default_rng(0).permutation(SIZE)[:6]
    part = jax.jit(lambda place: draw(x0=x0[:6], part=Part(place, SIZE)))(place)
    np.testing.assert_array_equal(part.t, whole.t[place])
    np.testing.assert_array_equal(part.weight, whole.weight[place])
    np.testing.assert_array_equal(part.drop["a"], whole.drop["a"][place])
    np.testing.assert_array_max_ulp(np.asarray(part.eps), np.asarray(whole.eps[place]), maxulp=4)
    assert len(np.unique(whole.t)) > 3


def test_what_wraps_an_objective_draws_by_places_too():
    seen = []

    def outcome(params, batch, key, train, extra):
        # By place: the rows of a part are not those of the batch.
        order = jnp.argsort(places(batch))
        seen.append([batch[name][order] for name in ("x0", "low_resolution")])
        zero = jnp.zeros(len(batch["x0"]))
        return Outcome(zero, zero, zero, extra)

    inner = Objective(outcome, remember=lambda params, extra, t, loss: extra)
    objective = cascaded.cascaded(dequantised.dequantised(inner, 17), 2, 0.5)
    objective = augmented.augmented(objective, {"flip": augmented.flip, "shift": augmented.shift})
    assert objective.remember is inner.remember
    batch = {"x0": jnp.linspace(-1, 1, 17)[jax.random.randint(KEY, (4, 8, 8, 1), 0, 17)]}
    objective({}, batch, KEY, True, {})
    for part in parts_of(batch, Parts(2)):
        objective({}, part, KEY, True, {})
    whole, first, second = seen
    for one, *halves in zip(whole, first, second, strict=True):
        np.testing.assert_allclose(one, jnp.concatenate(halves), atol=1e-6)
    assert len(np.unique(whole[0])) == whole[0].size


def plan_of(objective, optimizer, **options):
    options = {"ema_decay": 0.9, "ema_warmup": False} | options
    return step.make_plan(objective, optimizer, optax.constant_schedule(0.1), **options)


def ways(plan, parts, first):
    """The step of a plan by each way there is, jitted: in one program, and by the host."""
    places = sharding.state_sharding(parts.mesh, first)
    one = jax.jit(plans.in_one_program(plan, parts), out_shardings=(places, None))
    return {"one_program": one, "dispatched": Dispatched(plan, parts, places)}


def trained(train_step, first, mesh, num_steps=10):
    """The state after some steps, and the metrics of each."""
    now = jax.device_put(jax.tree.map(jnp.copy, first), sharding.state_sharding(mesh, first))
    metrics = []
    for k in range(num_steps):
        batch = sharding.put_batch(toy_training.batch(SIZE, seed=k), sharding.batch_sharding(mesh))
        now, seen = train_step(now, batch)
        metrics.append(jax.device_get(seen))
    return jax.device_get(now), metrics


def distance(one, other):
    """The relative L2 distance of two trees."""
    return optax.tree.norm(jax.tree.map(np.subtract, one, other)) / optax.tree.norm(other)


def same_metrics(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_allclose(value, other[name], rtol=1e-5, atol=1e-6, err_msg=name)


@functools.cache
def whole(kind):
    """The objective, plan, first state and what 10 steps with whole batches lead to."""
    time_draw = TIME_DRAWS["importance" if kind == "importance" else "stratified"]
    objective = denoise.denoising(
        toy_training.apply, SCHEDULE, dropout={"label": 0.2}, time_draw=time_draw
    )
    if kind == "of_variance":
        tree = {"scale": True, "bias": False, "table": False}
        objective = denoise.denoising(
            toy_training.apply, SCHEDULE, dropout={"label": 0.2}, of_variance=lambda p: tree
        )
    optimizer = optax.adam(1e-2) if kind == "adam" else optax.sgd(0.1, momentum=0.9)
    spike = guard.Spike(50.0, window=2)
    plan = plan_of(objective, optimizer, spike=spike)
    init = functools.partial(toy_training.init_params, num_steps=8)
    first = state.init_state(init, optimizer, 0, objective.init_extra, spike=spike)
    mesh = mesh_of("1")
    return plan, first, *trained(jax.jit(plans.in_one_program(plan)), first, mesh)


@pytest.mark.parametrize("way", ["one_program", "dispatched"])
@pytest.mark.parametrize("kind", ["sgd", "adam", "importance", "of_variance"])
@pytest.mark.parametrize(("count", "mesh"), [(2, "1"), (4, "1"), (2, "8"), (2, "2x4")])
@pytest.mark.wide(16)
def test_the_update_is_that_of_the_whole_batch(count, mesh, kind, way, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 8)
    plan, first, expected, metrics = whole(kind)
    parts = Parts(count, mesh_of(mesh))
    state_, seen = trained(ways(plan, parts, first)[way], first, parts.mesh)
    if kind == "adam":
        change, other = (
            jax.tree.map(np.subtract, s.params, jax.device_get(first.params))
            for s in (state_, expected)
        )
        assert distance(change, other) < 1e-3
    else:
        assert distance(state_.params, expected.params) < 1e-6
        assert distance(state_.ema, expected.ema) < 1e-6
    same_metrics(seen, metrics)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        state_.extra,
        expected.extra,
    )
    assert state_.step == 10
    assert distance(expected.params, jax.device_get(first.params)) > 0.1


def test_a_part_that_is_not_finite_skips_the_step():
    plan, first, _, _ = whole("sgd")
    parts = Parts(4, mesh_of("1"))
    rows = toy_training.batch(SIZE)
    rows["x0"][13] = np.nan
    batch = sharding.put_batch(rows, sharding.batch_sharding(parts.mesh))
    for train_step in ways(plan, parts, first).values():
        now = jax.tree.map(jnp.copy, first)
        after, metrics = train_step(now, batch)
        assert metrics["skipped"] == 1
        jax.tree.map(np.testing.assert_array_equal, after.params, first.params)


@pytest.mark.wide(5)
def test_several_players_move_in_parts():
    """Each sees what those before it did, and one of them moves every other step."""

    def objective(kind):
        inner = denoise.denoising(toy_training.apply, SCHEDULE, dropout={"label": 0.2})

        def outcome(params, batch, key, train, extra):
            seen = inner(params["net"], batch, key, train, extra)
            pull = {"low": params["x"] ** 2 * seen.loss, "high": -params["x"] * seen.loss}[kind]
            return seen._replace(loss=pull)

        return Objective(outcome, remember=inner.remember)

    sides = {
        "low": players.Player(objective("low"), optax.sgd(0.1), ("x",)),
        "high": players.Player(objective("high"), optax.adam(1e-2), ("net",), every=2),
    }

    def init(key):
        return {"x": jnp.float32(0.7), "net": toy_training.init_params(key, 8)}

    first = players.init_state(init, sides, 0)
    plan = players.make_plan(sides, ema_decay=0.9, ema_warmup=False)
    mesh = mesh_of("1")
    expected, metrics = trained(jax.jit(plans.in_one_program(plan)), first, mesh, 4)
    for train_step in ways(plan, Parts(2, mesh), first).values():
        now, seen = trained(train_step, first, mesh, 4)
        assert distance(now.params, expected.params) < 1e-5
        assert int(now.extra["high"]["moves"]) == 2
        same_metrics(seen, metrics)


def test_an_objective_that_needs_its_batch_whole_is_refused():
    def outcome(params, batch, key, train, extra):
        loss = params["w"] * jnp.ones(len(batch["x0"]))
        return Outcome(loss, loss, loss, extra)

    plan = plan_of(Objective(outcome), optax.sgd(0.1))
    first = state.init_state(lambda key: {"w": jnp.float32(1)}, optax.sgd(0.1), 0)
    parts = Parts(2, mesh_of("1"))
    for train_step in ways(plan, parts, first).values():
        with pytest.raises(ValueError, match=r"needs its batch whole.*Objective\.remember"):
            train_step(first, {"x0": jnp.zeros((4, 1))})


def test_dropout_draws_apart_in_each_part():
    """A network that shows its dropout key: no two parts have one, and none the whole's."""
    seen = []

    def network(variables, xt, time, conditions=None, *, train, rngs):
        seen.append(jax.random.key_data(rngs["dropout"]).tolist())
        return xt

    objective = denoise.denoising(network, SCHEDULE)
    batch = {"x0": jnp.zeros((8, 2))}
    for one in (batch, *parts_of(batch, Parts(4))):
        objective({}, one, KEY, True, {})
    assert len({tuple(key) for key in seen}) == 5


@pytest.mark.wide(5)
def test_a_step_looked_at_is_the_step_in_parts():
    _, first, _, _ = whole("importance")
    objective = denoise.denoising(
        toy_training.apply,
        SCHEDULE,
        dropout={"label": 0.2},
        time_draw=TIME_DRAWS["importance"],
    )
    batch = toy_training.batch(SIZE)
    looks = [
        jax.jit(inspection.make_stages(objective, parts))(first, batch)
        for parts in (Parts(), Parts(4))
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *looks)


def test_lowered_programs_say_what_a_step_costs():
    plan, first, _, _ = whole("sgd")
    parts = Parts(4, mesh_of("1"))
    train_step = ways(plan, parts, first)["dispatched"]
    batch = toy_training.batch(SIZE)
    shapes = [
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), one)
        for one in (first, batch)
    ]
    lowered = train_step.lower(*shapes)
    plain = jax.jit(plans.in_one_program(plan)).lower(*shapes)
    # Sums of gradients and draws of times for the whole batch come on top.
    assert 0.9 < lowered.cost_analysis()["flops"] / plain.cost_analysis()["flops"] < 3
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)]
    assert memory.argument_size_in_bytes == sum(sizes)
    assert memory.temp_size_in_bytes > sum(leaf.nbytes for leaf in jax.tree.leaves(first.params))
    again, _ = train_step(jax.tree.map(jnp.copy, first), batch)
    once, _ = compiled(jax.tree.map(jnp.copy, first), batch)
    jax.tree.map(np.testing.assert_array_equal, again.params, once.params)
