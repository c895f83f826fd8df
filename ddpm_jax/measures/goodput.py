"""Of the time that a run took over all of its attempts, how much of it is in the result."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.runtime import files

METRICS = "metrics.jsonl"
MAX_LINE = 2**16


class Lost(NamedTuple):
    """What a restart cost: steps of the attempt before that were not saved and come again.

    Attributes:
      steps: how many of them were logged; up to config.train.log_every more were not.
      seconds: what they took, by the speed that was logged with them.
    """

    steps: int
    seconds: float


def lost(workdir: str | Path, start: int) -> Lost:
    """What was logged in a workdir beyond the step that an attempt goes on from.

    To be asked before that attempt drops those lines.

    Args:
      workdir: the run's.
      start: the step that the attempt goes on from.
    """
    last, seconds = start, 0.0
    with contextlib.suppress(OSError, ValueError):
        for line in files.read_lines(Path(workdir) / METRICS, MAX_LINE):
            step, rate = _step_and_rate(line)
            if step > last and rate > 0:
                seconds += (step - last) / rate
                last = step
    return Lost(last - start, seconds)


def _step_and_rate(line: bytes) -> tuple[int, float]:
    """Of a line of training; (0, 0) for any other."""
    try:
        content = json.loads(line)
        return int(content["step"]), float(content["steps_per_second"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0, 0.0


def entry(seconds: Mapping[str, float], before: Lost) -> dict[str, Any]:
    """What the manifest says of an attempt: {"seconds": {phase: ...}, "lost": {...}}.

    Args:
      seconds: by phase, of the attempt's ledger.
      before: what its start cost of the attempt before it.
    """
    return {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "lost": {"steps": before.steps, "seconds": round(before.seconds, 3)},
    }
