"""DPM-Solver++ (Lu et al. 2022): exponential integrators of x_0-hat over log(alpha / sigma)."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.samplers import base
from ddpm_jax.samplers.evaluations import (
    Evaluation,
    PathPoint,
    exponential_weights,
    first_order,
    inner_points,
    plan,
    run,
)

METHODS = ("multistep", "singlestep")
FORMS = ("exact", "published")


def dpm_solver_pp(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    order: int = 2,
    method: str = "multistep",
    form: str = "exact",
    sde: bool = False,
    lower_order_final: bool = False,
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """x_s = (sigma_s / sigma_t) x_t + sigma_s ∫ e^lam x_0-hat(lam) dlam, x_0-hat a polynomial.

    "exact" puts the polynomial through the last `order` estimates and integrates it exactly
    (`evaluations.exponential_weights`). "published" keeps the formulas of the paper and of
    diffusers, which differ in two places, h being the step of lam and D1, D2 divided differences:

    - order 2 multiplies D1 h by (1 - e^-h) / 2 where the integral is 1 - (1 - e^-h) / h. Both are
      of second order, and diffusers has both: solver_type="midpoint" and "heun".
    - order 3, multistep: with x_0'' = 2 D2 the exact last term is
      -2 alpha_s ((e^-h - 1 + h) / h² - 1/2) D2, and the published one lacks the factor 2. It is of
      second order only. Its SDE form (h -> 2h) has -1/2 where the integral has +1/2, so that the
      term tends to -alpha_s D2 instead of 0: it is of first order.

    The estimates of a multistep method come from earlier steps. Its first step has but one, and an
    error of h² there would cap every order above 2: so "exact" order 3 opens with a single step of
    second order. "published" raises its order 1, 2, 3 over the first steps.

    A singlestep method asks the network `order` times within a step, at 1/2 of it (order 2) or at
    1/3 and 2/3 (order 3, where the last combination uses the start and 2/3 alone: the estimate at
    1/3 is too coarse, and these two nodes have order 3 by themselves, as Radau's).

    A step from alpha = 0 or to sigma = 0 is of first order (`evaluations.first_order`).

    NFE: multistep num_steps, and one more for exact order 3 of the ODE; singlestep order x
    num_steps, with one call for a step from alpha = 0 or to sigma = 0.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path.
      times: descending, [num_steps + 1].
      x: x at times[0], [B, ...].
      key: a scalar key, or [B] keys, one an image; without effect unless sde.
      order: 1, 2 or 3.
      method: "multistep" or "singlestep".
      form: "exact" or "published", which are one at order 1; single steps of order 3 have the
        "exact" alone.
      sde: solve the reverse SDE instead, its noise exactly: SDE-DPM-Solver++ (multistep).
      lower_order_final: multistep: lower the order over the last steps to 1, steadier with few.
      project: (key, x [B, ...], s [B]) -> x after each step, at its time s; earlier estimates of
        x_0 stay as they were.
      return_trajectory: also return x at every time, [num_steps + 1, B, ...].

    Returns:
      x at times[-1], [B, ...]; with return_trajectory a pair of it and the trajectory.

    Raises:
      ValueError: for an order, method or form that does not exist, an option that single steps do
        not have, or a grid that does not descend.

    Source: Lu et al. 2022 (DPM-Solver++), propositions 4.1 and 4.2, algorithms 1 and 2, appendix A;
    order 3 published: diffusers' DPMSolverMultistepScheduler.
    """
    _check(order, method, form, sde, lower_order_final)
    points = plan(schedule, times)
    if method == "singlestep":
        rows = single_steps(schedule, points, order, form)
    else:
        rows = _multistep(schedule, points, order, form, sde, lower_order_final)
    return run(denoise, rows, times, key, x, project=project, return_trajectory=return_trajectory)


def single_steps(
    schedule: Schedule, points: Sequence[PathPoint], order: int, form: str = "exact"
) -> list[Evaluation]:
    """The evaluations of a step by itself from each level to the next."""
    steps = list(itertools.pairwise(points))
    inner = inner_points(schedule, steps, [k / order for k in range(1, order)])
    return [
        row
        for (t, s), within in zip(steps, inner, strict=True)
        for row in _single_step(t, within, s, form)
    ]


def _single_step(
    t: PathPoint, inner: Sequence[PathPoint], s: PathPoint, form: str
) -> list[Evaluation]:
    """One step from t to s through the inner points; of first order where there are none."""
    if not inner:
        return [Evaluation(t.time, **first_order(t, s))]
    order = len(inner) + 1
    rows = [Evaluation(t.time, **first_order(t, inner[0]), on_grid=False)]
    for here, target in itertools.pairwise([*inner, s]):
        weights = exponential_weights([here.lam, t.lam], t.lam, target.lam, target.alpha)
        if order == 3 and target is s:
            weights = np.insert(weights, 1, 0.0)  # between the two: the estimate at 1/3
        if order == 2 and form == "published":
            weights = np.array([-target.alpha * math.expm1(t.lam - target.lam), 0.0])
        rows.append(
            Evaluation(
                here.time,
                keep=1.0,
                take=0.0,
                scale=target.sigma / t.sigma,
                weights=tuple(weights),
                on_grid=target is s,
            )
        )
    return rows


def _multistep(
    schedule: Schedule,
    points: Sequence[PathPoint],
    order: int,
    form: str,
    sde: bool,
    lower_order_final: bool,
) -> list[Evaluation]:
    rows: list[Evaluation] = []
    lams: list[float] = []  # where x_0 was estimated, newest first
    for k, (t, s) in enumerate(itertools.pairwise(points)):
        lams.insert(0, t.lam)
        available = sum(map(math.isfinite, lams))
        left = len(points) - 1 - k
        p = min(order, available, left if lower_order_final else order)
        if not (t.finite and s.finite):
            rows.append(Evaluation(t.time, **first_order(t, s)))
        elif form == "exact" and order == 3 and available == 1 and left > 1 and not sde:
            rows += single_steps(schedule, [t, s], 2)
            lams.insert(0, (t.lam + s.lam) / 2)
        else:
            rows.append(_step(t, s, lams[:p], form, sde))
    return rows


def _step(t: PathPoint, s: PathPoint, lams: Sequence[float], form: str, sde: bool) -> Evaluation:
    h = s.lam - t.lam
    rate = 2.0 if sde else 1.0
    if form == "exact":
        weights = exponential_weights(lams, t.lam, s.lam, s.alpha, rate=rate)
    else:
        weights = _published(lams, h, s.alpha, rate)
    return Evaluation(
        t.time,
        scale=s.sigma / t.sigma * math.exp(-(rate - 1) * h),
        weights=tuple(weights),
        noise=s.sigma * math.sqrt(-math.expm1(-2 * h)) if sde else 0.0,
    )


def _published(lams: Sequence[float], h: float, alpha: float, rate: float) -> np.ndarray:
    """The weights of x_0-hats at `lams`, newest first, as diffusers writes orders 1, 2 and 3."""
    g = rate * h
    phi_1, units = -alpha * math.expm1(-g), np.eye(len(lams))
    if len(lams) == 1:
        return phi_1 * units[0]
    r0 = (lams[0] - lams[1]) / h
    d1_0 = (units[0] - units[1]) / r0
    if len(lams) == 2:
        return phi_1 * (units[0] + 0.5 * d1_0)
    r1 = (lams[1] - lams[2]) / h
    d1_1 = (units[1] - units[2]) / r1
    d1 = d1_0 + r0 / (r0 + r1) * (d1_0 - d1_1)
    d2 = (d1_0 - d1_1) / (r0 + r1)
    phi_2 = alpha * (math.expm1(-g) / g + 1)
    half = 0.5 if rate == 1 else -0.5  # the sign as published
    phi_3 = alpha * ((math.expm1(-g) + g) / g**2 - half)
    return phi_1 * units[0] + phi_2 * d1 - phi_3 * d2


def _check(order: int, method: str, form: str, sde: bool, lower_order_final: bool) -> None:
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if method == "multistep":
        return
    for is_set, option in (
        (sde, "sde=True"),
        (lower_order_final, "lower_order_final=True"),
        (form == "published" and order == 3, "form='published' of order 3"),
    ):
        if is_set:
            raise ValueError(f"{option} is for the multistep method, got {method=}: leave it out")
