"""A causal model of tokens, config.kind=language: its network, its objective.

The tokens are pixels, or, where config.data.tokenizer says what makes tokens of them, captions.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import conditioning, networks
from ddpm_jax.build.objectives import pixel_levels
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.choose import choose
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.data.captions import TEXT
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
    tokens_of = of_text if reads_text(c) else of_pixels
    apply: Callable[..., Any] = model.apply
    return next_token(apply, tokens_of, dropout=conditioning.dropout(c))


def reads_text(c: ConfigDict) -> bool:
    """Whether the tokens are those of captions."""
    return bool(c.data.tokenizer)


def no_images(c: ConfigDict) -> str:
    """Why a run draws no images; "" for one of pixels."""
    return "it was trained on captions; experiment.load(DIR).texts(8) draws some" * reads_text(c)


def of_pixels(batch: Batch) -> tuple[jax.Array, None]:
    """The tokens of a batch's images, int [B, L]: row by row, and each pixel's channels."""
    return sequences(batch["x0"]), None


def of_text(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The tokens of a batch's captions behind the beginning, and those up to the end, bool."""
    return behind_beginning(batch[TEXT])


def behind_beginning(rows: Any) -> tuple[Any, Any]:
    """Rows of tokens [B, L + 1] as sequences [B, L], and which count: those up to the end.

    The beginning is the same for all, and stands for what the network has before the first token.
    """
    tokens = rows[:, 1:]
    # The end is the largest number of a row; what is behind it is padding.
    return tokens, np.arange(tokens.shape[1])[None, :] <= tokens.argmax(axis=1)[:, None]


def sequences(x0: Any) -> Any:
    """x_0 [B, H, W, C] as sequences [B, L]."""
    return x0.reshape(len(x0), -1)


def initial_params(c: ConfigDict, own: Own, model: LanguageModel, key: jax.Array) -> Any:
    """The network's parameters before training."""
    return model.init(key, jnp.zeros((1, model.length), jnp.int32))["params"]


def decoder(c: ConfigDict, vocab_size: int, length: int, **fields: Any) -> LanguageModel:
    """The transformer of config.model for sequences of so many tokens.

    Args:
      c: the config.
      vocab_size, length: of the tokens.
      **fields: others of `LanguageModel`.

    Raises:
      UserError: for heads that do not divide the channels.
    """
    m = c.model
    heads = m.num_heads or 1
    if m.channels % heads:
        raise UserError(
            f"config.model.num_heads={heads}: {m.channels} channels do not divide into it"
        )
    return LanguageModel(
        vocab_size=vocab_size,
        length=length,
        width=m.channels,
        depth=m.num_blocks,
        num_heads=heads,
        dropout=m.dropout,
        remat=networks.remat(c),
        dtype=networks.dtype(c),
        **fields,
    )


def _transformer(c: ConfigDict, own: Own) -> LanguageModel:
    if reads_text(c):
        vocab_size, length = c.data.vocabulary, c.data.context - 1
    else:
        vocab_size, length = pixel_levels(c, own), math.prod(image_shape(c))
    return decoder(c, vocab_size, length, num_classes=c.model.num_classes)


NETWORKS: dict[str, Callable[[ConfigDict, Own], LanguageModel]] = {"transformer": _transformer}
