"""A sweep on this machine: as many cells at a time as it is asked for, each in its own process."""

import contextlib
import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from ddpm_jax.errors import UserError
from ddpm_jax.sweeps import cell_flags, groups, status, workdirs
from ddpm_jax.sweeps.cells import Cell
from ddpm_jax.sweeps.sweep_file import Sweep
from ddpm_jax.sweeps.workdirs import State

POLL = 0.25  # seconds between two looks at the processes
SHOW = 5.0  # seconds between two looks at how far they are
LOCK_WAIT = 60  # seconds for the orphan of a driver that was killed to stop and save
EXIT_FAILED = 1


@dataclasses.dataclass
class _Job:
    """A process for a unit, one training or a group of them, or for what is measured of a cell.

    `training` is the one whose log it writes: of a group its first member.
    """

    unit: tuple[str, ...]
    training: str
    what: str
    process: subprocess.Popen[bytes]
    slot: int


def run(
    sweep: Sweep,
    workdir: str | Path,
    *,
    jobs: int,
    attempts: int,
    words: Sequence[str] = (),
    stream: TextIO | None = None,
) -> int:
    """Train and measure every cell that is not done; returns the exit code.

    Each cell is `python -m ddpm_jax train --flagfile=cells/NAME/flags.txt`, in a process that is
    told to stop and save where this one dies.

    Args:
      sweep: the sweep.
      workdir: its folder, which this process has to itself.
      jobs: trainings at a time.
      attempts: failed tries in a row, without getting further, after which a cell is left alone.
      words: more flags of every command, such as --code_path.
      stream: where lines go; None for stderr.

    Returns:
      0 when every cell is done, 1 when some failed, 75 when a SIGINT or SIGTERM stopped it: every
      cell is then saved, and the same command goes on.

    Raises:
      UserError: for more jobs than there are GPUs.
    """
    driver = _Driver(sweep, Path(workdir).absolute(), jobs, attempts, words, stream or sys.stderr)
    with _signals(driver.stop):
        return driver.run()


class _Driver:
    """The loop. What it knows of cells it reads from their workdirs."""

    def __init__(
        self,
        sweep: Sweep,
        workdir: Path,
        jobs: int,
        attempts: int,
        words: Sequence[str],
        stream: TextIO,
    ):
        self._sweep = sweep
        self._workdir = workdir
        self._attempts = attempts
        self._words = words
        self._stream = stream
        self._devices = _devices(jobs)
        self._free = list(range(jobs))
        self._jobs: list[_Job] = []
        self._waiting = groups.units(sweep, workdir)
        self._cells: dict[str, list[Cell]] = {}
        for cell in sweep.cells:
            self._cells.setdefault(cell.training, []).append(cell)
        self._stopping = 0
        self._trained: set[str] = set()  # those that came by and are finished
        self._failed: dict[str, str] = {}  # the training of each
        self._shown = status.Live(sweep, workdir, attempts, stream)

    def stop(self) -> None:
        """Ask every process to stop and save; the second time, end them."""
        self._stopping += 1
        for job in self._jobs:
            with contextlib.suppress(ProcessLookupError):
                job.process.send_signal(signal.SIGTERM if self._stopping == 1 else signal.SIGKILL)

    def run(self) -> int:
        looked = 0.0
        while self._jobs or (self._waiting and not self._stopping):
            while self._free and not self._stopping and (unit := self._ready()):
                self._next(unit)
            if not self._jobs and not self._stopping:
                self._blocked()
                continue
            time.sleep(POLL)
            for job in [job for job in self._jobs if job.process.poll() is not None]:
                self._ended(job)
            if time.monotonic() - looked > SHOW:
                self._shown.show()
                looked = time.monotonic()
        self._shown.show(last=True)
        if self._stopping:
            print("stopped and saved; run the same command again to go on", file=self._stream)
            return workdirs.STOPPED
        for name, training in self._failed.items():
            folder = workdirs.folder(self._workdir, training)
            print(
                f"failed: {name}: {workdirs.last_words(folder)} ({folder / workdirs.LOG})",
                file=self._stream,
            )
        return EXIT_FAILED if self._failed else 0

    def _ready(self) -> tuple[str, ...]:
        """The first unit that need not wait for another one, which no longer waits; () for none."""
        for k, unit in enumerate(self._waiting):
            if not self._lacking(unit):
                return self._waiting.pop(k)
        return ()

    def _lacking(self, unit: tuple[str, ...]) -> list[str]:
        """The trainings that a unit needs, and that are not finished."""
        needed = {n for name in unit for n in self._cells[name][0].needs.values()}
        return sorted(needed - self._trained)

    def _blocked(self) -> None:
        """Nothing runs, and what still waits does so for what failed."""
        for unit in self._waiting:
            for needed in self._lacking(unit):
                print(f"not trained: {unit[0]}: it needs {needed}", file=self._stream)
        self._waiting.clear()

    def _next(self, unit: tuple[str, ...]) -> None:
        """Start what comes next of a unit and its cells; nothing where all is done."""
        folders = {name: workdirs.folder(self._workdir, name) for name in unit}
        found = {name: workdirs.training(folders[name], self._attempts) for name in unit}
        untrained = [name for name in unit if found[name].state is not State.TRAINED]
        self._trained |= {*unit} - {*untrained}
        if untrained:
            first = folders[unit[0]]
            if workdirs.failures_of(first, workdirs.TRAIN)[0] < self._attempts:
                self._start(unit, unit[0], workdirs.TRAIN, self._train_words(unit))
                return
            self._failed |= dict.fromkeys(untrained, unit[0])
        for training in (name for name in unit if name not in untrained):
            for cell in self._cells[training]:
                result = workdirs.result(self._workdir, cell)
                if not cell.evaluate or result.exists():
                    continue
                if workdirs.failures_of(folders[training], result.stem)[0] >= self._attempts:
                    self._failed[cell.name] = training
                    continue
                flags = cell_flags.measure_flags(self._workdir, cell)
                words = ["evaluate", f"--flagfile={flags}"]
                self._start(unit, training, result.stem, words)
                return

    def _train_words(self, unit: tuple[str, ...]) -> list[str]:
        if len(unit) > 1:
            number = groups.number(self._workdir, unit)
            named = [f"--sweep={self._sweep.path}", f"--workdir={self._workdir}"]
            return ["sweep", "group", *named, f"--group={number}"]
        folder = workdirs.folder(self._workdir, unit[0])
        flags = [f"--flagfile={folder / workdirs.FLAGS}", f"--workdir={folder}"]
        return ["train", *flags, f"--lock_wait={LOCK_WAIT}"]

    def _start(self, unit: tuple[str, ...], training: str, what: str, words: Sequence[str]) -> None:
        slot = self._free.pop(0)
        folder = workdirs.folder(self._workdir, training)
        log = folder / workdirs.LOG
        process = start_command([*words, *self._words], log, self._devices[slot])
        self._jobs.append(_Job(unit, training, what, process, slot))
        self._shown.started(training, what)

    def _ended(self, job: _Job) -> None:
        self._jobs.remove(job)
        self._free.append(job.slot)
        code = job.process.returncode
        if not (self._stopping and code < 0):  # ended by the second Ctrl-C
            for name in job.unit if job.what == workdirs.TRAIN else (job.training,):
                folder = workdirs.folder(self._workdir, name)
                step = workdirs.training(folder, self._attempts).step
                workdirs.record_try(folder, code, step, job.what)
        self._shown.ended(job.training, job.what, code)
        self._waiting.insert(0, job.unit)


def start_command(
    words: Sequence[str], log: Path, variables: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start `python -m ddpm_jax WORDS`, in a session of its own: Ctrl-C comes to the driver alone.

    Args:
      words: of the command line.
      log: where it writes, appended to.
      variables: of its environment, beside this process's.
    """
    with open(log, "ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "ddpm_jax", *words],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, **variables},
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )


def _devices(jobs: int) -> list[dict[str, str]]:
    """The environment of each slot: its share of the GPUs; nothing where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        try:
            listed = subprocess.run(
                ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
                capture_output=True, text=True, timeout=30, check=True,
            )  # fmt: skip
            visible = ",".join(listed.stdout.split())
        except (OSError, subprocess.SubprocessError):
            visible = ""
    gpus = [one for one in visible.split(",") if one.strip()]
    if not gpus:
        return [{} for _ in range(jobs)]
    if jobs > len(gpus):
        raise UserError(
            f"--jobs={jobs}: there are {len(gpus)} GPUs, and each training needs one of its own"
        )
    share = len(gpus) // jobs
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[k * share : (k + 1) * share])} for k in range(jobs)
    ]


def _die_with_parent() -> None:
    """In the new process: a signal to stop and save, should the driver be killed (Linux alone)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    def received(number: int, frame: object) -> None:
        stop()

    before = {n: signal.signal(n, received) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
