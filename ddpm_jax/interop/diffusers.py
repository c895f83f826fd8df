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
import safetensors.numpy

from ddpm_jax.interop import safetensor_files, tensor_rows, unet2d_config
from ddpm_jax.interop.tensor_rows import Row
from ddpm_jax.interop.unet2d_config import CONFIG
from ddpm_jax.models import UNet
from ddpm_jax.runtime import files


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
    _check_target(directory)
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

    directory.mkdir(parents=True, exist_ok=True)
    with files.whole(directory / safetensor_files.WEIGHTS) as partial:
        safetensors.numpy.save_file(weights, partial, metadata={"format": "pt"})
    files.write_json(directory / CONFIG, config)


# The table: our parameters and diffusers' tensors.

# The modules of a block: our name, diffusers' name, kind.
_Modules = tuple[tuple[str, str, str], ...]
_RESNET: _Modules = (
    ("norm_0", "norm1", "norm"),
    ("conv_0", "conv1", "conv"),
    ("embedding", "time_emb_proj", "dense"),
    ("norm_1", "norm2", "norm"),
    ("conv_1", "conv2", "conv"),
)
_SHORTCUT: _Modules = (("shortcut", "conv_shortcut", "pointwise"),)
_ATTENTION: _Modules = (
    ("norm", "group_norm", "norm"),
    ("query", "to_q", "dense"),
    ("key", "to_k", "dense"),
    ("value", "to_v", "dense"),
    ("out", "to_out.0", "dense"),
)


def _rows(unet: UNet) -> Iterator[Row]:
    """Every parameter of the U-Net beside diffusers' tensor."""
    for path, name, kind in _layers(unet):
        yield from tensor_rows.layer(path, name, kind)


def _layers(unet: UNet) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(our path, diffusers' name, kind) of every layer."""

    def block(ours: str, theirs: str, modules: _Modules):
        for name, torch_name, kind in modules:
            yield (ours, name), f"{theirs}.{torch_name}", kind

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
            yield from block(f"up_{level}_block_{i}", f"{up}.resnets.{i}", _RESNET + _SHORTCUT)
            if level in unet.attention_levels:
                yield from block(f"up_{level}_attention_{i}", f"{up}.attentions.{i}", _ATTENTION)
        for i in range(unet.num_blocks):
            modules = _RESNET + (_SHORTCUT if i == 0 and width != previous else ())
            yield from block(f"down_{level}_block_{i}", f"{down}.resnets.{i}", modules)
            if level in unet.attention_levels:
                name = f"{down}.attentions.{i}"
                yield from block(f"down_{level}_attention_{i}", name, _ATTENTION)
        if level < last and unet.resample_blocks:
            yield from block(f"down_{level}_downsample", f"{down}.downsamplers.0", _RESNET)
        elif level < last:
            yield (f"down_{level}_downsample",), f"{down}.downsamplers.0.conv", "conv"
        if level > 0 and unet.resample_blocks:
            yield from block(f"up_{level}_upsample", f"{up}.upsamplers.0", _RESNET)
        elif level > 0:
            yield (f"up_{level}_upsample",), f"{up}.upsamplers.0.conv", "conv"
        previous = width
    yield from block("mid_block_0", "mid_block.resnets.0", _RESNET)
    if unet.mid_attention:
        modules = _ATTENTION[1:] if unet.mid_num_groups == 0 else _ATTENTION
        yield from block("mid_attention", "mid_block.attentions.0", modules)
    yield from block("mid_block_1", "mid_block.resnets.1", _RESNET)
    yield ("norm_out",), "conv_norm_out", "norm"
    yield ("conv_out",), "conv_out", "conv"


def _shapes(unet: UNet, in_channels: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of every parameter of the U-Net, asked of the U-Net itself."""
    size = 2 ** (len(unet.block_channels) - 1)
    label = jnp.zeros((1,), jnp.int32) if unet.num_classes else None
    xt = jnp.zeros((1, size, size, in_channels))
    return tensor_rows.shapes_of(unet, xt, jnp.zeros((1,)), label)


# The files.


def _check_target(directory: Path) -> None:
    """Refuses a directory whose files an export would destroy or be hidden by."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; give a directory")
    config, index = directory / CONFIG, directory / safetensor_files.INDEX
    theirs = unet2d_config.CLASS
    if config.exists() and unet2d_config.read_json(config).get("_class_name") != theirs:
        raise ValueError(f"{config} is not diffusers' {theirs}'s; give another directory")
    if index.exists():
        raise ValueError(f"{index} would hide the new weights; give another directory")
