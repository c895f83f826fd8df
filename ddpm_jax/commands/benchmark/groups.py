"""A step of a group of runs beside the steps of those runs one after the other."""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import replicas
from ddpm_jax.commands.benchmark.turns import seconds_of
from ddpm_jax.config import config_files
from ddpm_jax.experiment import Experiment, attempt, build
from ddpm_jax.runtime import sharding
from ddpm_jax.training import replicated

REPLICAS = 8
# Alternating blocks, so that a drift of the machine's speed falls on both sides alike.
ROUNDS, BLOCK_STEPS = 8, 3
# A small transformer on the same data: 16 tokens of 8x8 images.
SMALL_DIT = {"name": "dit", "channels": 128, "num_blocks": 4, "num_heads": 4, "patch_size": 2}


def group_speed(config: ConfigDict, num: int = REPLICAS) -> dict[str, Any]:
    """Time `num` steps one after the other over one step of a group of `num`, for two networks.

    Args:
      config: of one of them, the other is SMALL_DIT on its data.
      num: K.

    Returns:
      {"replicas": K, "unet": {"parameters": ..., "steps_in_turn": seconds, "group_step": seconds,
      "gain": the ratio, the median of ROUNDS}, "small_dit": ...}; a gain above 1 is the group's.
    """
    networks = {config.model.name: {}, "small_dit": SMALL_DIT}
    return {"replicas": num} | {
        name: measured(build(config_files.override(config, {"model": fields})), num, ROUNDS)
        for name, fields in networks.items()
    }


def measured(experiment: Experiment, num: int, rounds: int) -> dict[str, float]:
    """The same of one experiment, whose data are read; `rounds` of each way in turns."""
    one, group = _alone(experiment, num), _together(experiment, num)
    one(), group()  # compile
    taken = [(seconds_of(one), seconds_of(group)) for _ in range(rounds)]
    in_turn, together = (statistics.median(t) / BLOCK_STEPS for t in zip(*taken, strict=True))
    params = jax.tree.leaves(experiment.state_shapes().params)
    return {
        "parameters": sum(leaf.size for leaf in params),
        "steps_in_turn": in_turn,
        "group_step": together,
        "gain": statistics.median(a / b for a, b in taken),
    }


def _alone(experiment: Experiment, num: int) -> Callable[[], None]:
    """A block of steps, each `num` times."""
    state, step = experiment.init_state(), experiment.train_step()
    batch = sharding.put_batch(_batch(experiment), sharding.batch_sharding(experiment.mesh))

    def block() -> None:
        nonlocal state
        for _ in range(BLOCK_STEPS * num):
            state, _ = step(state, batch)
        jax.block_until_ready(state)

    return block


def _together(experiment: Experiment, num: int) -> Callable[[], None]:
    """A block of steps of a group."""
    place = replicated.members_sharding(experiment.mesh, num)
    states = replicated.stacked(replicas.init_states(experiment, range(num)), experiment.mesh)
    numbers = replicas.placed(replicas.numbers([experiment.config] * num), experiment)
    active = jax.device_put(np.ones(num, bool), place)
    batch = jax.tree.map(lambda leaf: np.stack([leaf] * num), _batch(experiment))
    batch = sharding.put_batch(batch, place)
    step = replicas.group_step(experiment, num)

    def block() -> None:
        nonlocal states
        for _ in range(BLOCK_STEPS):
            states, _ = step(states, batch, numbers, active)
        jax.block_until_ready(states)

    return block


def _batch(experiment: Experiment) -> dict[str, np.ndarray]:
    return attempt.training_batches(experiment, experiment.source("train")).batch_at(0)
