"""Autoencoders to and from diffusers' `AutoencoderKL` and `VQModel`, as Stable Diffusion's."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax.interop import autoencoder_config, safetensor_files, tensor_rows
from ddpm_jax.interop.blocks import ATTENTION, RESNET, SHORTCUT, Layer, layers
from ddpm_jax.interop.tensor_rows import Row, Tensor, Weights
from ddpm_jax.interop.unet2d_config import CONFIG
from ddpm_jax.models.autoencoder import QUANTISED, Autoencoder

ENCODER, DECODER = "encoder", "decoder"


class ImportedAutoencoder(NamedTuple):
    """An autoencoder of diffusers.

    Attributes:
      autoencoder: the network.
      params: its parameters.
      scaling_factor, shift_factor: a diffusion of its latents z runs on (z - shift) scaling.
    """

    autoencoder: Autoencoder
    params: dict[str, Any]
    scaling_factor: float
    shift_factor: float


def autoencoder_from_diffusers(
    directory: str | os.PathLike[str], weights: Weights | None = None
) -> ImportedAutoencoder:
    """What `AutoencoderKL.save_pretrained(directory)` wrote, or that of a `VQModel`.

    Args:
      directory: holds config.json and diffusion_pytorch_model.safetensors (or its shards); the
        names that attention had in diffusers' first releases are understood. Nothing in it is
        imported or executed, and nothing is downloaded.
      weights: tensors by the names of such files, in the place of the folder's own.

    Raises:
      ValueError: for a missing or broken file, a pickle, a field or value that this network does
        not have, and tensors that are missing, left over or of another shape.

    Example:
      loaded = autoencoder_from_diffusers("stable-diffusion-v1-5/vae")
      variables = {"params": loaded.params}
      latents = loaded.autoencoder.apply(variables, images, method="encode").latents
    """
    directory = Path(directory)
    safetensor_files.check_directory(directory, "vae")
    name, config = autoencoder_config.read(directory / CONFIG)
    network = autoencoder_config.to_network(name, config)
    stored = safetensor_files.read(directory) if weights is None else weights
    dense = {name: _dense(name, tensor) for name, tensor in stored.items()}
    params = tensor_rows.params_of(rows(network), _shapes(network), dense, directory)
    shift = config.get("shift_factor") or 0.0
    return ImportedAutoencoder(network, params, float(config["scaling_factor"]), float(shift))


def autoencoder_to_diffusers(
    network: Autoencoder,
    params: Mapping[str, Any],
    directory: str | os.PathLike[str],
    scaling_factor: float | None = None,
    *,
    shift_factor: float = 0.0,
) -> None:
    """Writes what diffusers' `from_pretrained(directory)` of either class reads.

    Args:
      network: the autoencoder.
      params: its parameters, without the "params" key around them.
      directory: made if it does not exist. An export that it already holds is replaced; any other
        config.json there is left alone and refused.
      scaling_factor: what latents are multiplied by for a diffusion; None for diffusers' default.
      shift_factor: what is taken from them first; of a codebook there is none.

    Raises:
      ValueError: for parameters that do not fit the network, a network that diffusers cannot
        express, or a directory that holds something else. Nothing is written then.
    """
    directory = Path(directory)
    config = autoencoder_config.of_network(network, scaling_factor, shift_factor)
    safetensor_files.check_target(directory, config["_class_name"])
    safetensor_files.write(directory, config, tensors_of(network, params))


def tensors_of(network: Autoencoder, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Its tensors by diffusers' names; errors as of `autoencoder_to_diffusers`."""
    return tensor_rows.tensors_of(rows(network), _shapes(network), params)


def _dense(name: str, tensor: Tensor) -> Tensor:
    """A layer of attention as a matrix: the first files had 1x1 convolutions in its place."""
    pointwise = ".attentions." in name and tensor.ndim == 4 and tensor.shape[2:] == (1, 1)
    return np.asarray(tensor)[:, :, 0, 0] if pointwise else tensor


def _shapes(network: Autoencoder) -> tensor_rows.Shapes:
    size = 2 ** (len(network.block_channels) - 1)
    return tensor_rows.shapes_of(network, jnp.zeros((1, size, size, network.channels)))


def rows(network: Autoencoder) -> Iterator[Row]:
    """Every parameter beside diffusers' tensor."""
    for path, name, kind in _layers(network):
        yield from tensor_rows.layer(path, name, kind)
    if network.bottleneck == QUANTISED:
        yield Row(("codebook",), "quantize.embedding.weight", tensor_rows.PLAIN)


def _layers(network: Autoencoder) -> Iterator[Layer]:
    """Every layer with a table of its own."""
    for half in (ENCODER, DECODER):
        yield (half, "conv_in"), f"{half}.conv_in", "conv"
        yield (half, "norm_out"), f"{half}.conv_norm_out", "norm"
        yield (half, "conv_out"), f"{half}.conv_out", "conv"
        yield from layers((half, "mid_block_0"), f"{half}.mid_block.resnets.0", RESNET)
        yield from layers((half, "mid_block_1"), f"{half}.mid_block.resnets.1", RESNET)
        if network.mid_attention:
            name = f"{half}.mid_block.attentions.0"
            yield from layers((half, "mid_attention"), name, ATTENTION)
    yield from _levels(network, ENCODER, "down", network.num_blocks)
    yield from _levels(network, DECODER, "up", network.num_blocks + 1)
    if network.projected:
        for name in ("quant_conv", "post_quant_conv"):
            yield (name,), name, "pointwise"


def _levels(network: Autoencoder, half: str, way: str, count: int) -> Iterator[Layer]:
    """The levels of a way in the order in which they are gone through."""
    numbered = [*enumerate(network.block_channels)]
    if way == "up":
        numbered.reverse()
    previous = numbered[0][1]
    for place, (level, width) in enumerate(numbered):
        theirs = f"{half}.{way}_blocks.{place}"
        for i in range(count):
            modules = RESNET + (SHORTCUT if i == 0 and width != previous else ())
            yield from layers((half, f"{way}_{level}_block_{i}"), f"{theirs}.resnets.{i}", modules)
            if level in network.attention_levels:
                path = (half, f"{way}_{level}_attention_{i}")
                yield from layers(path, f"{theirs}.attentions.{i}", ATTENTION)
        if place < len(numbered) - 1:
            path, name = (half, f"{way}_{level}_{way}sample"), f"{theirs}.{way}samplers.0.conv"
            yield path, name, "conv"
        previous = width
