"""Where a run's numbers go: metrics.jsonl for programs, TensorBoard events for people."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.reporting.events import Events
from ddpm_jax.reporting.not_fatal import NotFatal, say
from ddpm_jax.runtime import files


class JsonLines:
    """A file of one JSON object a line, each with its "step"; there from the first line on.

    A run that goes on from step `start` drops the lines after it: those steps will come again. A
    line that cannot be written is left out, and reported.

    Raises:
      UserError: if later lines are there and cannot be dropped.
    """

    def __init__(self, path: str | Path, start: int = 0, say: Callable[[str], None] = say):
        self._path = Path(path)
        self._not_fatal = NotFatal(path, say)
        if self._path.exists():
            try:
                _keep_up_to(self._path, start)
            except OSError as error:
                raise UserError(
                    f"cannot drop the lines of {path} after step {start} "
                    f"({error.strerror or error}); mend that and run the same command again"
                ) from error

    def touch(self) -> None:
        """Have the file there, though it be empty."""
        with self._not_fatal:
            self._path.touch()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append {"step": step, **values}; a number that is not finite becomes null."""
        finite = {name: _null_unless_finite(value) for name, value in values.items()}
        line = json.dumps({"step": step, **finite}, allow_nan=False) + "\n"
        with self._not_fatal:
            files.append(self._path, line.encode(), lines=True)


class MetricWriter:
    """Appends to DIR/metrics.jsonl and to TensorBoard events in DIR/tensorboard.

    A run that goes on from step `start` drops the lines after it: those steps will come again.
    What cannot be written is missing, and `say` tells it: nothing is raised for it.
    """

    def __init__(
        self, workdir: str | Path, start: int = 0, say: Callable[[str], None] = say
    ) -> None:
        self._lines = JsonLines(Path(workdir) / "metrics.jsonl", start, say)
        self._lines.touch()
        folder = Path(workdir) / "tensorboard"
        self._not_fatal = NotFatal(folder, say)
        self._events = Events(folder, start)
        with self._not_fatal:
            self._events.begin()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of JSON, {"step": step, **values}, and one event a finite value."""
        self._lines.write(step, values)
        with self._not_fatal:
            self._events.scalars(step, {n: v for n, v in values.items() if math.isfinite(v)})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 [H, W, C], as a TensorBoard event."""
        with self._not_fatal:
            self._events.image(step, name, image)


def _null_unless_finite(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _keep_up_to(path: Path, step: int) -> None:
    """Drop the lines of later steps, and a last line that a crash cut short."""
    first, gap, mixed = 0, False, False
    with path.open("rb") as lines:
        for line in lines:
            if not _is_up_to(line, step):
                gap = True
            elif gap or not line.endswith(b"\n"):
                mixed = True
            else:
                first += len(line)
    if not mixed:  # all that is kept comes first, and is whole
        os.truncate(path, first)  # which takes no space
        return
    with files.whole(path) as partial, partial.open("wb") as kept, path.open("rb") as lines:
        kept.writelines(line.rstrip(b"\n") + b"\n" for line in lines if _is_up_to(line, step))


def _is_up_to(line: bytes, step: int) -> bool:
    try:
        return json.loads(line.decode("utf-8", "replace"))["step"] <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
