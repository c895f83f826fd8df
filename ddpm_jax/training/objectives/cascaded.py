"""Training to enlarge: each image is shown to its model in small, with noise of any level."""

import dataclasses
from typing import Any

import jax

from ddpm_jax import streams
from ddpm_jax.diffusion import cascade, guidance
from ddpm_jax.training.objectives.base import Batch, Extra, Objective, Outcome, places


def cascaded(objective: Objective, factor: int, augmentation: float) -> Objective:
    """The same objective with the condition "low_resolution" made of each batch's own images.

    Means of factor x factor pixels, with noise of a level that is uniform in [0, augmentation].
    Level and noise are drawn on the device, for each example from the step's key and its place in
    the batch, as every draw: a resumed run sees what an uninterrupted one sees.

    Around `dequantise.dequantised`, it makes the small image of pixels that are not spread over
    their cells, such as those of another model's samples.

    Args:
      objective: of batches whose "x0" is [B, H, W, C] in [-1, 1].
      factor: above 1; must divide H and W.
      augmentation: the largest level, at least 0 and below 1.

    Raises:
      ValueError: for a factor or an augmentation out of range; when called, for images that the
        factor does not divide.

    Source: Ho et al. 2022, "Cascaded diffusion models", section 4.
    """
    if factor < 2:
        raise ValueError(f"need factor >= 2, got {factor=}")
    cascade.check_level(augmentation)
    shrink = guidance.average_pool(factor)

    def small_images(batch: Batch, key: jax.Array) -> jax.Array:
        image = batch["x0"]
        key_small = streams.fold(key, streams.SMALL_IMAGES)

        def one(place: jax.Array) -> tuple[jax.Array, jax.Array]:
            key_level, key_eps = jax.random.split(jax.random.fold_in(key_small, place))
            return jax.random.uniform(key_level, (), image.dtype, 0, augmentation), key_eps

        level, keys_eps = jax.vmap(one)(places(batch))
        return cascade.noised(keys_eps, shrink(image), level, image.shape[1:3])

    def seen(batch: Batch, key: jax.Array, train: bool) -> Batch:
        return batch | {cascade.NAME: small_images(batch, key)}

    def outcome(
        params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra, **trees: Any
    ) -> Outcome:
        return objective(params, seen(batch, key, train), key, train, extra, **trees)

    def draws(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Any:
        small = {cascade.NAME: small_images(batch, key)}
        inner = objective.draws
        return small | (inner(params, batch | small, key, train, extra) if inner else {})

    halves = objective.halves and objective.halves.of_batch(seen)
    return dataclasses.replace(objective, outcome=outcome, draws=draws, halves=halves)
