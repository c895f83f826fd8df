"""Pseudo linear multistep steps (PNDM, Liu et al. 2022), without its Runge-Kutta start."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.samplers import base
from ddpm_jax.samplers.euler import is_corrected
from ddpm_jax.samplers.evaluations import Evaluation, PathPoint, first_order, plan, run

COMBINED = ("eps", "v")
# Adams-Bashforth's weights of the newest 1, 2, 3 and 4 answers, newest first.
_MULTISTEP = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def pndm(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    combined: str = "eps",
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """DDIM's step with a combination of the last four eps-hats in place of the newest.

    The weights are Adams-Bashforth's of orders 2, 3 and 4, as if the steps were of one length. The
    first step is taken twice: to times[1] with its own eps-hat, and again from the start with the
    mean of that and the one at times[1], where the network is then asked once more. DDIM's step has
    an error of its own where sigma / alpha bends within a step, so the whole is of second order, as
    the paper says of it; in strides of equal sigma / alpha it would be of third.

    `combined="v"` is what diffusers does where the network predicts v = alpha eps - sigma x_0: it
    combines the v of several times as if they were of one, which is of first order only.

    A step from alpha = 0, and one from an alpha so near to 0 that `heun` would leave out its
    correction, is of first order and not remembered.

    NFE: num_steps + 1; num_steps if no more than one step is left to combine for.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path.
      times: descending, [num_steps + 1].
      key: without effect; as in every sampler.
      x: x at times[0], [B, ...].
      combined: what is combined, "eps" as in the paper, or "v".
      project: (key, x [B, ...], s [B]) -> x after each step, at its time s; earlier answers stay as
        they were.
      return_trajectory: also return x at every time, [num_steps + 1, B, ...].

    Returns:
      x at times[-1], [B, ...]; with return_trajectory a pair of it and the trajectory.

    Raises:
      ValueError: for another `combined`, times that do not descend, or two of one noise level.

    Source: Liu et al. 2022 (PNDM), section 3 and Algorithm 2, with the start of the code of latent
    diffusion (Crowson), which diffusers has as skip_prk_steps.
    """
    if combined not in COMBINED:
        raise ValueError(f"combined must be one of {', '.join(COMBINED)}, got {combined!r}")
    rows = rows_of(calls_on(plan(schedule, times)), combined)
    return run(denoise, rows, times, key, x, project=project, return_trajectory=return_trajectory)


class Call(NamedTuple):
    """A call of the network at `asked`, and the step from `start` to `end` that follows it.

    Attributes:
      alone: of first order by the x_0-hat of this call, which is then forgotten.
    """

    asked: PathPoint
    start: PathPoint
    end: PathPoint
    alone: bool = False


def calls_on(points: Sequence[PathPoint]) -> list[Call]:
    """What PNDM asks on the points of a grid: each step's start, and the second once more."""
    steps = list(itertools.pairwise(points))
    alone = 0
    while alone < len(steps) - 1 and not is_corrected(*steps[alone]):
        alone += 1
    calls = [Call(t, t, s, alone=True) for t, s in steps[:alone]]
    for k, (t, s) in enumerate(steps[alone:]):
        calls.append(Call(t, t, s, alone=not t.finite))
        if k == 0 and alone < len(steps) - 1:
            calls.append(Call(s, t, s))
    return calls


def rows_of(calls: Sequence[Call], combined: str) -> list[Evaluation]:
    """The evaluations of a list of calls.

    The first that is not alone begins; the one after it takes the same step again.
    """
    rows: list[Evaluation] = []
    known: list[bool] = []  # newest first: whether an answer is one to combine
    begin = sum(call.alone for call in calls)
    for k, call in enumerate(calls):
        again = k == begin + 1
        known.insert(0, not call.alone)
        if call.alone:
            rows.append(Evaluation(call.asked.time, **first_order(call.start, call.end)))
            continue
        of_x0, of_eps = _form(call.asked, combined)
        scale, slope = _transfer(call.start, call.end, combined)
        weights = slope * (np.array([0.5, 0.5]) if again else _multistep(known))
        rows.append(
            Evaluation(
                call.asked.time,
                of_x0=of_x0,
                of_eps=of_eps,
                keep=1.0 if again else 0.0,
                take=0.0 if again else 1.0,
                scale=scale,
                weights=tuple(weights),
                on_grid=k != begin or k == len(calls) - 1,
                provisional=call.end.time if k == begin else None,
            )
        )
        known[0] = not again
    return rows


def _multistep(known: Sequence[bool]) -> np.ndarray:
    places = [k for k, usable in enumerate(known) if usable][: len(_MULTISTEP)]
    weights = np.zeros(places[-1] + 1)
    weights[places] = _MULTISTEP[len(places) - 1]
    return weights


def _form(point: PathPoint, combined: str) -> tuple[float, float]:
    """The weights of x_0 and eps in what is combined."""
    return (0.0, 1.0) if combined == "eps" else (-point.sigma, point.alpha)


def _transfer(t: PathPoint, s: PathPoint, combined: str) -> tuple[float, float]:
    """x_s = scale x_t + slope times the combination: DDIM's step."""
    turn = s.sigma * t.alpha - s.alpha * t.sigma
    if combined == "eps":
        return s.alpha / t.alpha, turn / t.alpha
    norm = t.alpha**2 + t.sigma**2
    return (s.alpha * t.alpha + s.sigma * t.sigma) / norm, turn / norm
