"""The text encoders of a pipeline of diffusers, and what its U-Net reads of them."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.interop.clip import text_encoder_from_transformers, text_encoder_to_transformers
from ddpm_jax.interop.config_fields import is_int
from ddpm_jax.interop.tensor_rows import Weights
from ddpm_jax.models.text import TextTransformer, last_norm

FIRST, SECOND = "text_encoder", "text_encoder_2"
FOLDERS = (FIRST, SECOND)


class TextEncoders(NamedTuple):
    """The one or two text encoders of a pipeline, by the names of their folders.

    Attributes:
      networks: the transformers; `network.apply({"params": ...}, tokens)` has the hidden states of
        every layer, `last`, `pooled` and, of one with a projection, `embedding`.
      params: their parameters.
    """

    networks: dict[str, TextTransformer]
    params: dict[str, dict[str, Any]]


class Prompts(NamedTuple):
    """What a U-Net reads of texts.

    Attributes:
      states: [B, L, D], of two encoders beside each other in D.
      pooled: the projected embedding of a whole text, [B, E]; None without a projection.
    """

    states: jax.Array
    pooled: jax.Array | None


def read(
    directory: str | os.PathLike[str], weights: Mapping[str, Weights] = MappingProxyType({})
) -> TextEncoders:
    """The text encoders of a pipeline's folder: text_encoder, text_encoder_2, or both.

    Each is what `CLIPTextModel` or `CLIPTextModelWithProjection` saved, of transformers 4 or 5.

    Args:
      directory: the pipeline's.
      weights: of encoders by name, in the place of their folders' own.

    Raises:
      ValueError: if neither is there, for what `text_encoder_from_transformers` refuses, and for a
        projection where none can be read (a text_encoder alone) or none where one is needed
        (text_encoder_2).
    """
    directory = Path(directory)
    found = [name for name in FOLDERS if (directory / name).is_dir()]
    if not found:
        raise ValueError(
            f"{directory} has neither {FIRST} nor {SECOND}; give the folder of a pipeline"
        )
    networks, params = {}, {}
    for name in found:
        try:
            networks[name], params[name] = text_encoder_from_transformers(
                directory / name, weights.get(name)
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    check(networks)
    return TextEncoders(networks, params)


def write(encoders: TextEncoders, directory: str | os.PathLike[str]) -> None:
    """Writes a folder for each encoder into that of a pipeline; transformers reads them.

    Raises:
      ValueError: as `text_encoder_to_transformers`.
    """
    for name, network in encoders.networks.items():
        text_encoder_to_transformers(network, encoders.params[name], Path(directory) / name)


def embed(
    networks: Mapping[str, TextTransformer],
    params: Mapping[str, Any],
    tokens: Mapping[str, jax.Array],
    clip_skip: int | None = None,
) -> Prompts:
    """What the U-Net of Stable Diffusion 1, 2 or XL reads of rows of tokens.

    One encoder: its last states behind the last norm; with clip_skip those of so many blocks
    before, behind the same norm. With text_encoder_2, as in XL: of each encoder the states before
    its last block, without the norm, and with clip_skip so many blocks before those; and the
    projected embedding of the text.

    Args:
      networks, params: of `TextEncoders`; the parameters may be traced.
      tokens: int [B, L] for each encoder, by name.
      clip_skip: blocks to leave out, at least 0; None for as many as the network was trained with.

    Raises:
      ValueError: for a clip_skip beyond the encoder's depth, or tokens of other encoders.
    """
    if set(tokens) != set(networks):
        raise ValueError(f"need tokens for {', '.join(networks)}, got {', '.join(tokens)}")
    check_skip(networks, clip_skip)
    both = SECOND in networks
    left_out = (clip_skip or 0) + both
    states, pooled = [], None
    for name, network in networks.items():
        features: Any = network.apply({"params": params[name]}, tokens[name])
        found = features.hidden_states[-(left_out + 1)]
        states.append(found if both else last_norm(network, params[name], found))
        if pooled is None and network.embed_dim is not None:
            pooled = features.embedding
    return Prompts(jnp.concatenate(states, axis=-1), pooled)


def check_skip(networks: Mapping[str, TextTransformer], clip_skip: int | None) -> None:
    """Raises ValueError for blocks to leave out that are no number of them, or too many."""
    most = min(network.depth for network in networks.values()) - (SECOND in networks)
    if clip_skip is not None and not (is_int(clip_skip, 0) and clip_skip <= most):
        raise ValueError(f"need 0 <= clip_skip <= {most}, got {clip_skip=}")


def check(networks: Mapping[str, TextTransformer]) -> None:
    """Raises ValueError for encoders without the projection that is read, or with another."""
    second = networks.get(SECOND)
    if second is None and networks[FIRST].embed_dim is not None:
        raise ValueError(
            f"{FIRST} is a CLIPTextModelWithProjection, and there is no {SECOND}; supported: "
            "CLIPTextModel"
        )
    if second is not None and second.embed_dim is None:
        raise ValueError(f"{SECOND} has no projection; supported: CLIPTextModelWithProjection")
