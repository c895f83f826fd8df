"""Training images and texts to be found by each other, as CLIP is."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import losses, process
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.time_draws import TimeDraw
from ddpm_jax.training.objectives.base import PART, Batch, Extra, Halves, Objective, Outcome, keep
from ddpm_jax.training.objectives.draws import Draws, draw

MASK = "mask"  # of a validation batch: which rows are no copies that fill it up
TIME, WEIGHT = "t", "weight"  # of rows that were noised, as `Outcome` has them


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

    return _of_halves(Halves(_masked(rows), _comparison(scale_of, largest_scale)))


def noised_contrast(
    rows: Callable[..., Any],
    scale_of: Callable[[Any], jax.Array],
    schedule: Schedule,
    *,
    time_draw: TimeDraw,
    largest_scale: float = losses.contrastive.LARGEST_SCALE,
) -> Objective:
    """`contrast` of images that are noised on the path of the model that the CLIP will guide.

    Each image has a time and noise of its own; the texts stay as they are.

    Args:
      rows: (params, x_t [b, ...], time [b], batch, key, train) -> as of `contrast`; time in the
        units of `schedule.network_time`.
      scale_of, largest_scale: as of `contrast`.
      schedule: the path.
      time_draw: one of `time_draws`; without a history.

    Source: Nichol et al. 2021 (GLIDE), section 2.4.
    """

    def drawn_by(key: jax.Array, batch: Batch, train: bool) -> Draws:
        times = time_draw if train else time_draw.validation or time_draw
        return draw(key, batch["x0"], schedule, time_draw=times, part=batch.get(PART))

    def noised(params: Any, batch: Batch, key: jax.Array, train: bool) -> Any:
        key_examples, key_rows = jax.random.split(key)
        drawn = drawn_by(key_examples, batch, train)
        xt = process.add_noise(schedule, batch["x0"], drawn.t, drawn.eps)
        both = rows(params, xt, schedule.network_time(drawn.t), batch, key_rows, train)
        return {**both, TIME: drawn.t, WEIGHT: drawn.weight}

    def draws(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Any:
        return drawn_by(jax.random.split(key)[0], batch, train)._asdict()

    halves = Halves(_masked(noised), _comparison(scale_of, largest_scale))
    return dataclasses.replace(_of_halves(halves), draws=draws)


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


def _comparison(scale_of: Callable[[Any], jax.Array], largest_scale: float) -> Callable[..., Any]:
    """The loss of a CLIP's rows, where they meet."""

    def compare(params: Any, both: Any, extra: Extra) -> Outcome:
        scale = losses.at_most(scale_of(params), largest_scale)
        loss = losses.clip_loss(both["image"], both["text"], scale, both.get(MASK))
        t = both.get(TIME, jnp.zeros_like(loss))
        return Outcome(loss, t, both.get(WEIGHT, jnp.ones_like(loss)), extra)

    return compare


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
