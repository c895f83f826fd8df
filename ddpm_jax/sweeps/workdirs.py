"""How far each cell is, read from its own workdir: there is no record of the driver's to believe.

Of a training: final.json says that it is finished, the lock that a process has it, the manifest how
its last attempt ended, and tries.jsonl how the processes that were started there ended, since one
that fails at once leaves no manifest. Of what is measured, the result file.
"""

import dataclasses
import enum
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from ddpm_jax.config import config_files
from ddpm_jax.runtime import files
from ddpm_jax.sweeps.cells import FOLDER, Cell

FLAGS = "flags.txt"
NEEDS = "needs.txt"  # the trainings whose workdirs a cell's flags name, a line each
LOG = "log.txt"
TRIES = "tries.jsonl"
TRAIN = "train"  # what a try was of
PLAN = "plan.json"
STOPPED = 75  # the exit code of a run that a signal stopped and that was saved
# No failure: finished, or told to end, by SIGTERM or SIGINT also before or after a training.
ENDED = (0, STOPPED, 130, 143, -2, -15)
TAIL = 4096  # bytes of metrics.jsonl that hold its last line


class State(enum.Enum):
    """Of a cell."""

    PLANNED = "planned"
    RUNNING = "running"
    STOPPED = "stopped"  # and saved; or dead: another start goes on with it
    FAILED = "failed"  # as often as it may
    TRAINED = "trained"
    DONE = "done"  # and measured


@dataclasses.dataclass(frozen=True)
class Training:
    """How far a training is.

    Attributes:
      state: PLANNED to TRAINED.
      step: the last that is known of, 0 for none; of num_steps.
      num_steps: in all; 0 where nothing was started.
      loss, steps_per_second: the last that were logged, or None.
      failures: tries that failed without getting further, since the last `retry`.
      error: the last line of its last failure, or "".
    """

    state: State
    step: int = 0
    num_steps: int = 0
    loss: float | None = None
    steps_per_second: float | None = None
    failures: int = 0
    error: str = ""


def folder(workdir: Path, training: str) -> Path:
    """The workdir of a training."""
    return workdir / FOLDER / training


def result(workdir: Path, cell: Cell) -> Path:
    """The file that the evaluate command writes of a cell."""
    content = [cell.sampling, dict(cell.evaluate)]
    return (
        folder(workdir, cell.training) / "eval" / f"sweep-{config_files.sha256(content)[:8]}.json"
    )


def training(path: Path, attempts: int) -> Training:
    """How far the training in a workdir is.

    Args:
      path: the workdir.
      attempts: failed tries after which it counts as failed.
    """
    if not path.is_dir():
        return Training(State.PLANNED)
    final, last, line = json_file(path / "final.json"), _last_attempt(path), last_line(path)
    config = json_file(path / "config.json") or {}
    num_steps = _whole(config.get("train", {}).get("num_steps"))
    if final and _whole(final.get("step")) >= num_steps > 0:
        return Training(State.TRAINED, _whole(final["step"]), num_steps, line.get("loss"))
    step = max(_whole(one) for one in (last.get("reached"), last.get("start"), line.get("step")))
    failures, error = failures_of(path, TRAIN)
    if locked(path):
        state = State.RUNNING
    elif failures >= attempts:
        state = State.FAILED
    elif last or failures:
        state = State.STOPPED
    else:
        state = State.PLANNED
    speed = line.get("steps_per_second")
    return Training(state, step, num_steps, line.get("loss"), speed, failures, error)


def is_trained(workdir: Path, training_name: str) -> bool:
    """Whether a training of the sweep in a folder is finished."""
    return training(folder(workdir, training_name), attempts=1).state is State.TRAINED


def cell_state(workdir: Path, cell: Cell, of_training: Training, attempts: int) -> State:
    """The state of a cell, from that of its training."""
    if of_training.state is not State.TRAINED:
        return of_training.state
    if not cell.evaluate or result(workdir, cell).exists():
        return State.DONE
    path = folder(workdir, cell.training)
    failures, _ = failures_of(path, result(workdir, cell).stem)
    return State.FAILED if failures >= attempts else State.TRAINED


def record_try(path: Path, code: int, step: int, what: str) -> None:
    """Append how a process that was started for a cell ended.

    Args:
      path: the workdir.
      code: its exit code; negative for a signal's number.
      step: how far the training was then.
      what: "train", or the name of a result.
    """
    line = {"exit_code": code, "step": step, "what": what}
    files.append(path / TRIES, json.dumps(line).encode() + b"\n", lines=True)


def failures_of(path: Path, what: str) -> tuple[int, str]:
    """How many tries in a row failed without getting further, and the last line that one said.

    Args:
      path: the workdir.
      what: TRAIN, or the name of a result.
    """
    count, furthest = 0, -1
    for line in json_lines(path / TRIES):
        if line.get("what") != what:
            continue
        code, step = line.get("exit_code"), _whole(line.get("step"))
        if code in ENDED:
            count, furthest = 0, max(furthest, step)
        else:
            count = 1 if step > furthest else count + 1
            furthest = max(furthest, step)
    return count, last_words(path) if count else ""


def forget_failures(path: Path) -> bool:
    """Set aside how earlier tries ended, so that a failed cell is tried again."""
    tries = path / TRIES
    if not tries.exists():
        return False
    number = next(n for n in range(1, 10**6) if not tries.with_suffix(f".{n}.jsonl").exists())
    tries.rename(tries.with_suffix(f".{number}.jsonl"))
    return True


def last_words(path: Path) -> str:
    """The last line of a cell's log, at most 200 letters."""
    try:
        with open(path / LOG, "rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - TAIL, 0))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


def locked(path: Path) -> bool:
    """Whether a process has this workdir; a command that starts at this instant waits for it."""
    try:
        with open(path / ".lock", "rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except OSError:
        return False
    return False


def _last_attempt(path: Path) -> dict[str, Any]:
    attempts = (json_file(path / "manifest.json") or {}).get("attempts")
    entry = attempts[-1] if isinstance(attempts, list) and attempts else {}
    return entry if isinstance(entry, dict) else {}


def last_line(path: Path) -> dict[str, Any]:
    """The last whole line of metrics.jsonl that has a loss."""
    try:
        with open(path / "metrics.jsonl", "rb") as stream:
            stream.seek(max(stream.seek(0, os.SEEK_END) - TAIL, 0))
            lines = stream.read().split(b"\n")
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and isinstance(content.get("loss"), float | int):
            return content
    return {}


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON objects; none where it is not there."""
    try:
        texts = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def json_file(path: Path) -> dict[str, Any] | None:
    """What a file of a JSON object holds; None where there is none."""
    try:
        content = files.read_json(path, 2**24)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
