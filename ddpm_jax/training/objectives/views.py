"""Representations of images without texts: from views of an image, or by how it was turned."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import losses
from ddpm_jax.training.objectives.base import (
    EMA,
    Batch,
    Extra,
    Objective,
    Outcome,
    keep,
    places,
)

CENTRE = "centre"
VIEWS = 2


def self_distillation(
    scores: Callable[[Any, jax.Array], jax.Array],
    num: int,
    *,
    smallest_crop: float = 0.4,
    jitter: float = 0.2,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    momentum: float = 0.9,
) -> Objective:
    """`losses.self_distillation` of two views of each image; the teacher is the moving average.

    The centre of what the teacher says is kept between steps. A batch is shown whole: its mean
    moves the centre.

    Args:
      scores: (params, images [B, H, W, C]) -> [B, K].
      num: K.
      smallest_crop: the least share of an image's area in a view.
      jitter: brightness and contrast change by up to so much.
      student_temperature, teacher_temperature, momentum: as in `losses.views`.

    Raises:
      ValueError: for a share or a momentum out of range.

    Source: Caron et al. 2021 (DINO), algorithm 1, with two crops.
    """
    if not 0 < smallest_crop <= 1 or not 0 <= momentum < 1 or not 0 <= jitter < 1:
        raise ValueError(
            "need 0 < smallest_crop <= 1, 0 <= momentum < 1 and 0 <= jitter < 1, got "
            f"{smallest_crop=}, {momentum=}, {jitter=}"
        )

    def outcome(
        params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra, *, ema: Any
    ) -> Outcome:
        x0, number = batch["x0"], places(batch)
        views = jnp.stack(
            [view(one, x0, number, smallest_crop, jitter) for one in jax.random.split(key, VIEWS)]
        )
        both = views.reshape(-1, *x0.shape[1:])
        student = scores(params, both).reshape(VIEWS, len(x0), num)
        teacher = jax.lax.stop_gradient(scores(ema, both).reshape(VIEWS, len(x0), num))
        # Validation hands over no history: then nothing is taken out.
        centre = extra.get(CENTRE, jnp.zeros(num, teacher.dtype))
        loss = losses.views.self_distillation(
            student,
            teacher,
            centre,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
        )
        moved = {**extra, CENTRE: losses.views.moved_centre(centre, teacher, momentum)}
        return Outcome(loss, jnp.zeros_like(loss), jnp.ones_like(loss), moved if train else extra)

    return Objective(outcome, lambda params: {CENTRE: jnp.zeros(num)}, needs=(EMA,))


def rotation(scores: Callable[[Any, jax.Array], jax.Array]) -> Objective:
    """By which of four quarter turns an image was turned: the cross-entropy of what is said of it.

    Args:
      scores: (params, square images [B, H, H, C]) -> [B, 4].

    Source: Gidaris et al. 2018, with one turn drawn for each image.
    """

    def turned(batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = _keys(key, places(batch))
        turns = jax.vmap(lambda one: jax.random.randint(one, (), 0, 4))(keys)
        every = jnp.stack([jnp.rot90(batch["x0"], k, axes=(1, 2)) for k in range(4)])
        return every[turns, jnp.arange(len(turns))], turns

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        images, turns = turned(batch, key)
        said = jax.nn.log_softmax(scores(params, images))
        loss = -jnp.take_along_axis(said, turns[:, None], axis=1)[:, 0]
        return Outcome(loss, jnp.zeros_like(loss), jnp.ones_like(loss), extra)

    return Objective(outcome, remember=keep)


def view(
    key: jax.Array, images: jax.Array, number: jax.Array, smallest_crop: float, jitter: float
) -> jax.Array:
    """A square crop of each image, enlarged to its size, brighter or darker.

    Args:
      key: of all draws, which for an image are of its number alone.
      images: [B, H, W, C].
      number: int [B].
      smallest_crop, jitter: as of `self_distillation`.
    """

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        key_size, key_place, key_light, key_contrast = jax.random.split(key, 4)
        area = jax.random.uniform(key_size, (), image.dtype, smallest_crop, 1.0)
        side = jnp.sqrt(area)
        first = jax.random.uniform(key_place, (2,), image.dtype) * (1 - side)
        size = jnp.asarray(image.shape[:2], image.dtype)
        cropped = jax.image.scale_and_translate(
            image,
            image.shape,
            (0, 1),
            jnp.full(2, 1 / side),
            -first * size / side,
            "linear",
            antialias=False,
        )
        contrast = 1 + jax.random.uniform(key_contrast, (), image.dtype, -jitter, jitter)
        return cropped * contrast + jax.random.uniform(key_light, (), image.dtype, -jitter, jitter)

    return jax.vmap(one)(_keys(key, number), images)


def _keys(key: jax.Array, number: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, number)
