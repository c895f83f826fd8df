"""Parameters that a training leaves as they are, by patterns on their names.

Both halves are needed: without the gradient of what is frozen its norm is that of what moves, and
without its place in the optimiser nothing is kept for it, and no weight decays.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.runtime import leaves
from ddpm_jax.training.objectives.base import Objective, Outcome


def check(patterns: Sequence[str], params: Any) -> None:
    """Each pattern fits a leaf, and one leaf at least moves.

    Args:
      patterns: as of `leaves.matching`.
      params: the parameters, or their shapes.

    Raises:
      ValueError: naming the nearest leaf, or saying that nothing would move.
    """
    for pattern in patterns:
        if not any(jax.tree.leaves(leaves.matching((pattern,), params))):
            raise ValueError(
                f"frozen: {pattern!r} fits no parameter; the nearest is "
                f"{leaves.nearest(pattern, params)} (a pattern is for the whole name, and * stands "
                "for any part of it)"
            )
    if patterns and all(jax.tree.leaves(leaves.matching(patterns, params))):
        raise ValueError(
            f"frozen={tuple(patterns)} leaves no parameter to train; freeze fewer of them"
        )


def sizes(patterns: Sequence[str], params: Any) -> tuple[int, int]:
    """How many parameters move, and how many are frozen."""
    frozen = jax.tree.leaves(leaves.matching(patterns, params))
    counts = [leaf.size for leaf in jax.tree.leaves(params)]
    held = sum(size for size, is_frozen in zip(counts, frozen, strict=True) if is_frozen)
    return sum(counts) - held, held


def objective(objective: Objective, patterns: Sequence[str]) -> Objective:
    """The same objective, whose gradient is 0 in what is frozen; that part is never computed."""

    def held(params: Any) -> Any:
        frozen = leaves.matching(patterns, params)
        return jax.tree.map(lambda f, p: jax.lax.stop_gradient(p) if f else p, frozen, params)

    def outcome(params: Any, *args: Any, **trees: Any) -> Outcome:
        return objective(held(params), *args, **trees)

    halves = objective.halves and objective.halves.of_params(held)
    return dataclasses.replace(objective, outcome=outcome, halves=halves)


def optimizer(
    optimizer: optax.GradientTransformation, patterns: Sequence[str]
) -> optax.GradientTransformation:
    """The same optimiser for what moves; what is frozen keeps its bits, and has no state."""

    def parts(params: Any) -> Any:
        frozen = leaves.matching(patterns, params)
        return jax.tree.map(lambda f: "frozen" if f else "moving", frozen)

    def nothing(updates: Any, _: Any) -> Any:
        # x + 0.0 would make 0.0 of -0.0; x + -0.0 is x.
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, -0.0), updates)

    return optax.partition({"moving": optimizer, "frozen": optax.stateless(nothing)}, parts)
