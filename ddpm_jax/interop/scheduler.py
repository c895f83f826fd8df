"""Schedulers of diffusers' pipelines as our schedule, grid and sampler: scheduler_config.json."""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.interop import scheduler_config, scheduler_grids, scheduler_steps
from ddpm_jax.interop.config_fields import refuse
from ddpm_jax.interop.scheduler_config import (
    ANCESTRAL,
    CONFIG,
    DDIM,
    DDPM,
    DPM,
    EULER,
    HEUN,
    PNDM,
    UNIPC,
)
from ddpm_jax.interop.scheduler_steps import Steps
from ddpm_jax.runtime import files

PREDICTIONS = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x0",
    "original_sample": "x0",
}
_BETAS = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "sigmoid": schedules.sigmoid,
}
# The name of our sampler.
SAMPLERS = {
    PNDM: "pndm",
    DDIM: "ddim",
    DDPM: "ancestral",
    EULER: "euler",
    ANCESTRAL: "euler_ancestral",
    HEUN: "heun",
    DPM: "dpm_solver_pp",
    UNIPC: "unipc",
}
# What a class takes in another's place where the file does not say: latents are not clipped.
_OF_LATENTS = {"clip_sample": False, "skip_prk_steps": True}


class Scheduler(NamedTuple):
    """A scheduler of diffusers.

    Attributes:
      name: its class.
      config: its fields, checked, defaults included.
      schedule: the discrete schedule that the network is trained on.
      prediction: what the network predicts, "eps", "v" or "x0".
      sampler: the name of ours that takes the same steps.
      stated: the fields that its file states.
    """

    name: str
    config: dict[str, Any]
    schedule: Schedule
    prediction: str
    sampler: str
    stated: dict[str, Any]

    def of_class(self, name: str) -> "Scheduler":
        """Another scheduler of the same noise and network, as `from_config` of diffusers makes it.

        Args:
          name: of its class, or of the sampler that it is here.

        Raises:
          ValueError: for an unknown name, and fields that this class does not have.
        """
        classes = {sampler: of for of, sampler in SAMPLERS.items()}
        chosen = classes.get(name, name)
        if chosen not in SAMPLERS:
            raise ValueError(f"sampler={name}: need one of {', '.join([*classes, *SAMPLERS])}")
        fits = {k: v for k, v in _OF_LATENTS.items() if k in scheduler_config.FIELDS[chosen]}
        return of_fields(chosen, {**fits, **self.stated})

    def steps(self, num_steps: int, strength: float = 1.0) -> Steps:
        """What its `set_timesteps(num_steps)` and `step` come to.

        Args:
          num_steps: at least 1.
          strength: of image-to-image, in (0, 1]: the last int(strength num_steps) steps, as the
            pipelines' `get_timesteps` counts them.

        Raises:
          ValueError: for numbers out of range, or of steps that this scheduler cannot take.
        """
        size = self.schedule.num_steps
        if not 1 <= num_steps <= size:
            raise ValueError(f"need 1 <= num_steps <= {size} of {self.name}, got {num_steps=}")
        if not 0 < strength <= 1:
            raise ValueError(f"need 0 < strength <= 1, got {strength=}")
        skipped = num_steps - int(num_steps * strength)
        if skipped == num_steps:
            raise ValueError(f"{strength=} of {num_steps} steps leaves none; take more of either")
        build = scheduler_steps.by_level
        if self.name in (PNDM, DDIM, DDPM):
            build = scheduler_steps.by_index
        return build(self.name, self.config, self.schedule, num_steps, skipped)


def read(directory: str | os.PathLike[str]) -> Scheduler:
    """The scheduler of a folder that `save_pretrained` of diffusers wrote.

    Args:
      directory: holds scheduler_config.json.

    Raises:
      ValueError: for a missing or broken file, or a class, field or value that is not supported.

    Example:
      scheduler = read("stable-diffusion-v1-5/scheduler")
      path, times, sampler, start_std = scheduler.steps(50)
      denoise = prediction.denoiser(unet.apply, params, path, prediction=scheduler.prediction)
      x0 = sampler(denoise, path, times, key, start_std * noise)
    """
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise ValueError(f"{directory} has no {CONFIG}; give the folder of a pipeline's scheduler")
    return of_fields(*scheduler_config.read(path))


def write(scheduler: Scheduler, directory: str | os.PathLike[str]) -> None:
    """Writes the scheduler_config.json of a folder, which is made if it does not exist."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # JSON has no infinity, which is what leaving this one out means.
    stated = {name: value for name, value in scheduler.stated.items() if value != -math.inf}
    files.write_json(directory / CONFIG, {"_class_name": scheduler.name, **stated})


def of_fields(name: str, stated: dict[str, Any]) -> Scheduler:
    """The scheduler of a class with the fields that are stated.

    Raises:
      ValueError: for a class, field or value that is not supported.
    """
    config = scheduler_config.checked(name, stated)
    schedule = _schedule(config)
    table = scheduler_grids.table_of(schedule, config.get("rescale_betas_zero_snr", False))
    for field in ("sigma_min", "sigma_max"):
        level = config.get(field)
        if level is not None and not table[0] <= level <= table[-1]:
            supported = f"null or a level of the betas, {table[0]:.6g} to {table[-1]:.6g}"
            raise refuse(field, level, supported, CONFIG)
    prediction = PREDICTIONS[config["prediction_type"]]
    return Scheduler(name, config, schedule, prediction, SAMPLERS[name], stated)


def _schedule(config: dict[str, Any]) -> Schedule:
    if config["trained_betas"] is not None:
        schedule = schedules.from_betas(config["trained_betas"])
    elif config["beta_schedule"] == "squaredcos_cap_v2":
        schedule = schedules.cosine(config["num_train_timesteps"])
    else:
        build = _BETAS[config["beta_schedule"]]
        schedule = build(config["num_train_timesteps"], config["beta_start"], config["beta_end"])
    if config.get("rescale_betas_zero_snr"):
        return schedules.zero_terminal_snr(schedule)
    return schedule
