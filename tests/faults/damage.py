"""Damage done to files: flipped bits, cut ends, what is gone."""

import hashlib
import shutil
from pathlib import Path

import numpy as np


def files_of(folder) -> list[Path]:
    """Every file under a folder, sorted."""
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def sums(paths) -> dict[str, str]:
    """{name: sha256} of files."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def flip(path, byte: int, bit: int) -> None:
    """Flip one bit of a file, in place; again to undo."""
    with Path(path).open("r+b") as stream:
        stream.seek(byte)
        (value,) = stream.read(1)
        stream.seek(byte)
        stream.write(bytes([value ^ (1 << bit)]))


def random_flip(folder, rng: np.random.Generator) -> tuple[Path, int, int]:
    """A place in a folder's files: half of the time any byte, else any file and a byte of it.

    Most bytes are weights; the second half finds the small files that say what the bytes are.
    """
    paths = [path for path in files_of(folder) if path.stat().st_size]
    sizes = np.array([path.stat().st_size for path in paths])
    p = sizes / sizes.sum() if rng.random() < 0.5 else None
    chosen = rng.choice(len(paths), p=p)
    return paths[chosen], int(rng.integers(sizes[chosen])), int(rng.integers(8))


def copied_halfway(source, target, rng: np.random.Generator) -> None:
    """What `cp -r` leaves when it is stopped: some files whole, one cut, the rest not there."""
    paths = files_of(source)
    whole = int(rng.integers(len(paths)))
    Path(target).mkdir()
    for k, path in enumerate(paths[: whole + 1]):
        copy = Path(target) / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        if k == whole:
            with copy.open("r+b") as stream:
                stream.truncate(path.stat().st_size // 2)
