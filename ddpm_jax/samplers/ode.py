"""The probability-flow ODE with adaptive steps (Song et al. 2021), and the integrator behind it.

Two ways in: `integrator` for one example and any vector field, and `probability_flow`, the sampler,
which steps every image at its own pace but still calls the network on the whole batch.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand
from ddpm_jax.samplers import base

# (t, y) -> dy/dt, y any pytree of arrays.
VectorField = Callable[[jax.Array, Any], Any]
Integrate = Callable[[VectorField, Any, Any, Any], Any]
# Times to the variable that the ODE is solved in; (that variable [B], x [B, ...]) -> dx/du.
Clock = Callable[[Any], np.ndarray]
Slope = Callable[[jax.Array, jax.Array], jax.Array]

# Each solver, and how often it evaluates the vector field per step and once at its start.
SOLVERS: dict[str, tuple[Callable[[], diffrax.AbstractSolver], int, int]] = {
    "tsit5": (diffrax.Tsit5, 6, 1),
    "dopri8": (diffrax.Dopri8, 13, 1),
}


def integrator(
    rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 4096, *, solver: str = "tsit5"
) -> Integrate:
    """An adaptive integrator of ODEs: integrate(vector_field, y0, t0, t1) -> y1.

    `integrate` takes one example: y0 is any pytree of floating arrays, vector_field(t, y) returns
    its like, t0 and t1 are in either order. Under `jax.vmap` each example has its own steps. A
    solution that is not reached within max_steps, or is not finite, comes back as NaN: an error out
    of a compiled program would be a callback, which neither the compile cache nor the other devices
    of a mesh outlive.

    Args:
      rtol, atol: the error of a step, in the root mean square over the example, stays below
        atol + rtol |y|; above 0 and finite.
      max_steps: at least 1, rejected steps included.
      solver: "tsit5" (order 5), or "dopri8" (order 8) for tolerances below about 1e-8.

    Raises:
      ValueError: for a tolerance or a number of steps out of range, or an unknown solver.

    Source: Tsitouras 2011; Dormand & Prince 1980; Hairer et al., "Solving ODEs I", II.4 (steps).
    """
    options = _options(rtol, atol, max_steps, solver)

    def integrate(vector_field: VectorField, y0: Any, t0: Any, t1: Any) -> Any:
        solution = _solve(lambda t, y, _: vector_field(t, y), y0, t0, t1, options)
        return jax.tree.map(lambda leaf: leaf[0], solution.ys)

    return integrate


def probability_flow(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    t_min: float | None = None,
    max_steps: int = 4096,
    solver: str = "tsit5",
    return_trajectory: bool = False,
    return_nfe: bool = False,
) -> Any:
    """Solve dx/dt = alpha' x_0-hat + sigma' eps-hat from times[0] to times[-1], steps per image.

    Where times[-1] is 0 the ODE ends at t_min, since sigma' is infinite at sigma = 0 on many paths,
    and one first-order step (DDIM) leads from there to 0. Network calls: per image 6 a step and 1
    at the start (13 and 1 for "dopri8"), and 1 for a last step from t_min; the batch is shown to
    the network as often as the image that needs most. In float32 a last bit can decide about a
    step; so other devices or compilers may change an image, by 2e-4 at a tolerance of 1e-5.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised; t differs between the images.
      schedule: the path. On a discrete one, log alpha_bar is linear between the nodes.
      times: descending, [num_steps + 1]; only the ends count, unless the trajectory is returned.
      key: without effect; as in every sampler.
      x: x at times[0], [B, ...].
      rtol, atol, max_steps, solver: as in `integrator`.
      t_min: in (0, times[-2]], for a grid that ends at 0. None for the earliest time that the
        network is meant to be asked about, `base.earliest_time` (times[-2], if that is earlier).
      return_trajectory: also return x at every time, [num_steps + 1, B, ...]; steps then end at
        each of them.
      return_nfe: also return the number of network calls that each image needed, int32 [B].

    Returns:
      x at times[-1], [B, ...], NaN for an image that max_steps did not bring there; a tuple of it,
      the trajectory and the calls, in this order, if one of those is asked for.

    Raises:
      ValueError: for options out of range, times that do not descend, a schedule of traced values,
        or x in half precision.

    Source: Song et al. 2021, equation 13 and appendix D.4.
    """
    options = _options(rtol, atol, max_steps, solver)
    times = base.check_times(times)
    base.check_start(key, x)
    end = _last_time(schedule, times, t_min)
    more = end > times[-1]
    # What the ODE is solved in, and its values at the times to save and at the end.
    follow = _by_time if schedule.betas is None else _by_angle
    clock, slope = follow(denoise, schedule)
    u_grid, u_end = (jnp.asarray(clock(t), x.dtype) for t in (times[:-1], end))

    saves = {"end": diffrax.SubSaveAt(t1=True)}
    if return_trajectory:
        saves["path"] = diffrax.SubSaveAt(ts=u_grid)
        # Steps end at the times to save: to interpolate would cost digits.
        options["stepsize_controller"] = diffrax.ClipStepSizeController(
            options["stepsize_controller"], step_ts=u_grid
        )
    solution = _solve_batch(slope, x, u_grid[0], u_end, options, diffrax.SaveAt(subs=saves))
    _, per_step, once = SOLVERS[solver]
    calls = per_step * solution.stats["num_steps"] + once + more
    saved: Any = solution.ys
    out = saved["end"][:, 0]
    if more:
        out = _first_order(denoise, schedule, out, end)
    results = [out]
    if return_trajectory:
        path = jnp.moveaxis(saved["path"], 1, 0)
        results.append(jnp.concatenate((path, out[None])))
    if return_nfe:
        results.append(calls)
    return tuple(results) if len(results) > 1 else out


def drift(denoise: Denoiser, schedule: Schedule, x: jax.Array, t: jax.Array) -> jax.Array:
    """The probability flow's dx/dt = alpha' x_0-hat + sigma' eps-hat, of x's shape; t is [B].

    It divides by neither alpha nor sigma, so it holds on every path that ends at alpha = 0.

    Source: Song et al. 2021, equation 13, with the score and the drift written in (x_0, eps).
    """
    ones = jnp.ones_like(t)
    _, alpha_slope = jax.jvp(schedule.alpha, (t,), (ones,))
    _, sigma_slope = jax.jvp(schedule.sigma, (t,), (ones,))
    out = denoise(x, t)
    return expand(alpha_slope, x) * out.x0 + expand(sigma_slope, x) * out.eps


def _by_time(denoise: Denoiser, schedule: Schedule) -> tuple[Clock, Slope]:
    """The ODE in t itself, for a smooth path."""
    return np.asarray, lambda t, x: drift(denoise, schedule, x, t)


def _by_angle(denoise: Denoiser, schedule: Schedule) -> tuple[Clock, Slope]:
    """The ODE of a discrete path, in phi with alpha = cos phi, sigma = sin phi.

    In t such a path has a kink at each of its T nodes, where an adaptive solver would have to stop.
    In phi it is a circle: dx / dphi = -sin(phi) x_0-hat + cos(phi) eps-hat.
    """
    nodes = np.arange(schedule.num_steps + 1)
    alphas, _ = schedule.values(nodes / schedule.num_steps)
    inner = alphas > 0  # all but the last node of a path of zero terminal SNR
    last = float(alphas[inner][-1])
    rises = -2 * np.log(alphas[inner])
    tiny = np.finfo(np.float32).tiny

    def clock(t: Any) -> np.ndarray:
        alpha, sigma = schedule.values(t)
        return np.arctan2(sigma, alpha)

    def time(phi: jax.Array) -> jax.Array:
        # log alpha_bar is linear between the nodes, and alpha in a last interval that ends at 0.
        # At phi = π / 2, rounded, the cosine may be just below 0.
        alpha, variance = jnp.maximum(jnp.cos(phi), tiny), jnp.sin(phi) ** 2
        rise = -jnp.where(variance < 0.5, jnp.log1p(-variance), 2 * jnp.log(alpha))
        node = jnp.interp(rise, jnp.asarray(rises, phi.dtype), jnp.asarray(nodes[inner], phi.dtype))
        if not inner.all():
            node += jnp.maximum(1 - alpha / last, 0)
        return node / schedule.num_steps

    def slope(phi: jax.Array, x: jax.Array) -> jax.Array:
        out = denoise(x, time(phi))
        return expand(jnp.cos(phi), x) * out.eps - expand(jnp.sin(phi), x) * out.x0

    return clock, slope


def _first_order(denoise: Denoiser, schedule: Schedule, x: jax.Array, t: float) -> jax.Array:
    """From t > 0 to 0: (sigma_0 / sigma_t) x + (alpha_0 - alpha_t sigma_0 / sigma_t) x_0-hat."""
    alpha, sigma, _ = base.signal_noise(schedule, [t, 0.0])
    ratio = float(sigma[1] / sigma[0])
    x0 = denoise(x, jnp.full(x.shape[:1], t, x.dtype)).x0
    return ratio * x + float(alpha[1] - alpha[0] * ratio) * x0


def _last_time(schedule: Schedule, times: np.ndarray, t_min: float | None) -> float:
    """Where the ODE ends: times[-1], or t_min if that is 0."""
    if t_min is None:
        return float(times[-1] or min(base.earliest_time(schedule), times[-2]))
    if not 0 < t_min <= times[-2]:
        raise ValueError(f"need 0 < t_min <= times[-2] = {times[-2]:g}, got {t_min=}")
    if times[-1] > 0:
        raise ValueError(
            f"{t_min=} is for grids to t = 0, got times[-1]={times[-1]:g}: leave it out"
        )
    return t_min


def _options(rtol: float, atol: float, max_steps: int, solver: str) -> dict[str, Any]:
    """The arguments of diffrax's solve, checked."""
    if not (0 < rtol < math.inf and 0 < atol < math.inf):
        raise ValueError(f"need 0 < rtol < inf and 0 < atol < inf, got {rtol=}, {atol=}")
    if max_steps < 1:
        raise ValueError(f"need max_steps >= 1, got {max_steps=}")
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    return {
        "solver": SOLVERS[solver][0](),
        "stepsize_controller": diffrax.PIDController(rtol=rtol, atol=atol),
        "max_steps": max_steps,
    }


def _solve(
    field: Callable[[Any, Any, Any], Any],
    y0: Any,
    t0: Any,
    t1: Any,
    options: Any,
    **more: Any,
) -> diffrax.Solution:
    dtype = jnp.result_type(*jax.tree.leaves(y0))
    t0, t1 = (jnp.asarray(t, dtype) for t in (t0, t1))

    # A first step of a stated size: a probe for one may reach past the ends, where no path goes.
    dt0 = 0.01 * (t1 - t0)
    term = diffrax.ODETerm(field)
    solution = diffrax.diffeqsolve(
        term, t0=t0, t1=t1, dt0=dt0, y0=y0, throw=False, **options, **more
    )
    solved = solution.result == diffrax.RESULTS.successful
    ys = jax.tree.map(lambda y: jnp.where(solved, y, jnp.nan), solution.ys)
    return dataclasses.replace(solution, ys=ys)


def _solve_batch(
    vector_field: Slope,
    x: jax.Array,
    t0: jax.Array,
    t1: jax.Array,
    options: dict[str, Any],
    saveat: diffrax.SaveAt,
) -> diffrax.Solution:
    """Solve for each of x [B, ...] at its own pace, with a field of (t [B], x [B, ...]).

    A plain vmap over one-image solves would show the network one image at a time, without the
    conditions of the others; so the field has a batching rule of its own. What it closes over
    enters as arguments, because such a rule may not close over traced values.
    """
    closed = jax.make_jaxpr(vector_field)(jnp.broadcast_to(t0, x.shape[:1]), x)

    @custom_vmap
    def one(t: jax.Array, x: jax.Array, constants: list[jax.Array]) -> jax.Array:
        return x  # for its shape alone: every call is batched

    @one.def_vmap
    def batch(
        size: int, batched: Any, t: jax.Array, x: jax.Array, constants: list[jax.Array]
    ) -> Any:
        t = t if batched[0] else jnp.broadcast_to(t, (size,))
        field = jex.core.jaxpr_as_fun(jex.core.ClosedJaxpr(closed.jaxpr, constants))
        return field(t, x)[0], True

    def solve(x: jax.Array, constants: list[jax.Array]) -> diffrax.Solution:
        return _solve(one, x, t0, t1, options, args=constants, saveat=saveat)

    return jax.vmap(solve, in_axes=(0, None))(x, closed.consts)
