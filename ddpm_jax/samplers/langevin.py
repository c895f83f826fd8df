"""Annealed Langevin dynamics (Song & Ermon 2019), on any Gaussian path."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import streams
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand
from ddpm_jax.samplers import base


def langevin(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    steps_per_level: int = 100,
    step_size: float = 0.2,
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """At every level of the grid, updates x += (a / 2) score + sqrt(a) z with a = step_size sigma².

    The score of q(x_t) is -eps-hat / sigma. From level t to s, x becomes (alpha_s / alpha_t) x:
    this is the algorithm of the paper, which has alpha = 1, in the coordinates x / alpha. From
    alpha = 0 and to sigma = 0 the move is the first-order step
    x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) x_0-hat instead. So end
    the grid at sigma = 0 for the final denoising of NCSNv2, and at a level above 0 for none.

    Network calls: steps_per_level for each time with sigma > 0, and 1 for each first-order move.
    On a Gaussian of variance v at one level, the updates end in the variance v / (1 - a / (4 v)).

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path; `ve` with a grid that is uniform in t has the paper's geometric levels.
      times: descending, [num_steps + 1].
      key: a scalar key, or [B] keys, one an image.
      x: x at times[0], [B, ...].
      steps_per_level: updates a level, at least 1; 100 in NCSN, 5 in NCSNv2.
      step_size: a / sigma², in (0, 4): beyond, the updates need not be stable. The paper's
        epsilon / sigma_L². NCSN's code means 0.4 (step_lr 2e-5, sigma_L 0.01, in a form without
        our 1/2), NCSNv2 0.124 (6.2e-6).
      project: (key, x [B, ...], s [B]) -> x after each move, at its time s, and after each update,
        at its level's. All updates of a level have one key: noise that a projection draws is drawn
        once a level, as in the paper's inpainting.
      return_trajectory: also return x at every time, [num_steps + 1, B, ...]: as it arrives at the
        level, except the last, where it leaves.

    Returns:
      x at times[-1], [B, ...]; with return_trajectory a pair of it and the trajectory.

    Raises:
      ValueError: for options out of range, times that do not descend, or a schedule of traced
        values.

    Source: Song & Ermon 2019, Algorithm 1 and, to project, 2; settings: Song & Ermon 2020 (NCSNv2).
    """
    if steps_per_level < 1:
        raise ValueError(f"need steps_per_level >= 1, got {steps_per_level=}")
    if not 0 < step_size < 4:
        raise ValueError(f"need 0 < step_size < 4, got {step_size=}: it is in units of sigma²")

    def updates(x: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        sigma = expand(schedule.sigma(t), x)

        def update(index: jax.Array, x: jax.Array) -> jax.Array:
            z = base.normal(base.fold_in(key, index), x)
            drift = -0.5 * step_size * sigma * denoise(x, t).eps
            x = x + drift + step_size**0.5 * sigma * z
            return (
                x if project is None else project(streams.fold(key, streams.LEVEL_PROJECTION), x, t)
            )

        return jax.lax.fori_loop(0, steps_per_level, update, x)

    def step(x: jax.Array, s: jax.Array, t: jax.Array, key: jax.Array, *row: Any) -> jax.Array:
        of_x, of_x0 = row
        x = updates(x, t, key)
        return jax.lax.cond(
            of_x0 == 0, lambda x: of_x * x, lambda x: of_x * x + of_x0 * denoise(x, t).x0, x
        )

    times = base.check_times(times)
    out = base.scan_steps(
        step,
        times,
        key,
        x,
        tables=_moves(schedule, times),
        project=project,
        return_trajectory=return_trajectory,
    )
    if base.signal_noise(schedule, times[-1]).sigma == 0:
        return out
    last, path = out if return_trajectory else (out, None)
    # A key of its own: the scan has used 0 ... num_steps - 1.
    key = base.fold_in(base.as_keys(key), jnp.asarray(len(times)))
    last = updates(last, jnp.full(x.shape[:1], times[-1], x.dtype), key)
    return last if path is None else (last, path.at[-1].set(last))


def _moves(schedule: Schedule, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights of x and of x_0-hat in every move to the next level; of x_0-hat mostly 0."""
    alpha, sigma, _ = base.signal_noise(schedule, times)
    first_order = (alpha[:-1] == 0) | (sigma[1:] == 0)
    ratio = sigma[1:] / sigma[:-1]
    with np.errstate(divide="ignore"):
        of_x = np.where(first_order, ratio, alpha[1:] / alpha[:-1])
    return of_x, np.where(first_order, alpha[1:] - alpha[:-1] * ratio, 0)
