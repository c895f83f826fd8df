"""A captioner, config.kind=captioner: a decoder of captions that reads an images' tower."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.build import contrasting, language
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.choose import choose
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.models import Captioner
from ddpm_jax.models.captioner import IMAGE
from ddpm_jax.training.objectives.base import Objective
from ddpm_jax.training.objectives.next_token import next_token

# Those of `contrasting.IMAGE_TOWERS` whose features have a place for each part of an image.
TOWERS = ("vit",)


def network(c: ConfigDict, own: Own = NONE) -> Captioner:
    """The network of config.model for the images and captions of config.data.

    Raises:
      UserError: for a name or an option that is unknown, or a value that does not fit.
      ValueError: as the tower does for sizes that do not fit it, when it is traced.
    """
    choose("model.name", c.model.name, {"captioner": None})
    choose("model.image", c.model.image, dict.fromkeys(TOWERS))
    made = Captioner(
        contrasting.image_tower(c, projected=False),
        language.decoder(c, c.data.vocabulary, c.data.context - 1, reads=True),
        **contrasting.pixels(c),
    )
    jax.eval_shape(functools.partial(initial_params, c, own, made), jax.random.key(0))
    return made


def objective(
    c: ConfigDict, made: Captioner, schedule: Schedule | None, own: Own = NONE
) -> Objective:
    """The cross-entropy of each token given the image and those before it, in nats."""
    apply: Callable[..., Any] = made.apply
    return next_token(apply, language.of_text, shown_of=lambda batch: {IMAGE: batch["x0"]})


def initial_params(c: ConfigDict, own: Own, made: Captioner, key: jax.Array) -> Any:
    """The network's parameters before training."""
    tokens = jnp.zeros((1, made.decoder.length), jnp.int32)
    return made.init(key, tokens, {IMAGE: jnp.zeros((1, *image_shape(c)))})["params"]
