"""The exact likelihood of the probability-flow ODE."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.likelihood import bounds, terms
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule

Field = Callable[[jax.Array, jax.Array], jax.Array]
# (vector_field(time, y) -> dy / dtime, y0, time 0, time 1) -> y1, for one example's vector y.
Integrator = Callable[[Field, jax.Array, jax.Array, jax.Array], jax.Array]


def probability_flow(
    denoise: Denoiser,
    schedule: Schedule,
    x0: jax.Array,
    key: jax.Array | None = None,
    *,
    integrate: Integrator,
    num_probes: int | None = None,
    t_min: float | None = None,
) -> jax.Array:
    """-log2 p(x_0) per dimension under the probability-flow ODE from t_min to t = 1.

    A path is fixed by its log-SNR up to a rescaling of x, so the ODE is solved on the
    variance-preserving path a² = sigmoid(log_snr), b² = 1 - a², in the time u = -log_snr:

        dy / du = a b (a eps-hat - b x_0-hat) / 2,    y = x_t / sqrt(alpha² + sigma²),

    DESIGN's drift alpha' x_0-hat + sigma' eps-hat with its derivatives in closed form. So a
    discrete schedule's kinks, and derivatives that are infinite at an end, do not reach the
    integrator. The prior is N(0, sigma(1)² I).

    Below t_min nothing is integrated: x_0 is put at x = alpha(t_min) x_0, so that the density is
    that of x_0 blurred by Gaussian noise of standard deviation sigma / alpha at t_min.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised, called with B = 1 under `jax.vmap`.
      schedule: the path.
      x0: data that have a density, [B, ...]; those that have levels go through `dequantise`.
      key: a scalar key, or [B] keys; needed for probes alone.
      integrate: solves one example's ODE, its state a vector: x_t's d entries and the integral of
        the divergence.
      num_probes: Rademacher probes of Hutchinson's estimate of the divergence; None for the exact
        trace, of d forward derivatives.
      t_min: in [0, 1); None for `first_time(schedule)`.

    Returns:
      [B], bits per dimension of x_0's own units (`bits_per_cell` converts).

    Raises:
      ValueError: for t_min or num_probes out of range, probes without a key, or data on a lattice.

    Source: Song et al. 2021, equations 39 and 40; Chen et al. 2018, theorem 1; Hutchinson 1990.
    """
    bounds.check_not_a_lattice(x0, None, "levels")
    signs = None if num_probes is None else _signs(key, x0, num_probes)
    high, low = bounds.log_snr_range(schedule, t_min, jnp.promote_types(x0.dtype, jnp.float32))

    def one(x0: jax.Array, probes: jax.Array | None) -> jax.Array:
        drift = _drift(denoise, schedule, x0.shape)

        def field(u: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.append(*_with_divergence(lambda x: drift(u, x), y[:-1], probes))

        log_a = 0.5 * jax.nn.log_sigmoid(high)
        start = jnp.append(jnp.exp(log_a) * x0.ravel(), jnp.zeros((), x0.dtype))
        end = integrate(field, start, -high, -low)
        log_variance = jax.nn.log_sigmoid(-low)
        prior = terms.decoder_nll(end[:-1], jnp.zeros_like(end[:-1]), log_variance, None)
        return (prior.mean() - end[-1] / x0.size - log_a) / math.log(2)

    return jax.vmap(one)(x0, signs)


def dequantise(key: jax.Array, x0: jax.Array, levels: int | None) -> jax.Array:
    """Data of `levels` values in [-1, 1] spread evenly over their cells: x_0 with a density.

    Pixel k of 0..levels - 1 becomes (k + u) / levels * 2 - 1 with u uniform on [0, 1): the cells
    fill [-1, 1).

    Args:
      key: a scalar key, or [B] keys, one an example.
      x0: [B, ...], on the values -1, ..., 1.
      levels: their number: 256 for 8-bit images, 17 for the digits.

    Raises:
      ValueError: if the levels are not stated, or are fewer than 2.

    Source: Theis et al. 2016, section 3.1: the density's bits bound the pixels' own.
    """
    if levels is None:
        raise ValueError(
            "levels=None: state the number of values that a pixel takes (256 for 8-bit images)"
        )
    terms.check_levels(levels)
    keys = bounds.example_keys(key, len(x0))
    u = jax.vmap(lambda k: jax.random.uniform(k, x0.shape[1:], x0.dtype))(keys)
    return (jnp.round((x0 + 1) * (0.5 * (levels - 1))) + u) * (2 / levels) - 1


def bits_per_cell(bits: jax.Array, levels: int) -> jax.Array:
    """Bits of a density on [-1, 1], per dimension, as bits of cells of width 2 / levels.

    What a density of `dequantise`d data gives a pixel: a bound on the bits of the pixel itself.

    Raises:
      ValueError: for fewer than 2 levels.
    """
    terms.check_levels(levels)
    return bits + math.log2(levels / 2)


def _drift(denoise: Denoiser, schedule: Schedule, shape: tuple[int, ...]) -> Field:
    """(u, y [d]) -> dy / du of one example whose data have this shape."""

    def drift(u: jax.Array, y: jax.Array) -> jax.Array:
        a, b = (jnp.exp(0.5 * jax.nn.log_sigmoid(sign * u)) for sign in (-1, 1))
        t = schedules.time_of_log_snr(schedule, -u)[None]
        scale = jnp.sqrt(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2)
        x0, eps, _ = denoise((scale * y).reshape(1, *shape), t)
        return (0.5 * a * b * (a * eps - b * x0)).ravel()

    return drift


def _signs(key: jax.Array | None, x0: jax.Array, num_probes: int) -> jax.Array:
    """Rademacher probes of each example, [B, num_probes, d]."""
    if num_probes < 1:
        raise ValueError(f"need num_probes >= 1, or None for the exact trace, got {num_probes=}")
    if key is None:
        raise ValueError("key=None, but probes are random: pass a key, or num_probes=None")
    shape = (num_probes, x0[0].size)
    keys = bounds.example_keys(key, len(x0))
    return jax.vmap(lambda k: jax.random.rademacher(k, shape, x0.dtype))(keys)


def _with_divergence(
    f: Callable[[jax.Array], jax.Array], x: jax.Array, probes: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """f(x) and the trace of its derivative: exact, or the mean of v·(df v) over probes v."""
    value, derivative = jax.linearize(f, x)
    if probes is None:
        return value, jnp.trace(jax.vmap(derivative)(jnp.eye(x.size, dtype=x.dtype)))
    return value, jax.vmap(lambda v: v @ derivative(v))(probes).mean()
