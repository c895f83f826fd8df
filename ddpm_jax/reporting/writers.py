"""Where a run's numbers go: metrics.jsonl for programs; TensorBoard events, wandb for people."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Protocol

import numpy as np

from ddpm_jax.errors import UserError, suggest
from ddpm_jax.reporting import wandb_runs
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


class Shown(Protocol):
    """Numbers and pictures where people look at them. Each method may raise OSError.

    `begin` is called first and `end` last, with 0 if all went well, else 1; values are finite.
    """

    def begin(self) -> None: ...
    def scalars(self, step: int, values: dict[str, float]) -> None: ...
    def image(self, step: int, name: str, image: np.ndarray) -> None: ...
    def end(self, code: int) -> None: ...


# config.train.writers, by name: (workdir, the step that the run goes on from, config) -> it.
WRITERS: dict[str, Callable[[Path, int, Mapping[str, Any]], Shown]] = {
    "tensorboard": lambda workdir, start, config: Events(workdir / "tensorboard", start),
    "wandb": lambda workdir, start, config: wandb_runs.WandbRun(workdir, config),
}
# What must be there for a writer: () -> what is missing, or "".
NEEDS: dict[str, Callable[[], str]] = {"wandb": wandb_runs.missing}


def check(names: Sequence[str]) -> None:
    """Whether config.train.writers can be had.

    Raises:
      UserError: for one of no such name, or whose package is not installed.
    """
    for name in names:
        if name not in WRITERS:
            raise UserError(
                f"config.train.writers={tuple(names)}: there is no writer {name!r}"
                f"{suggest(str(name), list(WRITERS))}"
            )
        if missing := NEEDS.get(name, lambda: "")():
            raise UserError(
                f"config.train.writers={tuple(names)}: {missing}, or leave {name!r} out"
            )


class MetricWriter:
    """Appends to DIR/metrics.jsonl, and to what the named writers make.

    A run that goes on from step `start` drops the lines after it: those steps will come again.
    What cannot be written is missing, and `say` tells it: nothing is raised for it. As a context
    manager it ends what the writers have begun.

    Args:
      workdir: DIR.
      start: the step that the run goes on from.
      say: where lines are said.
      names: of WRITERS.
      config: of the experiment, for those that show it.
    """

    def __init__(
        self,
        workdir: str | Path,
        start: int = 0,
        say: Callable[[str], None] = say,
        names: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        folder = Path(workdir)
        self._lines = JsonLines(folder / "metrics.jsonl", start, say)
        self._lines.touch()
        self._shown = [
            (NotFatal(folder / name, say), WRITERS[name](folder, start, config)) for name in names
        ]
        for not_fatal, shown in self._shown:
            with not_fatal:
                shown.begin()

    def scalars(self, step: int, values: Mapping[str, float | str]) -> None:
        """One line of JSON, {"step": step, **values}, and each finite number to the writers.

        A text, "unknown" in place of a number, is in the line alone.
        """
        self._lines.write(step, dict(values))
        finite = {
            name: value
            for name, value in values.items()
            if not isinstance(value, str) and math.isfinite(value)
        }
        for not_fatal, shown in self._shown:
            with not_fatal:
                shown.scalars(step, finite)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 [H, W, C], to the writers."""
        for not_fatal, shown in self._shown:
            with not_fatal:
                shown.image(step, name, image)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for not_fatal, shown in self._shown:
            with not_fatal:
                shown.end(0 if error is None else 1)


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
