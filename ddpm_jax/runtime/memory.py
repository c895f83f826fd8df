"""How much memory this process and its devices take and have taken."""

import contextlib
import ctypes
import resource
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import jax

WATCH_SECONDS = 0.005
# Linux counts the largest size of a process in kilobytes, macOS in bytes.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def host_peak_bytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def host_bytes() -> int:
    """The resident size of this process now; its largest one where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return host_peak_bytes()
    return pages * resource.getpagesize()


def host_bytes_at_rest() -> int:
    """The resident size of this process, without what it has freed and the allocator kept.

    What was kept is given back first, where the C library can (glibc): otherwise what the process
    takes next would come out of it and not be seen as growth.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    return host_bytes()


def device_peak_bytes(devices: Iterable[jax.Device]) -> int | None:
    """The most that one of these devices has held at a time; None where they do not say (CPUs)."""
    peaks = [
        stats["peak_bytes_in_use"]
        for device in devices
        if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats
    ]
    return max(peaks, default=None)


class Watermark:
    """The largest resident size of this process while it is watched, by a thread.

    The system's own is of the whole life of the process, in which compiling may have been larger.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watermark", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> int:
        """End it; returns `peak`, in bytes."""
        self._over.set()
        self._thread.join()
        return self.peak

    def _watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            self.peak = max(self.peak, host_bytes())
