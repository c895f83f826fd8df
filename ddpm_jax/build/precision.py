"""config.model.dtype and remat: in which numbers a network computes, and what it keeps of them."""

from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.config.choose import choose
from ddpm_jax.errors import UserError
from ddpm_jax.models.remat import RECOMPUTED

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Names of other precisions, and why they are none here.
REFUSED_DTYPES = {
    "float16": "its gradients vanish below 6e-8 unless losses are scaled, which nothing here does; "
    "set bfloat16, which has the range of float32",
}


def dtype(c: ConfigDict) -> Any:
    """The dtype of the computation, config.model.dtype."""
    name = c.model.dtype
    if name in REFUSED_DTYPES:
        raise UserError(f"config.model.dtype={name!r}: {REFUSED_DTYPES[name]}")
    return choose("model.dtype", name, DTYPES)


def remat(c: ConfigDict) -> str:
    """What the backward pass computes again, config.model.remat."""
    choose("model.remat", c.model.remat, RECOMPUTED)
    return c.model.remat
