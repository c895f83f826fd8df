"""Sweeps: many runs from one file, their results beside each other. Imports no jax.

A sweep file is a config file with a function more:

  from configs import digits
  from ddpm_jax.sweeps import grid, seeds

  get_config = digits.get_config

  def sweep():
      return grid({"optim.learning_rate": (1e-3, 3e-4)}, seeds(3))

  evaluate = {"metrics": ("fid", "kid"), "num_samples": 1000}
"""

from ddpm_jax.sweeps.overrides import (
    choice,
    grid,
    log_uniform,
    random,
    seeds,
    uniform,
    workdir_of,
    zip_,
)

__all__ = ["choice", "grid", "log_uniform", "random", "seeds", "uniform", "workdir_of", "zip_"]
