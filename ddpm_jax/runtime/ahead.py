"""Items made ahead of whoever takes them, by a thread."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")

CLOSING_SECONDS = 5.0  # for the item that is being made when nobody wants any more


def ahead(items: Iterator[T], size: int) -> Generator[T, None, None]:
    """Yields the items in their order; a thread has made the next `size` of them, or makes them.

    It begins when the first one is asked for. What making an item raises comes where that item
    would have come. Whoever stops before the end closes the generator: the thread then ends, and
    what it has made and nobody has taken is dropped.

    Args:
      items: only ever touched by that thread.
      size: at least 1; so many items are held beside the one that was taken last.

    Raises:
      ValueError: for a size below 1.
    """
    if size < 1:
        raise ValueError(f"need size >= 1, got {size=}")
    room, over = threading.Semaphore(size), threading.Event()
    # (item, None), then (None, what ended it)
    made: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def make() -> None:
        try:
            while room.acquire() and not over.is_set():
                made.put((next(items), None))
        except BaseException as error:  # StopIteration among them
            made.put((None, error))
        finally:
            if isinstance(items, Generator):
                items.close()

    # A daemon: reading that never ends must not keep the process from ending.
    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, ended = made.get()
            if isinstance(ended, StopIteration):
                return
            if ended is not None:
                raise ended
            room.release()
            yield item  # type: ignore[misc]
    finally:
        over.set()
        room.release()
        thread.join(CLOSING_SECONDS)
