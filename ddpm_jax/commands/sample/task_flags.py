"""From flags to what is asked of samples: other runs loaded, images read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import experiment
from ddpm_jax.commands.loading import load
from ddpm_jax.config.checks import image_shape
from ddpm_jax.data import images
from ddpm_jax.errors import UserError


def from_flags(
    loaded: experiment.Loaded,
    workdir: str,
    *,
    classifier_workdir: str | None = None,
    clip_workdir: str | None = None,
    weaker_workdir: str | None = None,
    weaker_step: int | None = None,
    compose: Sequence[str] = (),
    between_labels: Sequence[str] = (),
    init_image: Sequence[str] = (),
    strength: float | None = None,
    inpaint: Sequence[str] = (),
    colourise: str | None = None,
    upscale: str | None = None,
    observation_noise: float | None = None,
    prior_workdir: str | None = None,
    vary: str | None = None,
    between_images: Sequence[str] = (),
    text_diff: Sequence[str] = (),
    theta: float | None = None,
    frames: int = 0,
    code: Sequence[str] = (),
) -> experiment.Task:
    """The task that scripts/sample.py's flags of the same names describe.

    Raises:
      UserError: for a run or an image that cannot be read, or text that says nothing.
    """
    channels = image_shape(loaded.experiment.config)[2]
    weaker = None
    if weaker_workdir or weaker_step is not None:
        weaker = load(weaker_workdir or workdir, code, step=weaker_step)
    if between_labels and len(between_labels) != 2:
        raise UserError(f"--between_labels={','.join(between_labels)}: need two classes, 3,8")
    return experiment.Task(
        classifier=load(classifier_workdir, code) if classifier_workdir else None,
        clip=load(clip_workdir, code) if clip_workdir else None,
        weaker=weaker,
        composed=[_branch(text) for text in compose],
        between_labels=_labels(between_labels, loaded),
        init_images=[read_image("init_image", path, channels) for path in init_image],
        strength=strength,
        inpaint=inpainting(inpaint, channels),
        colourise=read_image("colourise", colourise, 1) if colourise else None,
        upscale=read_image("upscale", upscale, channels) if upscale else None,
        observation_noise=observation_noise or 0.0,
        frames=frames,
        image_embedding=_embedding_of(
            channels,
            prior=load(prior_workdir, code) if prior_workdir else None,
            vary=vary,
            between_images=between_images,
            text_diff=text_diff,
            theta=theta,
        ),
    )


def _embedding_of(
    channels: int,
    *,
    prior: experiment.Loaded | None,
    vary: str | None,
    between_images: Sequence[str],
    text_diff: Sequence[str],
    theta: float | None,
) -> experiment.EmbeddingOf | None:
    """What the embedding is of that a model of unCLIP is told; None where no flag says."""
    if between_images and len(between_images) != 2:
        raise UserError(f"--between_images={','.join(between_images)}: need two images")
    if text_diff and len(text_diff) != 2:
        raise UserError(f"--text_diff={','.join(text_diff)}: need two texts, from and to")
    given = {
        "prior_workdir": prior is not None,
        "vary": bool(vary),
        "between_images": bool(between_images),
    }
    if len(several := [name for name, is_set in given.items() if is_set]) > 1:
        raise UserError(f"--{several[0]} and --{several[1]} do not go together: choose one")
    if (text_diff or theta is not None) and not vary:
        flag = "text_diff" if text_diff else "theta"
        raise UserError(f"--{flag}: need --vary=IMAGE, the image that is changed")
    if not several:
        return None
    paths = {"vary": [vary] if vary else [], "between_images": between_images}
    return experiment.EmbeddingOf(
        prior=prior,
        images=[read_image(flag, path, channels) for flag, some in paths.items() for path in some],
        text_diff=(text_diff[0], text_diff[1]) if text_diff else None,
        theta=theta,
    )


def read_image(flag: str, path: str, channels: int) -> np.ndarray:
    """The pixels of a flag's image file, uint8 [H, W, channels]. Raises UserError."""
    try:
        return images.read_exact(Path(path), channels)
    except images.BrokenImage as error:
        raise UserError(f"--{flag}={path}: cannot take this image ({error})") from error


def inpainting(paths: Sequence[str], channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Image and mask of --inpaint, uint8 and bool; None without. Raises UserError."""
    if not paths:
        return None
    if len(paths) != 2:
        raise UserError(f"--inpaint={','.join(paths)}: need an image and a mask")
    image, mask = (
        read_image("inpaint", path, count) for path, count in zip(paths, (channels, 1), strict=True)
    )
    return image, mask > 127


def _branch(text: str) -> tuple[float, dict[str, Any]]:
    """A weight and conditions from WEIGHT:name=value,name=value."""
    number, sign, rest = text.partition(":")
    pairs = [pair.partition("=") for pair in rest.split(",")]
    try:
        weight = float(number)
    except ValueError:
        sign = ""
    if not sign or not np.isfinite(weight) or not all(name and value for name, _, value in pairs):
        raise UserError(f"--compose={text}: need WEIGHT:name=value,name=value, 2:shape=circle")
    return weight, {name: value for name, _, value in pairs}


def _labels(texts: Sequence[str], loaded: experiment.Loaded) -> tuple[int, int] | None:
    if not texts:
        return None
    try:
        first, second = loaded.class_numbers(texts)
    except UserError as error:
        raise UserError(f"--between_labels={','.join(texts)}: {error}") from error
    return first, second
