"""What is said of steps that were skipped, and when there were too many of them."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from ddpm_jax.reporting.progress import Progress
from ddpm_jax.reporting.writers import JsonLines
from ddpm_jax.training import guard, loop
from ddpm_jax.training.state import TrainState

SHOWN_EXAMPLES = 8


class SkippedSteps:
    """Tells of each skipped step in a line, and in DIR/skipped_steps.jsonl with all its examples.

    Args:
      workdir: the run's.
      start: the step that the run goes on from.
      progress: where lines are said.
      example_ids: step -> the places in the data source of its examples.
      max_in_a_row: so many skipped steps in a row are too many, and so are twice as many: a run
        that was stopped for them goes on as far once more. 0: never.
    """

    def __init__(
        self,
        workdir: Path,
        start: int,
        progress: Progress,
        example_ids: Callable[[int], list[int]],
        max_in_a_row: int,
    ):
        self._lines = JsonLines(workdir / "skipped_steps.jsonl", start, progress.say)
        self._progress = progress
        self._example_ids = example_ids
        self._max_in_a_row = max_in_a_row
        self._pending: tuple[int, loop.Metrics] | None = None
        self.too_many = ""

    def action(self, step: int, state: TrainState, metrics: loop.Metrics) -> None:
        """Looks at the step before, which is complete: the device never waits for this."""
        self.look()
        self._pending = step, metrics

    def look(self) -> None:
        """Look at the last step now: before a checkpoint that will not see it again, and last."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        if not metrics["skipped"]:
            return
        values = jax.device_get(metrics)
        examples = self._example_ids(step - 1)
        numbers = {name: float(values[name]) for name in ("loss", "grad_norm")}
        self._lines.write(step, numbers | {"examples": examples})
        reason = why(values)
        self._progress.say(
            f"step {step:,}: skipped, {reason}; its examples are {_some(examples)}; "
            f"to see it again: --replay_step={step}"
        )
        in_a_row = int(values["skipped_in_a_row"])
        if self._max_in_a_row and in_a_row % self._max_in_a_row == 0:
            self.too_many = (
                f"{in_a_row:,} steps in a row were skipped, {step - in_a_row + 1:,} to {step:,}, "
                f"the last because {reason}: see it again with --replay_step={step}, try a smaller "
                "config.optim.learning_rate, or allow more with config.train.max_skipped"
            )


def why(metrics: dict[str, np.ndarray]) -> str:
    """Why a step was skipped, from its metrics, in words."""
    wrong = dict(zip(guard.REASONS, metrics["wrong"], strict=True))
    words = {"loss": "the loss", "grad_norm": "the gradient norm"}
    for name, what in words.items():
        if wrong[name]:
            return f"{what} is {metrics[name]}"
    for name, what in words.items():
        if wrong[f"{name}_spike"]:
            bound = metrics[f"{name}_bound"]
            return f"{what} is a spike: {metrics[name]:.4g}, above {bound:.4g}"
    return "what the objective keeps of it is not finite"


def _some(examples: list[int]) -> str:
    """The first few; all of them are in the file."""
    shown = ", ".join(map(str, examples[:SHOWN_EXAMPLES]))
    more = len(examples) - SHOWN_EXAMPLES
    return f"{shown} and {more:,} more (skipped_steps.jsonl)" if more > 0 else shown
