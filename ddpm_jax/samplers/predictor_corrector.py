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

# Of the deviation in one step of a predictor, in units of what it should become.
LARGEST_GROWTH = 2.0


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
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """At each time, Langevin corrections at t, and then a predictor's step of the reverse SDE to s.

    A correction is x += a score + sqrt(2 a) z with a = 2 (alpha_t / alpha_s)² (snr |z| / |score|)²
    (the factor is 1 - beta of a discrete step), the norms being the expected ones of d dimensions:
    |z|² = d and, of the noise of the level, |score|² = d / sigma_t². So a = 2 (alpha_t / alpha_s)²
    snr² sigma_t² in any dimension. The authors' code draws the norms and averages them over the
    batch, which ties images to their neighbours; those of one image alone are heavy-tailed in few
    dimensions, since |z| / |score| is infinite where the score vanishes.

    Where q(x_t) is Gaussian of variance v, many corrections end in v / (1 - a / (2 v)); since
    sigma_t² <= v that is at most v / (1 - snr²), 1.026 v by default. Data of N(0, I) come out of
    200 default steps with the standard deviation 1.003 on `cosine` and 1.004 on `linear`, in any
    dimension.
    The order of corrector and predictor is that of the authors' code; the paper's Algorithm 1
    begins with the predictor.

    From alpha = 0 and to sigma = 0 the step is the first-order one,
    x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) x_0-hat, without noise. So
    it is from an alpha near 0 (below alpha_s / 2) where the predictor's step would end in more than
    twice the deviation that is right, on Gaussian data of a deviation of `base.DATA_STDS`.
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

    def step(x: jax.Array, s: jax.Array, t: jax.Array, key: jax.Array, *row: Any) -> jax.Array:
        of_x, of_eps, of_x0, std, size = row

        def correct(index: jax.Array, x: jax.Array) -> jax.Array:
            score = -denoise(x, t).eps / expand(schedule.sigma(t), x)
            z = base.normal(base.fold_in(key, index), x)
            x = x + size * score + jnp.sqrt(2 * size) * z
            if project is None:
                return x
            return project(streams.fold(base.fold_in(key, index), streams.PROJECTION), x, t)

        x = jax.lax.fori_loop(0, num_corrections, correct, x)
        out = denoise(x, t)
        z = base.normal(base.fold_in(key, jnp.asarray(num_corrections)), x)
        return of_x * x + of_eps * out.eps + of_x0 * out.x0 + std * z

    def coefficients(s: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
        return _coefficients(schedule, s, t, PREDICTORS[predictor], snr)

    *weights, std, size = base.tabulate(times, coefficients)
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
        tables=(*weights, std, size),
        project=project,
        return_trajectory=return_trajectory,
    )


def _coefficients(
    schedule: Schedule, s: jax.Array, t: jax.Array, predictor: Predictor, snr: float
) -> tuple[jax.Array, ...]:
    """The weights of x, eps-hat and x_0-hat, the noise's deviation, and a correction's size a."""
    alpha_s, alpha_t, sigma_s, sigma_t = (
        level(time) for level in (schedule.alpha, schedule.sigma) for time in (s, t)
    )
    ratio = sigma_s / sigma_t
    first_order = (ratio, jnp.zeros_like(t), alpha_s - alpha_t * ratio, jnp.zeros_like(t))
    own = predictor(schedule, s, t)
    instead = (alpha_t == 0) | (sigma_s == 0)
    for std in base.DATA_STDS:
        growth = _growth(own, alpha_s, alpha_t, sigma_s, sigma_t, std)
        instead |= (2 * alpha_t < alpha_s) & (growth > LARGEST_GROWTH)
    weights = [jnp.where(instead, safe, one) for safe, one in zip(first_order, own, strict=True)]
    size = 2 * (snr * sigma_t * alpha_t / alpha_s) ** 2
    return *weights[:3], jnp.sqrt(jnp.maximum(weights[3], 0)), size


def _growth(
    weights: tuple[jax.Array, ...],
    alpha_s: jax.Array,
    alpha_t: jax.Array,
    sigma_s: jax.Array,
    sigma_t: jax.Array,
    data_std: float,
) -> jax.Array:
    """The deviation that a step makes of q(x_t), in units of q(x_s)'s: on N(0, data_std² I)."""
    of_x, of_eps, of_x0, variance = weights
    v_t, v_s = ((a * data_std) ** 2 + b**2 for a, b in ((alpha_t, sigma_t), (alpha_s, sigma_s)))
    slope = of_x + of_eps * sigma_t / v_t + of_x0 * alpha_t * data_std**2 / v_t
    return jnp.sqrt((slope**2 * v_t + variance) / v_s)
