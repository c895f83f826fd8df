"""The checkpoints of a run: written in the background, proven whole before they are used."""

# Over 300 lines: one list of checkpoints, whose methods share a thread and a lock.

import math
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from ddpm_jax.errors import Stuck, UserError
from ddpm_jax.runtime import digests, processes
from ddpm_jax.training import step_files
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step_files import Damaged, Record, Unreadable
from ddpm_jax.training.written_together import SharedSave

# What a step is called while it is written, and while it is deleted: no such name is ever read.
PARTIAL, LEAVING = ".{}.partial", ".{}.leaving"
WRITER = "checkpoint writer"


class Checkpoints:
    """DIR/checkpoints/STEP: the latest `keep` steps and the `best`.

    A step is written under another name and renamed when it is complete and its digests are, so a
    crash leaves a whole step or none. Use as a context manager: leaving it waits for the last
    write. One process uses it to write at a time; `files.alone` sees to that.

    Args:
      workdir: of the run.
      keep: how many of the latest steps stay; the best stays too.
      read_only: make, rename and delete nothing.
      deadline: seconds after which a save counts as stuck.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        keep: int = 3,
        read_only: bool = False,
        deadline: float = 600.0,
    ):
        self.directory = Path(workdir).absolute() / "checkpoints"
        self._keep, self._read_only, self._deadline = keep, read_only, deadline
        self._writer: threading.Thread | None = None
        self._writing, self._began, self._reported_stuck = 0, 0.0, False
        self._complaints: list[str] = []
        self._failed: BaseException | None = None
        self._proven = False
        step_files.quiet_orbax()
        if not read_only:
            step_files.check_writable_name(self.directory)
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                reason = step_files.reason(error)
                raise UserError(f"cannot make {self.directory} ({reason})") from error
            self._clear(PARTIAL, LEAVING)  # what a crash left

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._join()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending; empty and foreign folders are none.

        Raises:
          UserError: if the folder is there and cannot be read: that is not a run without any.
        """
        try:
            named = [p for p in self.directory.iterdir() if p.name.isdecimal()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot read {self.directory} ({step_files.reason(error)})") from error
        steps = [p for p in named if p.name == str(int(p.name)) and step_files.is_filled(p)]
        return sorted(int(p.name) for p in steps)

    def latest(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The best step among those where it was measured, or None.

        That with the smallest distance of samples to the data; where none was measured, with the
        smallest validation loss.
        """
        records = self.records()
        for name in ("distance", "validation_loss"):
            values = {step: getattr(record, name) for step, record in records.items()}
            measured = {step: value for step, value in values.items() if value is not None}
            if measured:
                return min(measured, key=lambda step: (measured[step], step))
        return None

    def records(self) -> dict[int, Record]:
        """What each step should hold, of those that say so; nothing is verified."""
        records = {}
        for step in self.steps():
            try:
                records[step] = step_files.read_record(self._folder(step))
            except (Damaged, Unreadable):
                continue
        return records

    def digests(self, step: int, state: TrainState) -> dict[str, Any]:
        """`digests.digests` of the last state, which is saved as `step`; in the first process.

        Several processes, of which none holds all of it, have summed it as they saved.
        """
        if jax.process_count() == 1:
            return digests.digests(state)
        if not processes.is_first():
            return {}
        return digests.of_state(self.records()[step].leaves, list(state.ema))

    def set_aside(self) -> list[Path]:
        """The damaged steps that were set aside."""
        return sorted(self.directory.glob("*.bad*")) if self.directory.is_dir() else []

    def verify(self, step: int) -> Record:
        """Compare all of a step's files with their digests.

        Raises:
          Damaged, Unreadable: if one differs, or they were never a whole checkpoint.
          UserError: if there is no such step.
        """
        self.check(step)
        return step_files.verify(self._folder(step))

    def save(
        self,
        step: int,
        state: TrainState,
        validation_loss: float | None = None,
        distance: float | None = None,
    ) -> None:
        """Save the state as `step`, in the background; a step that is there already is kept.

        Every process of a run calls this, and writes its shards. What goes wrong is reported by
        `complaints`, and by `wait`; the next save is tried all the same.

        Args:
          step: batches consumed.
          state: copied before this returns.
          validation_loss: of the moving average at this step, where it was measured.
          distance: of its samples to the data, where it was measured.
        """
        # The first process decides: the others may not see yet what it has renamed.
        wanted = not self._read_only and processes.is_first() and self._is_wanted(step)
        if not processes.of_first(wanted):
            return
        if not processes.all_of(self._join()):
            self._complaints.append(
                f"step {step:,} was not saved: the save of step {self._writing:,} is stuck"
            )
            return
        loss, distance = (
            value if math.isfinite(value or 0.0) else None for value in (validation_loss, distance)
        )
        self._failed = None
        self._writing, self._began, self._reported_stuck = step, time.monotonic(), False
        write = (
            self._alone(step, state, loss, distance)
            if jax.process_count() == 1
            else self._together(step, state, loss, distance)
        )
        # A daemon: a write that never ends must not keep the process from ending.
        self._writer = threading.Thread(
            target=self._write, args=(step, write), name=WRITER, daemon=True
        )
        self._writer.start()

    def _is_wanted(self, step: int) -> bool:
        """Whether a step is neither there nor being written."""
        return not self._is_saved(step) and not (self._writer is not None and self._writing == step)

    def complaints(self) -> list[str]:
        """What went wrong with saving since the last call, a line each."""
        writing = self._writer is not None and self._writer.is_alive()
        if writing and not self._reported_stuck and self._patience() <= 0:
            self._reported_stuck = True
            self._complaints.append(
                f"the save of step {self._writing:,} is stuck: no end after {self._deadline:g} s"
            )
        said, self._complaints = self._complaints, []
        return said

    def wait(self) -> None:
        """Return when the last save is on disk. Raises UserError if it failed, Stuck if it is."""
        if not self._join():
            raise Stuck(
                f"step {self._writing:,} could not be saved: writing to {self.directory} is stuck; "
                "mend that and run the same command again"
            )
        if self._failed is not None:
            raise UserError(
                f"step {self._writing:,} could not be saved in {self.directory} "
                f"({step_files.reason(self._failed)}); mend that and run the same command again"
            ) from self._failed

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state at `step`, placed like `like` (arrays or ShapeDtypeStructs with shardings).

        Raises:
          Damaged: if its files are not what was written.
          UserError: if there is no such step, or it holds another network.
        """
        self.check(step)
        data = jax.eval_shape(jax.random.key_data, like.key)
        data = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=like.key.sharding)
        placed = step_files.read_placed(self._folder(step), like._asdict() | {"key": data})
        return TrainState(**placed | {"key": jax.random.wrap_key_data(placed["key"])})

    def restore_newest(
        self, like: TrainState, say: Callable[[str], None]
    ) -> tuple[TrainState, int] | None:
        """The newest step that is whole, and its number; None where no step ever was.

        A damaged step is renamed to STEP.bad and reported in one line; one that is as it was
        written is never renamed.

        Raises:
          UserError: if there were steps and none is whole, they hold another network, or the newest
            cannot be restored though it is as it was written.
        """
        while step := processes.of_first(self.latest() or 0):
            state: TrainState | None = None
            error: UserError | None = None
            try:
                state = self.restore(step, like)
            except (Damaged, Unreadable) as problem:
                error = problem
            if processes.all_of(state is not None):
                assert state is not None
                return state, step
            if not processes.all_of(not isinstance(error, Unreadable)):
                raise UserError(
                    f"{error or 'another process cannot read the checkpoint'}: nothing was "
                    "changed; mend that, or move the step's folder away to go on from the one "
                    "before it"
                )
            if processes.is_first():
                say(f"{error}; set aside as {self.put_aside(step).name}")
            processes.wait("set aside")
        if processes.of_first(len(self.set_aside())):
            names = ", ".join(path.name for path in self.set_aside())
            raise UserError(
                f"no checkpoint in {self.directory} is whole, and the damaged ones were set aside "
                f"({names}): put a copy of one back, or start again with --workdir=NEW"
            )
        return None

    def restore_params(self, step: int, name: str, like: Any) -> Any:
        """Only the parameters at `step`: "raw", or the moving average of that name.

        Raises:
          Damaged: if the step's files are not what was written.
          UserError: if there is no such step, or it holds another network.
        """
        tree = self.read(step, {"params": like} if name == "raw" else {"ema": {name: like}})
        params = tree["params"] if name == "raw" else tree["ema"][name]
        return jax.tree.map(lambda leaf, to: processes.placed(leaf, to.sharding), params, like)

    def read(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """Fields of the state at `step`, whole or in part, on the host; as `step_files.read`."""
        return step_files.read(self._folder(self.check(step)), like)

    def check(self, step: int | None) -> int:
        """`step`, or the latest if None. Raises UserError where there is no such checkpoint."""
        self._join()
        steps = self.steps()
        if not steps:
            raise UserError(
                f"no checkpoint in {self.directory.parent}; train one there, or name another "
                "--workdir"
            )
        if step is not None and step not in steps:
            available = ", ".join(map(str, steps))
            raise UserError(
                f"no checkpoint of step {step} in {self.directory}; there are {available}"
            )
        return steps[-1] if step is None else step

    def newest_whole(self, say: Callable[[str], None]) -> int:
        """The newest step whose files are what was written; damaged ones are reported and skipped.

        Raises:
          UserError: if there is none.
        """
        self.check(None)
        for step in reversed(self.steps()):
            try:
                return self.verify(step).step
            except (Damaged, Unreadable) as error:
                say(f"{error}; taking the one before it")
        raise UserError(f"no checkpoint in {self.directory} is whole; name another workdir")

    def _folder(self, step: int) -> Path:
        return self.directory / str(step)

    def _is_saved(self, step: int) -> bool:
        try:
            return step in self.steps()
        except UserError:  # writing will say so
            return False

    def _patience(self) -> float:
        """Seconds until the running save counts as stuck."""
        return self._began + self._deadline - time.monotonic()

    def _join(self) -> bool:
        """Wait for the running save, no longer than its deadline; whether it has ended."""
        if self._writer is not None:
            self._writer.join(max(self._patience(), 0.0))
            if self._writer.is_alive():
                return False
            self._writer = None
        return True

    def _alone(
        self, step: int, state: TrainState, loss: float | None, distance: float | None
    ) -> Callable[[Path], None]:
        """What writes a step of a run in one process; the state is copied now."""
        host = digests.on_host(state)

        def write(partial: Path) -> None:
            shutil.rmtree(partial, ignore_errors=True)
            step_files.write(partial, step, host, loss, distance)
            if not self._proven:  # once: what cannot be restored here shows at the first save
                step_files.prove(partial, step, host)
                self._proven = True
            os.rename(partial, self._folder(step))
            step_files.sync(self.directory)

        return write

    def _together(
        self, step: int, state: TrainState, loss: float | None, distance: float | None
    ) -> Callable[[Path], None]:
        """What writes this process's part of a step; its shards are copied now."""
        save = SharedSave(state, self._began + self._deadline)
        return lambda partial: save.write(partial, self._folder(step), step, loss, distance)

    def _write(self, step: int, write: Callable[[Path], None]) -> None:
        partial = self.directory / PARTIAL.format(step)
        try:
            write(partial)
        except BaseException as error:  # nothing may be lost on its way out of a thread
            self._failed = error
            if processes.is_first():
                shutil.rmtree(partial, ignore_errors=True)
            self._complaints.append(
                f"step {step:,} could not be saved ({step_files.reason(error)}); "
                "the run goes on, and tries again at the next one"
            )
            return
        if not processes.is_first():
            return
        try:
            self._tidy()
        except Exception as error:  # the step is whole all the same
            self._complaints.append(
                f"older checkpoints could not be deleted ({step_files.reason(error)}); "
                "the run goes on, and tries again at the next save"
            )

    def _tidy(self) -> None:
        """Delete all but the latest and the best: renamed first, for a half-deleted one is none."""
        for left in self.directory.glob(LEAVING.format("*")):  # by a deletion that failed
            shutil.rmtree(left)
        self._clear(PARTIAL)  # Orbax's threads may write on after a save has failed
        kept = {*self.steps()[-self._keep :], self.best()}
        for step in self.steps():
            if step not in kept:
                leaving = self.directory / LEAVING.format(step)
                os.rename(self._folder(step), leaving)
                shutil.rmtree(leaving)

    def _clear(self, *names: str) -> None:
        for folder in (f for name in names for f in self.directory.glob(name.format("*"))):
            shutil.rmtree(folder, ignore_errors=True)

    def put_aside(self, step: int) -> Path:
        """Rename a damaged step to STEP.bad, where nothing reads it. Raises UserError."""
        names = (f"{step}.bad{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 10_000))))
        free = next(self.directory / n for n in names if not (self.directory / n).exists())
        try:
            return self._folder(step).rename(free)
        except OSError as error:
            raise UserError(
                f"{self._folder(step)} is damaged and cannot be set aside "
                f"({step_files.reason(error)})"
            ) from error
