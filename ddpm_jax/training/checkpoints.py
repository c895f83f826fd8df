"""Checkpoints: Orbax behind the few calls that a run makes."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ddpm_jax.errors import UserError
from ddpm_jax.training.state import TrainState


def _worth_saying(record: logging.LogRecord) -> bool:
    """Orbax tells each stage of each save, through absl's logger; a run prints its own one line."""
    return "orbax" not in record.pathname or record.levelno >= logging.ERROR


class Checkpoints:
    """The checkpoints of a run: DIR/checkpoints/STEP, written in the background, latest `keep`.

    Use as a context manager: leaving it waits for the last write.
    """

    def __init__(self, workdir: str | Path, *, keep: int = 3, read_only: bool = False):
        self.directory = Path(workdir).absolute() / "checkpoints"
        self._manager = None
        logging.getLogger("absl").addFilter(_worth_saying)
        if read_only and not self.directory.is_dir():
            return
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.LatestN(keep),
                create=not read_only,
                read_only=read_only,
                enable_async_checkpointing=not read_only,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._manager is not None:
            self._manager.close()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps()) if self._manager is not None else []

    def latest(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: TrainState) -> None:
        """Save the state as `step`, in the background; a step that is there already is kept."""
        if self._manager is not None and step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(_to_arrays(state)))

    def wait(self) -> None:
        """Return when every save is on disk; raises what a save raised."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state at `step`, placed like `like` (arrays or ShapeDtypeStructs with shardings).

        Raises:
          UserError: if there is no such step, or its files cannot be read.
        """
        saved = self._restore(step, ocp.args.StandardRestore(_to_arrays(like)))
        key = jax.random.wrap_key_data(saved.pop("key"))
        return TrainState(**saved, key=key)

    def restore_params(self, step: int, name: str, like: Any) -> Any:
        """Only the parameters at `step`: "raw", or the moving average of that name.

        Raises:
          UserError: if there is no such step, or its files cannot be read.
        """
        target = {"params": like} if name == "raw" else {"ema": {name: like}}
        restore_args = ocp.checkpoint_utils.construct_restore_args(target)
        saved = self._restore(
            step, ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True)
        )
        return saved["params"] if name == "raw" else saved["ema"][name]

    def check(self, step: int | None) -> int:
        """`step`, or the latest if None. Raises UserError where there is no such checkpoint."""
        steps = self.steps()
        if not steps:
            raise UserError(
                f"no checkpoint in {self.directory.parent}; train one there with scripts/train.py, "
                "or name another --workdir"
            )
        if step is not None and step not in steps:
            known = ", ".join(map(str, steps))
            raise UserError(f"no checkpoint of step {step} in {self.directory}; there are {known}")
        return steps[-1] if step is None else step

    def _restore(self, step: int, args: Any) -> Any:
        self.check(step)
        assert self._manager is not None
        try:
            return self._manager.restore(step, args=args)
        except Exception as error:  # Orbax has no exception of its own for a damaged step
            reason = str(error).strip().splitlines()[0][:200]
            raise UserError(
                f"cannot read the checkpoint {self.directory / str(step)} ({reason}); "
                "move it away to use the one before it"
            ) from error


def _to_arrays(state: TrainState) -> dict[str, Any]:
    """The state as a dict whose key is plain uint32: what a later version can still read."""

    def raw(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.random.key_data(leaf)
        shape = jax.eval_shape(jax.random.key_data, leaf)
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=leaf.sharding)

    return state._asdict() | {"key": raw(state.key)}
