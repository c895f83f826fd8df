"""How far forecasts are from what was measured: of the time of short runs, and of peak memory."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_jax.commands.benchmark.processes import python
from ddpm_jax.measures import manifest

SHORT = ("--config.train.num_steps=150", "--config.train.checkpoint_every=50")
# Whose memory is forecast: the experiment's network, and a wider one, of more memory than a process
# takes by itself.
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "experiment": (),
    "wider": ("--config.model.channels=128", "--config.model.num_groups=32"),
}


def forecasts(config_file: str) -> dict[str, Any]:
    """Forecast a short run and make it, twice; then the memory of two networks.

    In processes of their own, without a compile cache, as on a machine that has seen neither. The
    second time is of the same run with samples and validation on the way.

    Args:
      config_file: of the experiment.

    Returns:
      {"run", "watched_run"}: each {"forecast", "actual", and "over": actual over forecast, of
      seconds, steps_per_second and disk_bytes}; {"memory"}: the same of the bytes on a device, of
      NETWORKS, measured over 20 steps by `experiment.forecast.Window`.
    """
    unwatched = ("--config.train.sample_every=0", "--config.train.validate_every=0")
    watched = ("--config.train.sample_every=75", "--config.train.validate_every=75")
    return {
        "run": _settled(config_file, *SHORT, *unwatched),
        "watched_run": _settled(config_file, *SHORT, *watched),
        "memory": {name: _memory(config_file, *flags) for name, flags in NETWORKS.items()},
    }


def _settled(config_file: str, *flags: str) -> dict[str, Any]:
    """A run's forecast, made before it, beside what it took."""
    with tempfile.TemporaryDirectory() as folder:
        command = ("-m", "ddpm_jax", "train", f"--config={config_file}", "--compile_cache=off")
        python(*command, f"--workdir={folder}", *flags, "--dry_run=measure")
        python(*command, f"--workdir={folder}", *flags)
        (entry,) = manifest.read(Path(folder) / manifest.FILE)
    made, actual = entry["forecast"]["forecast"], entry["forecast"]["actual"]
    names = ("seconds", "steps_per_second", "disk_bytes")
    seconds = entry["goodput"]["seconds"]
    return {
        "forecast": {name: made[name] for name in names},
        "actual": {name: actual[name] for name in names},
        "over": {name: actual[name] / made[name] for name in names},
        "where": seconds,
    }


def _memory(config_file: str, *flags: str) -> dict[str, Any]:
    """Bytes that training was forecast to hold on a device, beside the peak that was measured."""
    command = ("-m", "ddpm_jax", "train", f"--config={config_file}", "--dry_run=measure")
    told = json.loads(python(*command, *flags).stdout)
    made, actual = told["bytes_per_device"]["total"], told["measured"]["peak_bytes"]
    return {
        "parameters": told["parameters"],
        "forecast": made,
        "actual": actual,
        "over": actual / made,
    }
