"""Named conditions [B, ...] and their absence, which has one form for each kind.

| kind | form | absent |
| --- | --- | --- |
| a value (a label, an attribute) | int [B] | -1 |
| an image beside the input (a mask, a sketch, a small image) | float [B, H, W, C] | 0 |
| an embedding of an image or a text | float [B, D] | 0 |
| a text | int [B, L], tokens | -1 in every place |
| what was made of it, "text_states" beside "text" | float [B, ...] | 0, not read without tokens |
| a sequence, "tokens" with "tokens_mask" | float [B, L, D] and bool [B, L] | no token in the mask |
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.schedules import expand

NULL_VALUE = -1
# What goes with a condition, by the end of its name.
BESIDE = ("_mask", "_states")


def null(conditions: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The same conditions, absent in every example."""
    return {
        name: jnp.full_like(value, NULL_VALUE)
        if jnp.issubdtype(value.dtype, jnp.integer)
        else jnp.zeros_like(value)
        for name, value in conditions.items()
    }


def drop(
    conditions: Mapping[str, jax.Array], dropped: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """The conditions, absent where `dropped` of their name says so; a mask goes with its tokens.

    Args:
      conditions: named arrays [B, ...].
      dropped: bool [B] for each name, except names that end as BESIDE says.
    """

    def of(name: str) -> str:
        for end in BESIDE:
            name = name.removesuffix(end)
        return name

    absent = null(conditions)
    return {
        name: jnp.where(expand(dropped[of(name)], value), absent[name], value)
        for name, value in conditions.items()
    }
