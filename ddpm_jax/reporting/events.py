"""TensorBoard's event files, written where they are asked for, by no thread and no queue.

tensorboardX's own writer puts events in a queue for a thread, which ends at the first error of the
disk; ten events later the queue is full, and whoever adds another one waits for ever.
"""

import socket
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.runtime import files

VERSION = "brain.Event:2"


class Events:
    """A new file of events in a folder.

    Args:
      folder: made if it is not there.
      start: TensorBoard drops what it knows of later steps: they will come again.
    """

    def __init__(self, folder: str | Path, start: int = 0):
        self._folder = Path(folder)
        self._start = start
        self._path: Path | None = None

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """An event a number. Raises OSError where they cannot be written; then none of them is."""
        from tensorboardX import summary  # a second of imports that sampling need not pay

        self._write([{"step": step, "summary": summary.scalar(n, v)} for n, v in values.items()])

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 [H, W, C]. Raises OSError where it cannot be written."""
        from tensorboardX import summary

        shown = summary.image(name, image, dataformats="HWC")
        self._write([{"step": step, "summary": shown}])

    def begin(self) -> None:
        """Make the file, if that has not been done. Raises OSError where it cannot be made."""
        self._write([])

    def end(self, code: int) -> None:
        """Nothing: every event is on its way when it is written."""

    def _write(self, events: list[dict[str, Any]]) -> None:
        from tensorboardX.proto import event_pb2

        path = self._path
        first: list[dict[str, Any]] = []
        if path is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"events.out.tfevents.{self._number()}.{socket.gethostname()}"
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            first = [
                {"file_version": VERSION},
                {"file_version": VERSION, "step": self._start + 1},
                {"step": self._start + 1, "session_log": started},
            ]
        now = time.time()
        whole = [event_pb2.Event(wall_time=now, **event) for event in first + events]
        if whole:
            files.append(path, b"".join(_framed(event.SerializeToString()) for event in whole))
        self._path = path

    def _number(self) -> str:
        """The time in seconds, but later than any file's there: TensorBoard reads them by name."""
        names = [path.name.split(".")[3] for path in self._folder.glob("events.out.tfevents.*")]
        numbers = [int(name) for name in names if name.isdecimal()]
        return f"{max([int(time.time()), *(number + 1 for number in numbers)]):010d}"


def _framed(data: bytes) -> bytes:
    """A record of TensorFlow's: length, its checksum, data, its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + sums[0] + data + sums[1]
