"""One attempt at a run: the steps, and what is done besides."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax.build import conditioning
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.data import Batches, Source
from ddpm_jax.errors import UserError
from ddpm_jax.experiment.compiled_step import CompiledStep
from ddpm_jax.experiment.profiling import Profile
from ddpm_jax.experiment.skipped import SkippedSteps
from ddpm_jax.measures import speed
from ddpm_jax.measures.manifest import Manifest
from ddpm_jax.measures.training_evaluation import TrainingEvaluation
from ddpm_jax.measures.watch import Watch
from ddpm_jax.reporting.progress import Progress
from ddpm_jax.reporting.writers import MetricWriter
from ddpm_jax.runtime import processes, sharding, user_cache
from ddpm_jax.runtime.ahead import ahead
from ddpm_jax.runtime.ledger import Ledger
from ddpm_jax.training import loop
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.watchdog import Watchdog

# Batches on the devices beside the one of the running step: while one is copied, one is ready.
PREFETCHED = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Attempt:
    """The parts of one attempt at a run, and the training of it.

    Attributes:
      experiment: what is trained.
      train_data, validation_data: what it sees; no validation data, no validation.
      checkpoints, manifest: where it is kept.
      folder: where figures and pictures go.
      ledger: where its seconds go.
      profiled: the steps that are traced.
      forecast: the compiled step -> what makes the forecast on the way; None for nothing.
    """

    experiment: Experiment
    train_data: Source
    validation_data: Source | None
    checkpoints: Checkpoints
    manifest: Manifest
    folder: Path
    ledger: Ledger = dataclasses.field(default_factory=Ledger)
    profiled: range = range(0)
    forecast: Callable[[CompiledStep], loop.Action] | None = None

    def run(
        self,
        state: TrainState,
        start: int,
        num_steps: int,
        until: int | None,
        progress: Progress,
        watchdog: Watchdog,
        asked_to_stop: Callable[[], bool],
    ) -> tuple[TrainState, int]:
        """Train from step `start` to `num_steps`, or `until`, and save.

        Returns:
          The state, and the number of steps that it has seen.

        Raises:
          UserError: where it ended early by itself, saved at the step reached; or was not saved.
        """
        experiment, config, ledger = self.experiment, self.experiment.config, self.ledger
        batches = training_batches(experiment, self.train_data)
        writer = self._writer(start, progress)
        evaluation = None
        if config.train.get("evaluate_every"):
            with ledger.phase("evaluate"):
                evaluation = TrainingEvaluation(experiment, user_cache.cache_dir() / "features")
        watch = Watch(experiment, self.validation_data, writer, progress, self.folder, evaluation)
        figures = speed.of(experiment, ledger) if config.train.log_every else None
        skipped = SkippedSteps(
            self.folder, start, progress, batches.example_ids, config.train.max_skipped
        )
        failures: list[UserError] = []

        def save(step: int, state: TrainState) -> None:
            skipped.look()  # a run that goes on from here does not come by this step again
            watch.save(self.checkpoints, step, state)

        saves = save, self.manifest.follow(self.checkpoints)
        read = batches.iterate(start, num_threads=config.data.num_threads)
        stream = prefetched(placed(read, experiment, failures), ledger)
        step = CompiledStep(experiment.train_step(), ledger)
        profiled = self.profiled if processes.is_first() else range(0)
        trace = Profile(profiled, self.folder, ledger, progress.say)
        ledger.become("train")
        with contextlib.closing(stream), writer, trace:
            state, reached = loop.train(
                state,
                trace.around(step, start),
                stream,
                start=start,
                num_steps=num_steps if until is None else min(num_steps, max(until, start)),
                actions=[
                    skipped.action,
                    watch.metrics(num_steps, start, figures),
                    *([self.forecast(step)] if self.forecast else []),
                    *periodic_actions(experiment, watch, saves, ledger, num_steps),
                    _looked_after(self.checkpoints, watchdog, progress),
                ],
                stop=processes.agreed_stop(
                    experiment.mesh, lambda: asked_to_stop() or bool(skipped.too_many)
                ),
            )
        with ledger.phase("checkpoint"):
            save(reached, state)
            processes.all_or_none(self.checkpoints.wait, "the last state could not be saved")
            self.manifest.reached(reached, self.checkpoints.records())
        if broken := sum(s.skipped for s in (self.train_data, self.validation_data) if s):
            progress.say(f"broken images skipped: {broken}")
        if failed := skipped.too_many or "".join(map(str, failures[:1])):
            raise UserError(f"{failed} (saved at step {reached:,}, to go on from there)")
        return state, reached

    def _writer(self, start: int, progress: Progress) -> MetricWriter:
        """Where the metrics go; only the first process shows them to people."""
        config = self.experiment.config
        names = config.train.writers if processes.is_first() else ()
        return MetricWriter(self.folder, start, progress.say, names, config.to_dict())


def periodic_actions(
    experiment: Experiment,
    watch: Watch,
    saves: Sequence[Callable[[int, TrainState], None]],
    ledger: Ledger,
    last: int,
) -> list[loop.Action]:
    """What is done with a run every so many steps, each in its phase of the ledger.

    Args:
      experiment: the run's, whose config has the periods.
      watch: what looks at it.
      saves: what is done every config.train.checkpoint_every steps.
      ledger: where the seconds go.
      last: the step after which all but snapshots are done once more.
    """
    period, timed = experiment.config.train, ledger.around
    every = functools.partial(loop.every, last=last)
    snapshot = timed("checkpoint", watch.snapshot)
    return [
        every(period.validate_every, act=timed("validate", watch.validate)),
        *(
            every(period[f"{name}_every"], act=timed(name, getattr(watch, name)))
            for name in experiment.kind.watched(experiment.config)
        ),
        loop.every(experiment.config.ema.snapshots_every, last=None, act=snapshot),
        # Last: what a checkpoint's step shows is on disk before the checkpoint is.
        *(every(period.checkpoint_every, act=timed("checkpoint", save)) for save in saves),
    ]


def training_batches(experiment: Experiment, source: Source) -> Batches:
    """This process's part of the batches that a run trains on."""
    config = experiment.config
    return Batches(
        source,
        config.data.batch_size,
        config.seed,
        encode=experiment.batch_codec.encode_batch,
        flip=config.data.flip,
        conditions=conditioning.of_data(config),
        encode_texts=experiment.encode_texts,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def prefetched(batches: Iterator[Any], ledger: Ledger) -> Generator[Any, None, None]:
    """Placed batches, some of them before they are needed; waiting for one is in the ledger.

    They are the same ones in the same order. To be closed where the training ends before they do.
    """
    return ledger.waiting("data_wait", ahead(batches, PREFETCHED))


def placed(
    batches: Iterator[dict[str, np.ndarray]], experiment: Experiment, failures: list[UserError]
) -> Iterator[Any]:
    """The batches on their devices; data that cannot be read end them, so that the run is saved.

    Of several processes, one that cannot read its part raises: it cannot save without the others.
    """
    place = sharding.batch_sharding(experiment.mesh)
    try:
        for batch in batches:
            yield sharding.put_batch(batch, place)
    except UserError as error:
        if jax.process_count() > 1:
            raise
        failures.append(error)


def _looked_after(checkpoints: Checkpoints, watchdog: Watchdog, progress: Progress) -> loop.Action:
    """Tells what went wrong with saving, at the next step, and that the run is alive."""

    def action(step: int, state: TrainState, metrics: loop.Metrics) -> None:
        for line in checkpoints.complaints():
            progress.say(line)
        watchdog.tick()

    return action
