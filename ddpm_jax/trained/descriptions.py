"""What a set of samples depends on, as JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax.runtime import digests


def described(value: Any) -> Any:
    """A value as JSON that tells it from others: arrays by their digest, models by checkpoint."""
    if hasattr(value, "config_sha256"):  # a trained model
        names = ["config_sha256", "checkpoint", "parameters"]
        names += ["reconstruction"] if value.reconstruction else []
        return {name: described(getattr(value, name)) for name in names}
    if isinstance(value, np.ndarray):
        return digests.sum_of(value)
    if dataclasses.is_dataclass(value):
        return {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): described(one) for name, one in value.items()}
    if isinstance(value, list | tuple | range):
        return [described(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value
