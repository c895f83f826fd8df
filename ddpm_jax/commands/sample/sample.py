"""Samples of a trained model into files."""

# Over 300 lines: one command, from what is asked to the three forms of its files.

import collections
import dataclasses
import itertools
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ddpm_jax import experiment
from ddpm_jax.build import conditioning, upsampling
from ddpm_jax.commands.loading import load
from ddpm_jax.commands.sample import prompts as prompts_of
from ddpm_jax.commands.sample import sampling_options, task_flags
from ddpm_jax.data import images
from ddpm_jax.errors import UserError
from ddpm_jax.reporting import figures
from ddpm_jax.runtime import files
from ddpm_jax.runtime.shards import Shards
from ddpm_jax.trained import clip_tasks

GRID_IMAGES = 400
PART_IMAGES = 64  # at least, of what is drawn before it is kept on disk
SAMPLES = "samples"
FILES = (".npz", ".png")
FRAMES = {".png": 11, ".gif": 31}  # of a trajectory
FILM_IMAGES = 16
_SAMPLE = re.compile(r"\d{6,}(_class_\d+)?\.png")  # what `_names` makes


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
    target = _target(out)
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
    parts = Shards(_beside(target), described, num_samples, part_size(drawing.batch_size))
    _check_free(target, drawing.labels, parts.folder.exists())
    _make_writable(target)
    if full_task.frames:
        _make_writable(film)
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
            drawn = _collected(drawing.batches(rows), bar)
            if full_task.frames:
                if rows.start == 0:
                    _save_film(film, drawn[:FILM_IMAGES])
                drawn = drawn[:, -1]
            for enlarge in passes:
                drawn = _collected(enlarge(drawn, rows.start), bar)
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
        said = _save(target, images, drawing.labels, columns, of_images)
    print(said)
    if len(texts) > 1 and columns and target.suffix in FILES:
        print(prompts_of.legend(texts, columns))
    shutil.rmtree(_beside(target), ignore_errors=True)


def part_size(batch_size: int) -> int:
    """The images of a part of a sample set: whole batches, so that parts are drawn as the whole."""
    return -(-PART_IMAGES // batch_size) * batch_size


def _beside(target: Path) -> Path:
    """Where the parts of unfinished samples lie."""
    if target.name in ("", ".."):  # . and / have no name to put another beside
        return target / "samples.parts"
    return target.with_name(f"{target.name}.parts")


def _names(labels: np.ndarray) -> list[str]:
    """The file of each image of a folder."""
    return [f"{k:06d}.png" if c < 0 else f"{k:06d}_class_{c}.png" for k, c in enumerate(labels)]


def _check_free(target: Path, labels: np.ndarray, begun: bool) -> None:
    """Refuse a folder that holds other samples: nobody could tell them from these.

    Args:
      target: what is written to.
      labels: of the images.
      begun: the same command was interrupted before, so that its own files may be there.
    """
    if target.suffix in FILES or not target.is_dir():
        return
    existing = sorted(path.name for path in target.iterdir() if _SAMPLE.fullmatch(path.name))
    if existing and not (begun and set(existing) <= set(_names(labels))):
        raise UserError(
            f"--out={target} holds {len(existing)} samples already, {existing[0]} the first: name "
            "another folder, or delete them"
        )


def _save(
    target: Path,
    parts: Iterable[np.ndarray],
    labels: np.ndarray,
    columns: int | None,
    prompts: Sequence[str] | None,
) -> str:
    """Images, part by part, their labels and prompts into a file, or a folder; what to say."""
    first: list[np.ndarray] = []  # of the grid
    if target.suffix == ".npz":
        texts = {} if prompts is None else {"prompts": np.array(prompts)}
        _save_npz(target, _kept(parts, first), {"labels": labels, **texts})
    elif target.suffix == ".png":
        collections.deque(_kept(parts, first), maxlen=0)
    else:
        images = (image for part in parts for image in part)
        for name, image in zip(_names(labels), images, strict=True):
            figures.save_png(target / name, image)
        if prompts is not None:
            prompts_of.save(target, _names(labels), prompts)
        return f"{len(labels)} samples in {target}"
    picture = target.with_suffix(".png")
    figures.save_png(picture, figures.grid(np.concatenate(first), columns))
    if target.suffix == ".npz":
        return f"{len(labels)} samples in {target}, a grid in {picture}"
    return f"a grid of {min(len(labels), GRID_IMAGES)} samples in {picture}"


def _kept(parts: Iterable[np.ndarray], first: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The parts; the first GRID_IMAGES images are put into `first` on the way."""
    missing = GRID_IMAGES
    for part in parts:
        if missing > 0:
            first.append(part[:missing])
            missing -= len(part)
        yield part


def _collected(batches: Iterable[np.ndarray], bar: tqdm) -> np.ndarray:
    drawn = []
    for batch in batches:
        drawn.append(batch)
        bar.update(len(batch))
    return np.concatenate(drawn)


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


def _target(out: str | None) -> Path:
    """The file or folder to write."""
    if not out:
        raise UserError("--out is missing: name a file F.npz or F.png, or a folder for PNG files")
    target = Path(out)
    if target.suffix not in ("", *FILES) and not target.is_dir() and not out.endswith("/"):
        raise UserError(
            f"--out={out}: need a file F.npz or F.png, or a folder (end its name with / if it has "
            "a dot)"
        )
    if target.suffix in FILES and target.is_dir():
        raise UserError(f"--out={out} is a folder: need a file F.npz, or another folder's name")
    return target


def _make_writable(target: Path) -> None:
    """Make the folder that is written to, and try it, before anything is drawn."""
    folder = target.parent if target.suffix in (*FILES, ".gif") else target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--out={target}: cannot write there ({error.strerror})") from error


def _film(trajectory: str | None, target: Path) -> Path:
    """The file of the way from noise to image; Path() for none."""
    film = Path(trajectory or "")
    if trajectory and target.suffix in FILES and film == target.with_suffix(".png"):
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


def _save_npz(path: Path, parts: Iterator[np.ndarray], others: Mapping[str, np.ndarray]) -> None:
    """`samples` and other arrays as np.savez_compressed writes them, one part at a time."""
    first = next(parts)
    with (
        files.whole(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        with archive.open("samples.npy", "w", force_zip64=True) as stream:
            header = {
                "descr": np.lib.format.dtype_to_descr(first.dtype),
                "fortran_order": False,
                "shape": (len(others["labels"]), *first.shape[1:]),
            }
            np.lib.format.write_array_header_1_0(stream, header)
            for part in itertools.chain([first], parts):
                stream.write(np.ascontiguousarray(part).data)
        for name, array in others.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)
