"""Figures of speed and memory on this machine, section by section."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jax

from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.commands.benchmark.processes import Failed
from ddpm_jax.runtime import environment

Section = Callable[[Options], dict[str, Any]]
# Of what the environment has, what speed depends on; of others than ours the rows have it.
VERSIONS = ("ddpm_jax", "python", "jax", "jaxlib")


def benchmark(
    options: Options,
    sections: Mapping[str, Section],
    keep: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> dict[str, Any]:
    """Measure some sections on this machine, one after the other.

    Args:
      options: what was asked for.
      sections: by name, as of `sections.SECTIONS`.
      keep: takes what there is after each section, so that an end in between loses one alone.

    Returns:
      {"date", "machine", "versions", "quick", "sections": {name: its figures, with
      "section_seconds"}}. A section whose process fails is {"failed": reason}.
    """
    found: dict[str, Any] = {}
    measured = {**machine(), "quick": options.quick, "sections": found}
    for number, (name, section) in enumerate(sections.items()):
        print(f"{number + 1}/{len(sections)} {name}", file=sys.stderr, flush=True)
        began = time.perf_counter()
        try:
            figures = section(options)
        except Failed as error:
            figures = {"failed": str(error)}
        found[name] = {**figures, "section_seconds": time.perf_counter() - began}
        keep(measured)
    return measured


def machine() -> dict[str, Any]:
    """The date, what computes here and in which versions; neither names nor paths of the host."""
    about = environment.describe()
    devices: Sequence[jax.Device] = jax.devices()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {
            "cpu": about["machine"]["cpu"],
            "cores": about["machine"]["threads"],
            "device": devices[0].device_kind,
            "devices": len(devices),
        },
        "versions": {name: about["versions"].get(name) for name in VERSIONS},
    }
