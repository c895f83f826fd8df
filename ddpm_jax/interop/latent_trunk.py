"""The parameters that diffusers' `UNet2DConditionModel` and its `ControlNetModel` have alike."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.interop import tensor_rows
from ddpm_jax.interop.blocks import SHORTCUT, TIMED, Layer, layers, transformer
from ddpm_jax.models.latent_conditions import (
    CONTROL,
    GUIDANCE,
    LABEL,
    LINEAR,
    NUMBER,
    POOLED,
    SUMMED,
    TABLE,
    TIME_IDS,
    TOKENS,
    VECTOR,
)
from ddpm_jax.models.latent_trunk import Trunk


def trunk_layers(trunk: Trunk) -> Iterator[Layer]:
    """(our path, diffusers' name, kind) of each layer of the embedding, way down and bottom."""
    yield ("conv_in",), "conv_in", "conv"
    yield from _two("time", "time_embedding")
    if trunk.guidance_channels:
        yield ("guidance_projection",), "time_embedding.cond_proj", "dense_alone"
    if trunk.label == TABLE:
        yield ("label_embedding",), "class_embedding", "embed"
    elif trunk.label in (NUMBER, VECTOR):
        yield from _two("label", "class_embedding")
    elif trunk.label == LINEAR:
        yield ("label_projection",), "class_embedding", "dense"
    if trunk.vector_channels:
        yield from _two("vector", "add_embedding")
    if trunk.tokens_projected_from:
        yield ("tokens_projection",), "encoder_hid_proj", "dense"
    yield from _down_layers(trunk)
    if not trunk.bottom:
        return
    yield from layers(("mid_block_0",), "mid_block.resnets.0", TIMED)
    if trunk.mid_depth is not None:
        name, linear = "mid_block.attentions.0", trunk.linear_projection
        yield from transformer(("mid_transformer",), name, trunk.mid_depth, linear)
        yield from layers(("mid_block_1",), "mid_block.resnets.1", TIMED)


def _two(ours: str, theirs: str) -> Iterator[Layer]:
    """The two dense layers of an embedding."""
    for k in range(2):
        yield (f"{ours}_dense_{k}",), f"{theirs}.linear_{k + 1}", "dense"


def _down_layers(trunk: Trunk) -> Iterator[Layer]:
    previous = trunk.block_channels[0]
    for level, width in enumerate(trunk.block_channels):
        theirs = f"down_blocks.{level}"
        for i in range(trunk.num_blocks[level]):
            modules = TIMED + (SHORTCUT if i == 0 and width != previous else ())
            yield from layers((f"down_{level}_block_{i}",), f"{theirs}.resnets.{i}", modules)
        for i, depth in enumerate(trunk.down_depths[level]):
            path, name = (f"down_{level}_transformer_{i}",), f"{theirs}.attentions.{i}"
            yield from transformer(path, name, depth, trunk.linear_projection)
        if level < len(trunk.block_channels) - 1:
            yield (f"down_{level}_downsample",), f"{theirs}.downsamplers.0.conv", "conv"
        previous = width


# Seconds of tracing, of a large network: whoever reads weights and writes them asks once.
@functools.lru_cache(maxsize=16)
def shapes_of(trunk: Trunk, control: tuple[int, ...] | None = None) -> tensor_rows.Shapes:
    """The shape of every parameter of a network, asked of the network itself.

    Args:
      trunk: the network.
      control: the shape of the image that it reads; None for a network without.
    """

    def floats(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    conditions: dict[str, Any] = {} if control is None else {CONTROL: floats(*control)}
    if any(trunk.depths):
        conditions[TOKENS] = floats(1, 1, trunk.tokens_projected_from or trunk.tokens_channels)
    if trunk.label in (TABLE, NUMBER):
        conditions[LABEL] = jax.ShapeDtypeStruct((1,), jnp.int32)
    elif trunk.label is not None:
        conditions[LABEL] = floats(
            1, trunk.width if trunk.label == SUMMED else trunk.label_channels
        )
    if trunk.vector_channels:
        conditions[POOLED] = floats(1, trunk.vector_channels - trunk.time_ids_channels)
        conditions[TIME_IDS] = floats(1, 1)
    if trunk.guidance_channels:
        conditions[GUIDANCE] = floats(1, trunk.guidance_channels)
    size = 2 ** (len(trunk.block_channels) - 1)
    return tensor_rows.shapes_of(
        trunk, floats(1, size, size, trunk.in_channels), floats(1), conditions
    )
