"""A trace of some steps of a run, for xprof and Perfetto: --profile=START:STOP."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from ddpm_jax.errors import UserError
from ddpm_jax.reporting.not_fatal import NotFatal, as_os_error, say
from ddpm_jax.runtime.ledger import Ledger
from ddpm_jax.training.checkpoints import Checkpoints

FOLDER = "profile"


def steps_of(text: str, num_steps: int, done: int = 0) -> range:
    """The steps that --profile names, from START to STOP, both included.

    Args:
      text: START:STOP, steps as the logs number them, from 1.
      num_steps: config.train.num_steps.
      done: steps that the run has behind it.

    Raises:
      UserError: for another form, or steps that are not among those that are still to be made.
    """
    found = re.fullmatch(r"(\d{1,18}):(\d{1,18})", text)
    if found is None:
        raise UserError(f"--profile={text}: need START:STOP, two steps, say --profile=100:104")
    first, last = int(found[1]), int(found[2])
    if not 1 <= first <= last <= num_steps:
        raise UserError(
            f"--profile={text}: need 1 <= START <= STOP <= {num_steps} (config.train.num_steps)"
        )
    if first <= done:
        raise UserError(
            f"--profile={text}: the run has made its steps up to {done:,}; name later ones"
        )
    return range(first, last + 1)


def of_workdir(text: str, num_steps: int, workdir: Path) -> range:
    """`steps_of` for what is left of the run in a workdir; no steps where `text` is ""."""
    if not text:
        return range(0)
    with Checkpoints(workdir, read_only=True) as saved:
        return steps_of(text, num_steps, saved.latest() or 0)


class Profile:
    """Traces some steps into DIR/profile; a context manager around the training.

    What xprof (or TensorBoard with it) and Perfetto open: DIR/profile/plugins/profile/TIME/ holds
    *.xplane.pb, and perfetto_trace.json.gz. That it cannot be written stops no run. The devices are
    waited for at both ends, so that the trace has these steps whole.

    Args:
      steps: one after the other; none for no trace.
      workdir: DIR.
      ledger: where the time of beginning and writing the trace goes, as "profile".
      say: where lines are said.
    """

    def __init__(
        self, steps: range, workdir: Path, ledger: Ledger, say: Callable[[str], None] = say
    ):
        self._steps = steps
        self._ledger = ledger
        self._folder = workdir / FOLDER
        self._say = say
        self._not_fatal = NotFatal(self._folder, say)
        self._tracing = False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop()

    def around(self, train_step: Callable[..., Any], start: int) -> Callable[..., Any]:
        """The step that traces those that it should.

        Args:
          train_step: (state, batch) -> (state, metrics).
          start: the step that the run goes on from.
        """
        if not self._steps:
            return train_step
        step = start

        def traced(state: Any, batch: Any) -> Any:
            nonlocal step
            step += 1
            if step not in self._steps:
                return train_step(state, batch)
            if step == self._steps[0]:
                jax.block_until_ready(state)
                self._start()
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                made = train_step(state, batch)
            if step == self._steps[-1]:
                jax.block_until_ready(made)
                self._stop()
            return made

        return traced

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        # Calls of Python are a million events in a few steps, and would be most of their time.
        options.python_tracer_level = 0
        with self._ledger.phase("profile"), self._not_fatal, as_os_error():
            self._folder.mkdir(parents=True, exist_ok=True)  # now: a trace that fails later is lost
            jax.profiler.start_trace(
                self._folder, create_perfetto_trace=True, profiler_options=options
            )
            self._tracing = True

    def _stop(self) -> None:
        if not self._tracing:
            return
        self._tracing = False
        with self._ledger.phase("profile"), self._not_fatal, as_os_error():
            jax.profiler.stop_trace()
            self._say(
                f"steps {self._steps[0]:,} to {self._steps[-1]:,} are traced in {self._folder}"
            )
