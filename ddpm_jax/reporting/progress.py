"""The progress of a run on stderr: a bar on a terminal, else a plain line now and then."""

import contextlib
import os
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

PLAIN_SECONDS = 10.0


class Progress:
    """Shows step, steps/s, images/s, loss and the time left.

    Args:
      start: the step that the run goes on from.
      total: the step that it ends at.
      batch_size: images of a step.
      stream: where to write; stderr by default.
    """

    def __init__(self, start: int, total: int, batch_size: int, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._total = total
        self._batch_size = batch_size
        self._shown = time.monotonic()
        self._bar: tqdm | None = None
        if self._stream.isatty() and _has_width(self._stream):
            self._bar = tqdm(
                total=total, initial=start, unit="step", file=self._stream, dynamic_ncols=True
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        """One step is done."""
        if self._bar is not None:
            self._bar.update()

    def show(self, step: int, loss: float, steps_per_second: float) -> None:
        """New figures: onto the bar, or a line if the last one is some seconds old."""
        images = steps_per_second * self._batch_size
        if self._bar is not None:
            self._bar.set_postfix({"images/s": f"{images:,.0f}", "loss": f"{loss:.4f}"})
            return
        if time.monotonic() - self._shown < PLAIN_SECONDS and step < self._total:
            return
        self._shown = time.monotonic()
        left = tqdm.format_interval((self._total - step) / max(steps_per_second, 1e-9))
        self.say(
            f"step {step:,}/{self._total:,}  {steps_per_second:.1f} steps/s  "
            f"{images:,.0f} images/s  loss {loss:.4f}  {left} left"
        )

    def say(self, text: str) -> None:
        """A line of its own, above the bar; lost where it cannot be written."""
        with contextlib.suppress(OSError):  # nobody may be reading, or the log be full
            if self._bar is not None:
                self._bar.write(text, file=self._stream)
            else:
                print(text, file=self._stream, flush=True)


class MemberProgress(Progress):
    """What one member of a group says, by its name, above the progress of the group.

    Args:
      group: the progress of the group, which counts its steps.
      name: of the member.
      leads: whether this member's figures are the ones that are shown.
    """

    def __init__(self, group: Progress, name: str, leads: bool):
        self._group, self._name, self._leads = group, name, leads

    def advance(self) -> None:
        """The group's steps are counted once."""

    def show(self, step: int, loss: float, steps_per_second: float) -> None:
        """As `Progress.show`, of the member that leads."""
        if self._leads:
            self._group.show(step, loss, steps_per_second)

    def say(self, text: str) -> None:
        """As `Progress.say`, with the member's name."""
        self._group.say(f"{self._name}: {text}")


def _has_width(stream: TextIO) -> bool:
    """False for a terminal 0 columns wide, on which tqdm would print nothing at all."""
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:
        return True
