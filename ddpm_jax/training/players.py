"""Players: a step in which several objectives move one after the other, each its own parameters.

One player that moves everything is the step of `training/step.py`, bit for bit. A GAN has two: its
discriminator moves, then its generator, against the discriminator that has just moved.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddpm_jax import streams
from ddpm_jax.training import ema, guard, plans, state, step
from ddpm_jax.training.gradients import Inputs, Seen, Trees, trees_of
from ddpm_jax.training.objectives.base import Extra, Objective
from ddpm_jax.training.parts import WHOLE, Parts
from ddpm_jax.training.plans import Metrics, Plan, Stage, Step
from ddpm_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True, eq=False)
class Player:
    """Who moves what, and when.

    Attributes:
      objective: what the player minimises; it is shown all parameters.
      optimizer: moves the player's own.
      parameters: names at the top of the tree of parameters; None for all of it. What no player
        names stays as it was drawn.
      every: the player moves in step 0, every, 2 every, ...
      learning_rate: the optimiser's, for the metric alone.

    Raises:
      ValueError: for every < 1.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    parameters: tuple[str, ...] | None = None
    every: int = 1
    learning_rate: optax.Schedule | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"need every >= 1, got {self.every}")


Players = Mapping[str, Player]


def init_state(
    init_params: Callable[[jax.Array], Any],
    players: Players,
    seed: int,
    *,
    spike: guard.Spike | None = None,
    average: bool = True,
    averages: Sequence[str] = (),
) -> TrainState:
    """The state at step 0 of players, as `state.init_state`.

    With one player of all parameters its state is that of `state.init_state`. Otherwise opt_state
    and extra have the players' names, extra {"moves": a count, "kept": what the objective keeps}.

    Raises:
      ValueError: for no players, one named "guard", or parameters that are not there.
    """
    _check(players, spike)
    kept: dict[str, Any] = {"spike": spike, "average": average, "averages": averages}
    if (alone := _alone(players)) is not None:
        init_extra = alone.objective.init_extra
        return state.init_state(init_params, alone.optimizer, seed, init_extra, **kept)

    def init(params: Any) -> dict[str, Any]:
        return {
            name: player.optimizer.init(_own(player, params)) for name, player in players.items()
        }

    def init_extra_of_all(params: Any) -> Extra:
        return {
            name: {"moves": jnp.zeros((), jnp.int32), "kept": player.objective.init_extra(params)}
            for name, player in players.items()
        }

    # Only its `init` is read.
    together = optax.GradientTransformation(init, optax.identity().update)
    return state.init_state(init_params, together, seed, init_extra_of_all, **kept)


def make_train_step(
    players: Players,
    *,
    ema_decay: float | None = 0.9999,
    ema_warmup: bool = True,
    averages: ema.Shares = ema.NO_SHARES,
    spike: guard.Spike | None = None,
    parts: Parts = WHOLE,
) -> Step:
    """The pure function (state, batch, frozen={}) -> (state, metrics), as `step.make_train_step`.

    The players move in their order, each with draws of its own, and each sees what those before it
    have just done. The moving averages and the frozen trees are those before the step. The step is
    skipped as a whole where any of it is not finite: a game in which one side missed a move would
    be another game.

    Metrics of several players: loss and grad_norm, the sum of the losses and the norm of all the
    gradients; NAME_loss and NAME_grad_norm of each, NaN in a step in which it does not move;
    NAME_learning_rate; and those of `guard.Verdict`.

    Raises:
      ValueError: as `init_state`; for a spike guard of players of which one does not always move,
        since the sum of their losses then jumps by itself.
    """
    plan = make_plan(
        players, ema_decay=ema_decay, ema_warmup=ema_warmup, averages=averages, spike=spike
    )
    return plans.in_one_program(plan, parts)


def make_plan(
    players: Players,
    *,
    ema_decay: float | None = 0.9999,
    ema_warmup: bool = True,
    averages: ema.Shares = ema.NO_SHARES,
    spike: guard.Spike | None = None,
) -> Plan:
    """The step of `make_train_step` as a plan: a stage for each player. Raises as it."""
    _check(players, spike)
    if (alone := _alone(players)) is not None:
        return step.make_plan(
            alone.objective,
            alone.optimizer,
            alone.learning_rate,
            ema_decay=ema_decay,
            ema_warmup=ema_warmup,
            averages=averages,
            spike=spike,
        )
    shares = step.shares_of(ema_decay, ema_warmup, averages)

    def begin(state: TrainState) -> Work:
        _, history = guard.split(state.extra)
        return Work(state.params, state.opt_state, history, {}, {}, {})

    def end(state: TrainState, work: Work) -> tuple[TrainState, Metrics]:
        record, history = guard.split(state.extra)
        losses, norms = ([*one.values()] for one in (work.losses, work.norms))
        loss, norm = jnp.stack(losses).sum(), optax.tree.norm(norms)
        taken = state.step - record["skipped"]
        verdict = guard.judge(record, loss, norm, work.extra, updates=taken, spike=spike)
        average = step.averaged(state.ema, work.params, taken, shares)
        params, average, opt_state, extra = guard.keep(
            verdict.ok,
            (work.params, average, work.opt_state, work.extra),
            (state.params, state.ema, state.opt_state, history),
        )
        metrics = work.metrics | {"loss": loss, "grad_norm": norm, **verdict.metrics}
        extra = extra | {guard.NAME: verdict.record}
        return TrainState(state.step + 1, state.key, params, average, opt_state, extra), metrics

    return Plan(begin, tuple(_stage(name, player) for name, player in players.items()), end)


class Work(NamedTuple):
    """What the players have done so far in a step.

    Attributes:
      params: all of them.
      opt_state, extra: by the players' names.
      losses, norms: of those that have had their turn, by name; zeros of one that did not move.
      metrics: theirs.
    """

    params: Any
    opt_state: Any
    extra: Extra
    losses: dict[str, jax.Array]
    norms: dict[str, jax.Array]
    metrics: Metrics


def _stage(name: str, player: Player) -> Stage:
    """The player's turn."""

    def moves(state: TrainState) -> jax.Array:
        return state.step % player.every == 0

    def inputs(state: TrainState, work: Work, frozen: Trees) -> Inputs:
        variance, halves = player.objective.of_variance, player.objective.halves

        def outcome(own: Any, *args: Any, **trees: Any) -> Any:
            return player.objective(_with(player, work.params, own), *args, **trees)

        def of_variance(own: Any) -> Any:
            assert variance is not None
            return _own(player, variance(_with(player, work.params, own)))

        def remember(own: Any, *args: Any) -> Any:
            assert player.objective.remember is not None
            return player.objective.remember(_with(player, work.params, own), *args)

        objective = Objective(
            outcome,
            of_variance=of_variance if variance else None,
            remember=remember if player.objective.remember else None,
            halves=halves and halves.of_params(lambda own: _with(player, work.params, own)),
        )
        key = streams.named(jax.random.fold_in(state.key, state.step), name)
        trees = trees_of(player.objective, state.ema, frozen)
        own = _own(player, work.params)
        return Inputs(objective, own, key, work.extra[name]["kept"], trees)

    def moved(work: Work, seen: Seen) -> Any:
        before = work.params, work.opt_state[name], work.extra[name]
        own = _own(player, work.params)
        updates, opt_state = player.optimizer.update(seen.gradient, before[1], own)
        params = _with(player, work.params, optax.apply_updates(own, updates))
        return params, opt_state, {"moves": before[2]["moves"] + 1, "kept": seen.outcome.extra}

    def move(state: TrainState, work: Work, seen: Seen) -> Work:
        before = work.params, work.opt_state[name], work.extra[name]
        after = moved(work, seen)
        if player.every > 1:
            after = guard.keep(moves(state), after, before)
        params, opt_state, extra = after
        loss, norm = seen.weighted.mean(), optax.tree.norm(seen.gradient)
        metrics = {
            f"{name}_loss": jnp.where(moves(state), loss, jnp.nan),
            f"{name}_grad_norm": jnp.where(moves(state), norm, jnp.nan),
        }
        if player.learning_rate is not None:
            rate = player.learning_rate(work.extra[name]["moves"])
            metrics[f"{name}_learning_rate"] = jnp.asarray(rate, jnp.float32)
        return Work(
            params,
            {**work.opt_state, name: opt_state},
            {**work.extra, name: extra},
            work.losses | {name: loss},
            work.norms | {name: norm},
            work.metrics | metrics,
        )

    return Stage(inputs, move, moves if player.every > 1 else None)


def _own(player: Player, params: Any) -> Any:
    """The parameters that the player moves."""
    if player.parameters is None:
        return params
    if missing := [name for name in player.parameters if name not in params]:
        raise ValueError(f"a player moves {missing[0]!r}, and the parameters are {[*params]}")
    return {name: params[name] for name in player.parameters}


def _with(player: Player, params: Any, own: Any) -> Any:
    """All parameters, with the player's own in their places."""
    return own if player.parameters is None else {**params, **own}


def _alone(players: Players) -> Player | None:
    """The one player that moves everything in every step, or None."""
    (first, *others) = players.values()
    alone = not others and first.parameters is None and first.every == 1
    return first if alone else None


def _check(players: Players, spike: guard.Spike | None) -> None:
    if not players or guard.NAME in players:
        raise ValueError(f"need players, none of the name {guard.NAME!r}, got {[*players]}")
    if spike is not None and any(player.every > 1 for player in players.values()):
        raise ValueError("a spike guard needs players that move in every step: leave spike unset")
