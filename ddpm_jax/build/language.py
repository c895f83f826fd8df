"""A causal model of tokens, config.kind=language: its network, its objective."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.build import conditioning, networks
from ddpm_jax.build.objectives import pixel_levels
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.choose import choose
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.models import LanguageModel
from ddpm_jax.training.objectives.base import Batch, Objective
from ddpm_jax.training.objectives.next_token import next_token


def network(c: ConfigDict, own: Own = NONE) -> LanguageModel:
    """The network of config.model for the tokens of config.data.

    Raises:
      UserError: for a value that is unknown or does not fit.
    """
    return choose("model.name", c.model.name, NETWORKS)(c, own)


def objective(
    c: ConfigDict, model: LanguageModel, schedule: Schedule | None, own: Own = NONE
) -> Objective:
    """The cross-entropy of each token given those before it, in nats."""
    rate = conditioning.dropout(c).get("label")
    return next_token(model.apply, tokens_of, label_dropout=rate)


def tokens_of(batch: Batch) -> tuple[jax.Array, None]:
    """The tokens of a batch's images, int [B, L]: row by row, and each pixel's channels."""
    return sequences(batch["x0"]), None


def sequences(x0: jax.Array) -> jax.Array:
    """x_0 [B, H, W, C] as sequences [B, L]."""
    return x0.reshape(len(x0), -1)


def initial_params(c: ConfigDict, own: Own, model: LanguageModel, key: jax.Array) -> Any:
    """The network's parameters before training."""
    return model.init(key, jnp.zeros((1, model.length), jnp.int32))["params"]


def _transformer(c: ConfigDict, own: Own) -> LanguageModel:
    m = c.model
    heads = m.num_heads or 1
    if m.channels % heads:
        raise UserError(
            f"config.model.num_heads={heads}: {m.channels} channels do not divide into it"
        )
    return LanguageModel(
        vocab_size=pixel_levels(c, own),
        length=math.prod(image_shape(c)),
        width=m.channels,
        depth=m.num_blocks,
        num_heads=heads,
        num_classes=m.num_classes,
        dropout=m.dropout,
        remat=networks.remat(c),
        dtype=networks.dtype(c),
    )


NETWORKS: dict[str, Callable[[ConfigDict, Own], LanguageModel]] = {"transformer": _transformer}
