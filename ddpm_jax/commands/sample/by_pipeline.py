"""Images of a pipeline of Stable Diffusion into files."""

import itertools
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ddpm_jax import sample_flags
from ddpm_jax.commands.sample import prompts as prompts_of
from ddpm_jax.commands.sample import sample_files, sampling_options, task_flags
from ddpm_jax.errors import UserError
from ddpm_jax.interop import pipeline_lora, stable_diffusion
from ddpm_jax.interop.config_fields import is_number
from ddpm_jax.interop.pipeline import Pipeline
from ddpm_jax.reporting import figures
from ddpm_jax.runtime import digests
from ddpm_jax.runtime.shards import Shards
from ddpm_jax.trained import descriptions

# The flags that a pipeline takes beside prompts.
FLAGS = (
    *sample_flags.PIPELINE,
    "sampler",
    "num_steps",
    "guidance_scale",
    "batch_size",
    "init_image",
    "strength",
    "inpaint",
)
# What --options may hold.
OPTIONS = ("guidance_rescale", "clip_skip", "control_scale")
SAMPLES = "samples"
_CODE = ("codecs", "diffusion", "interop", "models", "samplers")


def to_files(
    path: str,
    out: str,
    *,
    num_samples: int | None = None,
    prompts: Sequence[str] = (),
    prompts_file: str | None = None,
    negative_prompts: Sequence[str] = (),
    seed: int = 0,
    not_its: Sequence[str] = (),
    options: Sequence[str] = (),
    pipeline_config: str | None = None,
    size: str | None = None,
    controlnet: str | None = None,
    control_image: str | None = None,
    lora: Sequence[str] = (),
    init_image: Sequence[str] = (),
    inpaint: Sequence[str] = (),
    batch_size: int | None = None,
    **fields: Any,
) -> None:
    """Draw images of a pipeline into `out`, as `sample.to_files` does those of a run.

    Args:
      path, pipeline_config, controlnet: as of `stable_diffusion.load`.
      out: the .npz or .png file, or a folder.
      num_samples: how many; None for one of each prompt.
      prompts, prompts_file: as of `sample.to_files`, cycled.
      negative_prompts: one for all, or cycled with the prompts.
      seed: image k depends on (seed, k) and its prompt alone.
      not_its: flags that were given and are of runs alone, which are refused.
      options: of OPTIONS, as text.
      size: HEIGHTxWIDTH.
      control_image, init_image, inpaint: files.
      lora: files of adapters, each with :SCALE or without.
      batch_size: images of one call; None for 1.
      **fields: of `Pipeline.sample`; None leaves its defaults.

    Raises:
      UserError: for anything that is missing or does not fit; nothing is written then.
    """
    if not_its:
        raise UserError(f"--{not_its[0]}: applies only to a run (--workdir), not to --pipeline")
    target = sample_files.target_of(out)
    texts = prompts_of.of_flags(prompts, prompts_file)
    if not texts:
        raise UserError("--prompt is missing: say what the pipeline is to draw, or name --prompts")
    if Path(path).is_file() and not pipeline_config:
        raise UserError(
            f"--pipeline={path}: a single file does not say what its networks are; name a "
            "pipeline's folder for that, --pipeline_config=DIR"
        )
    settings = _settings(fields, options)
    images = _images(init_image, inpaint, control_image)
    try:
        pipeline = stable_diffusion.load(path, config=pipeline_config, controlnet=controlnet)
    except (OSError, ValueError) as error:
        raise UserError(f"--pipeline={path}: {error}") from error
    for one in lora:
        pipeline = _with_lora(pipeline, one)
    num = len(texts) if num_samples is None else num_samples
    if num < 1:
        raise UserError(f"--num_samples={num}: need at least 1")
    listed = [*itertools.islice(itertools.cycle(texts), num)]
    against = [*itertools.islice(itertools.cycle(negative_prompts), num)]
    settings |= {"size": _size(size), "seed": seed, **images}
    rows_of_one = batch_size or 1

    def draw(rows: range) -> np.ndarray:
        """Whole calls, the last one filled up: every call is one program's."""
        numbers = [*rows, *[rows[-1]] * (rows_of_one - len(rows))]
        return pipeline.sample(
            [listed[k] for k in numbers],
            [against[k] for k in numbers] if against else None,
            first=rows.start,
            **settings,
        )[: len(rows)]

    labels = np.full(num, -1, np.int32)
    described = {
        "pipeline": _described(pipeline),
        "prompts": listed,
        "negative_prompts": against,
        "settings": descriptions.described(settings),
        "batch_size": rows_of_one,
        "code": digests.of_code(*_CODE),
    }
    parts = Shards(sample_files.beside(target), described, num, sample_files.part_size(rows_of_one))
    sample_files.check_free(target, labels, parts.folder.exists())
    sample_files.make_writable(target)
    if ready := parts.ready():
        print(f"{ready} of {num} samples are drawn; going on from there", file=sys.stderr)
    with tqdm(total=num, initial=ready, unit="image", disable=not sys.stderr.isatty()) as bar:

        def batches(rows: range) -> Iterator[np.ndarray]:
            for start in range(rows.start, rows.stop, rows_of_one):
                yield draw(range(start, min(start + rows_of_one, rows.stop)))

        def make(rows: range) -> dict[str, np.ndarray]:
            return {SAMPLES: sample_files.collected(batches(rows), bar)}

        try:
            drawn = (arrays[SAMPLES] for _, arrays in parts.each(make))
            columns = figures.class_columns(len(texts)) if len(texts) > 1 else None
            said = sample_files.save(target, drawn, labels, columns, listed)
        except ValueError as error:
            shutil.rmtree(sample_files.beside(target), ignore_errors=True)
            raise UserError(str(error)) from error
    print(said)
    if len(texts) > 1 and columns and target.suffix in sample_files.FILES:
        print(prompts_of.legend(texts, columns))
    shutil.rmtree(sample_files.beside(target), ignore_errors=True)


def _settings(fields: dict[str, Any], options: Sequence[str]) -> dict[str, Any]:
    settings = sampling_options.from_flags(fields, options)
    for option in options:
        name = option.partition("=")[0]
        if name not in OPTIONS:
            raise UserError(f"--options={option}: of a pipeline, need {', '.join(OPTIONS)}")
        if not is_number(settings[name]):
            raise UserError(f"--options={option}: need a number")
    return settings


def _images(
    init_image: Sequence[str], inpaint: Sequence[str], control_image: str | None
) -> dict[str, np.ndarray]:
    """The images that are given, by the names that `Pipeline.sample` has for them."""
    if len(init_image) > 1:
        raise UserError("--init_image: a pipeline begins with one image, not between two")
    if init_image and inpaint:
        raise UserError("--init_image and --inpaint do not go together: choose one")
    images = {}
    if init_image:
        images["init_image"] = task_flags.read_image("init_image", init_image[0], 3)
    if pair := task_flags.inpainting(inpaint, 3):
        images["init_image"], images["mask"] = pair
    if control_image:
        images["control"] = task_flags.read_image("control_image", control_image, 3)
    return images


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


def _size(text: str | None) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise UserError(f"--size={text}: need HEIGHTxWIDTH, such as 512x768")
    return int(found[1]), int(found[2])


def _described(pipeline: Pipeline) -> dict[str, Any]:
    """What its images depend on."""
    return {
        "class": pipeline.name,
        "parameters": digests.digest(pipeline.params),
        "networks": repr((pipeline.unet, pipeline.controlnet and pipeline.controlnet[0])),
        "scheduler": [pipeline.scheduler.name, pipeline.scheduler.config],
        "tokenizers": [tower.tokenizer.tokenizer.digest for tower in pipeline.towers],
    }
