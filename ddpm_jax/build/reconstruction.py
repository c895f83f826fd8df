"""A power average of a run made of others, which its snapshots and a checkpoint hold."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import digests, processes
from ddpm_jax.training import ema, guard, post_hoc, snapshots
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.snapshots import Snapshot
from ddpm_jax.training.step_files import Damaged, Record, Unreadable

# What a profile may differ by from the one that is asked for, over its L2 norm.
MOST_RESIDUAL = 0.05
# Widths that are tried for what could be asked instead.
_TRIED = np.geomspace(0.005, 0.28, 60)


class Made(NamedTuple):
    """An average that a run did not keep.

    Attributes:
      params: placed as asked.
      digest: of the checkpoint at its step, or of the snapshot where there is none.
      described: as JSON: "residual", as `post_hoc.Combination`, "steps", of the snapshots and the
        checkpoint that it was made of, and "sha256" over them.
    """

    params: Any
    digest: str
    described: Mapping[str, Any]


def make(
    saved: Checkpoints,
    record: Record | None,
    c: ConfigDict,
    like: Any,
    *,
    step: int,
    std: float,
    say: Callable[[str], None],
) -> Made:
    """A power average that was not kept, of the snapshots up to a step and of its checkpoint.

    A snapshot that is damaged is left out, and the others make up for it as far as they can.

    Args:
      saved: the run's checkpoints.
      record: of the checkpoint at the step; None where a snapshot is all that there is of it.
      c: the run's config.
      like: arrays or ShapeDtypeStructs with shardings, of the parameters.
      step: batches consumed; the average is that of the updates among them.
      std: the relative width of its profile.
      say: takes a line of each snapshot that is left out, and of what the residual is.

    Raises:
      UserError: for a width that the snapshots do not make within `MOST_RESIDUAL`.
    """
    stored = [
        _of_snapshot(snapshot, like)
        for snapshot in snapshots.listed(saved.directory.parent, say)
        if snapshot.step <= step and (record is None or snapshot.step != step)
    ]
    if record is not None:
        stored.append(_of_checkpoint(saved, record, powers(record, c), like))
    while True:
        latest = stored[-1].updates if stored else 0
        stored = [one for one in stored if 0 < one.updates <= latest]
        combination = _combined(stored, step, std)
        try:
            total = _sum(stored, combination.coefficients, like)
            break
        except _LeftOut as left:
            say(f"{left.reason}; left out")
            stored = [one for one in stored if one is not left.stored]
    say(
        f"ema={ema.power_name(std)}: made of {len(stored)} snapshots up to step {step}, relative "
        f"residual {combination.residual:.2g}"
    )
    reconstruction = {
        "residual": combination.residual,
        "steps": [one.step for one in stored],
        "sha256": digests.combined({str(one.step): one.digest for one in stored}),
    }
    return Made(total, stored[-1].digest, reconstruction)


def powers(record: Record, c: ConfigDict) -> list[str]:
    """The power averages that a checkpoint holds of its run."""
    return [name for name in map(ema.power_name, c.ema.power_stds) if name in record.averages]


class _Stored(NamedTuple):
    """Power averages of one step: `read()` gives them by name, on the host."""

    step: int
    updates: int
    averages: Sequence[str]
    digest: str
    read: Callable[[], dict[str, Any]]


class _LeftOut(Exception):
    """A snapshot that turned out to be damaged."""

    def __init__(self, stored: _Stored, reason: Exception):
        super().__init__(str(reason))
        self.stored, self.reason = stored, reason


def _of_snapshot(snapshot: Snapshot, like: Any) -> _Stored:
    return _Stored(
        snapshot.step,
        snapshot.updates,
        snapshot.averages,
        snapshot.blake3,
        lambda: snapshots.read(snapshot, like),
    )


def _of_checkpoint(saved: Checkpoints, record: Record, names: Sequence[str], like: Any) -> _Stored:
    def trees() -> dict[str, Any]:
        read: dict[str, Any] = saved.read(step, {"ema": dict.fromkeys(names, like)})["ema"]
        return read

    step, count = record.step, jax.ShapeDtypeStruct((), np.int32)
    skipped = saved.read(step, {"extra": {guard.NAME: {"skipped": count}}})["extra"][guard.NAME]
    updates = step - int(skipped["skipped"])
    return _Stored(step, updates, names, record.state_sha256, trees)


def _combined(stored: Sequence[_Stored], step: int, std: float) -> post_hoc.Combination:
    """The combination of what is stored. Raises UserError where none is near enough."""
    asked = f"ema={ema.power_name(std)}"
    if not stored or stored[-1].step != step:
        raise UserError(f"{asked}: nothing that can be read is stored of step {step}")
    times = [one.updates for one in stored for _ in one.averages]
    stds = [ema.std_of(name) or 0.0 for one in stored for name in one.averages]
    made = post_hoc.combine(times, stds, stored[-1].updates, std)
    if made.residual <= MOST_RESIDUAL:
        return made
    nearest = min(
        (
            one
            for one in {*stds, *_TRIED}
            if post_hoc.combine(times, stds, stored[-1].updates, one).residual <= MOST_RESIDUAL
        ),
        key=lambda one: abs(math.log(one / std)),
    )
    raise UserError(
        f"{asked}: what {len(stored)} snapshots up to step {step} make differs from it by "
        f"{made.residual:.1%}, and at most {MOST_RESIDUAL:.0%} is taken; the nearest that they "
        f"make is std:{nearest:.2g}, and with a smaller ema.snapshots_every they make more"
    )


def _sum(stored: Sequence[_Stored], coefficients: np.ndarray, like: Any) -> Any:
    """The combination, in float64, then placed as `like`."""
    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape), like)
    weights = iter(coefficients)
    for one in stored:
        try:
            trees = one.read()
        except (Damaged, Unreadable) as error:
            raise _LeftOut(one, error) from error
        for name in one.averages:
            weight = next(weights)
            for sums, leaf in zip(
                jax.tree.leaves(total), jax.tree.leaves(trees[name]), strict=True
            ):
                sums += weight * leaf.astype(np.float64)
    return jax.tree.map(
        lambda sums, to: processes.placed(sums.astype(to.dtype), to.sharding), total, like
    )
