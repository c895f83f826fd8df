"""What works on a sweep, here or on a cluster, and the phase that each of them is in."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ddpm_jax.sweeps import slurm, workdirs

COMPILE, STEP, SAVE, EVALUATE = "compile", "step", "save", "evaluate"
ASK_EVERY = 1.0  # seconds between two questions to squeue


@dataclasses.dataclass(frozen=True)
class Process:
    """A training or a measure of a cell that runs now: a process here, or a job step of Slurm's.

    Attributes:
      id: of the process, or of the job step, "17_1.0".
      cell: the training's name.
      phase: what it does.
    """

    id: str
    cell: str
    phase: str

    def send(self, name: str) -> bool:
        """Send it the signal, "TERM" or "KILL"; whether it was still there."""
        if "." in self.id:
            argv = ["scancel", f"--signal={name}", self.id]
            return subprocess.run(argv, capture_output=True, check=False).returncode == 0
        try:
            os.kill(int(self.id), signal.Signals[f"SIG{name}"])
        except ProcessLookupError:
            return False
        return True


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
        with contextlib.suppress(OSError):
            started = os.stat(f"/proc/{pid}").st_mtime
            phase = EVALUATE if path.name != workdirs.FLAGS else _phase(path.parent, started)
            found.append(Process(str(pid), path.parent.name, phase))
    return found


class JobSteps:
    """The job steps that run of a sweep, by squeue, so from any node that sees its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked = 0.0
        self._steps: list[tuple[str, str, float]] = []

    def __call__(self) -> list[Process]:
        """What runs now. A step that has ended may stand here for another second."""
        if time.monotonic() - self._asked > ASK_EVERY:
            self._steps = [*self._running()]
            self._asked = time.monotonic()
        found = []
        for step, cell, started in self._steps:
            folder = workdirs.folder(self._folder, cell)
            trained = (folder / "final.json").exists()
            found.append(Process(step, cell, EVALUATE if trained else _phase(folder, started)))
        return found

    def _running(self) -> Iterator[tuple[str, str, float]]:
        """(job step, cell, when it started) of each; nothing where squeue does not answer."""
        jobs = slurm.submitted(self._folder)
        if not jobs or shutil.which("squeue") is None:
            return
        done = subprocess.run(
            ["squeue", "--steps", "--noheader", "--format=%i %S"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        for line in done.stdout.splitlines():
            step, _, started = line.strip().partition(" ")
            task, _, number = step.partition(".")
            job, _, index = task.partition("_")
            # "17_1.batch" is the script, which is no step of ours.
            if job in jobs and index.isdecimal() and number.isdecimal():
                with contextlib.suppress(ValueError):
                    yield step, jobs[job][int(index)], datetime.fromisoformat(started).timestamp()


def _phase(folder: Path, started: float) -> str:
    """Of the training in a folder whose process started then, in seconds since 1970."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder / "checkpoints"):
            # Not what an earlier process left there when it was killed.
            if entry.name.startswith(".") and entry.stat().st_mtime > started:
                return SAVE
    attempts = (workdirs.json_file(folder / "manifest.json") or {}).get("attempts") or [{}]
    # One that was killed never ended: it is this process's where it began after it.
    running = attempts[-1].get("ended") is None and _began(attempts[-1]) >= started - 1
    logged = workdirs.last_line(folder).get("step", 0)
    return STEP if running and logged > attempts[-1].get("start", 0) else COMPILE


def _began(attempt: dict[str, Any]) -> float:
    """When an attempt of a manifest began; 0 where it does not say."""
    try:
        return datetime.fromisoformat(attempt["started_at"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


def _processes() -> Iterator[tuple[int, list[str]]]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                yield int(name), [word.decode(errors="replace") for word in words if word]
