"""The processes of a sweep on this machine, and the phase that each is in."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from ddpm_jax.sweeps import workdirs

COMPILE, STEP, SAVE, EVALUATE = "compile", "step", "save", "evaluate"


@dataclasses.dataclass(frozen=True)
class Process:
    """A worker of a sweep on this machine."""

    pid: int
    cell: str
    phase: str


def workers(folder: Path) -> list[Process]:
    """The trainings and measures of a sweep that run on this machine, by what /proc tells."""
    found = []
    for pid, argv in _processes():
        flagfile = next((w for w in argv if w.startswith("--flagfile=")), "")
        path = Path(flagfile.partition("=")[2])
        if "ddpm_jax" not in argv or path.parent.parent != folder / "cells":
            continue
        if "srun" in Path(argv[0]).name:
            continue
        found.append(Process(pid, path.parent.name, _phase(pid, path)))
    return found


def _phase(pid: int, flags: Path) -> str:
    if flags.name != workdirs.FLAGS:
        return EVALUATE
    folder = flags.parent
    with contextlib.suppress(OSError):
        started = os.stat(f"/proc/{pid}").st_mtime
        for entry in os.scandir(folder / "checkpoints"):
            # Not what an earlier process left there when it was killed.
            if entry.name.startswith(".") and entry.stat().st_mtime > started:
                return SAVE
    attempts = (workdirs.json_file(folder / "manifest.json") or {}).get("attempts") or [{}]
    running = attempts[-1] and attempts[-1].get("ended") is None
    logged = workdirs.last_line(folder).get("step", 0)
    return STEP if running and logged > attempts[-1].get("start", 0) else COMPILE


def _processes() -> Iterator[tuple[int, list[str]]]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                yield int(name), [word.decode(errors="replace") for word in words if word]
