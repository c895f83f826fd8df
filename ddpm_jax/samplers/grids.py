"""Grids of times: descending, [num_steps + 1], from the noise to the data."""

import numpy as np

from ddpm_jax.diffusion.schedules import Schedule


def uniform(schedule: Schedule, num_steps: int) -> np.ndarray:
    """num_steps equal strides from t = 1 to t = 0; on the nodes i / T of a discrete schedule.

    Args:
      schedule: the schedule whose nodes the grid keeps to, if it is discrete.
      num_steps: at least 1, at most T of a discrete schedule.

    Returns:
      float64 [num_steps + 1], strictly descending, first 1 and last 0.

    Raises:
      ValueError: if num_steps is out of range.

    Source: Song et al. 2021 (DDIM), appendix C.1, "linear" sub-sequences.
    """
    if num_steps < 1:
        raise ValueError(f"need num_steps >= 1, got {num_steps=}")
    times = np.linspace(1.0, 0.0, num_steps + 1)
    if schedule.betas is None:
        return times
    if num_steps > schedule.num_steps:
        raise ValueError(f"need num_steps <= T = {schedule.num_steps}, got {num_steps=}")
    return np.rint(times * schedule.num_steps) / schedule.num_steps
