"""What the command line says of a pipeline: its files, its settings, its size."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.commands.sample import sampling_options
from ddpm_jax.errors import UserError
from ddpm_jax.interop import pipeline_lora, stable_diffusion
from ddpm_jax.interop.config_fields import is_number
from ddpm_jax.interop.pipeline import Pipeline

# What --options may hold, of any pipeline, and of one with a ControlNet.
OPTIONS = ("guidance_rescale", "clip_skip")
OF_CONTROL = ("control_scale", "guess_mode")
# And of SDXL's refiner.
OF_REFINER = ("aesthetic_score", "negative_aesthetic_score")


def load(
    path: str,
    *,
    pipeline_config: str | None = None,
    controlnet: str | None = None,
    lora: Sequence[str] = (),
) -> Pipeline:
    """The pipeline that the flags name, with its adapters merged.

    Args:
      path, pipeline_config, controlnet: as of `stable_diffusion.load`.
      lora: files of adapters, each with :SCALE or without.

    Raises:
      UserError: naming the flag whose file is missing or does not fit.
    """
    if Path(path).is_file() and not pipeline_config:
        raise UserError(
            f"--pipeline={path}: a single file does not say what its networks are; name a "
            "pipeline's folder for that, --pipeline_config=DIR"
        )
    try:
        pipeline = stable_diffusion.load(path, config=pipeline_config, controlnet=controlnet)
    except (OSError, ValueError) as error:
        raise UserError(f"--pipeline={path}: {error}") from error
    for one in lora:
        pipeline = _with_lora(pipeline, one)
    return pipeline


def settings(
    fields: Mapping[str, Any], options: Sequence[str], names: Sequence[str] = OPTIONS
) -> dict[str, Any]:
    """Settings of `Pipeline.sample` that are given.

    Args:
      fields: by name, None for what is not given.
      options: others as text, name=number.
      names: what those may be.

    Raises:
      UserError: for an option of another name, or no number.
    """
    made = sampling_options.from_flags(fields, options)
    for option in options:
        name = option.partition("=")[0]
        if name not in names:
            raise UserError(f"--options={option}: of a pipeline, need {', '.join(names)}")
        if not is_number(made[name]):
            raise UserError(f"--options={option}: need a number")
    return made


def size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of HEIGHTxWIDTH; None for none. Raises UserError for another text."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    height, width = map(int, found.groups()) if found else (0, 0)
    if not height or not width:
        raise UserError(f"--size={text}: need HEIGHTxWIDTH, such as 512x768")
    return height, width


def _with_lora(pipeline: Pipeline, text: str) -> Pipeline:
    path, sign, number = text.rpartition(":")
    try:
        scale = float(number) if sign else 1.0
    except ValueError:  # a colon of the path's own
        path, scale = text, 1.0
    try:
        return pipeline_lora.with_lora(pipeline, path if sign else text, scale)
    except (OSError, ValueError) as error:
        raise UserError(f"--lora={text}: {error}") from error
