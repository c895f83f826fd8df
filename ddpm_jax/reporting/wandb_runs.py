"""The metrics of a run in Weights & Biases: one run there for all attempts at one here.

The extra [wandb] has the package, which reads its own variables: WANDB_PROJECT, WANDB_MODE,
WANDB_API_KEY. Whoever is not logged in gets files that `wandb sync` can send later. An error of the
package is an OSError here, which stops no run.
"""

import contextlib
import importlib.util
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.reporting.not_fatal import as_os_error
from ddpm_jax.runtime import files

PROJECT = "ddpm_jax"  # where WANDB_PROJECT names no other
STEP = "step"


def missing() -> str:
    """What to do where the package is not there; "" where it is. Imports nothing."""
    spec = importlib.util.find_spec("wandb")
    if spec is not None and spec.origin is not None:  # a folder of runs has none
        return ""
    return "wandb is not installed: pip install 'ddpm_jax[wandb]'"


class WandbRun:
    """A run of wandb in DIR/wandb, whose id is kept in DIR/wandb/run_id.

    Args:
      workdir: DIR.
      config: of the experiment, shown beside the run.
    """

    def __init__(self, workdir: str | Path, config: Mapping[str, Any]):
        self._workdir = Path(workdir).absolute()
        self._config = dict(config)
        self._run: Any = None
        self._failed = ""

    def begin(self) -> None:
        """Start or resume the run. Raises OSError where that fails; then it is not tried again."""
        self._started()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A row of finite numbers at a step. Raises OSError."""
        with as_os_error():
            self._started().log({STEP: step, **values})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 [H, W, C]. Raises OSError."""
        with as_os_error():
            import wandb

            self._started().log({STEP: step, name: wandb.Image(image)})

    def end(self, code: int) -> None:
        """Write all that is left, and the exit code of the attempt. Raises OSError."""
        with as_os_error():
            self._started().finish(exit_code=code)

    def _started(self) -> Any:
        if self._failed:
            # It may have taken a minute to fail; the run must not wait so long at each line.
            raise OSError(self._failed)
        if self._run is None:
            try:
                with as_os_error():
                    self._run = self._start()
            except OSError as error:
                self._failed = str(error)
                raise
        return self._run

    def _start(self) -> Any:
        import wandb

        offline = "WANDB_MODE" not in os.environ and not wandb.login(prompt=False)
        run = wandb.init(
            id=self._run_id(),
            resume="allow",
            dir=str(self._workdir),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", self._workdir.name),
            mode="offline" if offline else None,
            config=self._config,
            allow_val_change=True,  # a run may go on with more steps
            reinit="create_new",  # the members of a group are runs of one process
            # It would put itself between the process and its stdout and stderr.
            settings=wandb.Settings(console="off", silent=True),
        )
        # Not wandb's own step, which only grows: steps that were lost come again.
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)
        return run

    def _run_id(self) -> str:
        """The id of every attempt at this run."""
        path = self._workdir / "wandb" / "run_id"
        with contextlib.suppress(OSError, ValueError):
            if (known := files.read_bytes(path, 64).decode("ascii").strip()).isalnum():
                return known
        path.parent.mkdir(parents=True, exist_ok=True)
        made = secrets.token_hex(4)
        path.write_text(f"{made}\n", encoding="ascii")
        return made
