"""DIR/averages/STEP.safetensors: the power averages of a run at some of its steps, as float32.

Of them averages of other widths are made (`post_hoc`). Checkpoints go, these stay.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from blake3 import blake3

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import digests, files, leaves, processes, weight_files
from ddpm_jax.training import ema, guard, post_hoc, step_files
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step_files import Damaged

FOLDER = "averages"
SUFFIX = ".safetensors"
# The one key of the file's metadata: the library writes several in any order, and the same
# averages are the same bytes.
RECORD = "snapshot"


class Snapshot(NamedTuple):
    """What a file holds, as its header says.

    Attributes:
      path: of the file.
      step: batches consumed.
      updates: of them, those that were not skipped.
      averages: names of what it holds, "std:0.05".
      blake3: over all of it.
    """

    path: Path
    step: int
    updates: int
    averages: tuple[str, ...]
    blake3: str


def save(workdir: Path, step: int, state: TrainState) -> None:
    """Write the power averages of a state; whatever is there of that step is written again.

    Every process of a run calls this, the first one writes.

    Args:
      workdir: of the run.
      step: batches consumed.
      state: after them.

    Raises:
      OSError: where it cannot be written.
    """
    trees = {name: tree for name, tree in state.ema.items() if ema.std_of(name) is not None}
    host, skipped = digests.on_host((trees, state.extra[guard.NAME]["skipped"]))
    if not processes.is_first():
        return
    flat = {name: np.asarray(leaf, np.float32) for name, leaf in leaves.named(host).items()}
    folder = workdir / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{step}{SUFFIX}"
    made = Snapshot(path, step, step - int(skipped), tuple(sorted(trees)), "")
    record = _record(made)
    content = record | {"blake3": _sum(record, flat)}
    metadata = {RECORD: json.dumps(content, sort_keys=True)}
    with files.whole(path) as partial:
        try:
            safetensors.numpy.save_file(flat, partial, metadata)
        except safetensors.SafetensorError as error:  # of a disk that is full, say
            raise OSError(str(error)) from error
        step_files.sync(partial)
    step_files.sync(folder)


def listed(workdir: Path, say: Callable[[str], None] = lambda line: None) -> list[Snapshot]:
    """The snapshots of a run, by step, but for those whose header cannot be read.

    Args:
      workdir: of the run.
      say: takes a line for each of the latter.

    Raises:
      UserError: for a folder that is there and cannot be read.
    """
    folder = workdir / FOLDER
    try:
        paths = [p for p in folder.iterdir() if p.suffix == SUFFIX and p.stem.isdecimal()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {folder} ({error.strerror or error})") from error
    found = []
    for path in sorted(paths, key=lambda path: int(path.stem)):
        try:
            found.append(_header(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            say(f"{path} is damaged ({step_files.reason(error)}); left out")
    return found


def read(snapshot: Snapshot, like: Any) -> dict[str, Any]:
    """The averages of a snapshot by name, float32 trees as `like` on the host.

    Raises:
      Damaged: if the file is not what was written.
      UserError: if it is of another network.
    """
    path = snapshot.path
    try:
        flat = safetensors.numpy.load(files.read_bytes(path, sys.maxsize))
        if _sum(_record(snapshot), flat) != snapshot.blake3:
            raise ValueError("it has other content than was written")
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise Damaged(f"{path} is damaged ({step_files.reason(error)})") from error
    wanted = leaves.named(dict.fromkeys(snapshot.averages, like))
    shapes = {name: leaf.shape for name, leaf in wanted.items()}
    if shapes != {name: leaf.shape for name, leaf in flat.items()}:
        raise UserError(f"{path} holds the averages of another network")
    structure, names = jax.tree.structure(like), leaves.names(like)
    return {
        name: jax.tree.unflatten(structure, [flat[f"{name}/{leaf}"] for leaf in names])
        for name in snapshot.averages
    }


def discard_after(workdir: Path, step: int) -> list[int]:
    """Delete the snapshots of later steps, which a run that goes on from `step` makes again.

    Returns:
      Their steps.

    Raises:
      UserError: for one that cannot be deleted.
    """
    later = [snapshot for snapshot in listed(workdir) if snapshot.step > step]
    for snapshot in later:
        try:
            snapshot.path.unlink()
        except OSError as error:
            raise UserError(
                f"{snapshot.path} is of a later step than the run goes on from, and cannot be "
                f"deleted ({error.strerror or error})"
            ) from error
    return [snapshot.step for snapshot in later]


def _header(path: Path) -> Snapshot:
    with files.regular(path) as file:
        size = int.from_bytes(file.read(8), "little")
        if size > weight_files.HEADER_BYTES:
            raise ValueError(f"its header has more than {weight_files.HEADER_BYTES:,} bytes")
        header = files.parse_json(file.read(size))
    record = files.parse_json(header["__metadata__"][RECORD].encode())
    names: Sequence[str] = record["averages"]
    for name in names:
        post_hoc.exponent(ema.std_of(name) or 0.0)
    made = Snapshot(path, record["step"], record["updates"], tuple(names), record["blake3"])
    numbers = (made.step, made.updates)
    if not all(type(n) is int and n >= 0 for n in numbers) or str(made.step) != path.stem:
        raise ValueError("its record is not of its step")
    return made


def _record(snapshot: Snapshot) -> dict[str, Any]:
    """What is summed beside the tensors."""
    return {
        "step": snapshot.step,
        "updates": snapshot.updates,
        "averages": list(snapshot.averages),
    }


def _sum(record: dict[str, Any], flat: dict[str, np.ndarray]) -> str:
    lines = [f"{name} {digests.sum_of(flat[name])}\n" for name in sorted(flat)]
    return blake3("".join([json.dumps(record, sort_keys=True), "\n", *lines]).encode()).hexdigest()
