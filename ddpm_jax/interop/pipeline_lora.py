"""A pipeline with the adapters of a file merged into its weights."""

import dataclasses
import os
from typing import Any

import numpy as np

from ddpm_jax.interop import compvis_names, lora, lora_files, unet_condition
from ddpm_jax.interop.clip import text_adapters
from ddpm_jax.interop.latent_trunk import shapes_of
from ddpm_jax.interop.lora_files import TEXT, TEXT_2, UNET
from ddpm_jax.interop.pipeline import Pipeline
from ddpm_jax.models import adapters

_TEXT_PARTS = (TEXT, TEXT_2)


def with_lora(pipeline: Pipeline, path: str | os.PathLike[str], scale: float = 1.0) -> Pipeline:
    """The pipeline with the adapters of a file merged into its weights.

    Args:
      pipeline: whose parameters stay as they are.
      path: as of `lora.read`.
      scale: of what the adapters add, a finite number.

    Raises:
      ValueError: as `lora.read`; for adapters of another model.
    """
    if not np.isfinite(scale):
        raise ValueError(f"{scale=}: need a finite number")
    file = lora_files.read(path)
    parts = {UNET, *(name for name, _ in zip(_TEXT_PARTS, pipeline.towers, strict=False))}
    if unknown := sorted(set(file.parts) - parts):
        raise ValueError(
            f"{file.source} has adapters of {', '.join(unknown)}, which a {pipeline.name} has not: "
            "they are of another model"
        )
    unet = pipeline.unet
    names = [row.name for row in unet_condition.rows(unet) if row.path[-1] == "kernel"]
    aliases = {
        there.removeprefix(compvis_names.UNET).removesuffix(".weight"): own.removesuffix(".weight")
        for own, there in compvis_names.unet_names(names, unet.num_blocks).items()
    }
    params = pipeline.unet_params
    if UNET in file.parts:
        rows, shapes = unet_condition.rows(unet), shapes_of(unet)
        own = lora.of_network(file.parts[UNET], rows, shapes, file.source, aliases)
        params = _merged(params, own, scale)
    towers = [
        tower
        if part not in file.parts
        else tower._replace(
            params=_merged(
                tower.params, text_adapters(tower.network, file.parts[part], file.source), scale
            )
        )
        for part, tower in zip(_TEXT_PARTS, pipeline.towers, strict=False)
    ]
    return dataclasses.replace(pipeline, unet_params=params, towers=tuple(towers))


def _merged(params: Any, own: Any, scale: float) -> Any:
    return adapters.merged({**params, adapters.LORA: own}, scale)
