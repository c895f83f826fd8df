"""Samples of a trained model into files."""

import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from ddpm_jax import cli, experiment, files
from ddpm_jax.commands import tasks
from ddpm_jax.data import images
from ddpm_jax.diffusion.conditions import NULL_VALUE
from ddpm_jax.errors import UserError
from ddpm_jax.parts import cascade
from ddpm_jax.parts import conditions as told
from ddpm_jax.reporting import figures

GRID_IMAGES = 400
FILES = (".npz", ".png")
FRAMES = {".png": 11, ".gif": 31}  # of a trajectory
FILM_IMAGES = 16


def to_files(
    workdir: str | None,
    out: str | None,
    *,
    num_samples: int,
    labels: Sequence[str] = (),
    conditions: Sequence[str] = (),
    task: Mapping[str, Any] | None = None,
    trajectory: str | None = None,
    upsampler_workdirs: Sequence[str] = (),
    seed: int = 0,
    step: int | None = None,
    raw_params: bool = False,
    options: Sequence[str] = (),
    **fields: Any,
) -> None:
    """Draw images into `out`: F.npz with a grid F.png beside it, F.png alone, or a folder of PNGs.

    Args:
      workdir: of the run.
      out: the .npz or .png file, or a folder.
      num_samples, labels, conditions, seed: as in `Loaded.sample`; labels and conditions as text,
        the latter "name=value,value"; an image is a file's name.
      task: what `tasks.from_flags` takes, as text.
      trajectory: F.png or F.gif, the way from noise to image of the first few; of `workdir`, as all
        of these.
      upsampler_workdirs: of runs that enlarge what is drawn, one after another, each as its own
        config says; `out` then holds their images.
      step, raw_params: as in `experiment.load`.
      options: further fields of config.sample, as text: "method=singlestep".
      **fields: fields of config.sample; None leaves the run's own.

    Raises:
      UserError: for anything that is missing or does not fit; nothing is written then.
    """
    if not workdir:
        raise UserError("--workdir is missing: name the run to sample from")
    target = _target(out)
    try:
        chosen = [int(label) for label in labels]
    except ValueError as error:
        raise UserError(f"--labels={','.join(labels)}: need whole numbers, 0,1,2") from error
    loaded = experiment.load(workdir, step=step, raw_params=raw_params)
    given = {name: value for name, value in fields.items() if value is not None}
    given |= _parsed(options, loaded.experiment.config.sample)
    film = _film(trajectory)
    asked = tasks.from_flags(loaded, workdir, **(task or {}), frames=FRAMES.get(film.suffix, 0))
    shown = loaded.labels(num_samples, chosen, asked)
    if asked.tells_labels:
        shown = np.full_like(shown, NULL_VALUE)  # no image is of one class
    asked_for: dict[str, Any] = {
        "labels": chosen,
        "conditions": _conditions(conditions, loaded.experiment.config),
        "task": asked,
        "seed": seed,
    }
    chain = experiment.Cascade(loaded, [experiment.load(one) for one in upsampler_workdirs])
    passes = chain.passes(num_samples, **asked_for)
    drawing = loaded.sample_batches(num_samples, **asked_for, **given)
    _make_writable(target)
    if asked.frames:
        _make_writable(film)
    total = num_samples * (1 + len(passes))
    with tqdm(total=total, unit="image", disable=not sys.stderr.isatty()) as bar:
        drawn = _collected(drawing, bar)
        if asked.frames:
            _save_film(film, drawn[:FILM_IMAGES])
            drawn = drawn[:, -1]
        for enlarge in passes:
            drawn = _collected(enlarge(drawn), bar)
    num_classes = 0 if chosen or asked.tells_labels else loaded.experiment.config.model.num_classes
    _save(target, drawn, shown, figures.class_columns(num_classes))


def _save(target: Path, drawn: np.ndarray, labels: np.ndarray, columns: int | None) -> None:
    """Images and their labels into a file, or a folder; says so on stdout."""
    if target.suffix not in FILES:
        for k, (image, label) in enumerate(zip(drawn, labels, strict=True)):
            name = f"{k:06d}.png" if label < 0 else f"{k:06d}_class_{label}.png"
            figures.save_png(target / name, image)
        print(f"{len(drawn)} samples in {target}")
        return
    picture = target.with_suffix(".png")
    figures.save_png(picture, figures.grid(drawn[:GRID_IMAGES], columns))
    if target.suffix == ".npz":
        _save_npz(target, samples=drawn, labels=labels)
        print(f"{len(drawn)} samples in {target}, a grid in {picture}")
    else:
        print(f"a grid of {min(len(drawn), GRID_IMAGES)} samples in {picture}")


def _collected(batches: Iterable[np.ndarray], bar: tqdm) -> np.ndarray:
    drawn = []
    for batch in batches:
        drawn.append(batch)
        bar.update(len(batch))
    return np.concatenate(drawn)


def _conditions(texts: Sequence[str], config: ConfigDict) -> dict[str, Any]:
    """Conditions from name=value,value; the name of an image's condition has a file's name."""
    given: dict[str, Any] = {}
    for text in texts:
        name, sign, values = text.partition("=")
        if not sign or not values or name in given:
            raise UserError(f"--condition={text}: need name=value, each name once")
        if name in told.images(config):
            channels = told.given_images(config)[name][2]
            given[name] = _image(text, values, channels, channels == 1 and name != cascade.NAME)
        else:
            given[name] = values.split(",")
    return given


def _image(text: str, path: str, channels: int, mask: bool) -> np.ndarray:
    """A PNG or JPEG file, [H, W, C]: uint8, or bool for a mask."""
    try:
        pixels = images.read_image(Path(path), None, channels)
    except images.BrokenImage as error:
        raise UserError(f"--condition={text}: cannot read this image ({error})") from error
    return pixels > 127 if mask else pixels


def _parsed(options: Sequence[str], config: ConfigDict) -> dict[str, Any]:
    """Fields of config.sample from name=value; numbers and true/false as in JSON, else text."""
    given: dict[str, Any] = {}
    for option in options:
        name, sign, text = option.partition("=")
        if not sign or name not in config:
            hint = "" if not sign else cli.suggest(name, list(config))
            raise UserError(f"--options={option}: need name=value, a field of config.sample{hint}")
        try:
            given[name] = json.loads(text)
        except ValueError:
            given[name] = text
    return given


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


def _film(trajectory: str | None) -> Path:
    """The file of the way from noise to image; Path() for none."""
    film = Path(trajectory or "")
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


def _save_npz(path: Path, **arrays: Any) -> None:
    with files.whole(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
