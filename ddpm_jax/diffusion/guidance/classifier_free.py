"""Classifier-free guidance (Ho & Salimans 2022) and the composition of conditions."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import prediction
from ddpm_jax.diffusion.prediction import Denoised, Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand

# w; w of each image, [B]; or w at times t [B]
Scale = float | jax.Array | Callable[[jax.Array], jax.Array]
ConditionArrays = Mapping[str, jax.Array]


def classifier_free(
    conditional: Denoiser,
    unconditional: Denoiser,
    scale: Scale,
    *,
    rescale: float = 0.0,
    schedule: Schedule | None = None,
) -> Denoiser:
    """eps = (1 - w) eps_uncond + w eps_cond: 0 unconditional, 1 conditional, above 1 guided.

    The same mixture of x_0 keeps x_t = alpha x_0 + sigma eps. At w = 1 and w = 0 only the branch
    that counts is called, so those are bit for bit the unguided denoisers.

    A weaker model in place of the unconditional one is autoguidance (Karras et al. 2024).

    Args:
      conditional, unconditional: the two denoisers.
      scale: w, w of each image [B], or w as a function of t, such as `within`.
      rescale: in [0, 1], how far x_0 of each image is scaled back to the standard deviation of
        the conditional x_0; 0.7 counters the contrast of large w.
      schedule: the path; needed to rescale.

    Raises:
      ValueError: for a rescale outside [0, 1], or above 0 without a schedule; when called, for
        scales that are not one for each image.

    Source: Ho & Salimans 2022, equation 6, in the convention of Imagen (w = 1 + their w); to
    rescale, Lin et al. 2024, equations 15 and 16, of x_0.
    """
    return composed(unconditional, [conditional], [scale], rescale=rescale, schedule=schedule)


def composed(
    unconditional: Denoiser,
    conditionals: Sequence[Denoiser],
    scales: Sequence[Scale],
    *,
    rescale: float = 0.0,
    schedule: Schedule | None = None,
) -> Denoiser:
    """eps = eps_uncond + sum_i w_i (eps_i - eps_uncond): several conditions at once.

    With all w_i = 1 it is the conjunction of conditions that are independent given x_t; a negative
    w_i steers away from a condition. One condition is `classifier_free`. Weights w (1 - share) and
    w share, given as [B], lead from one label to another over the images of a batch.

    Args:
      unconditional: the common denoiser.
      conditionals: one denoiser for each condition.
      scales: one w for each.
      rescale, schedule: as in `classifier_free`; to the deviation of the first condition's x_0.

    Raises:
      ValueError: for different numbers of denoisers and scales, or as `classifier_free`.

    Source: Liu et al. 2022, "Compositional visual generation", equation 11.
    """
    used = _check(len(conditionals), scales, rescale, schedule)
    if used is not None:
        return unconditional if used < 0 else conditionals[used]

    def denoise(xt: jax.Array, t: jax.Array) -> Denoised:
        first, *others = (one(xt, t) for one in (unconditional, *conditionals))
        return _mix(first, others, scales, xt, t, rescale, schedule)

    return denoise


def classifier_free_network(
    apply_fn: prediction.ApplyFn,
    params: Any,
    schedule: Schedule,
    conditions: ConditionArrays,
    null_conditions: ConditionArrays,
    scale: Scale,
    *,
    prediction_name: str | prediction.Parameterisation = "eps",
    learned_variance: bool = False,
    rescale: float = 0.0,
) -> Denoiser:
    """Classifier-free guidance of one network, both branches in one call of twice the batch.

    Args:
      apply_fn, params, schedule, prediction_name, learned_variance: as in `prediction.denoiser`.
      conditions: named arrays [B, ...].
      null_conditions: the same names, what the network was shown when a condition was dropped; or,
        in its place, a negative condition to steer away from.
      scale, rescale: as in `classifier_free`.

    Raises:
      ValueError: if the sets of conditions differ in their names, or as `classifier_free`.
    """
    return composed_network(
        apply_fn,
        params,
        schedule,
        [conditions],
        null_conditions,
        [scale],
        prediction_name=prediction_name,
        learned_variance=learned_variance,
        rescale=rescale,
    )


def composed_network(
    apply_fn: prediction.ApplyFn,
    params: Any,
    schedule: Schedule,
    conditions: Sequence[ConditionArrays],
    null_conditions: ConditionArrays,
    scales: Sequence[Scale],
    *,
    prediction_name: str | prediction.Parameterisation = "eps",
    learned_variance: bool = False,
    rescale: float = 0.0,
) -> Denoiser:
    """`composed` of one network: n conditions and none in one call of n + 1 times the batch.

    The activations of that call are those of n + 1 batches.

    Args:
      conditions: one set of named arrays [B, ...] for each scale.
      apply_fn, params, schedule, null_conditions: as in `classifier_free_network`.
      scales: one for each set.
      prediction_name, learned_variance, rescale: as in `classifier_free_network`.

    Raises:
      ValueError: if the sets of conditions differ in their names, or as `composed`.
    """
    branches = [null_conditions, *conditions]
    if any(branch.keys() != null_conditions.keys() for branch in branches):
        raise ValueError(f"need the same names, got {' and '.join(str([*b]) for b in branches)}")

    def network(subset: ConditionArrays) -> Denoiser:
        return prediction.denoiser(
            apply_fn,
            params,
            schedule,
            prediction=prediction_name,
            conditions=dict(subset),
            learned_variance=learned_variance,
        )

    used = _check(len(conditions), scales, rescale, schedule)
    if used is not None:
        return network(branches[used + 1])
    denoise_all = network({k: _interleave([b[k] for b in branches]) for k in null_conditions})

    def denoise(xt: jax.Array, t: jax.Array) -> Denoised:
        count = len(branches)
        out = denoise_all(_interleave([xt] * count), _interleave([t] * count))
        first, *others = (
            jax.tree.map(operator.itemgetter(slice(offset, None, count)), out)
            for offset in range(count)
        )
        return _mix(first, others, scales, xt, t, rescale, schedule)

    return denoise


def only_branch(scales: Sequence[Scale]) -> int | None:
    """The one branch that counts under these scales, -1 for the unconditional one; else None.

    All scales 0 leave the unconditional branch; one of 1 and the others 0 leave that condition's.
    Scales that are arrays or functions of t always mix.
    """
    if any(callable(scale) or isinstance(scale, jax.Array | np.ndarray) for scale in scales):
        return None
    used = [k for k, scale in enumerate(scales) if scale != 0]
    if not used:
        return -1
    return used[0] if len(used) == 1 and scales[used[0]] == 1 else None


def within(schedule: Schedule, scale: float | jax.Array, low: float, high: float) -> Scale:
    """w = scale where low <= sigma / alpha <= high, and 1 elsewhere.

    Guidance in the middle alone costs less variety than guidance everywhere.

    Args:
      schedule: the path.
      scale: w inside the interval, a number or an array of shape ().
      low, high: noise levels sigma / alpha, 0 <= low < high; high may be infinite.

    Raises:
      ValueError: for levels out of order.

    Source: Kynkäänniemi et al. 2024, equation 6.
    """
    if not 0 <= low < high:
        raise ValueError(f"need 0 <= low < high, got {low=}, {high=}")

    def of(t: jax.Array) -> jax.Array:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        # No division: alpha may be 0, and high infinite.
        below = sigma <= high * alpha if high < float("inf") else jnp.ones_like(sigma, bool)
        return jnp.where((sigma >= low * alpha) & below, scale, 1.0)

    return of


def _check(
    count: int, scales: Sequence[Scale], rescale: float, schedule: Schedule | None
) -> int | None:
    """The branch that counts alone (-1 for the unconditional one), or None for a mixture.

    Raises:
      ValueError: for different numbers of conditions and scales, or a rescale out of range.
    """
    if rescale and schedule is None:
        raise ValueError(f"{rescale=} needs the schedule too: give schedule=")
    if count != len(scales) or not scales:
        raise ValueError(f"need one scale for each condition, got {count} and {len(scales)}")
    if not 0 <= rescale <= 1:
        raise ValueError(f"need 0 <= rescale <= 1, got {rescale=}")
    return only_branch(scales)


def _interleave(parts: Sequence[jax.Array]) -> jax.Array:
    """n arrays [B, ...] as one [n B, ...], example beside example: all stay on its device."""
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def _mix(
    unconditional: Denoised,
    conditionals: Sequence[Denoised],
    scales: Sequence[Scale],
    xt: jax.Array,
    t: jax.Array,
    rescale: float,
    schedule: Schedule | None,
) -> Denoised:
    weights = [_weight(scale, xt, t) for scale in scales]
    rest = 1 - sum(weights)
    x0, eps = (
        rest * u + sum(w * c for w, c in zip(weights, others, strict=True))
        for u, *others in zip(unconditional[:2], *(c[:2] for c in conditionals), strict=True)
    )
    if schedule is not None and rescale:
        wanted, actual = (_deviation(one) for one in (conditionals[0].x0, x0))
        # A constant x_0 has no contrast to counter.
        ratio = jnp.where(actual > 0, wanted / jnp.where(actual > 0, actual, 1), 1)
        x0 = (1 - rescale + rescale * ratio) * x0
        x0, eps, _ = prediction.from_x0(schedule, xt, t, x0)
    return Denoised(x0, eps, conditionals[0].variance_fraction)


def _weight(scale: Scale, xt: jax.Array, t: jax.Array) -> jax.Array | float:
    if isinstance(scale, int | float):
        return scale  # of no dtype: it follows that of x_t
    weight = jnp.asarray(scale(t) if callable(scale) else scale, xt.dtype)
    if weight.shape not in ((), xt.shape[:1]):
        raise ValueError(f"need one scale, or one for each of {len(xt)}, got {weight.shape}")
    return expand(weight, xt)


def _deviation(x: jax.Array) -> jax.Array:
    """The standard deviation of each image's entries, [B, 1, ...]."""
    return x.std(axis=range(1, x.ndim), keepdims=True)
