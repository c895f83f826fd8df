"""A checkpoint that the processes of a run write together, in the background.

What they must agree on while they write goes through the coordinator's store: a thread beside the
training may use no collective of the devices.
"""

import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax.runtime import digests, files, processes
from ddpm_jax.training import shard_files, step_files
from ddpm_jax.training.shard_files import Slice
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step_files import Record

NOTES = ".notes"  # what each process tells the first one, in the folder until it is complete
_SAVES = itertools.count()  # saves come in the same order in all processes


class SharedSave:
    """One process's part in a save: its slices, copied to the host, and which leaves it sums.

    Made in every process at the same point of the training.

    Args:
      state: of placed arrays.
      deadline: when it counts as stuck, as `time.monotonic` tells it.
    """

    def __init__(self, state: TrainState, deadline: float):
        raw = state._replace(key=jax.random.key_data(state.key))
        self._name, self._deadline = f"ddpm_jax/save/{next(_SAVES)}", deadline
        self._process, self._count = jax.process_index(), jax.process_count()
        self._slices: dict[Slice, np.ndarray] = shard_files.own(raw, self._process)
        self._like = {
            jax.tree_util.keystr(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for path, leaf in jax.tree_util.tree_flatten_with_path(raw)[0]
        }
        parts = {part.leaf for part in shard_files.owners(raw) if not self._is_whole(part)}
        # Much at first, then little: each gets about as much to read.
        largest = sorted(parts, key=lambda name: (-math.prod(self._like[name].shape), name))
        self._summed = largest[self._process :: self._count]

    def write(
        self, partial: Path, final: Path, step: int, loss: float | None, distance: float | None
    ) -> None:
        """Write the step as `partial`, and rename it when all of it is on disk.

        Raises:
          UserError, OSError, RuntimeError: in every process, where it fails in one.
        """
        first = processes.is_first()
        self._in_all("begun", lambda: _make(partial) if first else None)
        file = self._in_all("written", lambda: self._write_own(partial))
        self._in_all("summed", lambda: self._note(partial, dict([file])))
        self._in_all("complete", lambda: self._complete(partial, final, step, loss, distance))

    def _write_own(self, partial: Path) -> tuple[str, str]:
        leaves = {p.leaf: digests.sum_of(a) for p, a in self._slices.items() if self._is_whole(p)}
        self._leaves = leaves
        written = shard_files.write(partial, self._process, self._slices)
        self._slices = {}
        return written

    def _note(self, partial: Path, sums: dict[str, str]) -> None:
        """Sum leaves that lie in several slices, and note that and the file's sum for the first."""
        if self._summed:
            found = shard_files.stored(partial)
            for name in self._summed:
                self._leaves[name] = shard_files.sum_of(found[name], self._like[name].shape)
        path = partial / NOTES / f"{self._process}.json"
        with path.open("w", encoding="utf-8") as stream:
            json.dump({"files": sums, "leaves": self._leaves}, stream)
            stream.flush()
            os.fsync(stream.fileno())

    def _complete(
        self, partial: Path, final: Path, step: int, loss: float | None, distance: float | None
    ) -> None:
        if not processes.is_first():
            return
        notes = [
            files.read_json(partial / NOTES / f"{k}.json", step_files.MAX_RECORD_BYTES)
            for k in range(self._count)
        ]
        leaves = {name: sums for note in notes for name, sums in note["leaves"].items()}
        if leaves.keys() != self._like.keys():
            raise OSError("not every leaf of the state was written")
        sums = {name: text for note in notes for name, text in note["files"].items()}
        shutil.rmtree(partial / NOTES)
        step_files.sync(partial / shard_files.FOLDER)
        record = Record(step, dict(sorted(leaves.items())), sums, loss, distance)
        step_files.write_record(partial, record)
        os.rename(partial, final)
        step_files.sync(final.parent)

    def _is_whole(self, part: Slice) -> bool:
        return part.shape == tuple(self._like[part.leaf].shape)

    def _in_all(self, point: str, act: Callable[[], Any]) -> Any:
        """Do it; go on when all have, or raise where one could not."""
        done, error = None, None
        try:
            done = act()
        except BaseException as raised:
            error = raised
        word = "" if error is None else step_files.reason(error) or type(error).__name__
        left = self._deadline - time.monotonic()
        words = processes.exchanged(f"{self._name}/{point}", word, left)
        if error is not None:
            raise error
        for process, word in enumerate(words):
            if word:
                raise OSError(f"process {process}: {word}")
        return done


def _make(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    for folder in (shard_files.FOLDER, NOTES):
        (partial / folder).mkdir(parents=True)
