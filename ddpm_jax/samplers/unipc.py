"""UniPC (Zhao et al. 2023): a multistep predictor, and a corrector that costs no network call."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.samplers import base
from ddpm_jax.samplers.dpm_solver import FORMS, single_steps
from ddpm_jax.samplers.evaluations import (
    Evaluation,
    PathPoint,
    exponential_weights,
    first_order,
    plan,
    run,
)


def unipc(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    order: int = 2,
    corrector: bool = True,
    form: str = "exact",
    variant: str | None = None,
    lower_order_final: bool = False,
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """Predict x_s from the last p estimates of x_0; ask the network there; correct x_s with p + 1.

    Each is the exponential integrator of DPM-Solver++ with x_0-hat a polynomial in lam =
    log(alpha / sigma), of order p for the predictor (UniP-p) and p + 1 with the corrector (UniPC-p,
    an Adams-Moulton step). The corrector uses the call that the next prediction needs anyway; the
    last point is a prediction.

    The published method writes the weights as B(h) times the solution of a Vandermonde system.
    B(h) drops out of it wherever the system is solved, and the weights are then those of the
    polynomial. It does not where the paper sets the single unknown to 1/2 instead (predictor of
    order 2, corrector of order 1): there "published" differs, by a term of higher order. Its order
    rises 1, 2, 3 over the first steps, so UniPC-3's first step caps it at order 3. "exact" opens
    order 3 with a single step of third order (two more network calls), and reaches 4.

    A step from alpha = 0 or to sigma = 0 is of first order and not corrected.

    NFE: num_steps; two more for exact order 3.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path.
      times: descending, [num_steps + 1].
      key: without effect; as in every sampler.
      x: x at times[0], [B, ...].
      order: p, 1, 2 or 3.
      corrector: False for UniP-p alone.
      form: "exact" or "published".
      variant: of "published": "bh1", B(h) = h, or "bh2", B(h) = e^h - 1; None for "bh2".
      lower_order_final: lower the order over the last steps to 1, steadier with few.
      project: (key, x [B, ...], s [B]) -> x after each prediction, at its time s. The corrector's
        change is then made to the projected x, and earlier estimates of x_0 stay as they were.
      return_trajectory: also return x at every time as the network is shown it,
        [num_steps + 1, B, ...].

    Returns:
      x at times[-1], [B, ...]; with return_trajectory a pair of it and the trajectory.

    Raises:
      ValueError: for an order, form or variant that does not exist, a variant where no B(h)
        remains, or a grid that does not descend.

    Source: Zhao et al. 2023, algorithms 1 to 4 (data prediction: appendix B).
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if variant not in (None, "bh1", "bh2"):
        raise ValueError(f"variant must be bh1 or bh2, got {variant!r}")
    if variant is not None and (form == "exact" or (order == 1 and not corrector)):
        raise ValueError(
            f"{variant=} has no effect with {form=}, {order=}, {corrector=}: leave it out, or set "
            "form='published' with a corrector or an order above 1"
        )
    b_h = variant or "bh2"
    rows = _plan(schedule, plan(schedule, times), order, corrector, form, b_h, lower_order_final)
    return run(denoise, rows, times, key, x, project=project, return_trajectory=return_trajectory)


def _plan(
    schedule: Schedule,
    points: Sequence[PathPoint],
    order: int,
    corrector: bool,
    form: str,
    variant: str,
    lower_order_final: bool,
) -> list[Evaluation]:
    rows: list[Evaluation] = []
    lams: list[float | None] = []  # where x_0 was estimated, newest first; None: not to be used
    previous, p = None, 0
    for k, (t, s) in enumerate(itertools.pairwise(points)):
        lams.insert(0, t.lam if t.finite else None)
        correction: dict[str, Any] = {}
        if corrector and previous is not None and previous.finite and t.finite:
            # The predictor's order of the step that led here, and the new estimate.
            weights = _weights(lams, p + 1, previous, t, form, variant, new=True)
            correction = {"keep": t.sigma / previous.sigma, "take": 0.0, "correct": weights}
        left = len(points) - 1 - k
        available = sum(lam is not None for lam in lams)
        p = min(order, available, left if lower_order_final else order)
        previous = t
        if not (t.finite and s.finite):
            rows.append(Evaluation(t.time, **correction, **first_order(t, s)))
        elif form == "exact" and order == 3 and available == 1 and left > 1:
            # Two of its three estimates are good enough to go on with: not the one at 1/3.
            rows += single_steps(schedule, [t, s], 3)
            lams = [t.lam + 2 / 3 * (s.lam - t.lam), None, *lams]
            p = 3
        else:
            weights = _weights(lams, p, t, s, form, variant, new=False)
            rows.append(Evaluation(t.time, **correction, scale=s.sigma / t.sigma, weights=weights))
    return rows


def _weights(
    lams: Sequence[float | None],
    count: int,
    t: PathPoint,
    s: PathPoint,
    form: str,
    variant: str,
    *,
    new: bool,
) -> tuple[float, ...]:
    """Weights of the newest `count` usable estimates in the step from t to s, else zeros."""
    indices = [k for k, lam in enumerate(lams) if lam is not None][:count]
    nodes = [lam for lam in (lams[k] for k in indices) if lam is not None]
    if form == "exact":
        solved = exponential_weights(nodes, t.lam, s.lam, s.alpha)
    else:
        solved = _published(nodes, t, s, variant, new)
    weights = np.zeros(indices[-1] + 1)
    weights[indices] = solved
    return tuple(weights)


def _published(
    nodes: Sequence[float], t: PathPoint, s: PathPoint, variant: str, new: bool
) -> np.ndarray:
    """The weights as the paper solves for them: D_k / r_k with r_k = (lam_k - lam_t) / h.

    nodes: newest first; with `new`, the first of them is lam_s itself.
    """
    h = s.lam - t.lam
    units = np.eye(len(nodes))
    at_t = 1 if new else 0
    # In the paper's order: older estimates, then the new one with r = 1.
    order = [*range(at_t + 1, len(nodes)), *([0] if new else [])]
    r = np.array([(nodes[k] - t.lam) / h for k in order])
    b_h = -h if variant == "bh1" else math.expm1(-h)
    phi = math.expm1(-h)
    rights, factorial, power = [], 1.0, phi / -h - 1
    for i in range(1, len(order) + 1):
        rights.append(power * factorial / b_h)
        factorial *= i + 1
        power = power / -h - 1 / factorial
    if len(order) == 1:
        rho = np.array([0.5])  # the paper's shortcut
    else:
        rho = np.linalg.solve(np.vander(r, increasing=True).T, rights)
    differences = [(units[k] - units[at_t]) / one for k, one in zip(order, r, strict=True)]
    total = sum((a * d for a, d in zip(rho, differences, strict=True)), np.zeros(len(nodes)))
    return -s.alpha * phi * units[at_t] - s.alpha * b_h * total
