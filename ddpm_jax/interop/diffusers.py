"""U-Nets to and from diffusers' `UNet2DModel`: config.json and safetensors, nothing executed.

Neither torch nor diffusers is needed: the files are JSON and raw arrays. One table, `_rows`, pairs
our parameters with diffusers' tensors, and serves both directions.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddpm_jax.interop import safetensor_files, tensor_rows, unet2d_config
from ddpm_jax.interop.blocks import ATTENTION, SHORTCUT, TIMED, Layer, layers
from ddpm_jax.interop.tensor_rows import Row
from ddpm_jax.interop.unet2d_config import CONFIG
from ddpm_jax.models import UNet


def unet_from_diffusers(directory: str | os.PathLike[str]) -> tuple[UNet, dict[str, Any]]:
    """The U-Net that diffusers' `UNet2DModel.save_pretrained(directory)` wrote, as (unet, params).

    `unet.apply({"params": params}, xt, time, label)` is then what `UNet2DModel` computes, with
    xt [B, H, W, C] instead of [B, C, H, W]. Weights of any float type become float32. diffusers has
    no null class, so a class-conditional network comes back with `null_class=False`: labels are
    required, and one outside the table gives NaN.

    Args:
      directory: holds config.json and diffusion_pytorch_model.safetensors (or its shards). Nothing
        in it is imported or executed, and nothing is downloaded.

    Raises:
      ValueError: for a missing or broken file, a pickle, a field or value that this U-Net does not
        have, and tensors that are missing, left over or of the wrong shape.

    Example:
      unet, params = unet_from_diffusers("ddpm-cifar10-32")
    """
    directory = Path(directory)
    safetensor_files.check_directory(directory, "unet")
    config = unet2d_config.read(directory / CONFIG)
    unet = unet2d_config.to_unet(config)
    shapes = _shapes(unet, config["in_channels"])
    weights = safetensor_files.read(directory)

    return unet, tensor_rows.params_of(_rows(unet), shapes, weights, directory)


def unet_to_diffusers(
    unet: UNet,
    params: Mapping[str, Any],
    directory: str | os.PathLike[str],
    sample_size: int | tuple[int, int] | None = None,
) -> None:
    """Writes what diffusers' `UNet2DModel.from_pretrained(directory)` reads.

    The rows of the label table become `num_class_embeds`: a null class is diffusers' last class,
    to be asked for by its number, `unet.num_classes`, where this U-Net takes -1.

    Args:
      unet: the network.
      params: its parameters, without the "params" key around them.
      directory: made if it does not exist. An export that it already holds is replaced; any other
        config.json there is left alone and refused.
      sample_size: height and width of an image, which diffusers' pipelines ask the network for.

    Raises:
      ValueError: for parameters that do not fit the network, a network that diffusers cannot
        express, or a directory that holds something else. Nothing is written then.
    """
    directory = Path(directory)
    safetensor_files.check_target(directory, unet2d_config.CLASS)
    leaves = tensor_rows.flatten(params)
    kernel = leaves.get(("conv_in", "kernel"))
    if kernel is None or np.ndim(kernel) != 4:
        raise ValueError(
            f"params has no conv_in/kernel [3, 3, in, out]; its keys are {sorted(params)[:4]}"
        )
    in_channels = int(kernel.shape[2])
    config = unet2d_config.from_unet(unet, in_channels, sample_size)
    shapes = _shapes(unet, in_channels)
    weights = tensor_rows.tensors_of(_rows(unet), shapes, params)

    safetensor_files.write(directory, config, weights)


# The table: our parameters and diffusers' tensors.


def _rows(unet: UNet) -> Iterator[Row]:
    """Every parameter of the U-Net beside diffusers' tensor."""
    for path, name, kind in _layers(unet):
        yield from tensor_rows.layer(path, name, kind)


def _layers(unet: UNet) -> Iterator[Layer]:
    """(our path, diffusers' name, kind) of every layer."""

    yield ("conv_in",), "conv_in", "conv"
    yield ("time_dense_0",), "time_embedding.linear_1", "dense"
    yield ("time_dense_1",), "time_embedding.linear_2", "dense"
    if unet.num_classes:
        yield ("label_embedding",), "class_embedding", "embed"
    last = len(unet.block_channels) - 1
    previous = unet.block_channels[0]
    for level, width in enumerate(unet.block_channels):
        down, up = f"down_blocks.{level}", f"up_blocks.{last - level}"
        for i in range(unet.num_blocks + 1):
            # Going up, the skip connection always widens the input: every block has a shortcut.
            yield from layers((f"up_{level}_block_{i}",), f"{up}.resnets.{i}", TIMED + SHORTCUT)
            if level in unet.attention_levels:
                yield from layers((f"up_{level}_attention_{i}",), f"{up}.attentions.{i}", ATTENTION)
        for i in range(unet.num_blocks):
            modules = TIMED + (SHORTCUT if i == 0 and width != previous else ())
            yield from layers((f"down_{level}_block_{i}",), f"{down}.resnets.{i}", modules)
            if level in unet.attention_levels:
                name = f"{down}.attentions.{i}"
                yield from layers((f"down_{level}_attention_{i}",), name, ATTENTION)
        if level < last and unet.resample_blocks:
            yield from layers((f"down_{level}_downsample",), f"{down}.downsamplers.0", TIMED)
        elif level < last:
            yield (f"down_{level}_downsample",), f"{down}.downsamplers.0.conv", "conv"
        if level > 0 and unet.resample_blocks:
            yield from layers((f"up_{level}_upsample",), f"{up}.upsamplers.0", TIMED)
        elif level > 0:
            yield (f"up_{level}_upsample",), f"{up}.upsamplers.0.conv", "conv"
        previous = width
    yield from layers(("mid_block_0",), "mid_block.resnets.0", TIMED)
    if unet.mid_attention:
        modules = ATTENTION[1:] if unet.mid_num_groups == 0 else ATTENTION
        yield from layers(("mid_attention",), "mid_block.attentions.0", modules)
    yield from layers(("mid_block_1",), "mid_block.resnets.1", TIMED)
    yield ("norm_out",), "conv_norm_out", "norm"
    yield ("conv_out",), "conv_out", "conv"


def _shapes(unet: UNet, in_channels: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of every parameter of the U-Net, asked of the U-Net itself."""
    size = 2 ** (len(unet.block_channels) - 1)
    label = jnp.zeros((1,), jnp.int32) if unet.num_classes else None
    xt = jnp.zeros((1, size, size, in_channels))
    return tensor_rows.shapes_of(unet, xt, jnp.zeros((1,)), label)
