"""Training two generators between two sorts of images that come in no pairs (CycleGAN)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.likelihood.terms import mean_of_dimensions
from ddpm_jax.diffusion.losses import adversarial
from ddpm_jax.diffusion.losses.adversarial import Game
from ddpm_jax.training.objectives.base import Batch, Extra, Objective, Outcome, keep

# (params, images [B, ...]) -> images, or logits of patches
Network = Callable[[Any, jax.Array], jax.Array]


class Sides(NamedTuple):
    """All four networks, and which labels say of which sort an image is.

    Attributes:
      to_a, to_b: the generators.
      judge_a, judge_b: the discriminators.
      labels: of A and of B; images of others count nothing.
    """

    to_a: Network
    to_b: Network
    judge_a: Network
    judge_b: Network
    labels: tuple[int, int]


def generators(sides: Sides, game: Game, *, cycle: float, identity: float) -> Objective:
    """What both generators minimise, [B]: an image of A goes to B and back, and one of B to A.

    Args:
      sides: the networks.
      game: one of `adversarial.GAMES`.
      cycle: the weight of |back - image|, a mean over its numbers.
      identity: the weight of the same of an image that is already of the sort that it is made.

    Source: Zhu et al. 2017, equations 1 to 3, and section 5.2 for the identity.
    """

    def side(params: Any, x: jax.Array, there: Network, back: Network, judge: Network) -> jax.Array:
        made = there(params, x)
        loss = adversarial.of_generator(game, judge(params, made))
        loss += cycle * mean_of_dimensions(jnp.abs(back(params, made) - x))
        return loss + identity * mean_of_dimensions(jnp.abs(back(params, x) - x))

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        x, (in_a, in_b) = batch["x0"], _sorts(batch, sides)
        of_a = side(params, x, sides.to_b, sides.to_a, sides.judge_b)
        of_b = side(params, x, sides.to_a, sides.to_b, sides.judge_a)
        return _outcome(jnp.where(in_a, of_a, of_b), in_a | in_b, extra)

    return Objective(outcome, remember=keep)


def discriminators(sides: Sides, game: Game) -> Objective:
    """What both discriminators minimise, [B]: an image is real to its own, and made to the other.

    Args:
      sides: the networks; no gradient reaches the generators.
      game: one of `adversarial.GAMES`.
    """

    def side(params: Any, x: jax.Array, there: Network, own: Network, other: Network) -> jax.Array:
        made = jax.lax.stop_gradient(there(params, x))
        real, fake = game.of_real(own(params, x)), game.of_fake(other(params, made))
        return mean_of_dimensions(real) + mean_of_dimensions(fake)

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        x, (in_a, in_b) = batch["x0"], _sorts(batch, sides)
        of_a = side(params, x, sides.to_b, sides.judge_a, sides.judge_b)
        of_b = side(params, x, sides.to_a, sides.judge_b, sides.judge_a)
        return _outcome(jnp.where(in_a, of_a, of_b), in_a | in_b, extra)

    return Objective(outcome, remember=keep)


def _sorts(batch: Batch, sides: Sides) -> tuple[jax.Array, jax.Array]:
    """Whether each image is of A, and whether of B, bool [B] each."""
    a, b = (batch["label"] == label for label in sides.labels)
    return a, b


def _outcome(loss: jax.Array, counts: jax.Array, extra: Extra) -> Outcome:
    return Outcome(loss, jnp.zeros_like(loss), counts.astype(loss.dtype), extra)
