"""What a sweep would cost: a few steps of one cell of each shape, timed on this machine."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax import experiment
from ddpm_jax.build import averages
from ddpm_jax.commands.sweep import check
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt
from ddpm_jax.sweeps.sweep_file import Sweep

# Fields that do not change what a step costs.
FREE = (
    "seed",
    "optim.learning_rate",
    "optim.weight_decay",
    "ema.decay",
    "ema.warmup",
    "ema.snapshots_every",
)
FREE_GROUPS = ("train.", "sample.")
SHAPING = "train.accumulate"  # but for this one
WARM, TIMED = 3, 20  # steps


def forecast(sweep: Sweep) -> dict[str, Any]:
    """Hours and bytes of all trainings, from a warm-up of one cell of each shape.

    Evaluations are not in it, nor what is already done.

    Returns:
      {"programs": [{"cells", "steps_per_second", "compile_seconds", "step_bytes", "state_bytes",
      "parameters", "hours"}], "hours", "device_hours", "devices", "disk_bytes"}: `hours` of one
      training after the other; `device_hours` are those times the devices of a mesh.

    Raises:
      UserError: for a cell that cannot be built or whose data cannot be read, naming it.
    """
    groups: dict[str, list[tuple[str, ConfigDict]]] = {}
    for name, overrides in sweep.trainings().items():
        config = config_files.resolve(check.config_of(sweep, overrides))
        shape = {
            name: value
            for name, value in config_files.fields(config).items()
            if name == SHAPING or (name not in FREE and not name.startswith(FREE_GROUPS))
        }
        groups.setdefault(config_files.sha256(shape), []).append((name, config))
    programs: list[dict[str, Any]] = []
    disk = hours = device_hours = 0.0
    for cells in groups.values():
        first, config = cells[0]
        try:
            one = _timed(config)
        except UserError as error:
            raise UserError(f"cell {first}: {error}") from error
        of_each = [
            (one["compile_seconds"] + c.train.num_steps / one["steps_per_second"]) / 3600
            for _, c in cells
        ]
        # The latest ones, and the best one beside them; and every snapshot.
        kept = sum(min(c.train.keep_checkpoints + 1, _saves(c)) for _, c in cells)
        disk += kept * one["state_bytes"]
        disk += sum(averages.snapshot_bytes(c, one["parameters"]) for _, c in cells)
        hours += sum(of_each)
        device_hours += sum(of_each) * one["devices"]
        programs.append({"first": first, "cells": len(cells), "hours": sum(of_each), **one})
    return {
        "programs": programs,
        "hours": hours,
        "device_hours": device_hours,
        "platform": jax.devices()[0].platform,
        "disk_bytes": int(disk),
    }


def table(found: Mapping[str, Any]) -> str:
    """The forecast in lines."""
    lines = ["", "| cells | steps/s | compiling | bytes of a step | hours |", "|" + " --- |" * 5]
    for one in found["programs"]:
        lines.append(
            f"| {one['cells']:,} like {one['first']} | {one['steps_per_second']:.3g} | "
            f"{one['compile_seconds']:.1f} s | {one['step_bytes']:,} | {one['hours']:.2g} |"
        )
    kind = "hours of devices" if found["platform"] == "cpu" else "GPU-hours"
    lines.append(
        f"\nforecast: {found['hours']:.2g} hours one after the other, {found['device_hours']:.2g} "
        f"{kind}, {found['disk_bytes'] / 1e9:.2g} GB of checkpoints and snapshots; evaluations are "
        "not in it"
    )
    return "\n".join(lines)


def _timed(config: ConfigDict) -> dict[str, Any]:
    """Speed and memory of the training step of a config, on its own data."""
    built = experiment.build(config, own=experiment.imported_parts(config))
    batches = _batches(built, config)
    state, first = built.init_state(), next(batches)
    began = time.perf_counter()
    compiled = built.train_step().lower(state, first).compile()
    seconds = time.perf_counter() - began
    memory: Any = compiled.memory_analysis()
    for _ in range(WARM):
        state, _ = compiled(state, next(batches))
    jax.block_until_ready(state)
    began = time.perf_counter()
    for _ in range(TIMED):
        state, _ = compiled(state, next(batches))
    jax.block_until_ready(state)
    return {
        "steps_per_second": TIMED / (time.perf_counter() - began),
        "compile_seconds": seconds,
        "step_bytes": int(memory.argument_size_in_bytes + memory.temp_size_in_bytes),
        "state_bytes": sum(
            leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(built.state_shapes())
        ),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(built.state_shapes().params)),
        "devices": built.mesh.size,
    }


def _batches(built: experiment.Experiment, config: ConfigDict) -> Iterator[Any]:
    source = built.source("train")
    read = attempt.training_batches(built, source).iterate(0, num_threads=config.data.num_threads)
    failures: list[UserError] = []
    yield from attempt.placed(read, built, failures)
    raise failures[0]


def _saves(config: ConfigDict) -> int:
    every = config.train.checkpoint_every
    return max(config.train.num_steps // every, 1) if every else 1
