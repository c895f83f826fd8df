"""Players: games whose moves have a closed form, and objectives that are handed other trees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training

from ddpm_jax.diffusion import schedules
from ddpm_jax.runtime.digests import digest
from ddpm_jax.training import ema, guard, loop, players, state, step
from ddpm_jax.training.objectives import cascaded, denoise, dequantised
from ddpm_jax.training.objectives.base import Objective, Outcome
from ddpm_jax.training.players import Player

RATE = 0.1
BATCH = {"x0": jnp.zeros((2, 1))}


def objective(loss, needs=()):
    """The objective whose loss is that scalar function of (params, **trees), for every example."""

    def outcome(params, batch, key, train, extra, **trees):
        size = len(batch["x0"])
        value = jnp.broadcast_to(loss(params, **trees), (size,))
        return Outcome(value, jnp.zeros(size), jnp.ones(size), extra)

    return Objective(outcome, needs=needs)


def game(payoff, **changes):
    """x minimises the payoff, y maximises it, one after the other, by plain gradient steps."""
    plain = {"optimizer": optax.sgd(RATE)}
    return {
        "low": Player(objective(payoff), parameters=("x",), **plain),
        "high": Player(objective(lambda p: -payoff(p)), parameters=("y",), **(plain | changes)),
    }


def start(key):
    return {"x": jnp.float32(1.0), "y": jnp.float32(0.5)}


def played(sides, num, **options):
    """(x, y) after each of `num` steps [num, 2], and the last state and metrics."""
    now = players.init_state(start, sides, 0, averages=[*options.get("averages", {})])
    train_step = jax.jit(players.make_train_step(sides, **options))
    path = []
    for _ in range(num):
        now, metrics = train_step(now, BATCH)
        path.append((float(now.params["x"]), float(now.params["y"])))
    return np.array(path), now, metrics


def test_alternating_moves_of_a_bilinear_game_circle():
    """x y: x' = x - r y, y' = y + r x'. The ellipse x² + y² - r x y is kept, for r below 2.

    Moves at the same time would grow by sqrt(1 + r²) in each step, to 12 after 500.
    Source: Zhang et al. 2022, "Near-optimal local convergence of alternating gradient
    descent-ascent for minimax optimization".
    """
    path, _, _ = played(game(lambda p: p["x"] * p["y"]), 500)
    matrix = np.array([[1, -RATE], [RATE, 1 - RATE**2]])
    angle = np.arccos(1 - RATE**2 / 2)  # the eigenvalues are exp(+-i angle)
    np.testing.assert_allclose(np.linalg.eigvals(matrix), np.exp([1j * angle, -1j * angle]))
    expected = [np.linalg.matrix_power(matrix, k) @ [1.0, 0.5] for k in range(1, 501)]
    np.testing.assert_allclose(path, expected, atol=2e-4)
    x, y = path.T
    np.testing.assert_allclose(x**2 + y**2 - RATE * x * y, 1.25 - RATE * 0.5, rtol=1e-3)


def test_a_convex_concave_game_ends_in_its_saddle():
    """x²/2 + x y - y²/2 - x + 2 y has its saddle at x = -1/2, y = 3/2."""
    path, now, _ = played(
        game(lambda p: p["x"] ** 2 / 2 + p["x"] * p["y"] - p["y"] ** 2 / 2 - p["x"] + 2 * p["y"]),
        300,
        ema_decay=0.5,
        ema_warmup=False,
        averages={"rising": ema.power(18**-0.5)},
    )
    np.testing.assert_allclose(path[-1], [-0.5, 1.5], atol=1e-5)
    np.testing.assert_allclose(now.ema["default"]["y"], 1.5, atol=1e-5)
    # A density that rises as tau has the variance 1/18: the weights are the cells of tau².
    weights = np.diff((np.arange(301) / 300) ** 2)
    average = [now.ema["rising"][name] for name in ("x", "y")]
    np.testing.assert_allclose(average, weights @ path, atol=1e-5)
    assert abs(average - path[-1]).max() > 1e-3


def test_a_player_moves_every_so_many_steps():
    """y of x y moves in steps 0, 3, 6, ...; its optimiser's count and metrics say so."""
    rate = optax.linear_schedule(0.1, 0.2, 10)
    sides = game(lambda p: p["x"] * p["y"], every=3, optimizer=optax.sgd(rate), learning_rate=rate)
    path, now, _ = played(sides, 7)
    x, y, moves = 1.0, 0.5, 0
    for k in range(7):
        x -= RATE * y
        if k % 3 == 0:
            y += (0.1 + 0.01 * moves) * x
            moves += 1
        np.testing.assert_allclose(path[k], [x, y], rtol=1e-6)
    assert int(now.extra["high"]["moves"]) == moves == 3
    assert int(now.extra["low"]["moves"]) == 7
    means = loop.MeanMetrics()
    again = players.init_state(start, sides, 0)
    for _ in range(3):
        again, metrics = jax.jit(players.make_train_step(sides))(again, BATCH)
        means.add(metrics)
    logged = means.pop()
    # Of the one step in which it moved: x = 0.95 there.
    assert logged["high_loss"] == pytest.approx(-0.95 * 0.5)
    assert logged["high_grad_norm"] == pytest.approx(0.95)
    assert "loss_q1" not in logged


def test_a_step_that_is_not_finite_for_one_is_skipped_for_all():
    sides = game(lambda p: p["x"] * p["y"])
    broken = sides | {"high": Player(objective(lambda p: p["y"] / 0), optax.sgd(0.1), ("y",))}
    before = players.init_state(start, broken, 0)
    after, metrics = jax.jit(players.make_train_step(broken))(before, BATCH)
    assert int(metrics["skipped"]) == 1
    assert int(after.step) == 1
    for part in ("params", "ema", "opt_state"):
        assert digest(getattr(after, part)) == digest(getattr(before, part))
    assert int(after.extra["low"]["moves"]) == 0


def test_what_no_player_moves_stays():
    alone = {"low": game(lambda p: p["x"] * p["y"])["low"]}
    path, _, _ = played(alone, 5)
    np.testing.assert_allclose(path[:, 1], 0.5)
    np.testing.assert_allclose(path[:, 0], 1 - RATE * 0.5 * np.arange(1, 6), rtol=1e-6)


def test_players_draw_apart():
    """Each has a key of its own by its name, and so whatever else plays."""
    seen = {}

    def drawing(name):
        def outcome(params, batch, key, train, extra):
            seen[name] = jax.random.key_data(key).tolist()
            value = 0 * params["x"] + jnp.zeros(2)
            return Outcome(value, value, value, extra)

        return Player(Objective(outcome), optax.sgd(0.1), ("x",))

    for names in (("a", "b"), ("b", "c")):
        sides = {name: drawing(name) for name in names}
        players.make_train_step(sides)(players.init_state(start, sides, 0), BATCH)
        seen[names] = seen["b"]
    assert seen["a"] != seen["b"] != seen["c"] != seen["a"]
    assert seen["a", "b"] == seen["b", "c"]


def test_one_player_is_the_plain_step_bit_for_bit():
    schedule = schedules.linear(10)
    plain_objective = denoise.denoising(toy_training.apply, schedule, dropout={"label": 0.2})
    rate, spike = optax.constant_schedule(1e-2), guard.Spike(5.0)
    optimizer = optax.adam(rate)
    init = functools.partial(toy_training.init_params, num_steps=10)
    alone = {"network": Player(plain_objective, optimizer, learning_rate=rate)}
    options = {"ema_decay": 0.9, "ema_warmup": False, "spike": spike}
    states = [
        state.init_state(init, optimizer, 0, plain_objective.init_extra, spike=spike),
        players.init_state(init, alone, 0, spike=spike),
    ]
    steps = [
        step.make_train_step(plain_objective, optimizer, rate, **options),
        players.make_train_step(alone, **options),
    ]
    assert digest(states[0]) == digest(states[1])
    for k in range(3):
        batch = toy_training.batch(8, seed=k)
        pairs = [jax.jit(one)(now, batch) for one, now in zip(steps, states, strict=True)]
        states = [after for after, _ in pairs]
        assert digest(states[0]) == digest(states[1])
        assert digest(pairs[0][1]) == digest(pairs[1][1])


def test_a_student_follows_its_own_average():
    """Downhill on (p - ema)² / 2, the distance to the average falls by (1 - rate) decay a step."""
    follows = objective(lambda p, ema: (p["x"] - ema["x"]) ** 2 / 2, needs=("ema",))
    optimizer, decay = optax.sgd(RATE), 0.8
    now = state.init_state(start, optimizer, 0)
    now = now._replace(ema={"default": {"x": jnp.float32(0), "y": jnp.float32(0)}})
    train_step = jax.jit(
        step.make_train_step(follows, optimizer, ema_decay=decay, ema_warmup=False)
    )
    for k in range(1, 11):
        now, _ = train_step(now, BATCH)
        distance = float(now.params["x"] - now.ema["default"]["x"])
        assert distance == pytest.approx(((1 - RATE) * decay) ** k, rel=1e-5)


def test_a_student_is_distilled_from_a_frozen_teacher():
    """Toward the teacher's y the distance falls by (1 - rate); the teacher is an argument."""
    distils = objective(lambda p, teacher: (p["y"] - teacher["w"]) ** 2 / 2, needs=("teacher",))
    optimizer = optax.sgd(RATE)
    train_step = jax.jit(step.make_train_step(distils, optimizer))
    for goal in (3.0, -2.0):
        now = state.init_state(start, optimizer, 0)
        for _ in range(10):
            now, _ = train_step(now, BATCH, {"teacher": {"w": jnp.float32(goal)}})
        assert float(now.params["y"]) == pytest.approx(goal + (0.5 - goal) * 0.9**10, rel=1e-5)
    assert train_step._cache_size() == 1


def test_what_an_objective_needs_and_nobody_hands_over_is_named():
    needy = objective(lambda p, teacher: p["x"], needs=("teacher",))
    train_step = step.make_train_step(needy, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"needs 'teacher', and there is \['ema'\]"):
        train_step(state.init_state(start, optax.sgd(0.1), 0), BATCH)


def test_what_wraps_an_objective_hands_on_what_it_needs():
    seen = {}

    def outcome(params, batch, key, train, extra, ema, teacher):
        seen.update(batch, ema=ema, teacher=teacher)
        value = params["x"] * jnp.ones(2)
        return Outcome(value, 0 * value, 1 + 0 * value, extra)

    inner = Objective(outcome, needs=("ema", "teacher"))
    wrapped = cascaded.cascaded(dequantised.dequantised(inner, 256), 2, 0.5)
    now = state.init_state(start, optax.sgd(0.1), 0)
    batch = {"x0": jnp.zeros((2, 4, 4, 1))}
    step.make_train_step(wrapped, optax.sgd(0.1))(now, batch, {"teacher": "a tree"})
    assert seen["teacher"] == "a tree"
    assert seen["ema"] is now.ema["default"]
    assert seen["low_resolution"].shape == (2, 4, 4, 2)
    assert (seen["x0"] != 0).any()


def test_without_an_average():
    plain = objective(lambda p: p["x"] ** 2)
    now = state.init_state(start, optax.sgd(0.1), 0, average=False)
    after, metrics = step.make_train_step(plain, optax.sgd(0.1), ema_decay=None)(now, BATCH)
    assert after.ema == {}
    assert "learning_rate" not in metrics
    assert float(after.params["x"]) == pytest.approx(0.8)
    kept = state.init_state(start, optax.sgd(0.1), 0)
    with pytest.raises(ValueError, match="average=False"):
        step.make_train_step(plain, optax.sgd(0.1), ema_decay=None)(kept, BATCH)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Player(objective(start), optax.sgd(0.1), every=0), "every >= 1, got 0"),
        (lambda: players.make_train_step({}), "need players"),
        (
            lambda: players.make_train_step({"guard": Player(objective(start), optax.sgd(0.1))}),
            "'guard'",
        ),
        (
            lambda: players.init_state(
                start, {"a": Player(objective(start), optax.sgd(0.1), ("z",))}, 0
            ),
            r"moves 'z', and the parameters are \['x', 'y'\]",
        ),
        (
            lambda: players.make_train_step(
                game(lambda p: p["x"], every=2), spike=guard.Spike(3.0)
            ),
            "spike",
        ),
    ],
)
def test_what_cannot_play_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
