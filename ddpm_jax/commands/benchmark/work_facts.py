"""Pieces of our work, and what is said of them beside their time."""

from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.commands.benchmark.worker import Work
from ddpm_jax.experiment import Experiment
from ddpm_jax.measures import model_flop
from ddpm_jax.runtime import memory
from ddpm_jax.training.state import TrainState


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


def training(experiment: Experiment, state: TrainState, batch: Any, **told: Any) -> Work:
    """Steps from a state, of one batch again and again; one is done now.

    Args:
      experiment: whose step it is.
      state, batch: on its devices; the state's memory is the step's from now on.
      **told: what is said of it too.
    """
    params, step = state.params, experiment.train_step()

    def run(repeats: int) -> None:
        nonlocal state
        for _ in range(repeats):
            state, _ = step(state, batch)
        jax.block_until_ready(state)

    run(1)
    optim = experiment.config.optim
    own = {
        "flop_per_step": model_flop.of_step(experiment),
        "learning_rate": optim.learning_rate,
        "grad_clip": optim.grad_clip,
        "ema_decay": experiment.config.ema.decay,
    }
    return Work({**facts(experiment, params), **own, **told}, run)


def copy(params: Any) -> Any:
    """Arrays of their own: the step is given all of the state's memory."""
    return jax.tree.map(jnp.copy, params)
