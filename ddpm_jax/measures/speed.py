"""How fast a run is and what it takes, for the lines of its metrics."""

from collections.abc import Sequence

import jax

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.measures import device_peaks, model_flop
from ddpm_jax.runtime import memory
from ddpm_jax.runtime.ledger import Ledger

NAMES = (
    "steps_per_second",
    "images_per_second",
    "images_per_second_per_device",
    "data_wait",
    "model_flop_per_step",
    "mfu",
    "compile_seconds",
    "peak_device_bytes",
    "peak_host_bytes",
)


class Speed:
    """Figures of the steps since the last ones; they ask nothing of the devices but their memory.

    Args:
      ledger: whose "train" and "data_wait" are the time of the steps.
      batch_size: images of a step.
      flop_per_step: model FLOP of it, all devices together.
      devices: of the mesh, in all processes.
      replicas: runs that a step trains together; batch and FLOP are of one.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        batch_size: int,
        flop_per_step: int,
        devices: Sequence[jax.Device],
        replicas: int = 1,
    ):
        self._ledger = ledger
        self._batch_size = batch_size
        self._flop_per_step = flop_per_step
        self._devices = devices
        self._replicas = replicas
        self._step, self._before = 0, ledger.seconds()

    def restart(self, step: int) -> None:
        """The steps up to this one, and their time, count no more: they compiled."""
        self._step, self._before = step, self._ledger.seconds()

    def figures(self, step: int) -> dict[str, float | str]:
        """Of the steps since `restart` or the last figures: NAMES, but what nobody knows.

        docs/training.md says what each is. peak_device_bytes is of this process's devices, and left
        out where they do not say (CPUs); mfu is then "unknown".
        """
        seconds = self._ledger.seconds()
        trained, waited = (seconds[n] - self._before[n] for n in ("train", "data_wait"))
        taken = max(trained + waited, 1e-9)
        rate = max(step - self._step, 1) / taken
        images, num = rate * self._batch_size, len(self._devices)
        flop_per_second = rate * self._flop_per_step * self._replicas
        local = [d for d in self._devices if d.process_index == jax.process_index()]
        peak = memory.device_peak_bytes(local)
        self.restart(step)
        return {
            "steps_per_second": rate,
            "images_per_second": images,
            "images_per_second_per_device": images / num,
            "data_wait": waited / taken,
            "model_flop_per_step": self._flop_per_step,
            "mfu": device_peaks.mfu(flop_per_second, self._devices[0].device_kind, num),
            "compile_seconds": seconds["compile"],
            **({} if peak is None else {"peak_device_bytes": peak}),
            "peak_host_bytes": memory.host_peak_bytes(),
        }


def of(
    experiment: Experiment, ledger: Ledger, *, flop_per_step: int | None = None, replicas: int = 1
) -> Speed:
    """The speed of an experiment's run, or of one of several that a step trains together.

    Args:
      experiment, ledger: the run's.
      flop_per_step: of one run, where it is known; None traces the forward pass for it.
      replicas: runs that a step trains.
    """
    if flop_per_step is None:
        flop_per_step = model_flop.of_step(experiment)
    return Speed(
        ledger,
        batch_size=experiment.config.data.batch_size,
        flop_per_step=flop_per_step,
        devices=list(experiment.mesh.devices.flat),
        replicas=replicas,
    )
