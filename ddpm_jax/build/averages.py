"""config.ema: the moving averages that a run keeps, and which of them is read from a workdir."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ddpm_jax.build import reconstruction
from ddpm_jax.errors import UserError
from ddpm_jax.training import ema, post_hoc, snapshots
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import FIRST
from ddpm_jax.training.step_files import Record

RAW = "raw"

Say = Callable[[str], None]


class Read(NamedTuple):
    """Parameters of a run, as they were read.

    Attributes:
      params: placed as asked.
      step: batches consumed.
      checkpoint: the run's state_sha256 at that step; of a step that only a snapshot is left of,
        that file's digest.
      parameters: what they are: "raw", "ema" for the first average, "0.999", "std:0.05".
      reconstruction: of an average that the run did not keep, as of `reconstruction.Made`; else {}.
    """

    params: Any
    step: int
    checkpoint: str
    parameters: str
    reconstruction: Mapping[str, Any] = MappingProxyType({})


def shares(c: ConfigDict) -> dict[str, ema.Share]:
    """The averages that are kept beside the first, by name.

    One of the first's own decay is the first, and not kept twice.
    """
    others = [decay for decay in c.ema.decays if decay != c.ema.decay]
    made = {_decay_name(decay): ema.constant(decay, c.ema.warmup) for decay in others}
    return made | {ema.power_name(std): ema.power(std) for std in c.ema.power_stds}


def snapshot_bytes(c: ConfigDict, parameters: int) -> int:
    """The bytes of all snapshots of a run of so many parameters."""
    every = c.ema.snapshots_every
    number = c.train.num_steps // every if every else 0
    return 4 * parameters * number * len(c.ema.power_stds)


def named(asked: str | float, c: ConfigDict) -> str:
    """The name of the average that is asked for as 0.999 or std:0.05; the first's is "default".

    Raises:
      UserError: for what is neither, or a std out of range.
    """
    try:
        std = ema.std_of(str(asked))
        if std is None:
            decay = float(asked)
            return FIRST if decay == c.ema.decay else _decay_name(decay)
        post_hoc.exponent(std)
    except ValueError as error:
        raise UserError(
            f"ema={asked}: need a decay that the run kept, such as {c.ema.decay}, or std:0.05 "
            f"({error})"
        ) from error
    return ema.power_name(std)


def read(
    saved: Checkpoints,
    c: ConfigDict,
    like: Any,
    *,
    step: int | str | None,
    asked: str | float | None,
    raw_params: bool,
    say: Say,
) -> Read:
    """The parameters at a step of a run: an average that it kept, one made of those, or raw.

    Args:
      saved: the run's checkpoints.
      c: its config.
      like: arrays or ShapeDtypeStructs with shardings, of the parameters.
      step: of the checkpoint, or of a snapshot where that is enough; "best"; None for the newest
        checkpoint that is whole.
      asked: as of `named`; None for the first average, or the only one.
      raw_params: take the parameters themselves.
      say: takes a line of what was left out, and of how well an average was made.

    Raises:
      UserError: for a step or an average that there is not and that cannot be made.
    """
    if asked is not None and raw_params:
        raise UserError(f"ema={asked}: raw parameters are no average; ask for one of both")
    name = RAW if raw_params else None if asked is None else named(asked, c)
    std = None if name is None else ema.std_of(name)
    number = _number(saved, step, say, of_snapshot=std is not None)
    # Of a step that only a snapshot is left of there is no record.
    record = None
    if std is None or number in saved.steps():
        record = saved.records().get(number) or saved.verify(number)
    if std is not None and (
        record is None or (name not in record.averages and reconstruction.powers(record, c))
    ):
        made = reconstruction.make(saved, record, c, like, step=number, std=std, say=say)
        return Read(made.params, number, made.digest, ema.power_name(std), made.described)
    assert record is not None
    if name is None:
        name = record.averages[0] if len(record.averages) == 1 else FIRST
    _check_kept(saved.directory / str(number), record, name, c)
    params = saved.restore_params(number, name, like)
    return Read(params, number, record.state_sha256, "ema" if name == FIRST else name)


def _check_kept(folder: Path, record: Record, name: str, c: ConfigDict) -> None:
    """Raises UserError for an average, or raw parameters, that a checkpoint does not hold."""
    kept, raw = record.averages, any(path.startswith(".params") for path in record.leaves)
    if raw if name == RAW else name in kept:
        return
    there = ", ".join([*(_asked(one, c) for one in kept), *([RAW] if raw else [])]) or "nothing"
    if name == RAW:
        raise UserError(f"raw_params: {folder} holds no raw parameters, but {there}: leave it out")
    more = "" if ema.std_of(name) is None else ", nor power averages to make it of (ema.power_stds)"
    raise UserError(
        f"ema={_asked(name, c)}: {folder} holds no such average{more}; there is {there}"
    )


def _decay_name(decay: float) -> str:
    return repr(float(decay))


def _asked(name: str, c: ConfigDict) -> str:
    """How an average is asked for."""
    return _decay_name(c.ema.decay) if name == FIRST else name


def _number(saved: Checkpoints, step: int | str | None, say: Say, of_snapshot: bool) -> int:
    """The number of the step that is asked for. Raises UserError if there is no such checkpoint."""
    if step is None:
        return saved.newest_whole(say)
    if str(step).isdecimal():
        number = int(step)
        there = [one.step for one in snapshots.listed(_workdir(saved))] if of_snapshot else []
        every = sorted({*there, *saved.steps()})
        if there and number not in every:
            raise UserError(
                f"no checkpoint or snapshot of step {number} in {_workdir(saved)}; there are "
                f"{', '.join(map(str, every))}"
            )
        return number if number in there else saved.check(number)
    if step != "best":
        raise UserError(f"step={step}: need the number of a checkpoint, or best")
    saved.check(None)
    if (best := saved.best()) is None:
        raise UserError(
            f"step=best: no checkpoint in {saved.directory} has a validation loss; train with "
            "config.train.validate_every at the steps of checkpoint_every, or name another step"
        )
    return best


def _workdir(saved: Checkpoints) -> Path:
    return saved.directory.parent
