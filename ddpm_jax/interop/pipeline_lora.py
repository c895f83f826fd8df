"""A pipeline with the adapters of a file merged into its weights."""

import dataclasses
import os
from typing import Any

import numpy as np

from ddpm_jax.interop import compvis_names, lora, lora_files, unet_condition
from ddpm_jax.interop.clip import text_adapters
from ddpm_jax.interop.latent_trunk import shapes_of
from ddpm_jax.interop.lora_files import UNET, LoraFile
from ddpm_jax.interop.pipeline import Pipeline
from ddpm_jax.models import adapters
from ddpm_jax.models.unet_condition import UNet2DCondition


def with_lora(pipeline: Pipeline, path: str | os.PathLike[str], scale: float = 1.0) -> Pipeline:
    """The pipeline with the adapters of a file merged into its weights.

    Args:
      pipeline: whose parameters stay as they are.
      path: as of `lora_files.read`.
      scale: of what the adapters add, a finite number.

    Raises:
      ValueError: as `lora_files.read`; for adapters of another model.
    """
    if not np.isfinite(scale):
        raise ValueError(f"{scale=}: need a finite number")
    file = lora_files.read(path)
    parts = {UNET, *(tower.name for tower in pipeline.towers)}
    if unknown := sorted(set(file.parts) - parts):
        raise ValueError(
            f"{file.source} has adapters of {', '.join(unknown)}, which a {pipeline.name} has not: "
            "they are of another model"
        )
    params = pipeline.unet_params
    if UNET in file.parts:
        params = _merged(params, _of_unet(pipeline.unet, file), scale)
    towers = [
        tower
        if tower.name not in file.parts
        else tower._replace(
            params=_merged(
                tower.params,
                text_adapters(tower.network, file.parts[tower.name], file.source),
                scale,
            )
        )
        for tower in pipeline.towers
    ]
    return dataclasses.replace(pipeline, unet_params=params, towers=tuple(towers))


def _of_unet(unet: UNet2DCondition, file: LoraFile) -> dict[str, Any]:
    """A file's adapters of a U-Net, whose layers may have a single file's names."""
    rows = [*unet_condition.rows(unet)]
    names = [row.name for row in rows if row.path[-1] == "kernel"]
    aliases = {
        there.removeprefix(compvis_names.UNET).removesuffix(".weight"): own.removesuffix(".weight")
        for own, there in compvis_names.unet_names(names, unet.num_blocks).items()
    }
    return lora.of_network(file.parts[UNET], rows, shapes_of(unet), file.source, aliases)


def _merged(params: Any, own: Any, scale: float) -> Any:
    return adapters.merged({**params, adapters.LORA: own}, scale)
