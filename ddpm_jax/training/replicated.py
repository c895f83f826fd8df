"""Several runs in one program: the members of a group, on a leading axis of every array."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from ddpm_jax.runtime import compiling, sharding
from ddpm_jax.training import guard
from ddpm_jax.training.plans import Metrics
from ddpm_jax.training.state import TrainState

# (state, batch, numbers) -> (state, metrics), of one member
MemberStep = Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]
# (states, batches, numbers, active [K]) -> (states, metrics)
GroupStep = Any  # jitted


def is_frozen(state: TrainState, max_skipped: int) -> jax.Array:
    """Whether the guard skipped so many steps in a row that a run of its own would have stopped.

    A function of the state alone: a group that is resumed freezes the same members.

    Args:
      state: of one member, or of a group.
      max_skipped: steps in a row; 0 never stops a run.
    """
    in_a_row = state.extra[guard.NAME]["in_a_row"]
    return in_a_row >= max_skipped if max_skipped else jnp.zeros(in_a_row.shape, bool)


def members_sharding(mesh: Mesh, num: int) -> NamedSharding:
    """The members split over the devices; whole on each of them where they do not divide."""
    divides = num % mesh.size == 0
    return sharding.batch_sharding(mesh) if divides else sharding.replicated(mesh)


def make_group_step(
    member_step: MemberStep, mesh: Mesh, num: int, *, max_skipped: int = 0
) -> GroupStep:
    """The compiled step of a group; the states are donated.

    Each member moves as `member_step` moves it, by its own key, batch and numbers. Matrix products
    of K members are one batched product, so the result is that of K runs up to rounding, and K is
    part of the program: the same K gives the same bits.

    Args:
      member_step: the pure step of one.
      mesh: where `num` divides by its devices, each has some of the members whole, without any
        communication; otherwise each of them computes all.
      num: K, the members.
      max_skipped: as of `is_frozen`; a frozen member's state stays as it is, bit for bit.

    Returns:
      (states, batches, numbers, active) -> (states, metrics), all with a leading axis [K]; `active`
      are the members that move at all. Metrics have "moved", bool [K], beside the member's own.
    """

    def one(state: TrainState, batch: Any, numbers: Any, active: jax.Array) -> Any:
        moves = active & ~is_frozen(state, max_skipped)
        after, metrics = member_step(state, batch, numbers)
        return guard.keep(moves, after, state), metrics | {"moved": moves}

    step = jax.vmap(one)
    place = members_sharding(mesh, num)
    if num % mesh.size == 0 and mesh.size > 1:
        # Left to itself, the compiler gathers what it cannot split, such as grouped convolutions.
        spec = place.spec
        step = jax.shard_map(
            step, mesh=mesh, in_specs=(spec,) * 4, out_specs=(spec, spec), check_vma=False
        )
    return compiling.jit(step, in_shardings=place, out_shardings=place, donate_argnums=0)


def stacked(states: Sequence[TrainState], mesh: Mesh) -> TrainState:
    """The states of the members as those of a group [K, ...], on their devices."""
    place = members_sharding(mesh, len(states))
    return jax.jit(_stack, out_shardings=place)(*states)


def make_member_of(shardings: TrainState) -> Callable[[TrainState, int], TrainState]:
    """The compiled (states, k) -> the state of member k, as a run of its own has it.

    Args:
      shardings: of that state's leaves, as `Experiment.state_sharding`.
    """
    return jax.jit(
        lambda states, k: jax.tree.map(lambda leaf: leaf[k], states), out_shardings=shardings
    )


def _stack(*states: TrainState) -> TrainState:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
