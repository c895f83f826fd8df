"""What a process still does before it ends itself, each in bounded time."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

LAST_SECONDS = 5.0  # for each thing that is still done: what is stuck may be what it needs


def done_in_time(act: Callable[[], Any]) -> bool:
    """Do it in a thread of its own; whether it came back before LAST_SECONDS."""

    def quietly() -> None:
        with contextlib.suppress(BaseException):
            act()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(LAST_SECONDS)
    return not thread.is_alive()
