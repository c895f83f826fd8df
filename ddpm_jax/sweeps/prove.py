"""A sweep run twice, once left alone and once killed again and again: both must end in the same.

What is killed: the driver (SIGKILL, or the SIGTERM of a Ctrl-C) and workers (SIGKILL, SIGTERM);
on Slurm the job steps of tasks, by scancel, and, where a command for it is named, a node. When: at
times of a seeded uniform law over the run, then aimed at each phase that was hit fewer than twice.
"""

import collections
import dataclasses
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.sweeps import groups, proof, slurm, workdirs
from ddpm_jax.sweeps import plan as plan_files
from ddpm_jax.sweeps.sweep_file import Sweep
from ddpm_jax.sweeps.watched import COMPILE, EVALUATE, SAVE, STEP, JobSteps, Process, workers

UNDISTURBED, DISTURBED = "undisturbed", "disturbed"
EACH = 2  # hits of every phase at least
AIMED_RUNS = 5  # sweeps more, at most, to aim at what was not hit twice
POLL = 0.005
MANY = 10**6  # attempts: a kill is no fault of the cell's


@dataclasses.dataclass(frozen=True)
class Kill:
    """One disturbance: when (seconds of the disturbed run), what, and in which phase it was."""

    seconds: float
    what: str
    phase: str
    cell: str


def prove(
    sweep: Sweep,
    workdir: str | Path,
    *,
    kills: int,
    seed: int = 0,
    jobs: int = 1,
    launcher: str = "local",
    node_loss: str = "",
    words: Sequence[str] = (),
    stream: TextIO | None = None,
) -> dict[str, Any]:
    """Run the sweep undisturbed and disturbed; returns what was found, also in D/proof.json.

    Args:
      sweep: a small one: it runs at least twice.
      workdir: a new folder, or that of a proof that was stopped: what is done is not done again.
      kills: at random times; then as many as it takes to hit every phase twice.
      seed: of the times, and of what is killed.
      jobs: as of `sweep.py run`.
      launcher: "local" or "slurm".
      node_loss: a command that makes a node of the cluster fail and come back, for Slurm.
      words: more flags of every command.
      stream: where progress goes; None for stderr.

    Returns:
      {"equal": bool, "cells", "kills", "phases", "differences"}.

    Raises:
      UserError: for a sweep whose cells fail undisturbed.
    """
    root, stream = Path(workdir).absolute(), stream or sys.stderr
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    start = _Start(sweep, jobs, launcher, words)
    began = time.monotonic()
    print(f"undisturbed: {len(sweep.cells)} cells", file=stream, flush=True)
    with files.alone(root):
        _undisturbed(start, root / UNDISTURBED)
        seconds = _kept_seconds(root / UNDISTURBED, time.monotonic() - began)
        times = sorted(rng.uniform(0, seconds, kills).tolist())
        print(f"{seconds:.0f} s; disturbed {kills} times", file=stream, flush=True)
        made: list[Kill] = []
        folder = root / DISTURBED
        at_times = _at_times(times, made, rng, launcher, node_loss)
        _disturbed(start, folder, made, stream, at_times)
        differences = proof.compare(sweep, root / UNDISTURBED, folder)
        for number in range(AIMED_RUNS):
            lacking = _lacking(sweep, made)
            if not lacking:
                break
            folder = root / f"{DISTURBED}-{number + 2}"
            said = ", ".join(lacking)
            print(f"aimed at {said}: each {EACH} times", file=stream, flush=True)
            _disturbed(start, folder, made, stream, _aimed(sweep, made, rng, launcher))
            differences += proof.compare(sweep, root / UNDISTURBED, folder)
        phases = collections.Counter(kill.phase for kill in made)
        found = {
            "equal": not differences,
            "cells": len(sweep.cells),
            "kills": [dataclasses.asdict(kill) for kill in made],
            "phases": dict(sorted(phases.items())),
            "not_hit_twice": _lacking(sweep, made),
            "differences": differences,
        }
        files.must_write_json(root / "proof.json", found)
    return found


class _Start:
    """The commands of this sweep."""

    def __init__(self, sweep: Sweep, jobs: int, launcher: str, words: Sequence[str]):
        self.sweep = sweep
        self.launcher = launcher
        self._jobs = jobs
        self._words = list(words)

    @property
    def as_before(self) -> list[str]:
        """The flags with which no new groups are made."""
        return [f"--vectorize={groups.OFF}"] if self.launcher == "local" else []

    def driver(self, folder: Path, *flags: str) -> subprocess.Popen[bytes]:
        """`sweep.py run`; of Slurm it submits what is not queued, and ends."""
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "driver.log", "ab") as log:
            return subprocess.Popen(
                self._command(
                    "run", folder, f"--launcher={self.launcher}", f"--attempts={MANY}",
                    f"--jobs={self._jobs}", *flags,
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def report(self, folder: Path) -> None:
        done = subprocess.run(
            self._command("report", folder), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UserError(f"sweep.py report of {folder}: {done.stderr.strip()[-300:]}")

    def done(self, folder: Path) -> bool:
        """Whether every cell is."""
        from ddpm_jax.sweeps import status

        states, _ = status.look(self.sweep, folder, MANY)
        return all(state is workdirs.State.DONE for state in states.values())

    def _command(self, action: str, folder: Path, *flags: str) -> list[str]:
        named = [f"--sweep={self.sweep.path}", f"--workdir={folder}"]
        return [sys.executable, "-m", "ddpm_jax", "sweep", action, *named, *flags, *self._words]


# Given the seconds that have passed and the workers: what is killed now, or None.
Plan = Callable[[float, Sequence[Process]], "tuple[str, Process | None] | None"]


def _undisturbed(start: _Start, folder: Path) -> None:
    driver = start.driver(folder)
    code = driver.wait()
    while start.launcher == "slurm" and code == 0 and not start.done(folder):
        if not slurm.queue(folder):
            raise UserError(f"a cell fails also undisturbed: see {folder}/cells/*/log.txt")
        time.sleep(1)
    if code or not start.done(folder):
        raise UserError(f"the sweep fails also undisturbed: see {folder}/driver.log")
    start.report(folder)


def _disturbed(start: _Start, folder: Path, made: list[Kill], stream: TextIO, plan: Plan) -> None:
    """Run the sweep to its end, with the plan's disturbances; the driver is started again."""
    # The programs of the undisturbed run: another grouping would have other bits.
    plan_files.write(start.sweep, folder, groups=groups.read(folder.parent / UNDISTURBED))
    running = JobSteps(folder) if start.launcher == "slurm" else lambda: workers(folder)
    driver: subprocess.Popen[bytes] | None = start.driver(folder, *start.as_before)
    began, looked = time.monotonic(), 0.0
    while True:
        time.sleep(POLL)
        if driver is not None and driver.poll() is not None:
            if start.launcher == "local" and driver.returncode not in (0, 75, -9, -15):
                raise UserError(f"the disturbed sweep fails: see {folder}/driver.log")
            driver = None
        if driver is None and time.monotonic() - looked > 1:
            looked = time.monotonic()
            if start.done(folder):
                break
            if start.launcher == "local" or not slurm.queue(folder):
                driver = start.driver(folder, *start.as_before)
        seconds = time.monotonic() - began
        chosen = plan(seconds, running())
        if chosen is None:
            continue
        what, process = chosen
        if not _act(what, process, driver):
            continue
        kill = Kill(
            round(seconds, 2),
            what,
            process.phase if process else "driver",
            process.cell if process else "",
        )
        made.append(kill)
        print(
            f"{kill.seconds:8.2f} s  {kill.what}  {kill.phase}  {kill.cell}",
            file=stream,
            flush=True,
        )
    start.report(folder)


KINDS = {
    "local": ("worker SIGKILL", "driver SIGKILL", "worker SIGTERM", "driver SIGTERM"),
    "slurm": ("job step SIGTERM", "job step SIGKILL"),
}


def _at_times(
    times: Sequence[float],
    made: Sequence[Kill],
    rng: np.random.Generator,
    launcher: str,
    node_loss: str,
) -> Plan:
    """One kill after the other at these times, or as soon after as there is something to kill."""
    kinds = [*KINDS[launcher], *([f"node: {node_loss}"] if node_loss else [])]

    def plan(seconds: float, processes: Sequence[Process]) -> tuple[str, Process | None] | None:
        number = len(made)  # one that came too late for its process is tried again
        if number >= len(times) or seconds < times[number] or not processes:
            return None
        return kinds[number % len(kinds)], processes[int(rng.integers(len(processes)))]

    return plan


def _aimed(sweep: Sweep, made: list[Kill], rng: np.random.Generator, launcher: str) -> Plan:
    """Kill a worker whenever it is in a phase that was hit too rarely."""
    kind = KINDS[launcher][-1 if launcher == "slurm" else 0]
    waited: dict[str, float] = {}

    def plan(seconds: float, processes: Sequence[Process]) -> tuple[str, Process | None] | None:
        lacking = _lacking(sweep, made)
        for process in processes:
            if process.phase not in lacking:
                continue
            if process.phase != SAVE:  # not always at the phase's first instant
                at = waited.setdefault(process.id, seconds + float(rng.uniform(0, 2)))
                if seconds < at:
                    continue
            return kind, process
        return None

    return plan


def _lacking(sweep: Sweep, made: Sequence[Kill]) -> list[str]:
    hits = collections.Counter(kill.phase for kill in made)
    phases = (COMPILE, STEP, SAVE, *((EVALUATE,) if sweep.measured else ()))
    return [phase for phase in phases if hits[phase] < EACH]


def _act(what: str, process: Process | None, driver: subprocess.Popen[bytes] | None) -> bool:
    """Do it; False where there is nothing left to be killed."""
    if what.startswith("node: "):
        subprocess.run(shlex.split(what.removeprefix("node: ")), check=False, capture_output=True)
        return True
    who, _, name = what.rpartition(" SIG")
    if who != "driver":
        return process is not None and process.send(name)
    if driver is None or driver.poll() is not None:
        return False
    driver.send_signal(signal.Signals[f"SIG{name}"])
    return True


def _kept_seconds(folder: Path, seconds: float) -> float:
    """How long the undisturbed run took, also when it had been run before."""
    path = folder / "seconds.json"
    if not path.exists():
        files.write_json(path, {"seconds": seconds})
    return float((workdirs.json_file(path) or {}).get("seconds", seconds))
