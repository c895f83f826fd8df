"""Where each second of an attempt goes: named phases on a stack, over a clock that never goes back.

A second belongs to the innermost phase that was open in it, so the seconds of all phases sum to the
time since the ledger began. Nothing here knows what the phases are of.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

# In the order in which they are told; a kind of run may have more of its own.
PHASES = (
    "start",
    "compile",
    "train",
    "data_wait",
    "checkpoint",
    "validate",
    "sample",
    "evaluate",
)


class Ledger:
    """The seconds of an attempt by phase. It begins with "start"; `become` ends that.

    One thread opens and closes phases; `seconds` may be asked for by any.

    Args:
      began: the clock's time at which the attempt began; None for now.
      clock: in seconds.

    Example:
      ledger = Ledger()
      ledger.become("train")
      with ledger.phase("validate"):
          validate()
      ledger.seconds()  # {"start": ..., "train": ..., "validate": ..., ...}
    """

    def __init__(self, began: float | None = None, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._since = clock() if began is None else began
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._open = ["start"]

    def seconds(self) -> dict[str, float]:
        """The seconds of each phase so far; their sum is the time since the ledger began."""
        spent, last = dict(self._spent), self._open[-1]
        spent[last] = spent.get(last, 0.0) + self._clock() - self._since
        return spent

    def become(self, name: str) -> None:
        """What is done outside of any phase that is opened later is now of this name."""
        self._turn()
        self._open[0] = name

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A context whose seconds are of this name, but for phases opened within it."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def around(self, name: str, act: Callable[..., T]) -> Callable[..., T]:
        """The function, in a phase of this name whenever it is called."""

        @functools.wraps(act)
        def timed(*args: Any, **keywords: Any) -> T:
            with self.phase(name):
                return act(*args, **keywords)

        return timed

    def waiting(self, name: str, items: Iterator[T]) -> Generator[T, None, None]:
        """The items, in a phase of this name while the next one is waited for."""
        try:
            while True:
                with self.phase(name):
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                yield item
        finally:
            if isinstance(items, Generator):
                items.close()

    def _turn(self) -> None:
        """Book the time since the last turn."""
        now, last = self._clock(), self._open[-1]
        self._spent[last] = self._spent.get(last, 0.0) + now - self._since
        self._since = now
