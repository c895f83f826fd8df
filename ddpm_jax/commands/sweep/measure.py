"""What a sweep would cost: a few steps of one cell of each shape, timed on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax import experiment
from ddpm_jax.commands.sweep import check
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import forecast as forecasts
from ddpm_jax.runtime.ledger import Ledger
from ddpm_jax.sweeps import workdirs
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


def forecast(sweep: Sweep, workdir: Path) -> dict[str, Any]:
    """Hours and bytes of all trainings, from a warm-up of one cell of each shape.

    Evaluations are not in it, nor what is already done, nor a cell that needs the workdir of one
    that is not trained yet.

    Args:
      sweep: the sweep.
      workdir: its folder, absolute.

    Returns:
      {"waiting": [names of those], "programs": [{"cells", "steps_per_second", "compile_seconds",
      "step_bytes", "state_bytes", "parameters", "hours"}], "hours", "device_hours", "devices",
      "disk_bytes"}: `hours` of one training after the other; `device_hours` are those times the
      devices of a mesh.

    Raises:
      UserError: for a cell that cannot be built or whose data cannot be read, naming it.
    """
    groups: dict[str, list[tuple[str, ConfigDict]]] = {}
    waiting = []
    for name, cell in sweep.trainings().items():
        if any(not workdirs.is_trained(workdir, needed) for needed in cell.needs.values()):
            waiting.append(name)
            continue
        config = config_files.resolve(check.config_of(sweep, cell, workdir))
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
        kept = one["state_bytes"], one["parameters"]
        disk += sum(forecasts.disk_bytes(c, *kept) for _, c in cells)
        hours += sum(of_each)
        device_hours += sum(of_each) * one["devices"]
        programs.append({"first": first, "cells": len(cells), "hours": sum(of_each), **one})
    return {
        "waiting": waiting,
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
    if found["waiting"]:
        lines.append(
            f"{len(found['waiting']):,} cells are not in it either: they need others that are not "
            f"trained yet, {found['waiting'][0]} for one"
        )
    return "\n".join(lines)


def _timed(config: ConfigDict) -> dict[str, Any]:
    """Speed and memory of the training step of a config, on its own data."""
    built = experiment.build(config, own=experiment.imported_parts(config))
    timing = forecasts.timed(built, Ledger())
    memory = timing.memory
    return {
        "steps_per_second": timing.steps_per_second,
        "compile_seconds": timing.compile_seconds,
        "step_bytes": int(memory.argument_size_in_bytes + memory.temp_size_in_bytes),
        "state_bytes": forecasts.state_bytes(built),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(built.state_shapes().params)),
        "devices": built.mesh.size,
    }
