"""Players: a step in which several objectives move one after the other, each its own parameters.

One player that moves everything is the step of `training/step.py`, bit for bit. A GAN has two: its
discriminator moves, then its generator, against the discriminator that has just moved.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddpm_jax import streams
from ddpm_jax.training import ema, guard, state, step
from ddpm_jax.training.objectives.base import Batch, Extra, Objective
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import NO_TREES, Metrics, Trees


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
) -> Callable[..., tuple[TrainState, Metrics]]:
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
    _check(players, spike)
    if (alone := _alone(players)) is not None:
        return step.make_train_step(
            alone.objective,
            alone.optimizer,
            alone.learning_rate,
            ema_decay=ema_decay,
            ema_warmup=ema_warmup,
            averages=averages,
            spike=spike,
        )
    shares = step.shares_of(ema_decay, ema_warmup, averages)

    def train_step(state: TrainState, batch: Batch, frozen: Trees = NO_TREES) -> Any:
        key = jax.random.fold_in(state.key, state.step)
        record, history = guard.split(state.extra)
        params, opt_state, extra = state.params, dict(state.opt_state), dict(history)
        losses, norms, metrics = [], [], {}
        for name, player in players.items():
            trees = step.trees_of(player.objective, state.ema, frozen)
            move = functools.partial(_move, player, batch, streams.named(key, name), trees)
            moves = state.step % player.every == 0
            before = params, opt_state[name], extra[name]
            after = move(before) if player.every == 1 else jax.lax.cond(moves, move, _stay, before)
            (params, opt_state[name], extra[name]), loss, norm = after
            losses.append(loss)
            norms.append(norm)
            metrics[f"{name}_loss"] = jnp.where(moves, loss, jnp.nan)
            metrics[f"{name}_grad_norm"] = jnp.where(moves, norm, jnp.nan)
            if player.learning_rate is not None:
                rate = player.learning_rate(history[name]["moves"])
                metrics[f"{name}_learning_rate"] = jnp.asarray(rate, jnp.float32)

        loss, norm = jnp.stack(losses).sum(), optax.tree.norm(norms)
        taken = state.step - record["skipped"]
        verdict = guard.judge(record, loss, norm, extra, updates=taken, spike=spike)
        average = step.averaged(state.ema, params, taken, shares)
        params, average, opt_state, extra = guard.keep(
            verdict.ok,
            (params, average, opt_state, extra),
            (state.params, state.ema, state.opt_state, history),
        )
        metrics |= {"loss": loss, "grad_norm": norm, **verdict.metrics}
        extra = extra | {guard.NAME: verdict.record}
        return TrainState(state.step + 1, state.key, params, average, opt_state, extra), metrics

    return train_step


Before = tuple[Any, Any, Extra]


def _move(
    player: Player, batch: Batch, key: jax.Array, trees: Trees, before: Before
) -> tuple[Before, jax.Array, jax.Array]:
    """All parameters, and the player's opt_state and extra, after its move; its loss and norm."""
    params, opt_state, extra = before
    own = _own(player, params)
    variance = player.objective.of_variance

    def outcome(own: Any, *args: Any, **trees: Any) -> Any:
        return player.objective(_with(player, params, own), *args, **trees)

    def of_variance(own: Any) -> Any:
        assert variance is not None
        return _own(player, variance(_with(player, params, own)))

    objective = Objective(outcome, of_variance=of_variance if variance else None)
    loss, seen, grads = step.gradient(objective, own, batch, key, extra["kept"], trees)
    updates, opt_state = player.optimizer.update(grads, opt_state, own)
    params = _with(player, params, optax.apply_updates(own, updates))
    after = params, opt_state, {"moves": extra["moves"] + 1, "kept": seen.extra}
    return after, loss.mean(), optax.tree.norm(grads)


def _stay(before: Before) -> tuple[Before, jax.Array, jax.Array]:
    """What `_move` returns, of a player that does not: no loss and no gradient."""
    return before, jnp.zeros(()), jnp.zeros(())


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
