"""The conditions of a U-Net of latent diffusion: by name, of the shapes that it needs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

LABEL = "label"  # by its kind, one of LABELS
TOKENS = "tokens"  # [B, L, D], of a text
MASK = "tokens_mask"  # bool [B, L], the tokens that are read; all where it is not given
POOLED = "pooled"  # [B, P], of a text as a whole (SDXL)
TIME_IDS = "time_ids"  # [B, N], numbers such as sizes and crops (SDXL)
GUIDANCE = "guidance_embedding"  # [B, W], of a guidance scale (consistency distillation)
DOWN, MID = "down_residuals", "mid_residual"  # what a ControlNet adds to skips and bottom
CONTROL = "control"  # [B, H, W, C], the image that a ControlNet reads

# What a label is: the row of a table; a number, embedded as a time is; a vector, by two dense
# layers, by one, or added to the time's embedding as it is.
TABLE, NUMBER, VECTOR, LINEAR, SUMMED = "table", "number", "vector", "linear", "summed"
LABELS = (TABLE, NUMBER, VECTOR, LINEAR, SUMMED)

Conditions = Mapping[str, Any] | jax.Array | None
Shape = tuple[int | str, ...]  # a letter stands for any number


def complete(
    conditions: Conditions, needs: Mapping[str, Shape], optional: tuple[str, ...]
) -> dict[str, Any]:
    """The conditions by name, of the shapes that a network needs.

    Args:
      conditions: named arrays; a bare array is {"label": array}.
      needs: the shape of each condition that must be given.
      optional: the names of those that may be given.

    Raises:
      ValueError: for a condition that the network does not have, a missing one, or another shape.
    """
    if conditions is not None and not isinstance(conditions, Mapping):
        conditions = {LABEL: conditions}
    arrays = dict(conditions or {})
    names = (*needs, *optional)
    if unknown := sorted(set(arrays) - set(names)):
        raise ValueError(
            f"this network is not conditioned on {', '.join(unknown)}; it knows "
            f"{', '.join(names) or 'no conditions'}"
        )
    for name, shape in needs.items():
        need = f"[{', '.join(map(str, shape))}]"
        if name not in arrays:
            raise ValueError(f"this network needs the condition {name} {need}")
        arrays[name] = jnp.asarray(arrays[name])
        have = arrays[name].shape
        if len(have) != len(shape) or any(
            not isinstance(n, str) and n != m for n, m in zip(shape, have, strict=True)
        ):
            raise ValueError(f"{name} must be {need}, got {list(have)}")
    if MASK in arrays:
        arrays[MASK] = _checked_mask(arrays[MASK], arrays[TOKENS].shape[:2])
    return arrays


def _checked_mask(mask: Any, shape: tuple[int, ...]) -> jax.Array:
    """A mask with a token in every row: one without any reads all of them, as in diffusers."""
    mask = jnp.asarray(mask)
    if mask.shape != shape or mask.dtype != bool:
        raise ValueError(f"{MASK} must be bool {list(shape)}, got {mask.dtype}{list(mask.shape)}")
    return mask | ~mask.any(axis=1, keepdims=True)
