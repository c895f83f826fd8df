"""Images of a pipeline of Stable Diffusion into files."""

import itertools
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ddpm_jax import sample_flags
from ddpm_jax.commands.sample import pipeline_flags, sample_files, task_flags
from ddpm_jax.commands.sample import prompts as prompts_of
from ddpm_jax.errors import UserError
from ddpm_jax.interop.pipeline import Pipeline
from ddpm_jax.measures import pipelines
from ddpm_jax.reporting import figures
from ddpm_jax.runtime.shards import Shards

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
SAMPLES = "samples"


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
      options: of `pipeline_flags.OPTIONS`, `OF_CONTROL` and `OF_REFINER`, as text.
      size: HEIGHTxWIDTH.
      control_image, init_image, inpaint: files.
      lora: files of adapters, each with :SCALE or without.
      batch_size: images of one call; None for one a device.
      **fields: of `Pipeline.sample`; None leaves its defaults.

    Raises:
      UserError: for anything that is missing or does not fit; nothing is written then.
    """
    if not_its:
        if "workdir" in not_its:
            raise UserError(f"--workdir and --pipeline={path}: give one of the two")
        raise UserError(f"--{not_its[0]}: applies only to a run (--workdir), not to --pipeline")
    for name, count in (("num_samples", num_samples), ("batch_size", batch_size)):
        if count is not None and count < 1:
            raise UserError(f"--{name}={count}: need at least 1")
    target = sample_files.target_of(out)
    texts = prompts_of.of_flags(prompts, prompts_file)
    if not texts:
        raise UserError("--prompt is missing: say what the pipeline is to draw, or name --prompts")
    settings = pipeline_flags.settings(
        fields,
        options,
        (*pipeline_flags.OPTIONS, *pipeline_flags.OF_CONTROL, *pipeline_flags.OF_REFINER),
    )
    settings |= {"size": pipeline_flags.size(size)}
    settings |= _images(init_image, inpaint, control_image)
    pipeline = pipeline_flags.load(
        path, pipeline_config=pipeline_config, controlnet=controlnet, lora=lora
    )
    _check_images(pipeline, inpaint, control_image)
    num = len(texts) if num_samples is None else num_samples
    listed = [*itertools.islice(itertools.cycle(texts), num)]
    drawing = pipelines.drawing(
        pipeline,
        listed,
        [*itertools.islice(itertools.cycle(negative_prompts), num)],
        batch_size=batch_size or min(num, jax.device_count()),
        seed=seed,
        **settings,
    )
    part = sample_files.part_size(drawing.batch_size, drawing.part)
    parts = Shards(sample_files.beside(target), drawing.description, num, part)
    sample_files.check_free(target, drawing.labels, parts.folder.exists())
    sample_files.make_writable(target)
    if ready := parts.ready():
        print(f"{ready} of {num} samples are drawn; going on from there", file=sys.stderr)
    with tqdm(total=num, initial=ready, unit="image", disable=not sys.stderr.isatty()) as bar:

        def make(rows: range) -> dict[str, np.ndarray]:
            return {SAMPLES: sample_files.collected(drawing.batches(rows), bar)}

        try:
            drawn = (arrays[SAMPLES] for _, arrays in parts.each(make))
            columns = figures.class_columns(len(texts)) if len(texts) > 1 else None
            said = sample_files.save(target, drawn, drawing.labels, columns, listed)
        except UserError:
            if not parts.ready():
                shutil.rmtree(sample_files.beside(target), ignore_errors=True)
            raise
    print(said)
    if len(texts) > 1 and columns and target.suffix in sample_files.FILES:
        print(prompts_of.legend(texts, columns))
    shutil.rmtree(sample_files.beside(target), ignore_errors=True)


def _check_images(pipeline: Pipeline, inpaint: Sequence[str], control_image: str | None) -> None:
    """Raises UserError for a pipeline without an image that it cannot do without."""
    networks = pipeline.networks
    if networks.completes and not inpaint:
        raise UserError(
            "--inpaint is missing: this pipeline completes images; give it IMAGE MASK, white where "
            "it is to draw"
        )
    if networks.controlnet is not None and not control_image:
        raise UserError(
            "--control_image is missing: this pipeline has a ControlNet; name the image that it "
            "reads"
        )


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
