"""A generator against a discriminator, config.kind=gan: both networks, and what each minimises."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.build import optimizers, precision
from ddpm_jax.build.from_noise import FromNoise
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.choose import choose
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion.losses.adversarial import GAMES
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.models.adversarial import Gan, num_doublings
from ddpm_jax.training.objectives import adversary
from ddpm_jax.training.objectives.base import Batch, Objective, Wrap
from ddpm_jax.training.players import Player, Players

LABEL = "label"
GENERATOR, DISCRIMINATOR = "generator", "discriminator"  # players, and their parameters


def network(c: ConfigDict, own: Own = NONE) -> Gan:
    """Both networks of config.model for the images of config.data.

    Raises:
      UserError: for a value that is unknown or does not fit the image size.
    """
    m = c.model
    choose("model.name", m.name, {"gan": None})
    height, width, channels = image_shape(c)
    try:
        doublings = num_doublings((height, width))
    except ValueError as error:
        raise UserError(f"config.data.image_size: {error}") from error
    for level in range(doublings + 1):
        if m.channels * 2**level % m.num_groups:
            raise UserError(
                f"config.model.num_groups={m.num_groups}: does not divide the "
                f"{m.channels * 2**level} channels of a level (config.model.channels)"
            )
    return Gan(
        latent_size=m.latent_size,
        image_size=(height, width),
        channels=channels,
        width=m.channels,
        discriminator_width=m.discriminator_channels or m.channels,
        num_classes=m.num_classes,
        num_groups=m.num_groups,
        dtype=precision.dtype(c),
    )


def objective(
    c: ConfigDict, made: Gan, schedule: Schedule | None = None, own: Own = NONE
) -> Objective:
    """The discriminator's, by which a run is validated."""
    o = c.objective
    return adversary.discriminator(
        *_sides(c, made),
        choose("objective.game", o.game, GAMES),
        latent_size=c.model.latent_size,
        penalty=o.gradient_penalty,
    )


def players(c: ConfigDict, made: Gan, own: Own, wrapped: Wrap) -> Players:
    """The discriminator, and the generator against it, which moves after some of its steps.

    Args:
      c, made, own: as of `objective`.
      wrapped: what stands around every objective of this config.

    Raises:
      UserError: for a game that is unknown, or as `optimizers.optimizer`.
    """
    o, optim = c.objective, c.optim
    if optim.spike_sigma is not None and o.discriminator_steps > 1:
        raise UserError(
            f"config.optim.spike_sigma={optim.spike_sigma}: the sum of both losses jumps by itself "
            "where the generator does not move in every step; leave it unset, or set "
            "config.objective.discriminator_steps=1"
        )
    generator = adversary.generator(
        *_sides(c, made), choose("objective.game", o.game, GAMES), latent_size=c.model.latent_size
    )
    # A decay ends with the run, however many moves that is.
    moves = -(-c.train.num_steps // o.discriminator_steps)
    rate, optimizer = optimizers.optimizer(_with(c, "train", num_steps=moves), own)
    other = optim.discriminator_learning_rate
    its_own = c if other is None else _with(c, "optim", learning_rate=other)
    its_rate, its_optimizer = optimizers.optimizer(its_own, own)
    return {
        DISCRIMINATOR: Player(
            wrapped(objective(c, made)), its_optimizer, (DISCRIMINATOR,), learning_rate=its_rate
        ),
        GENERATOR: Player(
            wrapped(generator),
            optimizer,
            (GENERATOR,),
            every=o.discriminator_steps,
            learning_rate=rate,
        ),
    }


def _with(c: ConfigDict, group: str, **fields: Any) -> ConfigDict:
    """The config with other fields of a group; only to build parts of."""
    changed = ConfigDict(c.to_dict())
    changed[group].update(fields)
    return changed


def from_noise(c: ConfigDict, made: Gan) -> FromNoise:
    """The generator's images."""
    apply: Callable[..., Any] = made.apply

    def images(params: Any, z: jax.Array, labels: jax.Array) -> jax.Array:
        label = labels if c.model.num_classes else None
        found: jax.Array = apply({"params": params}, z, label, method="generate")
        return found

    return FromNoise((c.model.latent_size,), images)


def initial_params(c: ConfigDict, own: Own, made: Gan, key: jax.Array) -> Any:
    """The parameters of both before training."""
    label = jnp.zeros(1, jnp.int32) if c.model.num_classes else None
    return made.init(key, jnp.zeros((1, c.model.latent_size)), label)["params"]


def _sides(c: ConfigDict, made: Gan) -> tuple[adversary.Generate, adversary.Judge]:
    """Both networks as the objectives call them; of a class where there are classes."""
    apply: Callable[..., Any] = made.apply

    def label(batch: Batch) -> jax.Array | None:
        return batch[LABEL] if c.model.num_classes else None

    def generate(params: Any, z: jax.Array, batch: Batch) -> jax.Array:
        images: jax.Array = apply({"params": params}, z, label(batch), method="generate")
        return images

    def judge(params: Any, x: jax.Array, batch: Batch) -> jax.Array:
        logits: jax.Array = apply({"params": params}, x, label(batch), method="judge")
        return logits

    return generate, judge
