"""Training images and texts to be found by each other, as CLIP is."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import losses
from ddpm_jax.training.objectives.base import Batch, Extra, Halves, Objective, Outcome, keep

MASK = "mask"  # of a validation batch: which rows are no copies that fill it up


def contrast(
    rows: Callable[..., Any],
    scale_of: Callable[[Any], jax.Array],
    *,
    largest_scale: float = losses.contrastive.LARGEST_SCALE,
) -> Objective:
    """`losses.clip_loss` of the pairs of a batch, whole or in parts, on any number of devices.

    Args:
      rows: (params, batch, key, train) -> {"image": [b, D], "text": [b, D]}, embeddings of unit
        length; each row of that row of the batch alone. Where the batch has a "mask", bool [b], of
        the rows that are no copies, it is handed on and the others are compared with none.
      scale_of: params -> what their dot products are multiplied by.
      largest_scale: the most that it may be, see `losses.at_most`.

    Example:
      def rows(params, batch, key, train):
          embeds = clip.apply({"params": params}, batch["x0"], batch["tokens"])
          return {"image": embeds.image_embeds, "text": embeds.text_embeds}

      objective = contrast(rows, lambda params: jnp.exp(params["log_scale"]))

    Source: Radford et al. 2021 (CLIP), figure 3.
    """

    def compare(params: Any, both: Any, extra: Extra) -> Outcome:
        scale = losses.at_most(scale_of(params), largest_scale)
        loss = losses.clip_loss(both["image"], both["text"], scale, both.get(MASK))
        return Outcome(loss, jnp.zeros_like(loss), jnp.ones_like(loss), extra)

    return _of_halves(Halves(_masked(rows), compare))


def triplets(rows: Callable[..., Any], *, margin: float = 0.2) -> Objective:
    """`losses.triplet` of each image, its text, and the nearest text of another in the batch.

    Args:
      rows: as of `contrast`.
      margin: in squared distances.

    Source: Schroff et al. 2015 (FaceNet), equation 2 and section 3.2.
    """

    def compare(params: Any, both: Any, extra: Extra) -> Outcome:
        image, text = both["image"], both["text"]
        loss = losses.triplet(image, text, text[losses.hardest(image, text)], margin)
        return Outcome(loss, jnp.zeros_like(loss), jnp.ones_like(loss), extra)

    return _of_halves(Halves(rows, compare))


def _masked(rows: Callable[..., Any]) -> Callable[..., Any]:
    """The rows with the batch's mask, where it has one."""

    def with_mask(params: Any, batch: Batch, key: jax.Array, train: bool) -> Any:
        mask = {MASK: batch[MASK]} if MASK in batch else {}
        return {**rows(params, batch, key, train), **mask}

    return with_mask


def _of_halves(halves: Halves) -> Objective:
    """The objective that keeps nothing and needs no trees."""

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        return halves.compare(params, halves.rows(params, batch, key, train), extra)

    return Objective(outcome, remember=keep, halves=halves)
