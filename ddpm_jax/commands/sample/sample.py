"""Samples of a trained model into files."""

import dataclasses
import itertools
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ddpm_jax import experiment
from ddpm_jax.build import conditioning, upsampling
from ddpm_jax.commands.loading import load
from ddpm_jax.commands.sample import prompts as prompts_of
from ddpm_jax.commands.sample import sample_files, sampling_options, task_flags
from ddpm_jax.data import images
from ddpm_jax.errors import UserError
from ddpm_jax.reporting import figures
from ddpm_jax.runtime.shards import Shards
from ddpm_jax.trained import clip_tasks

SAMPLES = "samples"
FRAMES = {".png": 11, ".gif": 31}  # of a trajectory
FILM_IMAGES = 16


def to_files(
    workdir: str | None,
    out: str | None,
    *,
    num_samples: int,
    labels: Sequence[str] = (),
    prompts: Sequence[str] = (),
    prompts_file: str | None = None,
    negative_prompts: Sequence[str] = (),
    clip_prompts: Sequence[str] = (),
    conditions: Sequence[str] = (),
    task: Mapping[str, Any] | None = None,
    trajectory: str | None = None,
    upsampler_workdirs: Sequence[str] = (),
    seed: int = 0,
    step: int | str | None = None,
    ema: str | None = None,
    raw_params: bool = False,
    options: Sequence[str] = (),
    code: Sequence[str] = (),
    **fields: Any,
) -> None:
    """Draw images into `out`: F.npz with a grid F.png beside it, F.png alone, or a folder of PNGs.

    Args:
      workdir: of the run.
      out: the .npz or .png file, or a folder.
      num_samples, labels, conditions, seed: as in `Loaded.sample`; labels and conditions as text,
        names or numbers, the latter "name=value,value"; an image is a file's name.
      prompts, negative_prompts: as there.
      clip_prompts: what a CLIP is told, if not the prompts.
      prompts_file: a file of prompts in their place, one a line.
      task: what `tasks.from_flags` takes, as text.
      trajectory: F.png or F.gif, the way from noise to image of the first few; of `workdir`, as all
        of these.
      upsampler_workdirs: of runs that enlarge what is drawn, one after another, each as its own
        config says; `out` then holds their images.
      step, ema, raw_params: as in `experiment.load`.
      options: further fields of config.sample, as text: "method=singlestep".
      code: modules that hold the runs' own parts, "package.module".
      **fields: fields of config.sample; None leaves the run's own.

    While it draws, what is drawn lies in OUT.parts: the same command again goes on from there, and
    ends with the same images. No more than a part is held in memory.

    Raises:
      UserError: for anything that is missing or does not fit, and for a folder that holds other
        samples; nothing is written then.
    """
    if not workdir:
        raise UserError("--workdir is missing: name the run to sample from")
    target = sample_files.target_of(out)
    film = _film(trajectory, target)
    texts = prompts_of.of_flags(prompts, prompts_file)
    loaded = load(workdir, code, step=step, ema=ema, raw_params=raw_params)
    settings = sampling_options.from_flags(fields, options)
    full_task = task_flags.from_flags(
        loaded, workdir, **(task or {}), frames=FRAMES.get(film.suffix, 0), code=code
    )
    try:
        numbers = loaded.class_numbers(labels, full_task)
    except UserError as error:
        raise UserError(f"--labels={','.join(labels)}: {error}") from error
    config = loaded.experiment.config
    full_task = dataclasses.replace(
        full_task, negative_prompts=negative_prompts, clip_prompts=clip_prompts
    )
    given = _conditions(conditions, loaded.experiment)
    full_task, told = clip_tasks.with_prompts(config, full_task, given, texts)
    asked_for: dict[str, Any] = {
        "labels": numbers,
        "conditions": told,
        "task": full_task,
        "seed": seed,
    }
    upsamplers = [load(one, code) for one in upsampler_workdirs]
    chain = experiment.Cascade(loaded, upsamplers)
    drawing = loaded.drawing(num_samples, **asked_for, **settings)
    passes = chain.passes(num_samples, **asked_for, **settings)
    prompts_of.tell_empty(texts)
    of_no_class = bool((drawing.labels < 0).all())
    if numbers and of_no_class and not full_task.tells_labels:
        print(
            f"--labels={','.join(labels)} has no part in these images: guidance_scale=0 draws them "
            "without labels; their label is -1",
            file=sys.stderr,
        )
    described = {
        "drawn": drawing.description,
        "enlarged": experiment.described(upsamplers),
        "trajectory": str(film),
    }
    parts = Shards(
        sample_files.beside(target),
        described,
        num_samples,
        sample_files.part_size(drawing.batch_size),
    )
    sample_files.check_free(target, drawing.labels, parts.folder.exists())
    sample_files.make_writable(target)
    if full_task.frames:
        sample_files.make_writable(film)
    if ready := parts.ready():
        print(f"{ready} of {num_samples} samples are drawn; going on from there", file=sys.stderr)
    steps = 1 + len(passes)
    with tqdm(
        total=num_samples * steps,
        initial=ready * steps,
        unit="image",
        disable=not sys.stderr.isatty(),
    ) as bar:

        def make(rows: range) -> dict[str, np.ndarray]:
            drawn = sample_files.collected(drawing.batches(rows), bar)
            if full_task.frames:
                if rows.start == 0:
                    _save_film(film, drawn[:FILM_IMAGES])
                drawn = drawn[:, -1]
            for enlarge in passes:
                drawn = sample_files.collected(enlarge(drawn, rows.start), bar)
            return {SAMPLES: drawn}

        images = (arrays[SAMPLES] for _, arrays in parts.each(make))
        classes = conditioning.num_classes(config)
        columns = None if numbers or of_no_class else figures.class_columns(classes)
        if len(texts) > 1:
            columns = figures.class_columns(len(texts))
        by_prior = full_task.image_embedding is not None and full_task.image_embedding.prior
        listed = texts or [*full_task.clip_prompts] or [""]
        shown = [*itertools.islice(itertools.cycle(listed), num_samples)]
        prompted = conditioning.reads_text(config) or full_task.clip is not None or by_prior
        of_images = shown if prompted else None
        said = sample_files.save(target, images, drawing.labels, columns, of_images)
    print(said)
    if len(texts) > 1 and columns and target.suffix in sample_files.FILES:
        print(prompts_of.legend(texts, columns))
    shutil.rmtree(sample_files.beside(target), ignore_errors=True)


def _conditions(texts: Sequence[str], run: experiment.Experiment) -> dict[str, Any]:
    """Conditions from name=value,value; the name of an image's condition has a file's name."""
    conditions: dict[str, Any] = {}
    for text in texts:
        name, sign, values = text.partition("=")
        if not sign or not values or name in conditions:
            raise UserError(f"--condition={text}: need name=value, each name once")
        if name in conditioning.images(run.config, run.own):
            channels = conditioning.image_shapes(run.config, run.own)[name][2]
            conditions[name] = _image(
                text, values, channels, channels == 1 and name != upsampling.NAME
            )
        else:
            conditions[name] = values.split(",")
    return conditions


def _image(text: str, path: str, channels: int, mask: bool) -> np.ndarray:
    """A PNG or JPEG file, [H, W, C]: uint8, or bool for a mask."""
    try:
        pixels = images.read_image(Path(path), None, channels)
    except images.BrokenImage as error:
        raise UserError(f"--condition={text}: cannot read this image ({error})") from error
    return pixels > 127 if mask else pixels


def _film(trajectory: str | None, target: Path) -> Path:
    """The file of the way from noise to image; Path() for none."""
    film = Path(trajectory or "")
    if trajectory and target.suffix in sample_files.FILES and film == target.with_suffix(".png"):
        raise UserError(f"--trajectory={trajectory}: that is where the grid of --out={target} goes")
    if trajectory and film.suffix not in FRAMES:
        raise UserError(f"--trajectory={trajectory}: need a strip F.png, or a moving F.gif")
    return film


def _save_film(film: Path, drawn: np.ndarray) -> None:
    """Images [N, frames, H, W, C] as a strip, an image a row, or as a moving grid."""
    if film.suffix == ".png":
        num, frames = drawn.shape[:2]
        strip = drawn.reshape(num * frames, *drawn.shape[2:])
        figures.save_png(film, figures.grid(strip, frames))
    else:
        figures.save_gif(film, [figures.grid(drawn[:, k]) for k in range(drawn.shape[1])])
    print(f"the way of {len(drawn)} samples in {film}")
