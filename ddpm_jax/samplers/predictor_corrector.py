"""Predictor-corrector sampling of the reverse SDE (Song et al. 2021), on any Gaussian path."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax import streams
from ddpm_jax.diffusion import process
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand
from ddpm_jax.samplers import base

# (schedule, s, t) -> the weights of x, eps-hat and x_0-hat in x_s, and the noise's variance.
Predictor = Callable[[Schedule, jax.Array, jax.Array], tuple[jax.Array, ...]]


def euler_maruyama(schedule: Schedule, s: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
    """x_s = x - (f x - g² score) (t - s) + g sqrt(t - s) z, needs alpha_t > 0.

    f = alpha' / alpha and g² = (sigma²)' - 2 f sigma² are those of any Gaussian path.

    Args:
      schedule: the path.
      s, t: the ends of the steps, of one shape.

    Returns:
      The weights of x, eps-hat and x_0-hat in x_s, and the noise's variance, each of that shape.

    Source: Song et al. 2021, equation 6; the path's f and g²: Kingma et al. 2021, section 3.
    """
    ones = jnp.ones_like(t)
    alpha, alpha_slope = jax.jvp(schedule.alpha, (t,), (ones,))
    sigma, sigma_slope = jax.jvp(schedule.sigma, (t,), (ones,))
    rate = alpha_slope / alpha
    variance = 2 * sigma * (sigma_slope - rate * sigma) * (t - s)
    return 1 - rate * (t - s), -variance / sigma, jnp.zeros_like(t), variance


def reverse_diffusion(schedule: Schedule, s: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
    """x_s = (2 - r) x + V score + sqrt(V) z, of the forward step x_t = r x_s + sqrt(V) z.

    Args, Returns: as `euler_maruyama`.

    Source: Song et al. 2021, appendix E; Algorithms 2 and 3.
    """
    variance = process.transition_variance(schedule, s, t)
    ratio = schedule.alpha(t) / schedule.alpha(s)
    return 2 - ratio, -variance / schedule.sigma(t), jnp.zeros_like(t), variance


def ancestral(schedule: Schedule, s: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
    """x_s ~ N((x + V score) / r, beta-tilde), written as the posterior's mean at x_0-hat.

    The paper's VP form adds the noise of variance beta instead ("fixed_large"); its VE form is
    this one.

    Args, Returns: as `euler_maruyama`.

    Source: Song et al. 2021, equation 4 and appendix F.
    """
    of_x, of_x0 = process.posterior_coefficients(schedule, s, t)
    return of_x, jnp.zeros_like(t), of_x0, process.posterior_variance(schedule, s, t)


PREDICTORS: dict[str, Predictor] = {
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
}


def predictor_corrector(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    predictor: str = "reverse_diffusion",
    num_corrections: int = 1,
    snr: float = 0.16,
    final_denoise: bool = True,
    clip_x0: bool = False,
    threshold: float | None = None,
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """At each time, Langevin corrections at t, and then a predictor's step of the reverse SDE to s.

    A correction is x += a score + sqrt(2 a) z with a = 2 (alpha_t / alpha_s)² (snr |z| / |score|)²,
    the norms those of each image alone (the authors' code averages them over the batch, which ties
    images to their neighbours; the factor is 1 - beta of a discrete step). The norms need many
    dimensions: on d independent Gaussian ones corrections end in 1 + snr² times the variance, up to
    O(1 / d). The order of corrector and predictor is that of the authors' code; the paper's
    Algorithm 1 begins with the predictor.

    From alpha = 0 and to sigma = 0 the step is the first-order one,
    x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) x_0-hat, without noise.
    Network calls: num_steps (1 + num_corrections).

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path.
      times: descending, [num_steps + 1]; Song et al. end VP at 1e-3 and VE at 1e-5.
      key: a scalar key, or [B] keys, one an image.
      x: x at times[0], [B, ...].
      predictor: "reverse_diffusion", "euler_maruyama" or "ancestral"; on the nodes of a discrete
        schedule the first and the last need no derivatives.
      num_corrections: Langevin updates a time, at least 0.
      snr: of a correction, in (0, 1); 0.16 is the authors' for CIFAR-10.
      final_denoise: leave out the noise of the last step; one to sigma = 0 has none.
      clip_x0: clip x_0-hat to [-1, 1]; eps-hat is derived anew from it.
      threshold: the quantile of dynamic thresholding instead (`guidance.threshold_x0`).
      project: (key, x [B, ...], s [B]) -> x after each predictor's step, at its time s, and after
        each correction, at its time t.
      return_trajectory: also return x at every time, [num_steps + 1, B, ...].

    Returns:
      x at times[-1], [B, ...]; with return_trajectory a pair of it and the trajectory.

    Raises:
      ValueError: for an unknown predictor, options out of range or without effect, times that do
        not descend, or a schedule of traced values.

    Source: Song et al. 2021, Algorithms 1 to 5; to project, the authors' inpainting code.
    """
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor must be one of {', '.join(PREDICTORS)}, got {predictor!r}")
    if num_corrections < 0:
        raise ValueError(f"need num_corrections >= 0, got {num_corrections=}")
    if not 0 < snr < 1:
        raise ValueError(f"need 0 < snr < 1, got {snr=}")
    denoise = base.with_bounded_x0(denoise, schedule, clip_x0=clip_x0, threshold=threshold)

    def step(x: jax.Array, s: jax.Array, t: jax.Array, key: jax.Array, *row: Any) -> jax.Array:
        of_x, of_eps, of_x0, std, damping = row

        def correct(index: jax.Array, x: jax.Array) -> jax.Array:
            score = -denoise(x, t).eps / expand(schedule.sigma(t), x)
            z = base.normal(base.fold_in(key, index), x)
            x = _langevin_update(x, score, z, damping * snr**2)
            if project is None:
                return x
            return project(streams.fold(base.fold_in(key, index), streams.PROJECTION), x, t)

        x = jax.lax.fori_loop(0, num_corrections, correct, x)
        out = denoise(x, t)
        z = base.normal(base.fold_in(key, jnp.asarray(num_corrections)), x)
        return of_x * x + of_eps * out.eps + of_x0 * out.x0 + std * z

    def coefficients(s: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
        return _coefficients(schedule, s, t, PREDICTORS[predictor])

    *weights, std, damping = base.tabulate(times, coefficients)
    if final_denoise:
        std = std.copy()
        std[-1] = 0
    elif std[-1] == 0:
        raise ValueError(
            f"{final_denoise=} keeps the noise of the last step, and this one has none: it leads "
            "to sigma = 0. End the grid above, or leave it out"
        )
    return base.scan_steps(
        step,
        times,
        key,
        x,
        tables=(*weights, std, damping),
        project=project,
        return_trajectory=return_trajectory,
    )


def _langevin_update(x: jax.Array, score: jax.Array, z: jax.Array, factor: Any) -> jax.Array:
    """x + a score + sqrt(2 a) z with a = 2 factor |z|² / |score|², per image; 0 where score is."""
    squares = [jnp.sum(v.reshape(len(v), -1) ** 2, axis=1) for v in (z, score)]
    flat = squares[1] == 0
    size = expand(jnp.where(flat, 0, 2 * factor * squares[0] / jnp.where(flat, 1, squares[1])), x)
    return x + size * score + jnp.sqrt(2 * size) * z


def _coefficients(
    schedule: Schedule, s: jax.Array, t: jax.Array, predictor: Predictor
) -> tuple[jax.Array, ...]:
    """The weights of x, eps-hat and x_0-hat, the noise's deviation, and (alpha_t / alpha_s)²."""
    alpha_s, alpha_t, sigma_s = schedule.alpha(s), schedule.alpha(t), schedule.sigma(s)
    ratio = sigma_s / schedule.sigma(t)
    first_order = (ratio, jnp.zeros_like(t), alpha_s - alpha_t * ratio, jnp.zeros_like(t))
    at_an_end = (alpha_t == 0) | (sigma_s == 0)
    weights = [
        jnp.where(at_an_end, end, inner)
        for end, inner in zip(first_order, predictor(schedule, s, t), strict=True)
    ]
    return *weights[:3], jnp.sqrt(jnp.maximum(weights[3], 0)), (alpha_t / alpha_s) ** 2
