"""Inpainting with a model that was not trained for it: replacement, and RePaint's resampling."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import streams
from ddpm_jax.diffusion import process
from ddpm_jax.diffusion.guidance import observation
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.samplers import base, ddpm


def replacement(schedule: Schedule, known: jax.Array, mask: jax.Array) -> base.Project:
    """The `project` of a sampler that puts the known part, noised to each time, in its place.

    The painted part sees a new draw of the known part's noise at every step, and never more of it
    than that, so what comes out is not the conditional law: `repaint` comes closer.

    Args:
      schedule: the path.
      known: x_0 where it is known, [B, ...]; elsewhere any finite numbers.
      mask: 1 where to paint, 0 where known; of known's shape, or broadcasting to it with as many
        axes.

    Raises:
      ValueError: for a mask of another shape.

    Source: Song et al. 2021, section 5 and appendix I.2.
    """
    observation.check_mask(mask, known.shape)

    def project(key: jax.Array, x: jax.Array, s: jax.Array) -> jax.Array:
        kept = process.add_noise(schedule, known, s, base.normal(key, x))
        return jnp.where(jnp.broadcast_to(mask, x.shape) > 0, x, kept)

    return project


def repaint(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    known: jax.Array,
    mask: jax.Array,
    jump_length: int = 10,
    num_resamples: int = 10,
    variance: str = "fixed_small",
) -> jax.Array:
    """Ancestral sampling with replacement that goes back and forth, so that both parts agree.

    After every jump_length steps down the chain, x is noised up by as many and sampled again, until
    that stretch has been sampled num_resamples times (all but the noisiest stretch); so the painted
    part is drawn again given the known part's noise, a Gibbs sampler of the two. `nfe` counts the
    network calls.

    Args:
      denoise, schedule, key, variance: as in `ancestral`.
      times: descending, [num_steps + 1]; 250 steps in the paper.
      x: x at times[0], [B, ...].
      known, mask: as in `replacement`.
      jump_length: steps of a jump, at least 1.
      num_resamples: how often each stretch is sampled, at least 1; 1 is plain replacement.

    Returns:
      x at times[-1], [B, ...].

    Raises:
      ValueError: for numbers below 1, a mask of another shape, or as `ancestral`.

    Source: Lugmayr et al. 2022, Algorithm 1 and appendix B.
    """
    times = base.check_times(times)
    keys = base.check_start(key, x)
    moves = _moves(len(times) - 1, jump_length, num_resamples)
    project = replacement(schedule, known, mask)
    coefficients, down = ddpm.reverse_step(denoise, schedule, variance)

    def forward(s: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
        ratio = schedule.alpha(t) / schedule.alpha(s)
        return ratio, jnp.sqrt(process.transition_variance(schedule, s, t))

    # Each move is over one interval of the grid, down it or up.
    intervals = np.minimum(moves[1:], moves[:-1])
    rows, ups = (
        tuple(jnp.asarray(table[intervals], x.dtype) for table in base.tabulate(times, of))
        for of in (coefficients, forward)
    )
    grid = jnp.asarray(times, x.dtype)
    inputs = (
        jnp.arange(len(intervals)),
        jnp.asarray(np.diff(moves) > 0),
        grid[intervals],
        grid[intervals + 1],
        rows,
        ups,
    )

    def body(x: jax.Array, inputs: tuple[Any, ...]) -> tuple[jax.Array, None]:
        index, is_down, t, s, row, (ratio, std) = inputs
        s, t = (jnp.broadcast_to(time, x.shape[:1]) for time in (s, t))
        key = base.fold_in(keys, index)

        def sample(x: jax.Array) -> jax.Array:
            return project(streams.fold(key, streams.PROJECTION), down(x, s, t, key, *row), s)

        def noise(x: jax.Array) -> jax.Array:
            return ratio * x + std * base.normal(key, x)

        return jax.lax.cond(is_down, sample, noise, x), None

    return jax.lax.scan(body, x, inputs)[0]


def nfe(num_steps: int, jump_length: int = 10, num_resamples: int = 10) -> int:
    """Network calls of `repaint` on a grid of num_steps steps."""
    return int((np.diff(_moves(num_steps, jump_length, num_resamples)) > 0).sum())


def _moves(num_steps: int, jump_length: int, num_resamples: int) -> np.ndarray:
    """The places in the grid that are visited, 0 the noisiest and num_steps the last.

    Raises:
      ValueError: for a jump or a number of resamples below 1.
    """
    if jump_length < 1 or num_resamples < 1:
        raise ValueError(
            f"need jump_length >= 1 and num_resamples >= 1, got {jump_length=}, {num_resamples=}"
        )
    # Counted from the data; the noisiest stretch, which has seen nothing yet, is sampled once.
    lasts = range(num_steps, jump_length, -jump_length)[::-1]
    visited = [*range(lasts[0] - jump_length + 1 if lasts else num_steps + 1)]
    for end in lasts:
        start = end - jump_length
        down, up = range(start + 1, end + 1), range(end - 1, start - 1, -1)
        visited += [*down, *([*up, *down] * (num_resamples - 1))]
    return np.array(visited)
