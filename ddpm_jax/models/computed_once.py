"""Sums along a deep network, for a compiler that would rather compute them again."""

import jax
import jax.numpy as jnp


def computed_once(x: jax.Array) -> jax.Array:
    """x itself; on a CPU its value, and that of its gradient, is computed once and kept.

    XLA for CPUs fuses what is cheap into each of its readers. The gradient of a residual sum is a
    chain of cheap operations through all blocks, which four readers in each block would compute
    from its beginning: a backward pass then grows with the square of the depth. A division is
    never repeated, so this is one, by 1 (where x is not NaN) and therefore exact. An optimisation
    barrier would not do: it is gone before anything is fused.

    Args:
      x: floats of any shape; half precision, which is not for CPUs, stays as it is.
    """
    if x.dtype.itemsize < 4:
        return x
    return jax.lax.platform_dependent(x, cpu=_divided, default=lambda x: x)


def _divided(x: jax.Array) -> jax.Array:
    return x / jax.lax.stop_gradient(jnp.where(jnp.isnan(x), x, 1))
