"""Whether another network can guide this one: of the same images, path and text."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.config.checks import image_shape
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.trained import signature
from ddpm_jax.trained.places import check_place
from ddpm_jax.trained.tasks import Task, Trained

# Times at which two schedules are compared.
_TIMES = np.linspace(0, 1, 101)


def check_guides(experiment: Experiment, schedule: Schedule, task: Task) -> None:
    """Guiding networks see the same images on the same path, or UserError."""
    for name, guide in task.guides.items():
        _check_guide(experiment, schedule, guide, name)


def check_kinds(task: Task) -> None:
    """Each guide is of a kind that can stand in its place. Raises UserError for one that is not."""
    for name, guide in task.guides.items():
        check_place(name, guide.experiment, name)
    if task.clip is not None and not task.clip.experiment.reads_text:
        raise UserError(
            "clip: that run compares images with no texts (config.objective.name="
            f"{task.clip.experiment.config.objective.name}), so it steers to none; name another"
        )


def _check_guide(experiment: Experiment, schedule: Schedule, guide: Trained, name: str) -> None:
    c, other = experiment.config, guide.experiment
    shape = image_shape(c)
    if other.image_shape != shape:
        raise UserError(f"{name}: it sees images of {other.image_shape}, and this model {shape}")
    ours, its = (one.latents and one.latents.digest for one in (experiment, other))
    if ours != its:
        what = "other latents" if ours and its else "latents" if its else "pixels"
        raise UserError(
            f"{name}: it sees {what}, and this model does not; train it with this model's "
            f"config.data.codec={experiment.config.data.codec!r}"
        )
    if signature.sees_noise(other.config):
        _check_path(c, schedule, guide, name)
    ours_read, its_read = experiment.tokenizer, other.tokenizer
    if ours_read and its_read and ours_read.digest != its_read.digest:
        raise UserError(
            f"{name}: it reads text by another tokenizer than this model, so that a prompt would "
            "be other words to it; train it on this model's data, with its config.data.tokenizer"
        )


def _check_path(c: ConfigDict, schedule: Schedule, guide: Trained, name: str) -> None:
    other = guide.experiment
    theirs = other.schedule_of(guide.params)
    for of in ("alpha", "sigma", "network_time"):
        ours, its = (
            np.asarray(getattr(one, of)(jnp.asarray(_TIMES))) for one in (schedule, theirs)
        )
        if not np.allclose(ours, its, rtol=1e-4, atol=1e-4):
            raise UserError(
                f"{name}: it was trained on another schedule ({_named(other.config)}) than this "
                f"model ({_named(c)}); train one with this model's config.diffusion"
            )


def _named(c: ConfigDict) -> str:
    return f"{c.diffusion.schedule}, {c.diffusion.num_steps} steps"
