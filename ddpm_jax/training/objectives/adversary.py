"""Training a generator against a discriminator: what each of the two players minimises."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.losses import adversarial
from ddpm_jax.diffusion.losses.adversarial import Game
from ddpm_jax.training.objectives.base import Batch, Extra, Objective, Outcome, keep, places

# (params, z [B, Z], batch) -> images [B, ...]; the batch for what is told beside z
Generate = Callable[[Any, jax.Array, Batch], jax.Array]
# (params, images [B, ...], batch) -> logits [B, ...]
Judge = Callable[[Any, jax.Array, Batch], jax.Array]


def discriminator(
    generate: Generate,
    judge: Judge,
    game: Game,
    *,
    latent_size: int,
    penalty: float = 0.0,
) -> Objective:
    """What tells real examples from made ones, with R1 of the real ones.

    Args:
      generate, judge: both networks; no gradient reaches the first.
      game: one of `adversarial.GAMES`.
      latent_size: Z.
      penalty: gamma of Mescheder et al. 2018, equation 9; 0 for none.
    """

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        real = batch["x0"]
        made = jax.lax.stop_gradient(generate(params, _noise(batch, key, latent_size), batch))
        logits = judge(params, real, batch), judge(params, made, batch)
        loss = adversarial.of_discriminator(game, *logits)
        if penalty:
            norms = adversarial.gradient_penalty(lambda x: judge(params, x, batch), real)
            loss += 0.5 * penalty * norms
        return Outcome(loss, jnp.zeros_like(loss), jnp.ones_like(loss), extra)

    return Objective(outcome, remember=keep, draws=_draws(latent_size))


def generator(generate: Generate, judge: Judge, game: Game, *, latent_size: int) -> Objective:
    """What makes examples that are taken for real.

    Args:
      generate, judge: both networks, the second as it is.
      game: one of `adversarial.GAMES`.
      latent_size: Z.
    """

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        made = generate(params, _noise(batch, key, latent_size), batch)
        loss = adversarial.of_generator(game, judge(params, made, batch))
        return Outcome(loss, jnp.zeros_like(loss), jnp.ones_like(loss), extra)

    return Objective(outcome, remember=keep, draws=_draws(latent_size))


def _noise(batch: Batch, key: jax.Array, size: int) -> jax.Array:
    """z of each row, of the key and its place in the batch alone, [B, size]."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places(batch))
    return jax.vmap(lambda one: jax.random.normal(one, (size,)))(keys)


def _draws(size: int) -> Callable[..., dict[str, Any]]:
    def draws(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Any:
        return {"z": _noise(batch, key, size)}

    return draws
