"""The end of a process that is stuck."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ddpm_jax.runtime.last_acts import done_in_time

# What timeout(1) exits with.
EXIT_STUCK = 124


class Watchdog:
    """Ends the process where no `tick` comes for `deadline` seconds: stacks on stderr, exit 124.

    A collective that waits for a dead machine, or a file system that never answers, raises nothing:
    only ending the process lets whatever started it start it again. Use as a context manager; a
    deadline of 0 never bites. Time is the monotonic clock's: a jump of the wall clock is none here.

    Args:
      deadline: in seconds.
      last: what is done before the process ends, in seconds; what it raises is passed over.
    """

    def __init__(self, deadline: float, last: Callable[[], Any] = lambda: None):
        self._deadline = deadline
        self._last_act = last
        self._last = time.monotonic()
        self._over = threading.Event()

    def __enter__(self) -> "Watchdog":
        if self._deadline:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()

    def tick(self) -> None:
        """It is alive."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(min(self._deadline / 4, 5.0)):
            if time.monotonic() - self._last > self._deadline:
                try:
                    # Nobody may be reading stderr: the stacks would wait for them, all alone.
                    if done_in_time(self._say):
                        faulthandler.dump_traceback(all_threads=True)
                    done_in_time(self._last_act)
                finally:
                    os._exit(EXIT_STUCK)

    def _say(self) -> None:
        print(
            f"error: no step for {self._deadline:g} seconds (config.train.step_deadline): "
            "the process is stuck and ends here; its stacks follow. Run the same command "
            "again to go on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
