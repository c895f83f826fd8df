"""Translation between two sorts of images, config.kind=translator."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.build import optimizers, precision
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.choose import choose
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion.losses.adversarial import GAMES
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.models.translation import JUDGE_A, JUDGE_B, TO_A, TO_B, CycleGan
from ddpm_jax.training.objectives import translate
from ddpm_jax.training.objectives.base import Objective, Wrap
from ddpm_jax.training.objectives.translate import Network, Sides
from ddpm_jax.training.players import Player, Players


def network(c: ConfigDict, own: Own = NONE) -> CycleGan:
    """All four networks of config.model for the images of config.data.

    Raises:
      UserError: for a value that is unknown or does not fit the image size.
    """
    m = c.model
    choose("model.name", m.name, {"cycle_gan": None})
    height, width, channels = image_shape(c)
    factor = 2**m.num_halvings
    if height % factor or width % factor:
        raise UserError(
            f"config.model.num_halvings={m.num_halvings}: images of {height}x{width} do not halve "
            "so often"
        )
    for width in (m.channels, m.discriminator_channels or m.channels):
        if width % m.num_groups:
            raise UserError(
                f"config.model.num_groups={m.num_groups}: does not divide the {width} channels"
            )
    return CycleGan(
        width=m.channels,
        num_halvings=m.num_halvings,
        num_blocks=m.num_blocks,
        channels=channels,
        discriminator_width=m.discriminator_channels or m.channels,
        discriminator_layers=m.discriminator_layers,
        num_groups=m.num_groups,
        dtype=precision.dtype(c),
    )


def objective(
    c: ConfigDict, made: CycleGan, schedule: Schedule | None = None, own: Own = NONE
) -> Objective:
    """The generators', by which a run is validated.

    Raises:
      UserError: for a game that is unknown, or sorts that are not two.
    """
    o = c.objective
    game = choose("objective.game", o.game, GAMES)
    return translate.generators(
        _sides(c, made), game, cycle=o.cycle_weight, identity=o.identity_weight
    )


def players(c: ConfigDict, made: CycleGan, own: Own, wrapped: Wrap) -> Players:
    """Both generators, then both discriminators.

    Args:
      c, made, own: as of `objective`.
      wrapped: what stands around every objective of this config.

    Raises:
      UserError: as `objective`, or as `optimizers.optimizer`.
    """
    rate, optimizer = optimizers.optimizer(c, own)
    judging = translate.discriminators(
        _sides(c, made), choose("objective.game", c.objective.game, GAMES)
    )
    return {
        "generators": Player(
            wrapped(objective(c, made)), optimizer, (TO_A, TO_B), learning_rate=rate
        ),
        "discriminators": Player(
            wrapped(judging), optimizer, (JUDGE_A, JUDGE_B), learning_rate=rate
        ),
    }


def sorts(c: ConfigDict) -> tuple[int, int]:
    """The labels of the images of sort A and of sort B.

    Raises:
      UserError: for labels that are not two.
    """
    labels = tuple(c.objective.sorts)
    if len(labels) != 2 or len({*labels}) != 2 or not all(type(one) is int for one in labels):
        raise UserError(f"config.objective.sorts={labels}: need the labels of two classes, (0, 1)")
    first, second = labels
    return first, second


def initial_params(c: ConfigDict, own: Own, made: CycleGan, key: jax.Array) -> Any:
    """The parameters of all four before training."""
    return made.init(key, jnp.zeros((1, *image_shape(c))))["params"]


def _sides(c: ConfigDict, made: CycleGan) -> Sides:
    def network(method: str) -> Network:
        apply: Callable[..., Any] = made.apply

        def call(params: Any, x: jax.Array) -> jax.Array:
            found: jax.Array = apply({"params": params}, x, method=method)
            return found

        return call

    return Sides(network(TO_A), network(TO_B), network(JUDGE_A), network(JUDGE_B), sorts(c))
