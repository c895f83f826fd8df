"""One piece of work by several sides, each in a process of its own, turn by turn in one run."""

import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddpm_jax.commands.benchmark.processes import Failed, Worker

# Before each turn: a library's threads spin on for a while after their work, and would take a core
# from the other's.
REST = 0.5  # seconds
TURN = 2.0  # seconds of work in a turn, about; a single repetition where that takes longer
OURS = "ours"


def compared(
    spec: Mapping[str, Any],
    sides: Sequence[tuple[str, str]] = (),
    *,
    rounds: int,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Time one piece of work of ours, and of others on the same weights, batch and precision.

    Each side compiles and warms up while the others wait, then all take turns; a side that fails
    says why and is left out of them.

    Args:
      spec: what `ours.start` takes, without "exchange" and "side".
      sides: others, as (side, mode), such as ("diffusers", "compile").
      rounds: turns of each.
      variables: of the environment of our process.

    Returns:
      {**facts of ours, "ours": {"seconds", "cpu_seconds": of one repetition, the medians of the
      turns}, "diffusers eager": the same of it, with "ratio": the median over the rounds of our
      seconds over theirs, "cpu_ratio", and facts of it, or {"failed": reason}}.
    """
    with tempfile.TemporaryDirectory() as parent, contextlib.ExitStack() as running:
        folder = parent if sides else None
        if sides and "dit" in spec:
            with Worker({**spec, "what": "weights", "side": sides[0][0], "exchange": folder}):
                pass
        ours = running.enter_context(Worker({**spec, "side": OURS, "exchange": folder}, variables))
        workers, row = {OURS: ours}, {**ours.facts, OURS: {}}
        for side, mode in sides:
            asked = {**spec, "side": side, "mode": mode, "exchange": folder, "facts": ours.facts}
            name = f"{side} {mode}"
            try:
                workers[name] = running.enter_context(Worker(asked))
                row[name] = workers[name].facts
            except Failed as error:
                row[name] = {"failed": str(error)}
        taken = take_turns(workers, rounds)
    for name, times in medians(taken).items():
        row[name] = {**times, **row[name]}
    return row


def medians(
    taken: Mapping[str, list[tuple[float, float]]], first: str = OURS
) -> dict[str, dict[str, float]]:
    """Of what `take_turns` gives, the medians; for all but the first the ratios of it over them."""
    rows: dict[str, dict[str, float]] = {}
    for name, times in taken.items():
        wall, cpu = (statistics.median(values) for values in zip(*times, strict=True))
        rows[name] = {"seconds": wall, "cpu_seconds": cpu}
        if name != first:
            pairs = [*zip(taken[first], times, strict=True)]
            rows[name]["ratio"] = statistics.median(a[0] / b[0] for a, b in pairs)
            rows[name]["cpu_ratio"] = statistics.median(a[1] / b[1] for a, b in pairs)
    return rows


def take_turns(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds, CPU seconds) of a repetition of each worker's work, one for each of its turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    repeats = {}
    for name, worker in workers.items():
        time.sleep(REST)
        repeats[name] = max(1, math.floor(TURN / worker.turn(1)[0]))
    for _ in range(rounds):
        for name, worker in workers.items():
            time.sleep(REST)
            taken[name].append(worker.turn(repeats[name]))
    return taken


def seconds_of(work: Callable[[], Any]) -> float:
    """That a piece of work takes, once, in this process."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
