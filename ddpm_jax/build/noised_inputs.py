"""What sees x_t and is no denoiser: its path and its times; a classifier's objective."""

from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.build import objectives
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion import time_draws
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.training.objectives import classify
from ddpm_jax.training.objectives.base import Objective


def classification(
    c: ConfigDict, model: Any, schedule: Schedule | None, own: Own = NONE
) -> Objective:
    """The objective of a classifier of x_t. Raises UserError as `path_of_guide`."""
    path, time_draw = path_of_guide(c, schedule, own, "classifier")
    return classify.classification(model.apply, path, time_draw=time_draw)


def path_of_guide(
    c: ConfigDict, schedule: Schedule | None, own: Own, noun: str
) -> tuple[Schedule, time_draws.TimeDraw]:
    """The path and the draw of times of what sees x_t and is no denoiser, called `noun`.

    Raises:
      UserError: for a learned schedule, or times drawn by their losses, of which it keeps none.
    """
    d = c.diffusion
    if schedule is None:
        raise UserError(
            f"config.diffusion.schedule=learned: a {noun} learns no schedule; set that of the "
            "model that it will guide"
        )
    time_draw = objectives.chosen_time_draw(d, own)
    remedy = f"a {noun} keeps no losses; set uniform"
    objectives.need_field(d, d.time_draw != "importance", "time_draw", remedy)
    objectives.check_times(d, objectives.LossRow(classify.classification), schedule)
    return schedule, time_draw
