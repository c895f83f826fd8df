"""What a run will take, from a few steps of it."""

import contextlib
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import averages, begun, replicas
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.experiment.attempt import PREFETCHED, placed, prefetched, training_batches
from ddpm_jax.experiment.compiled_step import CompiledStep
from ddpm_jax.experiment.group_attempt import placed_together
from ddpm_jax.measures import model_flop
from ddpm_jax.runtime import memory, sharding
from ddpm_jax.runtime.ledger import Ledger
from ddpm_jax.trained import program
from ddpm_jax.training import loop, replicated
from ddpm_jax.training.state import TrainState

WARM, TIMED = 3, 20  # steps


class Timing(NamedTuple):
    """What a few steps of a run took.

    Attributes:
      steps_per_second: of TIMED steps after WARM others, waiting for data included.
      data_wait: the share of it that waited for data.
      compile_seconds: of the step, traced and compiled or read from the compile cache.
      start_seconds: of all before the first step: building, reading data, the first state.
      memory: jax's CompiledMemoryStats of one device; None where nothing says it.
      peak_bytes: the most that was held on a device; see `Window`.
    """

    steps_per_second: float
    data_wait: float
    compile_seconds: float
    start_seconds: float
    memory: Any
    peak_bytes: int | None


class Window:
    """TIMED steps in which time and memory of training are looked at.

    Args:
      experiment: the run's.
      ledger: where its seconds go.
      compiled: its step.
      num: config.train.replicas.
    """

    def __init__(
        self, experiment: Experiment, ledger: Ledger, compiled: CompiledStep, num: int = 1
    ):
        self._experiment = experiment
        self._num = num
        self._ledger = ledger
        self._compiled = compiled
        self._watermark = memory.Watermark()
        self._before: dict[str, float] = {}
        self._rest = 0

    def open(self, state: Any) -> None:
        """The steps begin; `state` is waited for, so that none is under way."""
        jax.block_until_ready(state)
        self._rest = memory.host_bytes_at_rest()
        self._before = self._ledger.seconds()
        self._watermark.start()

    def close(self) -> Timing:
        """They have ended.

        `peak_bytes` is what the devices say. CPUs do not: of them it is by how much this process
        was larger in a step than between two, and the state and the batches that it held then.
        What the compiler holds, and code and threads of its own, are not in it.
        """
        now, peak = self._ledger.seconds(), self._watermark.stop()
        trained, waited = (now[name] - self._before[name] for name in ("train", "data_wait"))
        taken = max(trained + waited, 1e-9)
        local = list(self._experiment.mesh.local_devices)
        on_device = memory.device_peak_bytes(local)
        if on_device is None and (held := self._held()) is not None:
            on_device = held + max(peak - self._rest, 0) // len(local)
        return Timing(
            steps_per_second=TIMED / taken,
            data_wait=waited / taken,
            compile_seconds=now["compile"],
            start_seconds=now["start"],
            memory=self._compiled.memory,
            peak_bytes=on_device,
        )

    def _held(self) -> int | None:
        """Bytes on a device between two steps: the state, and the batches placed ahead."""
        parts = bytes_per_device(self._experiment, self._compiled.memory, self._num)
        if not parts:
            return None
        return parts["state"] + parts["batches"] * PREFETCHED // (1 + PREFETCHED)


def timed(experiment: Experiment, ledger: Ledger, num: int = 1) -> Timing:
    """Train a few steps of a new run, on its own data, and write nothing.

    Args:
      experiment: the run's.
      ledger: in "start"; what came before is in `start_seconds`.
      num: seeds that are trained in one program, config.train.replicas.

    Raises:
      UserError: for data that do not fit or cannot be read.
    """
    failures: list[UserError] = []
    make = _alone if num == 1 else _together
    step, more, state, batches = make(experiment, ledger, num, failures)
    window = Window(experiment, ledger, step, num)

    def look(number: int, state: Any, metrics: loop.Metrics) -> None:
        if number == WARM:
            window.open(state)

    ledger.become("train")
    with contextlib.closing(prefetched(batches, ledger)) as stream:
        state, reached = loop.train(
            state,
            lambda state, batch: step(state, batch, *more),
            stream,
            start=0,
            num_steps=WARM + TIMED,
            actions=[look],
        )
        jax.block_until_ready(state)
    timing = window.close() if reached >= WARM else None
    if timing is None or failures:
        raise failures[0]
    return timing


def of_run(
    experiment: Experiment, timing: Timing, num: int = 1, state: TrainState | None = None
) -> dict[str, Any]:
    """What the whole run will take.

    Validation, samples and evaluations on the way count as the steps that have as many model FLOP;
    what they compile and what checkpoints take beside the training is not in it.

    Args:
      experiment: the run's.
      timing: of its steps.
      num: config.train.replicas.
      state: as of `besides`.

    Returns:
      {"num_steps", "steps_per_second", "seconds": of it all, "hours", "device_hours": those times
      the devices, "bytes_per_device": the total of `bytes_per_device`, None if nobody knows,
      "disk_bytes": of checkpoints and snapshots that are kept}.
    """
    train = experiment.config.train
    # Of a group too: each member is validated by itself, and a step is of them all.
    steps = train.num_steps + besides(experiment, state)
    seconds = timing.start_seconds + timing.compile_seconds + steps / timing.steps_per_second
    needed = bytes_per_device(experiment, timing.memory, num)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(experiment.state_shapes().params))
    return {
        "num_steps": train.num_steps,
        "steps_per_second": timing.steps_per_second,
        "seconds": seconds,
        "hours": seconds / 3600,
        "device_hours": seconds / 3600 * experiment.mesh.size,
        "bytes_per_device": needed.get("total"),
        "disk_bytes": disk_bytes(experiment.config, state_bytes(experiment), parameters) * num,
    }


def bytes_per_device(experiment: Experiment, compiled: Any, num: int = 1) -> dict[str, int]:
    """What training holds on each device: {"state", "batches", "activations", "total"}.

    Args:
      experiment: the run's.
      compiled: jax's CompiledMemoryStats of its step; {} is returned for None.
      num: config.train.replicas.

    Returns:
      "state": parameters, averages, moments, counts. "batches": the one that is learned from, and
      those that are placed before they are needed. "activations": all that the step makes on the
      way, as the compiler laid it out. What validation and samples take is not in it, nor the
      host's copy of the state while a checkpoint is written.
    """
    if compiled is None:
        return {}
    batch = sharding.bytes_on_device(_batch_shapes(experiment, num))
    made = int(compiled.output_size_in_bytes) - int(compiled.alias_size_in_bytes)
    parts = {
        "state": int(compiled.argument_size_in_bytes) - batch,
        "batches": batch * (1 + PREFETCHED),
        "activations": int(compiled.temp_size_in_bytes) + made,
    }
    return parts | {"total": sum(parts.values())}


def state_bytes(experiment: Experiment) -> int:
    """Bytes of a run's whole state, as a checkpoint holds it."""
    leaves = jax.tree.leaves(experiment.state_shapes())
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def disk_bytes(config: ConfigDict, of_state: int, parameters: int) -> int:
    """Bytes of what is there in the end: the latest checkpoints, the best one, every snapshot.

    Args:
      config: of the run.
      of_state: bytes of its state.
      parameters: how many it has.
    """
    train = config.train
    saves = max(train.num_steps // train.checkpoint_every, 1) if train.checkpoint_every else 1
    kept = min(train.keep_checkpoints + 1, saves) * of_state
    return kept + averages.snapshot_bytes(config, parameters)


def besides(experiment: Experiment, state: TrainState | None = None) -> float:
    """Validation, samples and evaluations of a run, in the training steps of as many model FLOP.

    Args:
      experiment: the run's.
      state: of it, for the number of evaluations of a learned schedule; without it, or of a sampler
        that takes as many as each image needs, its steps are counted.
    """
    config, train = experiment.config, experiment.config.train
    step = model_flop.STEP_OVER_FORWARD * config.data.batch_size  # forward passes of an image
    passes = _times(train.validate_every, train.num_steps) * train.validate_examples
    images_of = {
        "sample": config.get("sample", {}).get("grid_size", 0),
        "evaluate": train.get("evaluate_samples", 0),
    }
    for name in experiment.kind.watched(config):
        images = images_of.get(name, 0)  # what else a kind watches counts as nothing
        if images and (times := _times(train[f"{name}_every"], train.num_steps)):
            passes += times * images * _passes_per_image(experiment, state)
    return passes / step


def _passes_per_image(experiment: Experiment, state: TrainState | None) -> int:
    sample = experiment.config.sample
    passes = program.passes(experiment, None if state is None else state.params)
    guided = sample.guidance_scale not in (0.0, 1.0)
    return (sample.num_steps if passes is None else passes) * (1 + guided)


def _times(period: int, num_steps: int) -> int:
    """How often an action of this period comes, with the last step."""
    return math.ceil(num_steps / period) if period else 0


def _batch_shapes(experiment: Experiment, num: int) -> Any:
    return experiment.batch_shapes() if num == 1 else replicas.argument_shapes(experiment, num)[1]


def _alone(experiment: Experiment, ledger: Ledger, num: int, failures: list[UserError]) -> Any:
    """The step of a run, what it takes beside state and batch, the first state, the batches."""
    source = experiment.source("train")
    experiment = begun.with_made(experiment, source)
    batches = training_batches(experiment, source)
    read = batches.iterate(0, num_threads=experiment.config.data.num_threads)
    step = CompiledStep(experiment.train_step(), ledger)
    return step, (), experiment.init_state(), placed(read, experiment, failures)


def _together(experiment: Experiment, ledger: Ledger, num: int, failures: list[UserError]) -> Any:
    """The same of a group of `num` seeds."""
    config, source = experiment.config, experiment.source("train")
    experiment = begun.with_made(experiment, source)
    place = replicated.members_sharding(experiment.mesh, num)
    members = [_of_seed(experiment, config.seed + k) for k in range(num)]
    numbers = replicas.placed(replicas.numbers([one.config for one in members]), experiment)
    active = jax.device_put(np.ones(num, bool), place)
    read = [
        training_batches(one, source).iterate(0, num_threads=config.data.num_threads)
        for one in members
    ]
    states = replicas.init_states(experiment, [one.config.seed for one in members])
    step = CompiledStep(replicas.group_step(experiment, num), ledger)
    return (
        step,
        (numbers, active),
        replicated.stacked(states, experiment.mesh),
        placed_together(read, place, failures),
    )


def _of_seed(experiment: Experiment, seed: int) -> Experiment:
    config = config_files.override(experiment.config, {})
    config.seed = seed
    return dataclasses.replace(experiment, config=config)
