"""Saving and restoring a state of 36 million parameters, beside Orbax alone."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.training import step_files
from ddpm_jax.training.state import TrainState

KERNELS = 61  # of 3x3x256x256: 36 million parameters


def section(options: Options) -> dict[str, float]:
    """`save_and_restore`, with fewer turns where it is to be quick."""
    return save_and_restore(5 if options.quick else 20)


def save_and_restore(turns: int) -> dict[str, float]:
    """A save with digests and a restore that compares them, against Orbax's alone.

    Of parameters, EMA and Adam's moments: random numbers, which do not compress any better than
    weights do. Each folder is deleted before the next save, so that both write into memory that the
    system has at hand, and the two take turns at being first.

    Args:
      turns: of each; one more before them warms up.

    Returns:
      Seconds of save, save_without_digests, restore, restore_without_digests and verify_files;
      digests_over_none and verified_over_plain_restore, ratios.
    """
    host = _state()
    taken: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[..., Any], *arguments: Any) -> None:
        began = time.perf_counter()
        work(*arguments)
        taken.setdefault(name, []).append(time.perf_counter() - began)

    def ours(folder: Path) -> None:
        timed("save", step_files.write, folder, 1, host, None)
        timed("verify_files", step_files.verify, folder)
        timed("restore", step_files.read, folder, host._asdict())

    def plain(folder: Path) -> None:
        timed("save_without_digests", _plain_save, folder, host)
        timed("restore_without_digests", _plain_restore, folder)

    for turn in range(turns + 1):
        for both in (ours, plain) if turn % 2 else (plain, ours):
            with tempfile.TemporaryDirectory() as parent:
                both(Path(parent) / "1")
    median = {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}
    return {
        **median,
        "digests_over_none": median["save"] / median["save_without_digests"],
        "verified_over_plain_restore": median["restore"] / median["restore_without_digests"],
    }


def _plain_save(folder: Path, host: TrainState) -> None:
    step_files.write_plain(folder / step_files.STATE, host)
    for path in folder.rglob("*"):
        step_files.sync(path)  # digests are not what it takes to be on disk


def _plain_restore(folder: Path) -> None:
    ocp.PyTreeCheckpointer().restore(folder / step_files.STATE)


def _state() -> TrainState:
    rng = np.random.default_rng(0)

    def tree() -> dict[str, np.ndarray]:
        shape = (3, 3, 256, 256)
        return {f"conv_{k}": rng.standard_normal(shape, np.float32) for k in range(KERNELS)}

    step: Any = np.int32(1)
    key: Any = np.zeros(2, np.uint32)
    return TrainState(step, key, tree(), {"default": tree()}, {"mu": tree(), "nu": tree()}, {})
