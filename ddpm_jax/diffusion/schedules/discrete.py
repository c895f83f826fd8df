"""Discrete schedules: T steps, step i at t = i / T.

One table, log alpha_bar_i for i = 0..T, is kept in float64; everything else follows from it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.schedules.base import Schedule


def from_betas(betas: np.ndarray) -> Schedule:
    """The variance-preserving schedule of q(x_i | x_{i-1}) = N(sqrt(1 - beta_i) x_{i-1}, beta_i I).

    Args:
      betas: [T], each in (0, 1); the last may be 1 (zero terminal SNR).

    Returns:
      A Schedule with alpha² + sigma² = 1 whose log alpha_bar is linear between the steps. Where the
      last beta is 1, alpha itself is linear in the last interval: it ends at 0.

    Raises:
      ValueError: if betas is empty, not one-dimensional, or leaves (0, 1).

    Source: Ho et al. 2020, section 2, equations 2 and 4.
    """
    betas = np.array(betas, np.float64)
    if betas.ndim != 1 or betas.size == 0:
        raise ValueError(f"need betas of shape [T] with T >= 1, got shape {betas.shape}")
    ends_at_zero = len(betas) > 1 and betas[-1] == 1
    inner = betas[:-1] if ends_at_zero else betas
    if not np.all((inner > 0) & (inner < 1)):
        raise ValueError(f"need 0 < beta < 1 at every step, got {betas.min()=}, {betas.max()=}")
    betas.setflags(write=False)
    num_steps = len(betas)
    # Summed in float64 and kept as a logarithm: 1 - alpha_bar from a float32 alpha_bar has lost
    # half of its digits at the first steps.
    log_alphas_cumprod = np.concatenate([[0.0], np.cumsum(np.log1p(-inner))])
    last = len(inner)

    def log_alpha_bar(t: jax.Array) -> jax.Array:
        position = _position(t, num_steps)
        table = jnp.asarray(log_alphas_cumprod, position.dtype)
        index = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, last - 1)
        fraction = jnp.minimum(position, last) - index
        return (1 - fraction) * table[index] + fraction * table[index + 1]

    def left(t: jax.Array) -> jax.Array:
        """What a last interval to alpha = 0 leaves of alpha: 1 before it, 0 at its end."""
        return 1 - jnp.maximum(_position(t, num_steps) - last, 0)

    def alpha(t: jax.Array) -> jax.Array:
        level = jnp.exp(0.5 * log_alpha_bar(t))
        return level * left(t) if ends_at_zero else level

    def sigma(t: jax.Array) -> jax.Array:
        # abs, not a minus sign: that would make sigma(0) a negative zero.
        variance = jnp.abs(jnp.expm1(log_alpha_bar(t)))
        if ends_at_zero:
            # 1 - a² f² = (1 - a²) + a² (1 - f²).
            variance += jnp.exp(log_alpha_bar(t)) * (1 - left(t) ** 2)
        return jnp.sqrt(variance)

    return Schedule(
        alpha=alpha,
        sigma=sigma,
        network_time=lambda t: jnp.clip(_position(t, num_steps) - 1, 0, num_steps - 1),
        betas=betas,
    )


def linear(num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Betas that rise linearly, the schedule of DDPM.

    Args:
      num_steps: T, at least 1.
      beta_start: beta_1, in (0, 1).
      beta_end: beta_T, in [beta_start, 1).

    Raises:
      ValueError: for a number of steps below 1 or betas out of range.

    Source: Ho et al. 2020, section 4.
    """
    _check_betas(num_steps, beta_start, beta_end)
    return from_betas(np.linspace(beta_start, beta_end, num_steps))


def scaled_linear(
    num_steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> Schedule:
    """Betas whose square roots rise linearly, the schedule of latent diffusion.

    Args:
      num_steps: T, at least 1.
      beta_start: beta_1, in (0, 1).
      beta_end: beta_T, in [beta_start, 1).

    Raises:
      ValueError: for a number of steps below 1 or betas out of range.

    Source: Rombach et al. 2022, the released code's "linear" schedule.
    """
    _check_betas(num_steps, beta_start, beta_end)
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, num_steps) ** 2)


def sigmoid(num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Betas that rise from beta_start to beta_end as a sigmoid between -6 and 6.

    Args:
      num_steps: T, at least 1.
      beta_start, beta_end: the sigmoid's two limits, 0 < beta_start <= beta_end < 1.

    Raises:
      ValueError: for a number of steps below 1 or betas out of range.

    Source: Xu et al. 2022 (GeoDiff), the released code.
    """
    _check_betas(num_steps, beta_start, beta_end)
    rise = 1 / (1 + np.exp(-np.linspace(-6, 6, num_steps)))
    return from_betas(beta_start + (beta_end - beta_start) * rise)


def cosine(num_steps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """alpha_bar(t) = f(t) / f(0) with f(t) = cos²((t + s) / (1 + s) π/2), its betas clipped.

    Args:
      num_steps: T, at least 1.
      s: the offset that keeps beta_1 from vanishing, at least 0.
      max_beta: the bound on beta near t = 1, in (0, 1).

    Raises:
      ValueError: for a number of steps below 1, s or max_beta out of range.

    Source: Nichol & Dhariwal 2021, equation 17.
    """
    _check_num_steps(num_steps)
    if not 0 <= s < np.inf:
        raise ValueError(f"need 0 <= s < inf, got {s=}")
    if not 0 < max_beta < 1:
        raise ValueError(f"need 0 < max_beta < 1, got {max_beta=}")
    t = np.arange(num_steps + 1) / num_steps
    alphas_cumprod = np.cos((t + s) / (1 + s) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], max_beta))


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The same discrete schedule, its alpha shifted and rescaled to end at exactly 0.

    Raises:
      ValueError: for a continuous schedule, or one of a single step.

    Source: Lin et al. 2024, algorithm 1.
    """
    if schedule.num_steps < 2:
        raise ValueError("zero terminal SNR needs a schedule of at least 2 steps")
    assert schedule.betas is not None
    alphas = np.exp(0.5 * np.cumsum(np.log1p(-np.asarray(schedule.betas))))
    alphas = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
    ratio = alphas[1:] / alphas[:-1]
    # 1 - r² as a product keeps the digits of small betas.
    return from_betas(np.concatenate([schedule.betas[:1], (1 - ratio) * (1 + ratio)]))


def _position(t: jax.Array, num_steps: int) -> jax.Array:
    """t T as a real number, on the node where it is within 1e-3 of one.

    In float32, (i / T) T falls short of i for some i, and a floor would read the step before.
    """
    t = jnp.asarray(t)
    if not jnp.issubdtype(t.dtype, jnp.floating):
        t = t.astype(jnp.float32)
    position = t * num_steps
    node = jnp.round(position)
    # The slope stays that of t T: the drift of an ODE is nowhere 0.
    node = position + jax.lax.stop_gradient(node - position)
    return jnp.where(jnp.abs(position - node) < 1e-3, node, position)


def _check_num_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"need num_steps >= 1, got {num_steps=}")


def _check_betas(num_steps: int, beta_start: float, beta_end: float) -> None:
    _check_num_steps(num_steps)
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"need 0 < beta_start <= beta_end < 1, got {beta_start=}, {beta_end=}")
