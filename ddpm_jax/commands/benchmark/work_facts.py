"""What is said of a piece of our work beside its time."""

from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.experiment import Experiment
from ddpm_jax.runtime import memory


def facts(experiment: Experiment, params: Any) -> dict[str, Any]:
    """The numbers of parameters and rows, and what computes."""
    devices = list(experiment.mesh.devices.flat)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "batch": experiment.config.data.batch_size,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "peak_device_bytes": memory.device_peak_bytes(devices),
    }


def copy(params: Any) -> Any:
    """Arrays of their own: the step is given all of the state's memory."""
    return jax.tree.map(jnp.copy, params)
