"""ControlNets to and from diffusers' `ControlNetModel`."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from ddpm_jax.interop import controlnet_config, latent_trunk, safetensor_files, tensor_rows
from ddpm_jax.interop.blocks import Layer
from ddpm_jax.interop.tensor_rows import Row
from ddpm_jax.interop.unet2d_config import CONFIG
from ddpm_jax.models.controlnet import ControlNet


def controlnet_from_diffusers(
    directory: str | os.PathLike[str], dtype: Any = jnp.float32, variant: str | None = None
) -> tuple[ControlNet, dict[str, Any]]:
    """What `ControlNetModel.save_pretrained(directory)` wrote, as (controlnet, params).

    `controlnet.apply({"params": params}, xt, time, conditions, conditioning_scale)` are then the
    residuals that theirs computes; "control" among the conditions is their controlnet_cond, [B, H,
    W, C], and the others are those of `unet_condition_from_diffusers`.

    Args:
      directory, dtype, variant: as of `unet_condition_from_diffusers`.

    Raises:
      ValueError: as `unet_condition_from_diffusers`.

    Example:
      controlnet, params = controlnet_from_diffusers("sd-controlnet-canny")
      variables = {"params": params}
      residuals = controlnet.apply(variables, xt, time, {"tokens": tokens, "control": edges})
      unet.apply(unet_variables, xt, time, {"tokens": tokens, **residuals._asdict()})
    """
    directory = Path(directory)
    safetensor_files.check_directory(directory, "controlnet")
    controlnet = controlnet_config.to_controlnet(controlnet_config.read(directory / CONFIG))
    weights = safetensor_files.read(directory, variant=variant)
    params = tensor_rows.params_of(
        _rows(controlnet), _shapes(controlnet), weights, directory, dtype
    )
    return controlnet, params


def controlnet_to_diffusers(
    controlnet: ControlNet, params: Mapping[str, Any], directory: str | os.PathLike[str]
) -> None:
    """Writes what diffusers' `ControlNetModel.from_pretrained(directory)` reads, in float32.

    Args:
      controlnet: the network.
      params, directory: as of `unet_condition_to_diffusers`.

    Raises:
      ValueError: as `unet_condition_to_diffusers`.
    """
    directory = Path(directory)
    safetensor_files.check_target(directory, controlnet_config.CLASS)
    config = controlnet_config.of_controlnet(controlnet)
    weights = tensor_rows.tensors_of(_rows(controlnet), _shapes(controlnet), params)
    safetensor_files.write(directory, config, weights)


def _shapes(controlnet: ControlNet) -> tensor_rows.Shapes:
    size = 2 ** (len(controlnet.block_channels) + len(controlnet.hint_channels) - 2)
    return latent_trunk.shapes_of(controlnet, (1, size, size, controlnet.control_channels))


def _rows(controlnet: ControlNet) -> Iterator[Row]:
    """Every parameter beside diffusers' tensor."""
    for path, name, kind in (*latent_trunk.trunk_layers(controlnet), *_own_layers(controlnet)):
        yield from tensor_rows.layer(path, name, kind)


def _own_layers(controlnet: ControlNet) -> Iterator[Layer]:
    theirs = "controlnet_cond_embedding"
    yield ("hint_in",), f"{theirs}.conv_in", "conv"
    for k in range(2 * (len(controlnet.hint_channels) - 1)):
        yield (f"hint_{k}",), f"{theirs}.blocks.{k}", "conv"
    yield ("hint_out",), f"{theirs}.conv_out", "conv"
    # One for what the first convolution makes, for each block, and for each halving.
    for k in range(sum(controlnet.num_blocks) + len(controlnet.block_channels)):
        yield (f"zero_{k}",), f"controlnet_down_blocks.{k}", "pointwise"
    yield ("zero_mid",), "controlnet_mid_block", "pointwise"
