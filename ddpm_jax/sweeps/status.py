"""How far a sweep is, as a table; the same in another terminal while it runs."""

import collections
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from ddpm_jax.sweeps import workdirs
from ddpm_jax.sweeps.sweep_file import Sweep
from ddpm_jax.sweeps.workdirs import State, Training

MOST_LINES = 40  # of the table; finished and planned ones are only counted beyond


def table(
    sweep: Sweep,
    workdir: str | Path,
    attempts: int,
    *,
    most: int = MOST_LINES,
    queue: Mapping[str, str] | None = None,
) -> str:
    """A line for each cell, those that need a look first, and how many are in which state.

    Args:
      sweep: the sweep.
      workdir: its folder.
      attempts: failed tries after which a cell counts as failed.
      most: lines; what is left out is said.
      queue: what Slurm says of trainings, "queued" or "running"; on another node a lock may not be
        seen.
    """
    states, trainings = look(sweep, Path(workdir), attempts)
    queue = queue or {}
    for cell in sweep.cells:
        if queue.get(cell.training) == "running" and states[cell.name] is not State.DONE:
            states[cell.name] = State.RUNNING
    order = list(State)
    urgent = [State.FAILED, State.RUNNING, State.STOPPED]
    urgent += [state for state in order if state not in urgent]
    cells = sorted(sweep.cells, key=lambda cell: urgent.index(states[cell.name]))
    width = max(len(cell.name) for cell in cells[:most])
    lines = []
    for cell in cells[:most]:
        line = _line(states[cell.name], trainings[cell.training])
        waits = "  in the queue" if queue.get(cell.training) == "queued" else ""
        lines.append(f"{cell.name:<{width}}  {line}{waits}")
    if len(cells) > most:
        lines.append(f"... and {len(cells) - most:,} more")
    return "\n".join([*lines, "", summary(states, trainings)])


def look(
    sweep: Sweep, workdir: Path, attempts: int
) -> tuple[dict[str, State], dict[str, Training]]:
    """The state of every cell, and how far every training is, by name."""
    trainings = {
        name: workdirs.training(workdirs.folder(workdir, name), attempts)
        for name in sweep.trainings()
    }
    states = {
        cell.name: workdirs.cell_state(workdir, cell, trainings[cell.training], attempts)
        for cell in sweep.cells
    }
    return states, trainings


def summary(states: dict[str, State], trainings: dict[str, Training]) -> str:
    """One line: how many cells are in which state, and the time that those running need."""
    count = collections.Counter(states.values())
    parts = [f"{count[state]:,} {state.value}" for state in State if count[state]]
    left = [one for one in map(seconds_left, trainings.values()) if one is not None]
    time = f"; running ones need {_clock(max(left))} more" if left else ""
    return f"{len(states):,} cells: {', '.join(parts)}{time}"


def seconds_left(one: Training) -> float | None:
    """How long a running training needs at its last speed."""
    if one.state is not State.RUNNING or not one.steps_per_second:
        return None
    return (one.num_steps - one.step) / one.steps_per_second


class Live:
    """What a person sees of a running sweep: a table on a terminal, else a line for each event."""

    def __init__(self, sweep: Sweep, workdir: Path, attempts: int, stream: TextIO):
        self._sweep = sweep
        self._workdir = workdir
        self._attempts = attempts
        self._stream = stream
        self._terminal = stream.isatty()
        self._height = 0

    def started(self, training: str, what: str) -> None:
        """A process was started."""
        if not self._terminal:
            verb = "training" if what == workdirs.TRAIN else "measuring"
            print(f"{verb} {training}", file=self._stream, flush=True)

    def ended(self, training: str, what: str, code: int) -> None:
        """A process ended."""
        if not self._terminal:
            how = f"failed ({code})" if code not in workdirs.ENDED else "stopped"
            how = {0: "done", workdirs.STOPPED: "stopped and saved"}.get(code, how)
            verb = "training" if what == workdirs.TRAIN else "measuring"
            print(f"{verb} {training}: {how}", file=self._stream, flush=True)

    def show(self, *, last: bool = False) -> None:
        """Draw the table over the one before; without a terminal only the last summary."""
        if not self._terminal:
            if last:
                print(
                    summary(*look(self._sweep, self._workdir, self._attempts)),
                    file=self._stream,
                    flush=True,
                )
            return
        size = shutil.get_terminal_size()
        text = table(self._sweep, self._workdir, self._attempts, most=max(size.lines - 4, 1))
        lines = [line[: size.columns - 1] for line in text.splitlines()]
        up = f"\x1b[{self._height}A\x1b[J" if self._height else ""
        print(up + "\n".join(lines), file=self._stream, flush=True)
        self._height = len(lines)


def _line(state: State, one: Training) -> str:
    parts = [f"{state.value:<8}"]
    if one.num_steps:
        parts.append(f"step {one.step:,}/{one.num_steps:,}")
    if one.loss is not None:
        parts.append(f"loss {one.loss:.4f}")
    if (left := seconds_left(one)) is not None:
        parts.append(f"{_clock(left)} left")
    if one.error:
        parts.append(f"{one.failures} failed tries: {one.error}")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
