"""Stable Diffusion's U-Nets to and from diffusers' `UNet2DConditionModel`."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddpm_jax.interop import safetensor_files, tensor_rows, unet_condition_config
from ddpm_jax.interop.blocks import SHORTCUT, TIMED, Layer, layers, transformer
from ddpm_jax.interop.latent_trunk import shapes_of, trunk_layers
from ddpm_jax.interop.tensor_rows import Row, Weights
from ddpm_jax.interop.unet2d_config import CONFIG
from ddpm_jax.models.unet_condition import UNet2DCondition


def unet_condition_from_diffusers(
    directory: str | os.PathLike[str],
    dtype: Any = jnp.float32,
    variant: str | None = None,
    weights: Weights | None = None,
) -> tuple[UNet2DCondition, dict[str, Any]]:
    """What `UNet2DConditionModel.save_pretrained(directory)` wrote, as (unet, params).

    `unet.apply({"params": params}, xt, time, conditions)` is then what theirs computes, with xt
    [B, H, W, C] and conditions by name:

      tokens, tokens_mask: their encoder_hidden_states and encoder_attention_mask.
      label: their class_labels; one outside of its table gives NaN.
      pooled, time_ids: the text_embeds and time_ids of their added_cond_kwargs.
      guidance_embedding: their timestep_cond.
      down_residuals, mid_residual: their down_block_additional_residuals and
        mid_block_additional_residual, as a ControlNet makes them.

    Tensors are read one at a time, so that hardly more memory is taken than the parameters need.

    Args:
      directory: holds config.json and diffusion_pytorch_model.safetensors (or its shards), of any
        float type. Nothing in it is imported or executed, and nothing is downloaded.
      dtype: of the parameters: float32, bfloat16 or float16.
      variant: of the files, as "fp16" of diffusion_pytorch_model.fp16.safetensors.
      weights: tensors by the names of such files, in the place of the folder's own.

    Raises:
      ValueError: for a missing or broken file, a pickle, a field or value that this network does
        not have, tensors that are missing, left over or of another shape, and values that the
        dtype cannot hold.

    Example:
      unet, params = unet_condition_from_diffusers("stable-diffusion-v1-5/unet")
    """
    directory = Path(directory)
    safetensor_files.check_directory(directory, "unet")
    unet = unet_condition_config.to_unet(unet_condition_config.read(directory / CONFIG))
    if weights is None:
        weights = safetensor_files.read(directory, variant=variant)
    return unet, tensor_rows.params_of(rows(unet), shapes_of(unet), weights, directory, dtype)


def unet_condition_to_diffusers(
    unet: UNet2DCondition,
    params: Mapping[str, Any],
    directory: str | os.PathLike[str],
    sample_size: int | tuple[int, int] | None = None,
) -> None:
    """Writes what diffusers' `UNet2DConditionModel.from_pretrained(directory)` reads, in float32.

    Args:
      unet: the network.
      params: its parameters, without the "params" key around them.
      directory: made if it does not exist. An export that it already holds is replaced; any other
        config.json there is left alone and refused.
      sample_size: height and width of the latents, which diffusers' pipelines ask the network for.

    Raises:
      ValueError: for parameters that do not fit the network, a network that diffusers cannot
        express, or a directory that holds something else. Nothing is written then.
    """
    directory = Path(directory)
    safetensor_files.check_target(directory, unet_condition_config.CLASS)
    config = unet_condition_config.of_unet(unet, sample_size)
    safetensor_files.write(directory, config, tensors_of(unet, params))


def tensors_of(unet: UNet2DCondition, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Its tensors by diffusers' names; errors as of `unet_condition_to_diffusers`."""
    return tensor_rows.tensors_of(rows(unet), shapes_of(unet), params)


def rows(unet: UNet2DCondition) -> Iterator[Row]:
    """Every parameter beside diffusers' tensor."""
    for path, name, kind in (*trunk_layers(unet), *_up_layers(unet)):
        yield from tensor_rows.layer(path, name, kind)


def _up_layers(unet: UNet2DCondition) -> Iterator[Layer]:
    last = len(unet.block_channels) - 1
    for level in range(last + 1):
        theirs = f"up_blocks.{last - level}"
        for i in range(unet.num_blocks[level] + 1):
            # The skip connection always widens the input: every block has a shortcut.
            path, name = (f"up_{level}_block_{i}",), f"{theirs}.resnets.{i}"
            yield from layers(path, name, TIMED + SHORTCUT)
        for i, depth in enumerate(unet.up_depths[level]):
            path, name = (f"up_{level}_transformer_{i}",), f"{theirs}.attentions.{i}"
            yield from transformer(path, name, depth, unet.linear_projection)
        if level > 0:
            yield (f"up_{level}_upsample",), f"{theirs}.upsamplers.0.conv", "conv"
    yield ("norm_out",), "conv_norm_out", "norm"
    yield ("conv_out",), "conv_out", "conv"
