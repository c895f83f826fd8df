"""A strict step, whose bits no number of devices changes, beside the plain step."""

import statistics
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.commands.benchmark.turns import seconds_of
from ddpm_jax.config import config_files
from ddpm_jax.experiment import Experiment, attempt, build
from ddpm_jax.runtime import sharding

# Alternating blocks, so that a drift of the machine's speed falls on both sides alike.
ROUNDS, BLOCK_STEPS = 8, 3


def strict_cost(config: ConfigDict, rounds: int = ROUNDS) -> dict[str, Any]:
    """Time a step with config.mesh.strict over one without, on one device and on all.

    Args:
      config: of an experiment whose shards divide its batch; its data are read.
      rounds: of each way, in turns.

    Returns:
      {"shards": S, "devices_1": {"plain_step": seconds, "strict_step": seconds,
      "strict_over_plain": the ratio, the median of the rounds}, "devices_8": ...}; of all devices
      only where they divide S.
    """
    shards = config.mesh.strict_shards
    counts = [n for n in sorted({1, len(jax.devices())}) if shards % n == 0]
    return {"shards": shards} | {f"devices_{n}": _measured(config, n, rounds) for n in counts}


def _measured(config: ConfigDict, devices: int, rounds: int) -> dict[str, float]:
    plain, strict = (
        _block(
            build(
                config_files.override(
                    config, {"mesh": {"data": devices, "fsdp": 1, "strict": strict}}
                )
            )
        )
        for strict in (False, True)
    )
    plain(), strict()  # compile
    taken = [(seconds_of(plain), seconds_of(strict)) for _ in range(rounds)]
    one, other = (statistics.median(t) / BLOCK_STEPS for t in zip(*taken, strict=True))
    return {
        "plain_step": one,
        "strict_step": other,
        "strict_over_plain": statistics.median(b / a for a, b in taken),
    }


def _block(experiment: Experiment) -> Callable[[], None]:
    """A block of steps."""
    state, step = experiment.init_state(), experiment.train_step()
    batch = attempt.training_batches(experiment, experiment.source("train")).batch_at(0)
    placed = sharding.put_batch(batch, sharding.batch_sharding(experiment.mesh))

    def block() -> None:
        nonlocal state
        for _ in range(BLOCK_STEPS):
            state, _ = step(state, placed)
        jax.block_until_ready(state)

    return block
