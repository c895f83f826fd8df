"""Files that a run can do without: what keeps them from being written is reported, not raised."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import TracebackType


def say(line: str) -> None:
    """A line on stderr; lost where it cannot be written."""
    with contextlib.suppress(OSError):  # stderr may be a file on the same disk
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def as_os_error() -> Iterator[None]:
    """A context in which whatever another package raises is an OSError, for `NotFatal`."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise OSError(f"{type(error).__name__}: {text}"[:300]) from error


class NotFatal:
    """Within it, an OSError is reported in a line and goes no further. May be entered repeatedly.

    It is reported once until it works again, and that is reported too.

    Args:
      what: the file, or what it is for.
      say: where lines are said.
    """

    def __init__(self, what: object, say: Callable[[str], None] = say):
        self._what = what
        self._say = say
        self.failing = False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, OSError):
            if not self.failing:
                reason = error.strerror or error
                self._say(f"cannot write {self._what} ({reason}); the run goes on")
            self.failing = True
            return True
        if error is None and self.failing:
            self.failing = False
            self._say(f"{self._what} is written again")
        return False
