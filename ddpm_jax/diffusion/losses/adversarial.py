"""Losses of a discriminator and of what it judges, one number an example, from its logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.likelihood.terms import mean_of_dimensions, sum_of_dimensions


class Game(NamedTuple):
    """What both sides of a game minimise.

    Attributes:
      of_real, of_fake: logits [B, ...] -> the discriminator's loss of them, element by element.
      of_generator: logits of fakes -> what their maker minimises.
    """

    of_real: Callable[[jax.Array], jax.Array]
    of_fake: Callable[[jax.Array], jax.Array]
    of_generator: Callable[[jax.Array], jax.Array]


# Goodfellow et al. 2014: "minimax" is their equation 1, whose maker minimises log(1 - D), and
# "non_saturating" what they train, -log D. "hinge" is Lim & Ye's (2017), "least_squares" Mao et
# al.'s (2017).
GAMES: dict[str, Game] = {
    "minimax": Game(
        lambda logits: jax.nn.softplus(-logits),
        jax.nn.softplus,
        lambda logits: -jax.nn.softplus(logits),
    ),
    "non_saturating": Game(
        lambda logits: jax.nn.softplus(-logits),
        jax.nn.softplus,
        lambda logits: jax.nn.softplus(-logits),
    ),
    "hinge": Game(
        lambda logits: jax.nn.relu(1 - logits),
        lambda logits: jax.nn.relu(1 + logits),
        lambda logits: -logits,
    ),
    "least_squares": Game(
        lambda logits: (logits - 1) ** 2,
        lambda logits: logits**2,
        lambda logits: (logits - 1) ** 2,
    ),
}


def of_discriminator(game: Game, real: jax.Array, fake: jax.Array) -> jax.Array:
    """The discriminator's loss of pairs: its mean over patches, real and fake added, [B].

    Args:
      game: one of GAMES.
      real, fake: its logits, [B, ...] each.
    """
    return mean_of_dimensions(game.of_real(real)) + mean_of_dimensions(game.of_fake(fake))


def of_generator(game: Game, fake: jax.Array) -> jax.Array:
    """The loss of what made the fakes: its mean over patches, [B].

    Args:
      game: one of GAMES.
      fake: the discriminator's logits, [B, ...].
    """
    return mean_of_dimensions(game.of_generator(fake))


def gradient_penalty(discriminate: Callable[[jax.Array], jax.Array], real: jax.Array) -> jax.Array:
    """R1: the squared norm of the gradient of each real example's logit by the example, [B].

    Args:
      discriminate: examples [B, ...] -> logits [B, ...], each of its own example alone.
      real: [B, ...].

    Source: Mescheder et al. 2018, equation 9, without its factor gamma / 2.
    """
    gradient = jax.grad(lambda x: mean_of_dimensions(discriminate(x)).sum())(real)
    return sum_of_dimensions(gradient**2)


def adaptive_weight(
    of_likelihood: Any, of_adversary: Any, *, most: float = 1e4, offset: float = 1e-4
) -> jax.Array:
    """|gradient of the one loss| / |gradient of the other|, at the last layer of the decoder.

    What the adversarial loss is multiplied by so that neither of the two outweighs the other.

    Args:
      of_likelihood, of_adversary: gradients of both losses, trees of arrays of the same shapes.
      most: the largest weight.
      offset: added to the denominator.

    Returns:
      A scalar through which no gradient passes.

    Source: Esser et al. 2021 (VQGAN), equation 7; the bounds are their code's.
    """
    above, below = _norm(of_likelihood), _norm(of_adversary)
    return jax.lax.stop_gradient(jnp.clip(above / (below + offset), 0, most))


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(tree)))
