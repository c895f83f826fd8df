import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.commands.train import dry_run
from ddpm_jax.diffusion import schedules
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import leaves
from ddpm_jax.runtime.bits import equal
from ddpm_jax.training import freezing, optimizers
from ddpm_jax.training.objectives.base import Objective, Outcome

SCHEDULE = schedules.linear(num_steps=10)
FROZEN = ("*ia*", "tab?e")  # bias and table; scale moves


def setup(frozen, weight_decay=0.1, grad_clip=1e-3):
    """The toy's state and compiled step, with these parameters frozen, behind a small clip."""
    rate = optax.constant_schedule(1e-2)
    adamw = optimizers.clipped(optimizers.adamw(rate, weight_decay=weight_decay), grad_clip)
    state, step = toy_training.setup(
        SCHEDULE,
        optimizer=freezing.optimizer(adamw, frozen),
        around=lambda objective: freezing.objective(objective, frozen),
    )
    return state, jax.jit(step)


def test_what_is_frozen_keeps_its_bits_and_has_no_state():
    state, step = setup(FROZEN)
    # A zero's sign is lost where 0.0 is added.
    table = state.params["table"].at[0, :2].set(jnp.array([-0.0, 0.0]))
    before = state._replace(params=state.params | {"table": table})
    after = before
    for seed in range(3):
        after, metrics = step(after, toy_training.batch(8, seed))
        assert not metrics["skipped"]
    for name in ("bias", "table"):
        assert equal(np.asarray(after.params[name]), np.asarray(before.params[name]))
    assert not equal(np.asarray(after.params["scale"]), np.asarray(before.params["scale"]))
    for moment in ("mu", "nu"):
        assert leaves.names(optax.tree.get(after.opt_state, moment)) == ["scale"]


def test_norm_and_clip_are_those_of_what_moves():
    """As of a toy that has nothing else: the same rest, held by a closure, is no parameter."""
    state, step = setup(FROZEN)
    whole = toy_training.setup(SCHEDULE)[0].params

    def scale_alone(objective):
        def outcome(params, *args, **trees):
            return objective({**whole, **params}, *args, **trees)

        return Objective(outcome)

    rate = optax.constant_schedule(1e-2)
    adamw = optimizers.clipped(optimizers.adamw(rate, weight_decay=0.1), 1e-3)
    alone, step_alone = toy_training.setup(SCHEDULE, optimizer=adamw, around=scale_alone)
    alone = alone._replace(
        params={"scale": whole["scale"]},
        ema={"default": {"scale": whole["scale"]}},
        opt_state=adamw.init({"scale": whole["scale"]}),
    )
    step_alone = jax.jit(step_alone)
    for seed in range(3):
        batch = toy_training.batch(8, seed)
        (state, seen), (alone, expected) = step(state, batch), step_alone(alone, batch)
        np.testing.assert_allclose(seen["grad_norm"], expected["grad_norm"], rtol=1e-6)
        assert seen["grad_norm"] > 1e-3  # so the clip has something to do
    np.testing.assert_allclose(state.params["scale"], alone.params["scale"], rtol=1e-5)


def test_gradients_of_what_is_frozen_are_never_computed():
    """The compiler's own count: a frozen layer's kernel gradient is a product less."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 64)).astype(np.float32)
    params = {name: rng.normal(size=(64, 64)).astype(np.float32) for name in ("a", "b")}

    def outcome(params, batch, key, train, extra):
        loss = (jnp.tanh(batch @ params["a"]) @ params["b"]) ** 2
        return Outcome(loss.mean(axis=1), jnp.zeros(64), jnp.ones(64), {})

    def flop(frozen):
        objective = freezing.objective(Objective(outcome), frozen)

        def gradient(params):
            return jax.grad(lambda p: objective(p, x, None, True, {}).loss.mean())(params)

        return jax.jit(gradient).lower(params).compile().cost_analysis()["flops"]

    product = 2 * 64**3
    assert flop(()) > 5 * product  # two forward; two kernels' gradients; one through
    assert 4 * product < flop(("b",)) < 4.5 * product
    assert 3 * product < flop(("a",)) < 3.5 * product


@pytest.mark.wide(3)
def test_an_experiment_says_what_moves(tmp_path):
    config = brief_config(optim={"frozen": ("block_0/*", "*/bias"), "grad_clip": 0.0})
    run = experiment.build(config)
    params = run.state_shapes().params
    held = [name for name in leaves.names(params) if name.startswith("block_0/") or "bias" in name]
    moving = [name for name in leaves.names(params) if name not in held]
    opt_state = run.state_shapes().opt_state
    assert leaves.names(optax.tree.get(opt_state, "nu")) == moving
    cost = dry_run.dry_run(config)
    sizes = dict(zip(leaves.names(params), (x.size for x in jax.tree.leaves(params)), strict=True))
    assert cost["parameters"] == sum(sizes.values())
    assert cost["frozen_parameters"] == sum(sizes[name] for name in held)
    assert cost["trainable_parameters"] == sum(sizes[name] for name in moving)


@pytest.mark.parametrize(
    ("frozen", "named"),
    [
        (("block_0",), "frozen: 'block_0' fits no parameter; the nearest is block_0/"),
        (("*/kernle",), r"'\*/kernle' fits no parameter; the nearest is out/kernel"),
        (("*",), "leaves no parameter to train"),
        (("",), r"optim\.frozen=\('',\): need patterns"),
    ],
)
def test_bad_patterns_are_named(frozen, named):
    with pytest.raises(UserError, match=named):
        experiment.build(brief_config(optim={"frozen": frozen}))


def test_parts_that_were_replaced_in_python_are_refused():
    """They would move what the config says is frozen, or measure its gradient."""
    run = experiment.build(brief_config(optim={"frozen": ("block_0/*",)}))
    for name, part in (("optimizer", optax.adam(1e-3)), ("objective", Objective(run.objective))):
        changed = dataclasses.replace(run, **{name: part})
        with pytest.raises(UserError, match=f"optim.frozen=.*{name} that was replaced in Python"):
            changed.train_step()
