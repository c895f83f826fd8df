"""Training on images that are moved at random, on the device, within the step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax import streams
from ddpm_jax.training.objectives.base import Batch, Extra, Objective, Outcome, places

# (key, image [H, W, C]) -> the image moved; of one key all images of an example move alike
Move = Callable[[jax.Array, jax.Array], jax.Array]


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirror left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def shift(key: jax.Array, image: jax.Array) -> jax.Array:
    """Move by whole pixels, up to an eighth of the height and of the width, each way alike.

    The pixels at the edge are repeated into what is left free. At 32x32 these are the 4 pixels
    that are usual for CIFAR-10.
    """
    for axis, key_axis in enumerate(jax.random.split(key)):
        size = image.shape[axis]
        most = size // 8
        by = jax.random.randint(key_axis, (), -most, most + 1)
        # Promised, so that nothing is filled in for places outside.
        places = jnp.clip(jnp.arange(size) + by, 0, size - 1)
        image = jnp.take(image, places, axis=axis, mode="clip")
    return image


def augmented(objective: Objective, moves: Mapping[str, Move]) -> Objective:
    """The same objective, trained on moved images; without `train` they stay as they are.

    Conditions that are images, a silhouette, move with the image of their example. The draws come
    from the step's key and the example's place in the batch, as all others do, so a resumed run
    sees what an uninterrupted one sees. Pixel values are those that were there.

    Args:
      objective: of batches with images [B, H, W, C].
      moves: one after the other, each with a key of its own by its name.
    """

    def moved(batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        images = {name: x for name, x in batch.items() if getattr(x, "ndim", 0) == 4}
        key_moves = streams.fold(key, streams.AUGMENTATION)

        def one(place: jax.Array, example: dict[str, jax.Array]) -> dict[str, jax.Array]:
            key_example = jax.random.fold_in(key_moves, place)
            for name, move in moves.items():
                key_move = streams.named(key_example, name)
                example = {what: move(key_move, image) for what, image in example.items()}
            return example

        return jax.vmap(one)(places(batch), images)

    def seen(batch: Batch, key: jax.Array, train: bool) -> Batch:
        return batch | moved(batch, key) if train else batch

    def outcome(
        params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra, **trees: Any
    ) -> Outcome:
        return objective(params, seen(batch, key, train), key, train, extra, **trees)

    def draws(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Any:
        images = moved(batch, key) if train else {}
        inner = objective.draws
        within = inner(params, batch | images, key, train, extra) if inner else {}
        return images | within

    halves = objective.halves and objective.halves.of_batch(seen)
    return dataclasses.replace(objective, outcome=outcome, draws=draws, halves=halves)
