"""Grids of times: descending, [num_steps + 1], from the noise to the data.

Each takes (schedule, num_steps) and returns float64, strictly descending, the last one 0. On a
discrete schedule `uniform`, `leading`, `linspace` and `quadratic` keep to its nodes i / T.
`truncated` is the tail of any of them. With a step or two `leading` and `linspace` may begin where
noise alone is no start, which `samplers.initial_noise` refuses.
"""

import math

import numpy as np

from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.samplers import base

# The least noisy and the noisiest time of a grid in log-SNR where the schedule's ends are infinite.
_FIRST, _LAST = 1e-3, 1 - 1e-3


def uniform(schedule: Schedule, num_steps: int) -> np.ndarray:
    """num_steps equal strides from t = 1 to t = 0; on the nodes i / T of a discrete schedule.

    On a discrete schedule this is diffusers' "trailing" spacing.

    Args:
      schedule: the schedule whose nodes the grid keeps to, if it is discrete.
      num_steps: at least 1, at most T of a discrete schedule.

    Raises:
      ValueError: if num_steps is out of range.

    Source: Song et al. 2021 (DDIM), appendix C.1, "linear" sub-sequences; Lin et al. 2024, table 2.
    """
    _check(schedule, num_steps)
    times = np.linspace(1.0, 0.0, num_steps + 1)
    return times if schedule.betas is None else _nodes(times * schedule.num_steps, schedule)


def leading(schedule: Schedule, num_steps: int, steps_offset: int = 0) -> np.ndarray:
    """Every (T // num_steps)-th index i - 1 from steps_offset on, then 0: it starts below t = 1.

    Args:
      schedule: a discrete one.
      num_steps: 1 to T.
      steps_offset: added to the indices; 1 in Stable Diffusion.

    Raises:
      ValueError: for a continuous schedule, or numbers out of range.

    Source: diffusers' "leading" spacing; Lin et al. 2024, table 2.
    """
    _check(schedule, num_steps)
    stride = schedule.num_steps // num_steps
    indices = np.arange(num_steps)[::-1] * stride + steps_offset
    if not 0 <= steps_offset <= schedule.num_steps - 1 - (num_steps - 1) * stride:
        raise ValueError(f"need steps_offset >= 0 that stays below T, got {steps_offset=}")
    return _nodes(np.append(indices + 1.0, 0), schedule)


def linspace(schedule: Schedule, num_steps: int) -> np.ndarray:
    """Indices spread evenly over 0..T - 1, both included, then 0: the last step leaves t = 1 / T.

    Raises:
      ValueError: for a continuous schedule, or a number of steps out of 1..T.

    Source: diffusers' "linspace" spacing; Lin et al. 2024, table 2.
    """
    _check(schedule, num_steps)
    indices = np.linspace(0, schedule.num_steps - 1, num_steps)[::-1]
    return _nodes(np.append(np.rint(indices) + 1, 0), schedule)


def quadratic(schedule: Schedule, num_steps: int) -> np.ndarray:
    """t = (k / num_steps)²: strides that shrink towards the data.

    On the nodes of a discrete schedule, where no two fall on one.

    Raises:
      ValueError: if num_steps is out of range.

    Source: Song et al. 2021 (DDIM), appendix C.1, "quadratic" sub-sequences, here up to t = 1.
    """
    _check(schedule, num_steps)
    k = np.arange(num_steps, -1, -1)
    times = (k / num_steps) ** 2
    if schedule.betas is None:
        return times
    return _nodes(np.maximum(np.rint(times * schedule.num_steps), k), schedule)


def karras(
    schedule: Schedule,
    num_steps: int,
    *,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> np.ndarray:
    """sigma / alpha falls from sigma_max to sigma_min, evenly in its rho-th root; then t = 0.

    Args:
      schedule: any.
      num_steps: at least 1.
      rho: 1 <= rho < inf; 7 spends most steps at low noise.
      sigma_min: the level before the last step (a grid of one step has none), at least the
        schedule's at t = 0. None for the smallest one that the network is meant to be asked about:
        `base.earliest_time`.
      sigma_max: the first level, at most the schedule's own; None for that.

    Raises:
      ValueError: for levels out of order or beyond the schedule, a rho out of range, or a schedule
        without a largest level (alpha(1) = 0) and no sigma_max.

    Source: Karras et al. 2022, equation 5.
    """
    _check(schedule, num_steps, nodes=False)
    earliest = base.earliest_time(schedule)
    log_snrs = base.signal_noise(schedule, np.array([0.0, earliest, 1.0])).lam
    start, default, end = (float(level) for level in np.exp(-log_snrs))
    if sigma_max is None and np.isinf(end):
        raise ValueError("this schedule ends at alpha = 0, sigma / alpha = inf: give sigma_max")
    low, high = default if sigma_min is None else sigma_min, end if sigma_max is None else sigma_max
    within = start * (1 - 1e-9) <= low < high <= end * (1 + 1e-9)
    if not (within and low > 0 and high < np.inf and 1 <= rho < np.inf):
        raise ValueError(
            f"need 0 < sigma_min < sigma_max < inf within the schedule's {start:.6g} to {end:.6g}, "
            f"and 1 <= rho < inf, got sigma_min={low:.6g}, sigma_max={high:.6g}, {rho=}"
        )
    # A path that starts at sigma_min itself is there at t = 0; others make one more step.
    ends_at_0 = low > start * (1 + 1e-9)
    share = np.linspace(0, 1, num_steps if ends_at_0 else num_steps + 1)
    first, last = high ** (1 / rho), low ** (1 / rho)
    times = base.times_of(schedule, -rho * np.log(first + share * (last - first)))
    # Not a rounding beside the ends: a node of a discrete schedule is 1e-3 wide.
    if high >= end:
        times[0] = 1.0
    if sigma_min is None and num_steps > 1:
        times[-1] = earliest
    return np.append(times if ends_at_0 else times[:-1], 0.0)


def log_snr_uniform(
    schedule: Schedule,
    num_steps: int,
    *,
    log_snr_min: float | None = None,
    log_snr_max: float | None = None,
) -> np.ndarray:
    """Equal strides of log-SNR from log_snr_min to log_snr_max, then t = 0.

    Args:
      schedule: any.
      num_steps: at least 1.
      log_snr_min: at the start; None for the schedule's at t = 1, or at 0.999 if that is infinite.
      log_snr_max: before the last step; None for the schedule's at t = 0, or if that is infinite at
        1 / T or, on a continuous schedule, at its smallest level, or 0.001.

    Raises:
      ValueError: for bounds out of order or beyond the schedule.

    Source: Lu et al. 2022 (DPM-Solver), section 4.1.
    """
    _check(schedule, num_steps, nodes=False)
    has_earliest = schedule.betas is not None or schedule.smallest_level is not None
    first = base.earliest_time(schedule) if has_earliest else _FIRST
    lams = base.signal_noise(schedule, np.array([1.0, _LAST, first, 0.0])).lam
    low = lams[0] if np.isfinite(lams[0]) else lams[1]
    high = lams[3] if np.isfinite(lams[3]) else lams[2]
    low = low if log_snr_min is None else log_snr_min / 2
    high = high if log_snr_max is None else log_snr_max / 2
    within = lams[0] - 1e-9 <= low < high <= lams[3]
    if not (within and np.isfinite(low) and np.isfinite(high)):
        raise ValueError(
            f"need finite log_snr_min < log_snr_max within the schedule's {2 * lams[0]:.6g} to "
            f"{2 * lams[3]:.6g}, got log_snr_min={2 * low:.6g}, log_snr_max={2 * high:.6g}"
        )
    ends_at_0 = np.isinf(lams[3]) or high < lams[3]
    times = base.times_of(schedule, np.linspace(low, high, num_steps + (not ends_at_0)))
    if low <= lams[0]:
        times[0] = 1.0
    return np.append(times if ends_at_0 else times[:-1], 0.0)


def truncated(times: np.ndarray, strength: float) -> np.ndarray:
    """The last floor(strength num_steps) steps of a grid, to start from an image noised so far.

    As diffusers' image-to-image pipelines count it: strength is a share of the steps, on a uniform
    grid that of the time too. (They round down what falls short of a whole number by a rounding
    alone: 0.58 of 50 steps is 28 there and 29 here.)

    Args:
      times: descending, [num_steps + 1].
      strength: in (0, 1]; 1 keeps the grid, less keeps more of the image.

    Returns:
      [floor(strength num_steps) + 1]; its first time is that of `samplers.noised_start`.

    Raises:
      ValueError: if strength is out of range or leaves no step, or the times do not descend.

    Source: Meng et al. 2022 (SDEdit), Algorithm 1, whose t_0 is the first time.
    """
    times = base.check_times(times)
    num_steps = len(times) - 1
    if not 0 < strength <= 1:
        raise ValueError(f"need 0 < strength <= 1, got {strength=}")
    left = math.floor(strength * num_steps + 1e-9)
    if left < 1:
        raise ValueError(
            f"{strength=} of {num_steps} steps leaves none: need at least {1 / num_steps:.3g}, or "
            "a grid of more steps"
        )
    return times[num_steps - left :]


def _nodes(positions: np.ndarray, schedule: Schedule) -> np.ndarray:
    return np.rint(positions) / schedule.num_steps


def _check(schedule: Schedule, num_steps: int, *, nodes: bool = True) -> None:
    if num_steps < 1:
        raise ValueError(f"need num_steps >= 1, got {num_steps=}")
    if nodes and schedule.betas is not None and num_steps > schedule.num_steps:
        raise ValueError(f"need num_steps <= T = {schedule.num_steps}, got {num_steps=}")
