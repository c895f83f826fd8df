"""A codebook of moving averages: each code follows the mean of what became it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import quantisation
from ddpm_jax.training.objectives.base import Batch, Extra, Objective, Outcome

CODEBOOK = "codebook"  # among the parameters
AVERAGES = "averages"


def moving_codes(
    latents_of: Callable[[Any, jax.Array], jax.Array], *, decay: float, smoothing: float = 1e-5
) -> Objective:
    """An objective whose descent at a rate of 1 is `quantisation.averaged`.

    Its loss is half of the squared distance of the codes from where they go, and its gradient the
    difference. What became each code is counted over the whole batch, which cannot be shown in
    parts.

    Args:
      latents_of: (params, x_0 [B, ...]) -> vectors [B, h, w, D].
      decay, smoothing: as of `quantisation.averaged`.
    """

    def init_extra(params: Any) -> Extra:
        return {AVERAGES: quantisation.first_averages(params[CODEBOOK])}

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        held, codebook = jax.lax.stop_gradient(params), params[CODEBOOK]
        vectors = latents_of(held, batch["x0"])
        averages, codes = quantisation.averaged(
            extra[AVERAGES],
            held[CODEBOOK],
            vectors,
            quantisation.nearest(held[CODEBOOK], vectors),
            decay=decay,
            smoothing=smoothing,
        )
        loss = jnp.full(len(batch["x0"]), ((codebook - codes) ** 2).sum() / 2)
        return Outcome(loss, jnp.zeros_like(loss), jnp.ones_like(loss), {AVERAGES: averages})

    return Objective(outcome, init_extra=init_extra)
