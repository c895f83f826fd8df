"""Euler, Euler ancestral and Heun in the coordinates (x / alpha, sigma / alpha), and EDM's sampler.

With y = x / alpha and rho = sigma / alpha the probability-flow ODE of any Gaussian path is
dy / d rho = eps-hat (Karras et al. 2022, equation 4 with s(t) and sigma(t) general).
"""

import dataclasses
import itertools
import math
from typing import Any

import jax
import numpy as np

from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.samplers import base
from ddpm_jax.samplers.ddim import ddim
from ddpm_jax.samplers.evaluations import Evaluation, PathPoint, first_order, plan, points_at, run

# Of Heun's step, in units of what it corrects: beyond, it is an extrapolation and no correction.
LARGEST_CORRECTION = 1.0


def euler(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """y_s = y_t + (rho_s - rho_t) eps-hat: first order, NFE = num_steps.

    Multiplied by alpha_s this is x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s /
    sigma_t) x_0-hat, the same update as DDIM's at eta = 0, and it divides by no alpha.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path.
      times: descending, [num_steps + 1].
      key: without effect; as in every sampler.
      x: x at times[0], [B, ...].
      project: (key, x [B, ...], s [B]) -> x after each step, at its time s.
      return_trajectory: also return x at every time, [num_steps + 1, B, ...].

    Returns:
      x at times[-1], [B, ...]; with return_trajectory a pair of it and the trajectory.

    Raises:
      ValueError: if the times do not descend or two of them have one noise level.

    Source: Karras et al. 2022, section 3; Song et al. 2021 (DDIM), section 4.3.
    """
    steps = itertools.pairwise(plan(schedule, times))
    rows = [Evaluation(t.time, **first_order(t, s)) for t, s in steps]
    return run(denoise, rows, times, key, x, project=project, return_trajectory=return_trajectory)


def euler_ancestral(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    eta: float = 1.0,
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """Euler to rho_down, then noise up to rho_s: rho_down² + rho_up² = rho_s². NFE = num_steps.

    rho_up² = eta² rho_s² (1 - rho_s² / rho_t²). Multiplied by alpha_s, rho_up is eta times the
    posterior's standard deviation and the step is DDIM's with that eta; so this is that.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path.
      times: descending, [num_steps + 1].
      key: a scalar key, or [B] keys, one an image; without effect at eta = 0.
      x: x at times[0], [B, ...].
      eta: in [0, 1]; 0 is `euler`.
      project: (key, x [B, ...], s [B]) -> x after each step, at its time s.
      return_trajectory: also return x at every time, [num_steps + 1, B, ...].

    Returns:
      x at times[-1], [B, ...]; with return_trajectory a pair of it and the trajectory.

    Raises:
      ValueError: if eta leaves [0, 1] or the times do not descend.

    Source: Crowson's k-diffusion, `sample_euler_ancestral`; Song et al. 2021 (DDIM), equation 16.
    """
    return ddim(
        denoise,
        schedule,
        times,
        key,
        x,
        eta=eta,
        project=project,
        return_trajectory=return_trajectory,
    )


def heun(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    largest_correction: float = LARGEST_CORRECTION,
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """y_s = y_t + (rho_s - rho_t) (eps-hat(y_t) + eps-hat(y_s of Euler)) / 2: second order.

    A step from alpha = 0 or to sigma = 0 is Euler's, and so is one whose correction would be larger
    than what it corrects (`correction_size` above 1): a long step, mostly from an alpha near 0,
    where rho is in the thousands. NFE = 2 num_steps, less one for each of those.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path.
      times: descending, [num_steps + 1].
      key: without effect; as in every sampler.
      x: x at times[0], [B, ...].
      largest_correction: the `correction_size` up to which a step is corrected, above 0; infinity
        corrects every step that can be, as the published algorithm.
      project: (key, x [B, ...], s [B]) -> x after each step, at its time s.
      return_trajectory: also return x at every time, [num_steps + 1, B, ...].

    Returns:
      x at times[-1], [B, ...]; with return_trajectory a pair of it and the trajectory.

    Raises:
      ValueError: if the times do not descend, two of them have one noise level, or
        largest_correction is not above 0.

    Source: Karras et al. 2022, algorithm 1, with sigma / alpha as the variable on any path.
    """
    if not largest_correction > 0:
        raise ValueError(f"need largest_correction > 0, got {largest_correction=}")
    steps = itertools.pairwise(plan(schedule, times))
    rows = [r for t, s in steps for r in _heun_step(t, s, is_corrected(t, s, largest_correction))]
    return run(denoise, rows, times, key, x, project=project, return_trajectory=return_trajectory)


def edm_stochastic(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = float("inf"),
    S_noise: float = 1.0,
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """Heun's method with noise churned in before each step, on any path.

    Where S_min <= rho_t <= S_max, rho is raised to rho-hat = (1 + gamma) rho_t with
    gamma = min(S_churn / num_steps, sqrt(2) - 1), by noise of standard deviation
    S_noise sqrt(rho-hat² - rho_t²); the step starts there. On a path with alpha != 1 this is the
    forward transition from t to the time of rho-hat, its noise times S_noise. A rho-hat beyond that
    of t = 1 is held there. NFE as `heun`.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path.
      times: descending, [num_steps + 1].
      key: a scalar key, or [B] keys, one an image; without effect at S_churn = 0.
      x: x at times[0], [B, ...].
      S_churn: 0 <= S_churn < inf; 0 is `heun`.
      S_min, S_max: range of rho = sigma / alpha that is churned, 0 <= S_min <= S_max; S_max may be
        infinite.
      S_noise: 0 <= S_noise < inf; slightly above 1 makes up for lost detail.
      project: (key, x [B, ...], s [B]) -> x after each step, at its time s.
      return_trajectory: also return x at every time, [num_steps + 1, B, ...].

    Returns:
      x at times[-1], [B, ...]; with return_trajectory a pair of it and the trajectory.

    Raises:
      ValueError: if the times do not descend, two of them have one noise level, or a constant is
        out of range.

    Source: Karras et al. 2022, algorithm 2.
    """
    finite = all(map(math.isfinite, (S_churn, S_min, S_noise)))
    if not (finite and S_churn >= 0 and S_noise >= 0 and 0 <= S_min <= S_max):
        raise ValueError(
            "need finite S_churn >= 0, S_noise >= 0 and 0 <= S_min <= S_max, got "
            f"{S_churn=}, {S_noise=}, {S_min=}, {S_max=}"
        )
    points = plan(schedule, times)
    gamma = min(S_churn / (len(points) - 1), 2**0.5 - 1)
    # alpha = 0 is rho = infinity: nothing is noisier.
    churned = [gamma > 0 and t.finite and S_min <= t.sigma / t.alpha <= S_max for t in points[:-1]]
    lams = np.array([t.lam - math.log1p(gamma) for t in points[:-1]])
    hots = points_at(schedule, base.times_of(schedule, lams))
    rows: list[Evaluation] = []
    for (t, s), hot, churn in zip(itertools.pairwise(points), hots, churned, strict=True):
        if not (churn and hot.lam < t.lam):
            rows += _heun_step(t, s, is_corrected(t, s))
            continue
        # As from t, so that the network is called as often as in `heun`.
        first, *rest = _heun_step(hot, s, is_corrected(t, s))
        stir = hot.alpha / t.alpha
        noise = S_noise * math.sqrt(hot.sigma**2 - (stir * t.sigma) ** 2)
        rows += [dataclasses.replace(first, stir=stir, stir_noise=noise), *rest]
    return run(denoise, rows, times, key, x, project=project, return_trajectory=return_trajectory)


def correction_size(t: PathPoint, s: PathPoint, data_std: float) -> float:
    """The correction of Heun's step from t to s in units of the exact x_s, on N(0, data_std² I).

    There eps-hat = x sigma / v with v = alpha² data_std² + sigma², the variance of x. So x_t is
    multiplied by m = sigma_s / sigma_t + (alpha_s - alpha_t sigma_s / sigma_t) alpha_t data_std² /
    v_t in Euler's step, by d / 2 (m sigma_s / v_s - sigma_t / v_t) in the correction, with d as in
    `_heun_step`, and by sqrt(v_s / v_t) on the exact flow. The size is of order h² for a small step
    h, and about rho_t data_std² / (2 rho_s³) where rho_t >> rho_s >> data_std.
    """
    v_t, v_s = ((level.alpha * data_std) ** 2 + level.sigma**2 for level in (t, s))
    of_x = s.sigma / t.sigma
    euler = of_x + (s.alpha - t.alpha * of_x) * t.alpha * data_std**2 / v_t
    half = 0.5 * (s.sigma - s.alpha / t.alpha * t.sigma)
    return abs(half * (euler * s.sigma / v_s - t.sigma / v_t)) * math.sqrt(v_t / v_s)


def is_corrected(t: PathPoint, s: PathPoint, largest: float = LARGEST_CORRECTION) -> bool:
    """Whether Heun's step from t to s can be corrected, by no more than `largest`."""
    if not (t.finite and s.finite):
        return False
    return max(correction_size(t, s, std) for std in base.DATA_STDS) <= largest


def _heun_step(t: PathPoint, s: PathPoint, corrected: bool) -> list[Evaluation]:
    """Euler's evaluation, then the correction, unless it is left out.

    With r = alpha_s / alpha_t and d = sigma_s - r sigma_t = alpha_s (rho_s - rho_t), Heun's step is
    x_s = r x_t + d (eps_t + eps_s) / 2 with eps_t = (x_t - alpha_t x0_t) / sigma_t, and eps_s of
    Euler's point alike.
    """
    predictor = Evaluation(t.time, **first_order(t, s))
    if not corrected:
        return [predictor]
    ratio = s.alpha / t.alpha
    half = 0.5 * (s.sigma - ratio * t.sigma)
    corrector = Evaluation(
        s.time,
        keep=ratio + half / t.sigma,
        take=half / s.sigma,
        correct=(-half * s.alpha / s.sigma, -half * t.alpha / t.sigma),
    )
    return [dataclasses.replace(predictor, on_grid=False), corrector]
