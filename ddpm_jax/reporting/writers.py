"""Where a run's numbers go: metrics.jsonl for programs, TensorBoard events for people."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import files


class JsonLines:
    """A file of one JSON object a line, each with its "step"; there from the first line on.

    A run that goes on from step `start` drops the lines after it: those steps will come again.
    """

    def __init__(self, path: str | Path, start: int = 0):
        self._path = Path(path)
        if self._path.exists():
            _keep_up_to(self._path, start)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append {"step": step, **values}; a number that is not finite becomes null."""
        finite = {name: _null_unless_finite(value) for name, value in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")


class MetricWriter:
    """Appends to DIR/metrics.jsonl and to TensorBoard events in DIR/tensorboard.

    A run that goes on from step `start` drops the lines after it: those steps will come again.
    """

    def __init__(self, workdir: str | Path, start: int = 0):
        from tensorboardX import SummaryWriter  # a second of imports that sampling need not pay

        path = Path(workdir) / "metrics.jsonl"
        path.touch()  # there, though it be empty
        self._lines = JsonLines(path, start)
        self._events = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=start + 1)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self._events.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of JSON, {"step": step, **values}, and one event a finite value."""
        self._lines.write(step, values)
        for name, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 [H, W, C], as a TensorBoard event."""
        self._events.add_image(name, image, step, dataformats="HWC")
        self._events.flush()


def _null_unless_finite(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _keep_up_to(path: Path, step: int) -> None:
    """Drop the lines of later steps, and a last line that a crash cut short."""
    with (
        files.whole(path) as partial,
        partial.open("w", encoding="utf-8") as kept,
        path.open(encoding="utf-8", errors="replace") as lines,
    ):
        for line in lines:
            try:
                if json.loads(line)["step"] <= step:
                    kept.write(line.rstrip("\n") + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
