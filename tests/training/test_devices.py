"""The number of devices does not change the result: the same draws and update, or the same bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training
from compiling import TO_THE_BIT

from ddpm_jax.diffusion import schedules, time_draws
from ddpm_jax.runtime import digests, sharding
from ddpm_jax.training import guard, plans, players, state, step
from ddpm_jax.training.objectives import denoise, draws
from ddpm_jax.training.objectives.base import PART, Objective, Outcome
from ddpm_jax.training.parts import Parts
from ddpm_jax.training.strict import Strict

SCHEDULE = schedules.linear(num_steps=8)
SIZE = 32
MESHES = {"1": (1, 1), "2": (2, 1), "4": (4, 1), "8": (8, 1), "2x4": (2, 4), "fsdp": (1, 8)}


def mesh_of(name):
    return sharding.make_mesh(*MESHES[name])


def fingerprints(*drawn):
    """A number for the bits of each row, [B], as float32 has it exactly: sums modulo 2^32."""
    rows = jnp.concatenate([jnp.reshape(one, (len(one), -1)) for one in drawn], axis=1)
    bits = jax.lax.bitcast_convert_type(rows, jnp.uint32)
    # Large ones, so that a last bit reaches those that are kept.
    odd = jnp.uint32(2654435761) * (2 * jnp.arange(rows.shape[1], dtype=jnp.uint32) + 1)[None, :]
    return ((bits * odd).sum(axis=1) >> 8).astype(jnp.float32)


def recorder():
    """An objective that keeps what was drawn for each row, and what the row is."""

    def remember(params, extra, t, loss):
        return {"t": t, "seen": loss}

    def outcome(params, batch, key, train, extra):
        drawn = draws.draw(
            key,
            batch["x0"],
            SCHEDULE,
            drop_rates={"label": 0.3},
            joint_rate=0.2,
            time_draw=time_draws.stratified(),
            part=batch.get(PART),
        )
        drop = drawn.drop["label"].astype(jnp.float32)
        seen = fingerprints(batch["x0"], drawn.eps, drop, batch["label"].astype(jnp.float32))
        loss = seen + 0 * params["w"]
        return Outcome(loss, drawn.t, jnp.ones_like(loss), remember(params, extra, drawn.t, loss))

    zeros = {"t": jnp.zeros(SIZE), "seen": jnp.zeros(SIZE)}
    return Objective(outcome, init_extra=lambda params: zeros, remember=remember)


def test_a_fingerprint_tells_the_last_bit():
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    for place in range(4):
        other = x.copy()
        other[1, place] = np.nextafter(other[1, place], np.float32(2))
        same = np.asarray(fingerprints(x)) == np.asarray(fingerprints(other))
        np.testing.assert_array_equal(same, [True, False, True])


@functools.cache
def recorded(mesh, count):
    """What a step saw and drew on devices, in parts."""
    objective = recorder()
    plan = step.make_plan(objective, optax.sgd(0.0), ema_decay=None)
    parts = Parts(count, mesh_of(mesh))
    first = state.init_state(
        lambda key: {"w": jnp.zeros(())},
        optax.sgd(0.0),
        0,
        objective.init_extra,
        average=False,
    )
    rows = sharding.batch_sharding(parts.mesh)
    pure = plans.in_one_program(plan, parts)
    train_step = jax.jit(pure, in_shardings=(None, rows), compiler_options=TO_THE_BIT)
    batch = sharding.put_batch(toy_training.batch(SIZE), rows)
    after, _ = train_step(first, batch)
    return {name: np.asarray(after.extra[name]) for name in ("t", "seen")}


@pytest.mark.parametrize("mesh", ["1", "8", "2x4", "fsdp"])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.wide(4)
def test_draws_and_batches_are_the_same_bits(mesh, count):
    one = recorded("1", 1)
    assert len(np.unique(one["seen"])) == SIZE
    for name, value in recorded(mesh, count).items():
        np.testing.assert_array_equal(value, one[name])


def objective_of(kind):
    time_draw = time_draws.importance(history_size=1) if kind == "importance" else None
    of_variance = None
    if kind == "of_variance":
        tree = {"scale": True, "bias": False, "table": False}
        of_variance = lambda params: tree  # noqa: E731
    return denoise.denoising(
        toy_training.apply,
        SCHEDULE,
        dropout={"label": 0.2},
        time_draw=time_draw,
        of_variance=of_variance,
    )


OPTIMIZERS = {"sgd": optax.sgd(0.1, momentum=0.9), "adam": optax.adam(1e-2)}


@functools.cache
def setup(kind):
    """Plan and first state of one player, or of two."""
    if kind == "players":
        inner = objective_of("plain")

        def side(sign):
            def outcome(params, batch, key, train, extra):
                seen = inner(params["net"], batch, key, train, extra)
                return seen._replace(loss=sign(params["x"]) * seen.loss)

            return Objective(outcome, remember=inner.remember)

        sides = {
            "low": players.Player(side(lambda x: x**2), optax.sgd(0.1), ("x",)),
            "high": players.Player(side(lambda x: -x), OPTIMIZERS["adam"], ("net",), every=2),
        }

        def init(key):
            return {"x": jnp.float32(0.7), "net": toy_training.init_params(key, 8)}

        plan = players.make_plan(sides, ema_decay=0.9, ema_warmup=False)
        return plan, players.init_state(init, sides, 0)
    optimizer = OPTIMIZERS.get(kind, OPTIMIZERS["adam"])
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optimizer)
    objective, spike = objective_of(kind), guard.Spike(50.0, window=2)
    plan = step.make_plan(objective, optimizer, ema_decay=0.9, ema_warmup=False, spike=spike)
    init = functools.partial(toy_training.init_params, num_steps=8)
    first = state.init_state(init, optimizer, 0, objective.init_extra, spike=spike)
    return plan, first


def trained(train_step, first, mesh, num_steps=10, broken=()):
    """The state after some steps, and the metrics of each; batches of `broken` hold a NaN."""
    places = sharding.state_sharding(mesh, first)
    now = jax.device_put(jax.tree.map(jnp.copy, first), places)
    metrics = []
    for k in range(num_steps):
        rows = toy_training.batch(SIZE, seed=k)
        if k in broken:
            rows["x0"][13] = np.nan
        batch = sharding.put_batch(rows, sharding.batch_sharding(mesh))
        now, seen = train_step(now, batch)
        metrics.append(jax.device_get(seen))
    assert jax.tree.map(lambda leaf: leaf.sharding, now) == places
    return jax.device_get(now), metrics


@functools.cache
def plain(kind, mesh):
    plan, first = setup(kind)
    places = sharding.state_sharding(mesh_of(mesh), first)
    one = jax.jit(plans.in_one_program(plan), out_shardings=(places, None))
    return trained(one, first, mesh_of(mesh))


@pytest.mark.parametrize("mesh", ["8", "2x4", "fsdp"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.wide(3)
def test_devices_change_the_update_by_rounding_alone(mesh, kind, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 8)
    (one, metrics), (other, seen) = plain(kind, "1"), plain(kind, mesh)
    np.testing.assert_allclose(seen[0]["loss"], metrics[0]["loss"], rtol=0, atol=1e-6)
    before = jax.device_get(setup(kind)[1].params)
    changes = [jax.tree.map(np.subtract, end.params, before) for end in (one, other)]
    apart = optax.tree.norm(jax.tree.map(np.subtract, *changes)) / optax.tree.norm(changes[0])
    assert apart < 1e-3
    assert optax.tree.norm(changes[0]) > 0.1


def strict(kind, mesh, shards=8, **options):
    plan, first = setup(kind)
    mesh = mesh_of(mesh)
    train_step = Strict(plan, shards, mesh, sharding.state_sharding(mesh, first))
    return trained(train_step, first, mesh, **options)


def same_bits(left, right):
    assert digests.digest(left[0]) == digests.digest(right[0])
    for one, other in zip(left[1], right[1], strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("kind", ["sgd", "adam", "importance", "of_variance", "players"])
@pytest.mark.wide(5)
def test_strict_steps_have_the_same_bits_on_any_devices(kind, monkeypatch):
    """With clipping, a guard that skips a step, an average, a history, several players."""
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 8)
    broken = () if kind == "players" else (7,)
    one = strict(kind, "1", broken=broken)
    if broken:
        assert one[1][7]["skipped"] == 1
        assert one[1][8]["skipped"] == 0
    for mesh in ("2", "8", "2x4"):
        same_bits(strict(kind, mesh, broken=broken), one)


@pytest.mark.wide(3)
def test_a_strict_step_is_the_step_up_to_rounding():
    for shards in (1, 2, 16):
        now, metrics = strict("sgd", "2" if shards > 1 else "1", shards)
        expected, seen = plain("sgd", "1")
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
            (now.params, now.ema, metrics),
            (expected.params, expected.ema, seen),
        )


@pytest.mark.wide(3)
def test_a_strict_step_goes_on_from_any_state():
    """From one that it has not made itself, and from its own one that lies elsewhere now."""
    plan, first = setup("adam")
    mesh = mesh_of("4")
    places = sharding.state_sharding(mesh, first)
    train_step = Strict(plan, 4, mesh, places)
    batch = sharding.put_batch(toy_training.batch(SIZE), sharding.batch_sharding(mesh))

    def put(tree):
        return jax.device_put(jax.tree.map(jnp.copy, tree), places)

    given = put(first)
    once, _ = train_step(given, batch)
    assert given.params["bias"].is_deleted()
    kept = jax.device_get(once)
    twice = jax.device_get(train_step(once, batch)[0])
    again = jax.device_get(train_step(put(kept), batch)[0])
    assert digests.digest(again) == digests.digest(twice)


def test_what_a_strict_step_takes():
    plan, first = setup("adam")
    mesh = mesh_of("2")
    train_step = Strict(plan, 8, mesh, sharding.state_sharding(mesh, first))
    batch = sharding.put_batch(toy_training.batch(SIZE), sharding.batch_sharding(mesh))
    placed = jax.device_put(first, sharding.replicated(mesh))
    lowered = train_step.lower(placed, batch)
    whole = jax.jit(plans.in_one_program(plan)).lower(first, toy_training.batch(SIZE))
    # Times are drawn for the whole batch in each shard.
    assert 0.9 < lowered.cost_analysis()["flops"] / whole.cost_analysis()["flops"] < 8
    memory = lowered.compile().memory_analysis()
    assert memory.argument_size_in_bytes == sharding.bytes_on_device((placed, batch))
    assert memory.temp_size_in_bytes > sharding.bytes_on_device(placed.params)


def test_what_cannot_be_strict_is_refused():
    plan, first = setup("adam")
    places = sharding.state_sharding(mesh_of("1"), first)
    with pytest.raises(ValueError, match="a power of two of shards, got 6"):
        Strict(plan, 6, mesh_of("1"), places)
    with pytest.raises(ValueError, match="4 shards do not divide among 8 devices"):
        Strict(plan, 4, mesh_of("8"), places)

    def outcome(params, batch, key, train, extra):
        loss = params["w"] * jnp.ones(len(batch["x0"]))
        return Outcome(loss, loss, loss, extra)

    plan = step.make_plan(Objective(outcome), optax.sgd(0.1))
    first = state.init_state(lambda key: {"w": jnp.float32(1)}, optax.sgd(0.1), 0)
    train_step = Strict(plan, 4, mesh_of("1"), sharding.state_sharding(mesh_of("1"), first))
    with pytest.raises(ValueError, match=r"needs its batch whole.*Objective\.remember"):
        trained(train_step, first, mesh_of("1"), 1)
