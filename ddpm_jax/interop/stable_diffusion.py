"""Pipelines of Stable Diffusion from and to diffusers' folders and single files.

No torch is needed, no pickle is read, and nothing is executed.
"""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from ddpm_jax.data.tokenizers import save_clip_tokenizer
from ddpm_jax.interop import (
    autoencoder,
    autoencoder_config,
    pipeline_config,
    pipeline_networks,
    scheduler,
    single_file,
    text_encoders,
    unet_condition,
    unet_condition_config,
)
from ddpm_jax.interop.autoencoder import ImportedAutoencoder, autoencoder_from_diffusers
from ddpm_jax.interop.clip import text_encoder_depth, text_encoder_tensors
from ddpm_jax.interop.controlnet import controlnet_from_diffusers, controlnet_to_diffusers
from ddpm_jax.interop.pipeline import Pipeline, TextTower
from ddpm_jax.interop.pipeline_config import CONTROLNET, SCHEDULER, UNET, VAE
from ddpm_jax.interop.text_encoders import TextEncoders
from ddpm_jax.interop.unet2d_config import CONFIG, read_json
from ddpm_jax.interop.unet_condition import unet_condition_from_diffusers
from ddpm_jax.models.encoder import QUICK
from ddpm_jax.runtime import files

# By default, as the pipelines of diffusers have them.
_SCALE, _SCALE_XL = 7.5, 5.0
# What may lie where a pipeline is to be: its parts, of a save that was stopped.
_FOLDERS = {*pipeline_config.CLASSES, SCHEDULER}


def load(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    dtype: Any = jnp.float32,
    controlnet: str | os.PathLike[str] | None = None,
) -> Pipeline:
    """The pipeline that `save_pretrained(path)` of diffusers wrote, ready to sample.

    Args:
      path: a folder with model_index.json, or a single file F.safetensors of CompVis or Stability
        AI. Nothing in it is imported or executed, and nothing is downloaded.
      config: of a single file: a folder as of `path`, whose weights may be missing, for what the
        networks are, the scheduler and the tokenizers.
      dtype: of the U-Net's and the ControlNet's parameters and computation; texts and images are
        read and made in float32.
      controlnet: the folder of a ControlNet, in place of the pipeline's own, if it has one.

    Raises:
      ValueError: for a folder that is no pipeline, a part that is missing or not supported, and
        parts that do not fit each other.

    Example:
      pipeline = load("stable-diffusion-v1-5")
      images = pipeline.sample(["a photograph of an astronaut riding a horse"], seed=0)
    """
    folder, file = _opened(Path(path), config)
    index = pipeline_config.read(folder)
    towers = _towers(folder, index.family, file)
    imported = _autoencoder(folder / VAE, file)
    unet, params = _unet(folder / UNET, file, dtype)
    control = None
    if controlnet is not None or CONTROLNET in index.parts:
        place = Path(controlnet or folder / CONTROLNET)
        try:
            network, own = controlnet_from_diffusers(place, dtype)
            pipeline_networks.check_control(network, unet)
        except ValueError as error:
            raise ValueError(f"controlnet={place}: {error}") from error
        control = network.clone(dtype=dtype), own
    factor = 2 ** (len(imported.autoencoder.block_channels) - 1)
    pipeline = Pipeline(
        name=index.name,
        towers=towers,
        unet=unet.clone(dtype=dtype),
        unet_params=params,
        autoencoder=imported,
        scheduler=scheduler.read(folder / SCHEDULER),
        pools=index.family.pools,
        empty_is_zero=index.empty_is_zero,
        controlnet=control,
        scored=index.scored,
        size=_size(folder / UNET, factor),
        guidance_scale=_SCALE_XL if index.family.pools else _SCALE,
    )
    texts = {tower.name: tower.network for tower in towers}
    pipeline_networks.check_fit(
        Path(path), index.name, index.family.pools, unet, texts, pipeline.channels
    )
    return pipeline


def save(pipeline: Pipeline, directory: str | os.PathLike[str]) -> None:
    """Writes the folder that diffusers' `DiffusionPipeline.from_pretrained(directory)` reads.

    Args:
      pipeline: any.
      directory: made if it does not exist; a pipeline of this class there is replaced.

    Raises:
      ValueError: for a directory that holds something else.
    """
    directory = Path(directory)
    index = directory / pipeline_config.CONFIG
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; give a directory")
    if index.exists() and read_json(index).get("_class_name") != pipeline.name:
        raise ValueError(f"{index} is of another pipeline; give another directory")
    directory.mkdir(parents=True, exist_ok=True)
    others = sorted({one.name for one in directory.iterdir()} - _FOLDERS)
    if others and not index.exists():
        raise ValueError(
            f"{directory} holds other files ({', '.join(others[:3])}); give another directory"
        )
    height, width = (n // pipeline.factor for n in pipeline.size)
    unet_condition.unet_condition_to_diffusers(
        pipeline.unet,
        pipeline.unet_params,
        directory / UNET,
        height if height == width else (height, width),
    )
    imported = pipeline.autoencoder
    autoencoder.autoencoder_to_diffusers(
        imported.autoencoder,
        imported.params,
        directory / VAE,
        imported.scaling_factor,
        shift_factor=imported.shift_factor,
    )
    if pipeline.controlnet is not None:
        controlnet_to_diffusers(*pipeline.controlnet, directory / CONTROLNET)
    networks = {tower.name: tower.network for tower in pipeline.towers}
    own = {tower.name: tower.params for tower in pipeline.towers}
    text_encoders.write(TextEncoders(networks, own), directory)
    folders = dict(pipeline_config.PIPELINES[pipeline.name].towers)
    for tower in pipeline.towers:
        save_clip_tokenizer(directory / folders[tower.name], *tower.tokenizer)
    scheduler.write(pipeline.scheduler, directory / SCHEDULER)
    # Last: a folder without it is no pipeline yet.
    files.write_json(index, pipeline_config.of_pipeline(pipeline))


def to_single_file(pipeline: Pipeline, path: str | os.PathLike[str]) -> None:
    """Writes U-Net, autoencoder and text encoders into one file, under the names of their authors.

    Args:
      pipeline: any; its scheduler and tokenizers are no part of such a file, nor is a ControlNet.
      path: F.safetensors; it is there whole or not at all.

    Raises:
      ValueError: for a path of another ending, and SDXL's refiner.
    """
    if pipeline.scored:
        raise ValueError("single files of SDXL's refiner are not supported; save its folder")
    unet, imported = pipeline.unet, pipeline.autoencoder
    texts = [text_encoder_tensors(tower.network, tower.params) for tower in pipeline.towers]
    single_file.write(
        path,
        unet_condition.tensors_of(unet, pipeline.unet_params),
        unet.num_blocks,
        autoencoder.tensors_of(imported.autoencoder, imported.params),
        len(imported.autoencoder.block_channels),
        texts,
        # Stable Diffusion 1 and the first encoder of XL have OpenAI's, whose activation is its own.
        of_open_clip=[tower.network.activation != QUICK for tower in pipeline.towers],
    )


def _opened(
    path: Path, config: str | os.PathLike[str] | None
) -> tuple[Path, single_file.SingleFile | None]:
    """The folder of configurations, and the single file, if it is one."""
    if path.is_dir() or not path.exists():
        if config is not None:
            raise ValueError(f"config={config}: applies only to a single file; {path} is none")
        return path, None
    if config is None:
        raise ValueError(
            f"{path} is a single file, which does not say what its networks are: give config=DIR, "
            "a pipeline's folder, with model_index.json, each part's config.json and the tokenizers"
        )
    return Path(config), single_file.read(path)


def _unet(folder: Path, file: single_file.SingleFile | None, dtype: Any) -> Any:
    if file is None:
        return unet_condition_from_diffusers(folder, dtype)
    unet = unet_condition_config.to_unet(unet_condition_config.read(folder / CONFIG))
    names = [row.name for row in unet_condition.rows(unet)]
    weights = file.unet(names, unet.num_blocks)
    return unet_condition_from_diffusers(folder, dtype, weights=weights)


def _autoencoder(folder: Path, file: single_file.SingleFile | None) -> ImportedAutoencoder:
    if file is None:
        return autoencoder_from_diffusers(folder)
    network = autoencoder_config.to_network(*autoencoder_config.read(folder / CONFIG))
    names = [row.name for row in autoencoder.rows(network)]
    weights = file.autoencoder(names, len(network.block_channels))
    return autoencoder_from_diffusers(folder, weights)


def _towers(
    folder: Path, family: pipeline_config.Family, file: single_file.SingleFile | None
) -> tuple[TextTower, ...]:
    """What reads the prompts, of a folder, or with the weights of a single file."""
    tokenizers = pipeline_networks.read_tokenizers(folder, family)
    weights = {}
    if file is not None:
        for number, (name, _) in enumerate(family.towers):
            weights[name] = file.text(number, text_encoder_depth(folder / name))
    encoders = text_encoders.read(folder, weights)
    towers = []
    for name, words in family.towers:
        network, tokenizer = encoders.networks[name], tokenizers[name]
        pipeline_networks.check_tokenizer(folder / words, tokenizer, name, network)
        towers.append(TextTower(name, tokenizer, network, encoders.params[name]))
    return tuple(towers)


def _size(unet: Path, factor: int) -> tuple[int, int]:
    """Height and width of an image by default: those of the latents that the U-Net was made for."""
    size = unet_condition_config.read(unet / CONFIG).get("sample_size") or 64
    height, width = (size, size) if isinstance(size, int) else size
    return height * factor, width * factor
