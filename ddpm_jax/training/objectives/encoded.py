"""An objective of latents that a frozen autoencoder makes of a batch's images."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax import streams
from ddpm_jax.diffusion import latent_codes
from ddpm_jax.diffusion.latent_codes import Moments
from ddpm_jax.training.objectives.base import Batch, Extra, Objective, Outcome, places


def encoded(
    objective: Objective,
    moments: Callable[[Any, jax.Array], Moments],
    tree: str,
    shape: tuple[int, ...],
) -> Objective:
    """The objective whose x_0 are latents, drawn from their law anew in each step.

    A batch's "x0" is images, or what `latent_codes.joined` made of their moments beforehand: the
    draws are the same.

    Args:
      objective: of latents; of each row by itself.
      moments: (tree, images [B, H, W, C]) -> the law of their latents.
      tree: the name of the frozen tree.
      shape: (h, w, C) of the latents of one image.
    """
    joined = (*shape[:-1], 2 * shape[-1])

    def noise(batch: Batch, key: jax.Array) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            streams.fold(key, streams.LATENTS), places(batch)
        )
        return jax.vmap(lambda one: jax.random.normal(one, shape))(keys)

    def outcome(
        params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra, **given: Any
    ) -> Outcome:
        own = {name: given[name] for name in objective.needs}
        x0 = batch["x0"]
        known = x0.shape[1:] == joined
        law = latent_codes.split(x0) if known else moments(given[tree], x0)
        latents = jax.lax.stop_gradient(latent_codes.draw(law, noise(batch, key)))
        return objective(params, batch | {"x0": latents}, key, train, extra, **own)

    def draws(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Any:
        assert objective.draws is not None
        like = batch | {"x0": jnp.zeros((len(batch["x0"]), *shape))}
        drawn = objective.draws(params, like, key, train, extra)
        return drawn | {"latent_eps": noise(batch, key)}

    return dataclasses.replace(
        objective,
        outcome=outcome,
        needs=tuple(dict.fromkeys([*objective.needs, tree])),
        draws=draws if objective.draws is not None else None,
    )
