"""The training loop: one page; what happens besides a step is an action."""

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np

from ddpm_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
Action = Callable[[int, TrainState, Metrics], None]

# What is logged as its mean.
_FIGURES = ("loss", "grad_norm", "learning_rate")


class StopSignal:
    """The first SIGINT or SIGTERM becomes a request to stop; the second ends the process at once.

    At once is by the system itself: Python would first come back from whatever it waits for, such
    as a save that is stuck.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        # Python lets only the main thread handle signals; elsewhere (a notebook's) they stay as is.
        main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM) if main else ():
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for again in self._previous:
            signal.signal(again, signal.SIG_DFL)

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())


def train(
    state: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    batches: Iterator[Any],
    *,
    start: int,
    num_steps: int,
    actions: Sequence[Action] = (),
    stop: Callable[[], bool] = lambda: False,
) -> tuple[TrainState, int]:
    """Train from step `start` to `num_steps`, until `stop()` is true or the batches end.

    Args:
      state: the state after `start` steps; its buffers are donated.
      train_step: the compiled step.
      batches: yields the batch of step `start`, then the next ones, placed on the devices.
      start, num_steps: in batches consumed.
      actions: called with (step, state, metrics) after every step.
      stop: asked after every step.

    Returns:
      The state, and the number of steps that it has seen.
    """
    reached = start
    previous: Metrics = {}
    for step, batch in zip(range(start + 1, num_steps + 1), batches, strict=False):
        state, metrics = train_step(state, batch)
        reached = step
        # One step stays queued behind the running one: the device never waits for the host, and
        # the host never runs so far ahead that a stop would have to wait.
        jax.block_until_ready(previous)
        previous = metrics
        for action in actions:
            action(step, state, metrics)
        if stop():
            break
    return state, reached


def every(period: int, last: int | None, act: Callable[[int, TrainState], None]) -> Action:
    """An action every `period` steps and at step `last`, if there is one; a period of 0 is never.

    Raises:
      ValueError: for a negative period.
    """
    if period < 0:
        raise ValueError(f"need a period >= 0, got {period}")

    def action(step: int, state: TrainState, metrics: Metrics) -> None:
        if period and (step % period == 0 or step == last):
            act(step, state)

    return action


class MeanMetrics:
    """Means of the metrics since the last call of `pop`, fetched from the device only there."""

    def __init__(self) -> None:
        self._pending: list[Metrics] = []

    def add(self, metrics: Metrics) -> None:
        """Keep a step's metrics, on the device."""
        self._pending.append(metrics)

    def pop(self) -> dict[str, float]:
        """Means over the steps kept that were not skipped, by quarter of t too, and start again.

        NaN where every step was skipped; `skipped`, how many in the run so far, if there were any.
        """
        fetched = jax.device_get(self._pending)
        self._pending = []
        taken = [m for m in fetched if not m["skipped"]]
        # "loss", or "NAME_loss" of one of several players.
        names = [n for kind in _FIGURES for n in fetched[-1] if f"_{n}".endswith(f"_{kind}")]
        mean = {
            name: _mean([m[name] for m in (fetched if name.endswith("rate") else taken)])
            for name in names
        }
        if total := int(fetched[-1]["skipped_total"]):
            mean["skipped"] = total
        return mean | (quarter_means(taken) if taken else {})


def _mean(values: Sequence[Any]) -> float:
    """Their mean, without the NaNs of steps in which a player did not move; NaN of no numbers."""
    numbers = [value for value in values if not np.isnan(value)]
    return float(np.mean(numbers)) if numbers else math.nan


def quarter_means(metrics: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """loss_q1 .. loss_q4: the mean loss by quarter of t, where anything fell in the quarter."""
    if "quarter_count" not in metrics[0]:
        return {}
    sums = np.sum([m["quarter_loss_sum"] for m in metrics], axis=0)
    counts = np.sum([m["quarter_count"] for m in metrics], axis=0)
    return {f"loss_q{q + 1}": float(sums[q] / counts[q]) for q in range(4) if counts[q]}
