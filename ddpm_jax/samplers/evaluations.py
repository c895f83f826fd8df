"""Solvers of the probability-flow ODE as a list of network evaluations, run by one scan.

Euler, Heun, DPM-Solver++, UniPC and PNDM differ only in where they ask the network, and in the
linear combination of the start of the step and the last few answers that they make. Each solver
writes that down in numpy, in float64; `run` carries it out. The network stands in the compiled
program once, whatever the solver, and NFE is the length of the list.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import streams
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.samplers import base

# Gauss-Legendre nodes and weights on [0, 1]: integrals of e^(-h (1 - v)) times a cubic to float64's
# last digit for h up to 60.
_NODES, _WEIGHTS = (
    (a + b) / 2 for a, b in zip(np.polynomial.legendre.leggauss(64), (1, 0), strict=True)
)


class PathPoint(NamedTuple):
    """A point of the path; lam = log(alpha / sigma) is infinite where alpha or sigma is 0."""

    time: float
    alpha: float
    sigma: float
    lam: float

    @property
    def finite(self) -> bool:
        """Neither alpha nor sigma is 0."""
        return bool(np.isfinite(self.lam))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One call of the network, at the point u and the time `time`, and what follows from it.

    In this order, z standard normal and kept what is kept of the answers so far, newest first:

        u    <- stir u + stir_noise z
        x0, eps = denoise(u, time)
        kept <- (of_x0 x0 + of_eps eps, *kept)
        base <- keep base + take u + sum correct kept
        u    <- scale base + sum weights kept + noise z

    A projection changes the u that is x at a time of the grid. What follows starts from it: also a
    correction, which takes no u (take = 0) and to whose base the projection's change is added.

    Attributes:
      on_grid: the u that it ends with is x at the next time of the grid.
      provisional: it is x at this time, to be asked about there, and is then made anew.
    """

    time: float
    stir: float = 1.0
    stir_noise: float = 0.0
    of_x0: float = 1.0
    of_eps: float = 0.0
    keep: float = 0.0
    take: float = 1.0
    correct: tuple[float, ...] = ()
    scale: float = 1.0
    weights: tuple[float, ...] = ()
    noise: float = 0.0
    on_grid: bool = True
    provisional: float | None = None


def run(
    denoise: Denoiser,
    evaluations: Sequence[Evaluation],
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """Carry out the evaluations from the start x, in one `lax.scan`.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      evaluations: what to do; at least one. They end num_steps steps.
      times: the grid, [num_steps + 1].
      key: a scalar key, or [B] keys, one an image; without effect where nothing is noised.
      x: the start, [B, ...].
      project: (key, x [B, ...], s [B]) -> x at every time s of the grid but the first; what is kept
        of earlier answers stays as it was.
      return_trajectory: also return x at every time of the grid.

    Returns:
      The last u; with return_trajectory, that and [num_steps + 1, B, ...], the start included.

    Raises:
      ValueError: as `base.check_start`.
    """
    keys = base.check_start(key, x)
    length = max(len(w) for e in evaluations for w in (e.correct, e.weights))
    stirred = any(e.stir_noise for e in evaluations)
    noised = any(e.noise for e in evaluations)
    mixed = any((e.of_x0, e.of_eps) != (1.0, 0.0) for e in evaluations)
    names = ["time", "stir", "stir_noise", "keep", "take", "correct", "scale", "weights", "noise"]
    rows = {
        name: jnp.asarray([_padded(getattr(e, name), length) for e in evaluations], x.dtype)
        for name in names + (["of_x0", "of_eps"] if mixed else [])
    }
    on_grid = np.array([e.on_grid for e in evaluations])
    if project is not None:
        provisional = [e.provisional for e in evaluations]
        projected = on_grid | np.array([time is not None for time in provisional])
        # The next time of the grid, from wherever within the step.
        next_times = np.asarray(times)[1 + np.cumsum(on_grid) - on_grid]
        ends = [
            end if time is None else time for time, end in zip(provisional, next_times, strict=True)
        ]
        rows |= {"projected": jnp.asarray(projected), "end": jnp.asarray(ends, x.dtype)}
    carried = project is not None and any(
        before.on_grid and e.take == 0 for before, e in itertools.pairwise(evaluations)
    )

    def body(carry: tuple[Any, ...], inputs: tuple[jax.Array, Any]) -> tuple[Any, Any]:
        (origin, u, kept, change), (index, row) = carry, inputs
        key_stir, key_noise = (base.fold_in(keys, 2 * index + k) for k in (0, 1))
        if stirred:
            u = row["stir"] * u + row["stir_noise"] * base.normal(key_stir, u)
        answer, eps, _ = denoise(u, jnp.broadcast_to(row["time"], u.shape[:1]))
        if mixed:
            answer = row["of_x0"] * answer + row["of_eps"] * eps
        kept = jnp.concatenate((answer[None], kept[:-1]))
        origin = row["keep"] * origin + row["take"] * u + _combine(row["correct"], kept)
        if carried:
            origin = origin + (1 - row["take"]) * change
        u = row["scale"] * origin + _combine(row["weights"], kept)
        if noised:
            u = u + row["noise"] * base.normal(key_noise, u)
        if project is not None:
            unprojected, end = u, jnp.broadcast_to(row["end"], u.shape[:1])
            key_project = streams.fold(key_noise, streams.PROJECTION)
            u = jax.lax.cond(
                row["projected"], lambda u: project(key_project, u, end), lambda u: u, u
            )
            change = u - unprojected if carried else None
        return (origin, u, kept, change), (u if return_trajectory else None)

    kept = jnp.zeros((length, *x.shape), x.dtype)
    start = (x, x, kept, jnp.zeros_like(x) if carried else None)
    (_, last, _, _), path = jax.lax.scan(body, start, (jnp.arange(len(evaluations)), rows))
    if not return_trajectory:
        return last
    return last, jnp.concatenate((x[None], path[np.flatnonzero(on_grid)]))


def first_order(t: PathPoint, s: PathPoint) -> dict[str, Any]:
    """With r = sigma_s / sigma_t, the numbers of x_s = r x_t + (alpha_s - alpha_t r) x_0-hat.

    Euler's method and DDIM; it divides by no alpha, and at sigma_s = 0 it is x_0 itself.
    """
    ratio = s.sigma / t.sigma
    return {"scale": ratio, "weights": (s.alpha - t.alpha * ratio,)}


def exponential_weights(
    nodes: Sequence[float], start: float, end: float, alpha: float, *, rate: float = 1.0
) -> np.ndarray:
    """Weights of x_0-hats at `nodes` in an exponential integrator's step over lam.

    With lam = log(alpha / sigma), the probability-flow ODE is solved by
    x_s = (sigma_s / sigma_t) x_t + sigma_s ∫ e^lam x_0(lam) dlam over [lam_t, lam_s]
    (Lu et al. 2022, DPM-Solver++, proposition 4.1), and the reverse SDE by the same with
    rate = 2: (sigma_s / sigma_t) e^-h x_t + 2 alpha_s ∫ e^(-2 (lam_s - lam)) x_0 dlam + noise.
    Here x_0(lam) is replaced by the polynomial through the nodes and the integral is done exactly,
    so p nodes give order p. By quadrature: the closed forms cancel at small h.

    Args:
      nodes: lam where x_0 is known, distinct and finite.
      start, end: lam_t and lam_s, finite.
      alpha: alpha_s.
      rate: 1 for the ODE, 2 for the SDE.

    Returns:
      [len(nodes)].
    """
    h = end - start
    lam = start + h * _NODES
    basis = [
        np.prod([(lam - b) / (a - b) for j, b in enumerate(nodes) if j != i], axis=0)
        for i, a in enumerate(nodes)
    ]
    kernel = rate * alpha * h * _WEIGHTS * np.exp(-rate * h * (1 - _NODES))
    return np.array([(one * kernel).sum() for one in basis])


def plan(schedule: Schedule, times: Any) -> list[PathPoint]:
    """The grid as points of the path, checked.

    Raises:
      ValueError: if the times do not descend, two of them have one noise level, or the schedule
        depends on traced values.
    """
    points = points_at(schedule, base.check_times(times))
    for t, s in itertools.pairwise(points):
        if not s.lam > t.lam:
            raise ValueError(
                f"times {t.time:g} and {s.time:g} have the same noise level on this schedule: "
                "leave one out"
            )
    return points


def points_at(schedule: Schedule, times: Any) -> list[PathPoint]:
    """The points of the path at any times."""
    columns = (np.asarray(times), *base.signal_noise(schedule, times))
    return [PathPoint(*map(float, row)) for row in zip(*columns, strict=True)]


def inner_points(
    schedule: Schedule, steps: Sequence[tuple[PathPoint, PathPoint]], shares: Sequence[float]
) -> list[list[PathPoint]]:
    """For each step (t, s) the points at these shares of its way in lam; none if it is infinite."""
    finite = [(t, s) for t, s in steps if t.finite and s.finite]
    lams = np.array([[t.lam + c * (s.lam - t.lam) for c in shares] for t, s in finite])
    points = points_at(schedule, base.times_of(schedule, lams).reshape(-1)) if lams.size else []
    inner = iter(points)
    return [[next(inner) for _ in shares] if t.finite and s.finite else [] for t, s in steps]


def _padded(value: Any, length: int) -> Any:
    if isinstance(value, tuple):
        return [*value, *[0.0] * (length - len(value))]
    return value


def _combine(weights: jax.Array, kept: jax.Array) -> jax.Array:
    # A sum, not a dot product: that may run in fewer bits on an accelerator.
    return sum((weights[k] * kept[k] for k in range(len(kept))), jnp.zeros_like(kept[0]))
