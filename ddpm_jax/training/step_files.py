"""One checkpoint on disk: a folder with the state and a record of digests that proves it whole."""

# Over 300 lines: one format, written, verified and read.

import concurrent.futures
import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from blake3 import blake3

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import digests, processes
from ddpm_jax.training import shard_files
from ddpm_jax.training.state import TrainState

RECORD = "digests.json"
STATE = "state"  # what Orbax wrote
MAX_RECORD_BYTES = 2**28
ANOTHERS = "another's turn"
_CHUNK = 2**18  # stays in the core's cache between reading and summing
# Without these nothing can be restored, however well every file agrees with its digest.
NEEDED = (f"{STATE}/_METADATA", f"{STATE}/manifest.ocdbt")
# What Orbax and TensorStore do not take as it stands: they match folders as glob patterns and read
# a backslash as a slash; bytes that are no text (surrogates, here) they refuse.
_PATTERN = re.compile(r"[*?\[\]\\\ud800-\udfff]")
DESCRIPTORS = Path("/proc/self/fd")
# Of this process or machine, not of the files.
_PASSING = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}


class Damaged(UserError):
    """A checkpoint that is not what was written; the message says which and how."""


class Unreadable(UserError):
    """A checkpoint that may be what was written, and cannot be restored; the message says why."""


class Record(NamedTuple):
    """What a step's files must be.

    Attributes:
      step: batches consumed.
      leaves: {path: "dtype[shape] BLAKE3"} of the state's leaves.
      files: {path below the step's folder: "bytes BLAKE3"}.
      validation_loss: of the moving average at this step, or None.
      distance: of its samples to the data, or None.
    """

    step: int
    leaves: dict[str, str]
    files: dict[str, str]
    validation_loss: float | None
    distance: float | None = None

    @property
    def in_shards(self) -> bool:
        """Whether several processes wrote it, each its shards."""
        return any(name.startswith(f"{shard_files.FOLDER}/") for name in self.files)

    @property
    def averages(self) -> list[str]:
        """The names of the moving averages in the state."""
        names = (re.match(r"\.ema\['([^']*)'\]", path) for path in self.leaves)
        return [*dict.fromkeys(match[1] for match in names if match)]

    @property
    def state_sha256(self) -> str:
        """The digest of the whole state, as in final.json."""
        return digests.combined(self.leaves)


def write(
    folder: Path,
    step: int,
    host: TrainState,
    validation_loss: float | None,
    distance: float | None = None,
) -> None:
    """Write a state of numpy arrays into a folder that is not there yet.

    Leaves are hashed in memory while Orbax writes them, so that what it does wrong shows as well;
    files are summed when they are complete, so that a flip is found even where no leaf shows it.

    Raises:
      UserError: for a leaf that is not finite.
      OSError, ValueError: whatever writing raises.
    """
    folder.mkdir(parents=True)
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        leaves = beside.submit(_checked_leaves, host)
        write_plain(folder / STATE, host)
    sums = _sums(folder, synced=True)
    write_record(folder, Record(step, leaves.result(), sums, validation_loss, distance))


def write_record(folder: Path, record: Record) -> None:
    """Write what the files of a step must be, as the last of them."""
    with (folder / RECORD).open("wb") as stream:
        stream.write(_text(record))
        stream.flush()
        os.fsync(stream.fileno())
    sync(folder)


def write_plain(folder: Path, host: TrainState) -> None:
    """Write a state of numpy arrays as Orbax does, without digests."""
    with _literal(folder.parent) as parent, _orbax() as orbax:
        orbax.save(parent / folder.name, args=ocp.args.PyTreeSave(host._asdict()))


def prove(folder: Path, step: int, host: TrainState) -> None:
    """Restore what `write` has just written, a field of the state at a time.

    Raises:
      Damaged, Unreadable: if it does not come back as it is in memory.
    """
    record = verify(folder, step)
    for name, part in host._asdict().items():
        if jax.tree.leaves(part):
            _restored(folder, record, {name: part})


def check_writable_name(folder: Path) -> None:
    """Raises UserError for a folder that Orbax cannot write into because of how it is called."""
    if not _is_literal(folder) and not DESCRIPTORS.is_dir():
        raise UserError(
            f"--workdir={folder.parent}: checkpoints cannot be written below a folder with one of "
            r"*?[]\ in its name, or bytes that are no text: name another"
        )


def read_record(folder: Path) -> Record:
    """What the files of a step must be.

    Raises:
      Damaged: if there is no whole record.
      Unreadable: if this process may not read it.
    """
    path = folder / RECORD
    try:
        with _open(path) as stream:
            content = stream.read(MAX_RECORD_BYTES)
        record = Record(**json.loads(content)["record"])
        # The text holds its own digest, and is compared to the byte: no flip goes unseen.
        if content != _text(record):
            raise ValueError("it does not agree with its own digest")
    except FileNotFoundError as error:
        raise Damaged(f"{folder} has no {RECORD}: unfinished, or copied in part") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno in _PASSING:
            raise Unreadable(f"{path} cannot be read ({reason(error)})") from error
        raise Damaged(f"{path} is damaged ({reason(error)})") from error
    return record


def verify(folder: Path, step: int | None = None, turn: int = 0, turns: int = 1) -> Record:
    """Compare every file with the record.

    Args:
      folder: of the step.
      step: its number; None for the folder's name.
      turn, turns: sum each `turns`-th file only, from `turn` on; others sum the rest.

    Raises:
      Damaged: naming the first file that differs.
      Unreadable: if this process may not read a file, or what was written was no whole checkpoint.
    """
    record = read_record(folder)
    if str(record.step) != (folder.name if step is None else str(step)):
        raise Damaged(f"{folder} is step {record.step} by its record, under another name")
    try:
        sums = _sums(folder, turn=turn, turns=turns)
    except OSError as error:
        kind = Unreadable if error.errno in _PASSING else Damaged
        raise kind(f"{folder} cannot be read ({reason(error)})") from error
    for name in sorted(record.files.keys() | sums.keys()):
        if name not in sums:
            raise Damaged(f"{folder} is damaged: {name} is missing")
        if name not in record.files:
            raise Damaged(f"{folder} is damaged: {name} does not belong to it")
        if sums[name] not in (record.files[name], ANOTHERS):
            raise Damaged(f"{folder} is damaged: {name} has other content than was written")
    for name in () if record.in_shards else NEEDED:
        if name not in record.files:
            raise Unreadable(
                f"{folder} is as it was written, but without {name} it cannot be restored"
            )
    return record


def read(folder: Path, like: dict[str, Any]) -> dict[str, Any]:
    """Verify a step and read some fields of its state.

    Args:
      folder: of the step.
      like: fields of a TrainState, whole or in part, as arrays or ShapeDtypeStructs (a key as its
        uint32 data).

    Returns:
      As `like`, of numpy arrays.

    Raises:
      Damaged: if a file or a leaf is not what was written.
      Unreadable: if the files are, and cannot be read all the same.
      UserError: if the state that was written is another, naming the first leaf that differs.
    """
    return _restored(folder, verify(folder), like)


def _checked_names(folder: Path, record: Record, like: dict[str, Any]) -> list[str]:
    """The names of leaves in the record. Raises UserError for the first that is another there."""
    flat = jax.tree_util.tree_flatten_with_path(like)[0]
    # A state's fields are attributes, a dict's are keys: .params['conv'] in both.
    names = [f".{path[0].key}{jax.tree_util.keystr(path[1:])}" for path, _ in flat]
    for name, (_, leaf) in zip(names, flat, strict=True):
        stored = record.leaves.get(name, "nothing").split(" ")[0]
        if stored != digests.kind(leaf):
            types = (
                "; jax_enable_x64 is on: switch it off"
                if getattr(jax.config, "jax_enable_x64", False)
                else ""
            )
            raise UserError(
                f"{folder} holds another network or optimiser: {name} is {stored} there and "
                f"{digests.kind(leaf)} here{types}"
            )
    return names


def _restored(folder: Path, record: Record, like: dict[str, Any]) -> dict[str, Any]:
    """Some fields of the state of a step whose files were verified."""
    names = _checked_names(folder, record, like)
    if record.in_shards:
        flat, structure = jax.tree.flatten(like)
        found = zip(names, flat, _stored(folder, names), strict=True)
        whole = [_leaf(folder, record, name, leaf.shape, parts) for name, leaf, parts in found]
        return jax.tree.unflatten(structure, whole)
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    try:
        with _literal(folder) as literal, _orbax() as orbax:
            tree = orbax.restore(
                literal / STATE,
                args=ocp.args.PyTreeRestore(like, restore_args=arguments, partial_restore=True),
            )
    except Exception as error:  # Orbax has no exception of its own for what it cannot read
        raise Unreadable(
            f"{folder} is as it was written, and cannot be restored ({reason(error)})"
        ) from error
    leaves = jax.tree.leaves(tree)
    for name, leaf in zip(names, leaves, strict=True):
        _check_leaf(folder, record, name, leaf)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _check_leaf(folder: Path, record: Record, name: str, leaf: np.ndarray) -> None:
    if digests.sum_of(leaf) != record.leaves[name]:
        raise Damaged(f"{folder} is damaged: {name} has other values than were written")


def _stored(folder: Path, names: Sequence[str]) -> list[list[shard_files.Stored]]:
    """Where leaves of a verified step lie."""
    with _as_written(folder):
        found = shard_files.stored(folder)
        return [found[name] for name in names]


def _leaf(
    folder: Path,
    record: Record,
    name: str,
    shape: Sequence[int],
    parts: Sequence[shard_files.Stored],
) -> np.ndarray:
    with _as_written(folder):
        leaf = shard_files.read(parts, (0,) * len(shape), shape)
    _check_leaf(folder, record, name, leaf)
    return leaf


@contextlib.contextmanager
def _as_written(folder: Path) -> Iterator[None]:
    """What cannot be read of files that have their sums is no damage."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreadable(
            f"{folder} is as it was written, and cannot be restored ({reason(error)})"
        ) from error


def read_placed(folder: Path, like: dict[str, Any]) -> dict[str, Any]:
    """As `read`, each leaf placed as its sharding in `like` says before the next is read.

    Of several processes each sums its part of the files of a step that they wrote together, and
    reads what its devices need: the state is whole where this raises in none of them.
    """
    record = read_record(folder)
    places = jax.tree.map(lambda leaf: leaf.sharding, like)
    if not record.in_shards:
        return jax.tree.map(processes.placed, read(folder, like), places)
    record = verify(folder, None, jax.process_index(), jax.process_count())
    names = _checked_names(folder, record, like)
    flat, structure = jax.tree.flatten(like)
    leaves = []
    for name, leaf, parts in zip(names, flat, _stored(folder, names), strict=True):
        if leaf.sharding.is_fully_addressable or leaf.sharding.is_fully_replicated:
            whole = _leaf(folder, record, name, leaf.shape, parts)
            leaves.append(processes.placed(whole, leaf.sharding))
            continue
        with _as_written(folder):
            leaves.append(shard_files.placed(parts, leaf))
    return jax.tree.unflatten(structure, leaves)


def quiet_orbax() -> None:
    """Orbax tells each stage of a save, and each error with its stacks; a run prints one line."""
    logging.getLogger("absl").addFilter(_worth_saying)


def is_filled(folder: Path) -> bool:
    """Whether there is a folder that is not empty; one that cannot be read counts as such."""
    try:
        return any(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # no folder, or the writer has just renamed it
        return False
    except OSError:  # there it is; reading it will say what is wrong
        return True


def sync(*paths: Path) -> None:
    """Have these files, or what these folders list, on disk, also if the power fails now."""
    for path in paths:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def reason(error: BaseException) -> str:
    """An error's first line, shortened; of TensorStore's long ones what the system said."""
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ((text or type(error).__name__).strip().splitlines() or [""])[0][:200]


def _checked_leaves(host: TrainState) -> dict[str, str]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(host)[0]:
        # A sum is finite only where everything is, and takes no array of bools as large again;
        # that of large numbers may overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            total = leaf.sum()
        if not np.isfinite(total) and not np.isfinite(leaf).all():
            raise UserError(f"{jax.tree_util.keystr(path)} is not finite")
    return digests.of_leaves(host)


def _is_literal(folder: Path) -> bool:
    """Whether Orbax and TensorStore take the path as it stands."""
    return not _PATTERN.search(str(folder))


@contextlib.contextmanager
def _literal(folder: Path) -> Iterator[Path]:
    """A path to a folder that is there, in which Orbax finds no pattern."""
    if _is_literal(folder):
        yield folder
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield DESCRIPTORS / str(number)
    finally:
        os.close(number)


def _worth_saying(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _orbax() -> ocp.Checkpointer:
    # One process writes, whatever their number: its arrays are numpy's, and whole.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes=None if jax.process_count() == 1 else {jax.process_index()},
        barrier_sync_key_prefix=f"process{jax.process_index()}",
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _text(record: Record) -> bytes:
    # What was not measured is left out, as by those that knew nothing of it.
    body = {n: v for n, v in record._asdict().items() if n != "distance" or v is not None}
    sha = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    whole = {"record": body, "sha256": sha}
    return (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode()


def _open(path: Path) -> io.BufferedReader:
    """For reading; not through a link, for what lies elsewhere is not the step's.

    Nor does it wait for whoever might write into a pipe of that name.
    """
    return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _sums(folder: Path, synced: bool = False, turn: int = 0, turns: int = 1) -> dict[str, str]:
    """{path below the folder: "bytes BLAKE3"} of every file but the record itself.

    Of several turns, that of each other's file is ANOTHERS.
    """

    def of(path: Path, number: int) -> str:
        if number % turns != turn:
            return ANOTHERS
        size, sums = 0, blake3()
        chunk = memoryview(bytearray(_CHUNK))
        with _open(path) as stream:
            while number := stream.readinto(chunk):
                size += number
                sums.update(chunk[:number])
            if synced:
                os.fsync(stream.fileno())
        return f"{size} {sums.hexdigest()}"

    entries = sorted(folder.rglob("*"))
    paths = [path for path in entries if path.is_symlink() or not path.is_dir()]
    paths = [path for path in paths if path != folder / RECORD]
    if synced:
        sync(*(path for path in entries if path.is_dir()))
    with concurrent.futures.ThreadPoolExecutor() as threads:
        names = (path.relative_to(folder).as_posix() for path in paths)
        return dict(zip(names, threads.map(of, paths, range(len(paths))), strict=True))
