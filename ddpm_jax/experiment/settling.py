"""A run's forecast beside what it took in the end."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.config import config_files
from ddpm_jax.experiment import forecast
from ddpm_jax.experiment.compiled_step import CompiledStep
from ddpm_jax.experiment.forecast import TIMED, WARM, Timing, Window
from ddpm_jax.measures.manifest import Manifest
from ddpm_jax.runtime import files, memory
from ddpm_jax.runtime.ledger import Ledger
from ddpm_jax.training import loop, snapshots
from ddpm_jax.training.state import TrainState

FILE = "forecast.json"
# What changes no cost, or is not known before the data are read.
FREE = ("seed", "data.class_names", "train.replicas", "train.writers")
# What is told of forecast and actual: {field: how it is said}.
TOLD: dict[str, Callable[[float], str]] = {
    "seconds": lambda value: f"{value:,.0f} s" if value < 3600 else f"{value / 3600:,.2f} h",
    "steps_per_second": lambda value: f"{value:,.3g} steps/s",
    "bytes_per_device": lambda value: f"{_size_text(value)} a device",
    "disk_bytes": lambda value: f"{_size_text(value)} of checkpoints",
}


def write(workdir: str | Path, config: ConfigDict, made: Mapping[str, Any]) -> None:
    """Keep the forecast of a run in DIR/forecast.json. Raises UserError where that cannot be."""
    Path(workdir).mkdir(parents=True, exist_ok=True)
    content = {"config_sha256": _key(config, config.train.replicas), "forecast": dict(made)}
    files.must_write_json(Path(workdir) / FILE, content)


def read(workdir: Path, config: ConfigDict, num: int = 1) -> dict[str, float] | None:
    """The forecast that was made for this very run, or None.

    Args:
      workdir: where DIR/forecast.json lies.
      config: of the run.
      num: config.train.replicas.
    """
    try:
        content = files.read_json(workdir / FILE)
        return (
            _numbers(content["forecast"]) if content["config_sha256"] == _key(config, num) else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Forecaster:
    """Forecasts a run from its own first steps, unless that was done before, and settles it.

    A context manager around the training.

    Args:
      experiment: the run's.
      ledger: where its seconds go.
      manifests: of the run, or of each member of a group.
      workdir: where `--dry_run=measure` may have left a forecast.
      start: the step that the run goes on from.
      num: members of the group, those that do not move included; 1 for a run of its own.
    """

    def __init__(
        self,
        experiment: Experiment,
        ledger: Ledger,
        manifests: Sequence[Manifest],
        workdir: Path,
        start: int,
        num: int = 1,
    ):
        self._experiment = experiment
        self._ledger = ledger
        self._manifests = manifests
        self._window: Window | None = None
        self._peak: int | None = None
        self._num = num
        self._start = start
        earlier = [_numbers(e["forecast"].get("forecast")) for e in manifests[0].attempts()]
        num_steps = experiment.config.train.num_steps
        made = [read(workdir, experiment.config, num), *earlier]
        self._made = next((one for one in made if one and one.get("num_steps") == num_steps), None)
        self._keep({"forecast": self._made} if self._made else {})

    def __enter__(self) -> "Forecaster":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._window is not None:  # the training ended within it
            self._window.close()

    def action(self, compiled: CompiledStep) -> loop.Action:
        """Looks at TIMED steps after WARM others; makes the forecast if there is none yet."""
        first = self._start + WARM

        def action(step: int, state: TrainState, metrics: loop.Metrics) -> None:
            if step == first:
                self._window = Window(self._experiment, self._ledger, compiled, self._num)
                self._window.open(state)
            if step == first + TIMED and self._window is not None:
                timing, self._window = self._window.close(), None
                with self._ledger.phase("forecast"):
                    self._look(timing, state)

        return action

    def settle(self, reached: int) -> str:
        """A line of forecast beside actual; both are in the manifest too. "" without a forecast."""
        if self._made is None:
            return ""
        actual = self._actual(reached)
        self._keep({"forecast": self._made, "actual": actual})
        both = [n for n in TOLD if self._made.get(n) and actual.get(n)]
        pairs = [
            f"{TOLD[n](self._made[n])}, was {TOLD[n](actual[n])} "
            f"({actual[n] / self._made[n] - 1:+.0%})"
            for n in both
        ]
        return f"forecast beside actual: {'; '.join(pairs)}"

    def _look(self, timing: Timing, state: TrainState) -> None:
        self._peak = timing.peak_bytes
        if self._made is None:
            # Of several processes each would have to compute with the state, and not all forecast.
            own = state if self._num == 1 and jax.process_count() == 1 else None
            self._made = forecast.of_run(self._experiment, timing, self._num, own)
            self._keep({"forecast": self._made})

    def _actual(self, reached: int) -> dict[str, Any]:
        attempts = self._manifests[0].attempts()
        accounts = [_numbers(one["goodput"].get("seconds")) or {} for one in attempts]
        total = sum(sum(seconds.values()) for seconds in accounts)
        trained = sum(one.get("train", 0.0) + one.get("data_wait", 0.0) for one in accounts)
        # Those of earlier versions have no seconds.
        steps = sum(
            (entry["reached"] or entry["start"]) - entry["start"]
            for entry, seconds in zip(attempts, accounts, strict=True)
            if seconds
        )
        devices, local = self._experiment.mesh.size, list(self._experiment.mesh.local_devices)
        return {
            "num_steps": reached,
            "steps_per_second": steps / max(trained, 1e-9),
            "seconds": total,
            "hours": total / 3600,
            "device_hours": total / 3600 * devices,
            "bytes_per_device": memory.device_peak_bytes(local) or self._peak,
            "disk_bytes": sum(
                _size(one.workdir / name)
                for one in self._manifests
                for name in ("checkpoints", snapshots.FOLDER)
            ),
        }

    def _keep(self, content: Mapping[str, Any]) -> None:
        for one in self._manifests:
            one.forecast(content)


def _numbers(content: Any) -> dict[str, float] | None:
    """The finite numbers of a record from a file, by name; None for no record."""
    if not isinstance(content, dict):
        return None
    return {
        name: value
        for name, value in content.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _size_text(value: float) -> str:
    return f"{value / 1e9:,.2f} GB" if value >= 1e9 else f"{value / 1e6:,.3g} MB"


def _size(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _key(config: ConfigDict, num: int) -> str:
    fields = {n: v for n, v in config_files.fields(config).items() if n not in FREE}
    return config_files.sha256(fields | {"replicas": num})
