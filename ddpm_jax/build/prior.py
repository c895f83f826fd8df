"""config.kind=prior: the embedding of an image given a text, by diffusion or token by token."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import image_embeddings, networks, objectives, paths, sampling
from ddpm_jax.config.choose import choose
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion import components, losses
from ddpm_jax.diffusion.components import Components
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.models.prior import (
    TEXT_EMBEDDING,
    TOKENS,
    TOKENS_MASK,
    ComponentModel,
    PriorTransformer,
)
from ddpm_jax.training.objectives import denoise
from ddpm_jax.training.objectives.base import Batch, Objective
from ddpm_jax.training.objectives.embedded import embedded
from ddpm_jax.training.objectives.next_token import next_token

COMPONENTS = "components"  # the frozen tree's name


@dataclasses.dataclass(frozen=True)
class Row:
    """A way to model embeddings.

    Attributes:
      network: (config) -> the network.
      example: (config) -> what `init` takes beside the key.
      objective: (config, network, schedule, own parts) -> what is minimised of embeddings.
      see: (config, the CLIP's network) -> (batch, **trees) -> the batch of embeddings.
      trees: the frozen trees that this takes.
      draws: a name of `trained.prior.DRAWS`.
      fits_components: whether the components of training embeddings are part of a run.
    """

    network: Callable[[ConfigDict], Any]
    example: Callable[[ConfigDict], tuple[Any, ...]]
    objective: Callable[[ConfigDict, Any, Schedule, Own], Objective]
    see: Callable[[ConfigDict, Any], Callable[..., Batch]]
    trees: tuple[str, ...]
    draws: str
    fits_components: bool = False


def network(c: ConfigDict, own: Own = NONE) -> Any:
    """The network of config.model.

    Raises:
      UserError: for a value that is unknown or does not fit.
    """
    row = row_of(c)
    if c.model.channels % c.model.num_heads:
        raise UserError(
            f"config.model.num_heads={c.model.num_heads}: {c.model.channels} channels do not "
            "divide into it"
        )
    made = row.network(c)
    jax.eval_shape(lambda key: initial_params(c, own, made, key), jax.random.key(0))
    return made


def initial_params(c: ConfigDict, own: Own, made: Any, key: jax.Array) -> Any:
    """The network's parameters before training."""
    return made.init(key, *row_of(c).example(c))["params"]


def objective(c: ConfigDict, made: Any, schedule: Schedule | None, own: Own = NONE) -> Objective:
    """What is minimised, of a batch of standardised embeddings, "x0" [B, D]."""
    if schedule is None:
        raise UserError(
            "config.diffusion.schedule=learned: a prior learns no schedule; set cosine, or another"
        )
    return row_of(c).objective(c, made, schedule, own)


def sampler(
    c: ConfigDict, schedule: Schedule, own: Own = NONE
) -> tuple[Callable[..., Any], np.ndarray]:
    """The sampler of config.sample and its grid.

    Raises:
      UserError: for an unknown name or option, or a grid that begins where an embedding is left.
    """
    run = sampling.sampler(c, own)
    if {"mask", "known"} & {*inspect.signature(run).parameters}:
        raise UserError(
            f"config.sample.sampler={c.sample.sampler}: applies only to inpainting; set ddim"
        )
    try:
        times = sampling.times(c, schedule, own)
    except ValueError as error:
        raise UserError(f"config.sample: {error}") from error
    sampling.check_noise(c, schedule, times)
    return run, times


def of_batches(c: ConfigDict, plain: Objective, clip: Any) -> Objective:
    """The objective of a batch of images and captions, which a CLIP embeds.

    Args:
      c: the config.
      plain: of embeddings, from `objective`.
      clip: the CLIP's network.
    """
    row = row_of(c)

    def drawn(batch: Batch) -> Batch:
        # Of a text that is hidden zeros are left, whatever stands here.
        like = jnp.ones((len(batch["x0"]), c.model.embed_dim))
        return batch | {"x0": like, TEXT_EMBEDDING: like}

    return embedded(plain, row.see(c, clip), row.trees, drawn)


def reads_text(c: ConfigDict) -> bool:
    """It always does."""
    return True


def has_clip(c: ConfigDict) -> bool:
    """It always has one."""
    return True


def fits_components(c: ConfigDict) -> bool:
    """Whether the components of training embeddings are part of a run."""
    return row_of(c).fits_components


def row_of(c: ConfigDict) -> Row:
    """The row that config.model.name names. Raises UserError for an unknown one."""
    return choose("model.name", c.model.name, ROWS)


def _transformer(c: ConfigDict) -> PriorTransformer:
    m = c.model
    return PriorTransformer(
        embed_dim=m.embed_dim,
        context=c.data.context,
        width=m.channels,
        depth=m.num_blocks,
        num_heads=m.num_heads,
        dropout=m.dropout,
        remat=networks.remat(c),
        dtype=networks.dtype(c),
    )


def _example(c: ConfigDict) -> tuple[Any, ...]:
    size, context = c.model.embed_dim, c.data.context
    conditions = {
        TEXT_EMBEDDING: jnp.zeros((1, size)),
        TOKENS: jnp.zeros((1, context, c.model.text_channels)),
        TOKENS_MASK: jnp.ones((1, context), bool),
    }
    return jnp.zeros((1, size)), jnp.zeros(1), conditions


def _denoising(c: ConfigDict, made: Any, schedule: Schedule, own: Own) -> Objective:
    prediction = paths.parameterisation(c)
    sampler(c, schedule, own)  # which refuses now what cannot be drawn later
    return denoise.denoising(
        made.apply,
        schedule,
        loss=functools.partial(losses.simple, prediction=prediction),
        time_draw=objectives.chosen_time_draw(c.diffusion, own),
        # What is told of a text is hidden all at once.
        dropout={TEXT_EMBEDDING: 0.0, TOKENS: 0.0},
        joint_dropout=c.model.text_dropout,
    )


def _see_embeddings(c: ConfigDict, clip: Any) -> Callable[..., Batch]:
    def see(batch: Batch, **trees: Any) -> Batch:
        params = trees[image_embeddings.CLIP]
        told = image_embeddings.of_texts(clip, params, batch["text"])
        return batch | {"x0": image_embeddings.of_images(clip, params, batch["x0"]), **told}

    return see


def _components(c: ConfigDict) -> ComponentModel:
    m = c.model
    if not m.num_components <= m.embed_dim:
        raise UserError(
            f"config.model.num_components={m.num_components}: embeddings of {m.embed_dim} "
            "dimensions (config.model.embed_dim) have no more components; set fewer"
        )
    if not m.num_values <= m.components_from:
        raise UserError(
            f"config.model.num_values={m.num_values}: need at most config.model.components_from="
            f"{m.components_from}, the embeddings that bins are made of"
        )
    return ComponentModel(
        vocab_size=m.num_values,
        length=m.num_components,
        width=m.channels,
        depth=m.num_blocks,
        num_heads=m.num_heads,
        dropout=m.dropout,
        remat=networks.remat(c),
        dtype=networks.dtype(c),
        text_dim=m.embed_dim,
    )


def _foretelling(c: ConfigDict, made: Any, schedule: Schedule, own: Own) -> Objective:
    return next_token(
        made.apply,
        lambda batch: (batch["component_tokens"], None),
        dropout={TEXT_EMBEDDING: c.model.text_dropout},
    )


def _see_components(c: ConfigDict, clip: Any) -> Callable[..., Batch]:
    see_embeddings = _see_embeddings(c, clip)

    def see(batch: Batch, **trees: Any) -> Batch:
        seen = see_embeddings(batch, **trees)
        fitted = Components(*trees[COMPONENTS])
        return seen | {"component_tokens": components.tokens_of(fitted, seen["x0"])}

    return see


# How embeddings are modelled, by name.
#   diffusion: a causal transformer that predicts x_0 of a noised embedding.
#   autoregressive: a causal transformer over an embedding's components, the largest first.
ROWS: dict[str, Row] = {
    "diffusion": Row(
        _transformer,
        _example,
        _denoising,
        _see_embeddings,
        trees=(image_embeddings.CLIP,),
        draws="diffused",
    ),
    "autoregressive": Row(
        _components,
        lambda c: (jnp.zeros((1, c.model.num_components), jnp.int32),),
        _foretelling,
        _see_components,
        trees=(image_embeddings.CLIP, COMPONENTS),
        draws="foretold",
        fits_components=True,
    ),
}
