"""What looks at a run while it trains: metrics, validation, sample grids."""

import functools
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from ddpm_jax import streams
from ddpm_jax.build import conditioning, held_out_conditions
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.data import Source, captions_of, evaluation_batches
from ddpm_jax.errors import UserError
from ddpm_jax.measures.speed import Speed
from ddpm_jax.measures.training_evaluation import TrainingEvaluation
from ddpm_jax.reporting import figures
from ddpm_jax.reporting.not_fatal import NotFatal
from ddpm_jax.reporting.progress import Progress
from ddpm_jax.reporting.writers import MetricWriter
from ddpm_jax.runtime import files, sharding
from ddpm_jax.trained import drawing, program
from ddpm_jax.training import loop, snapshots
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import FIRST, TrainState

PROMPTS = "prompts.txt"  # of the grids of a run that reads text


class Watch:
    """What looks at a run while it trains: metrics, validation, sample grids."""

    def __init__(
        self,
        experiment: Experiment,
        validation_data: Source | None,
        writer: MetricWriter,
        progress: Progress,
        workdir: Path,
        evaluation: TrainingEvaluation | None = None,
        validation_step: Callable[..., loop.Metrics] | None = None,
    ):
        self.experiment = experiment
        self.config = experiment.config
        self.writer = writer
        self.progress = progress
        self.workdir = workdir
        self._validation_data = validation_data
        # One for all the members of a group: their objectives are the same without training.
        self._validation_step = validation_step or experiment.validation_step()
        self._validated: tuple[int, float] = (-1, math.nan)
        self._evaluation = evaluation
        self._evaluated: tuple[int, float] = (-1, math.nan)
        self._scarce = False
        self._picture_not_fatal = NotFatal(workdir / "samples", progress.say)
        self._snapshot_not_fatal = NotFatal(workdir / snapshots.FOLDER, progress.say)

    def metrics(self, last: int, start: int, speed: Speed | None) -> loop.Action:
        """Keeps every step's metrics; writes their means every config.train.log_every steps.

        Args:
          last: step, which is always written.
          start: the step that the run goes on from.
          speed: of the run; None where nothing is written.
        """
        means, period = loop.MeanMetrics(), self.config.train.log_every

        def action(step: int, state: TrainState, metrics: loop.Metrics) -> None:
            self.progress.advance()
            if speed is None or not period:
                return
            if step == start + 1:
                speed.restart(step)
            means.add(metrics)
            if step % period and step != last:
                return
            values, of_speed = means.pop(), speed.figures(step)
            self.writer.scalars(step, {**values, **of_speed})
            self.progress.show(step, values["loss"], float(of_speed["steps_per_second"]))

        return action

    def validate(self, step: int, state: TrainState) -> None:
        """The loss of the moving average on held-out data, in all and by quarter of t.

        The noise is the same at every call, so that the figures of one run can be compared.
        """
        assert self._validation_data is not None
        key = streams.fold(state.key, streams.VALIDATION)
        place = sharding.batch_sharding(self.experiment.mesh)
        batches = evaluation_batches(
            self._validation_data,
            self.config.data.batch_size,
            self.config.train.validate_examples,
            encode=self.experiment.batch_codec.encode_batch,
            conditions=conditioning.of_data(self.config),
            encode_texts=self.experiment.encode_texts,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        sums = [
            jax.device_get(
                self._validation_step(
                    state.ema[FIRST],
                    sharding.put_batch(batch, place),
                    jax.random.fold_in(key, index),
                )
            )
            for index, batch in enumerate(batches)
        ]
        values = loop.quarter_means(sums)
        total = sum(s["quarter_loss_sum"].sum() for s in sums)
        values["loss"] = float(total / sum(s["quarter_count"].sum() for s in sums))
        self.writer.scalars(step, {f"validation_{name}": v for name, v in values.items()})
        self.progress.say(f"step {step:,}: validation loss {values['loss']:.4f}")
        self._validated = step, values["loss"]

    def evaluate(self, step: int, state: TrainState) -> None:
        """How far the moving average's samples are from the data; the same noise each time."""
        assert self._evaluation is not None
        labels, conditions, _ = self._conditions(self._evaluation.num)
        try:
            measured = self._evaluation.measure(self._drawn(state, labels, conditions))
        except UserError as error:  # as of pictures
            self.progress.say(f"step {step:,}: not evaluated: {error}")
            return
        self.writer.scalars(step, {f"evaluation_{name}": v for name, v in measured.items()})
        value = measured[self._evaluation.metric]
        self.progress.say(f"step {step:,}: {self._evaluation.metric} {value:.4f}")
        self._evaluated = step, value

    def save(self, checkpoints: Checkpoints, step: int, state: TrainState) -> None:
        """A checkpoint, with what was measured at this step."""
        loss, distance = (
            value if measured == step else None
            for measured, value in (self._validated, self._evaluated)
        )
        checkpoints.save(step, state, loss, distance)
        self._warn_if_scarce()

    def snapshot(self, step: int, state: TrainState) -> None:
        """The power averages into DIR/averages, for averages that are made after training."""
        with self._snapshot_not_fatal:
            snapshots.save(self.workdir, step, state)

    def _warn_if_scarce(self) -> None:
        """Tells once that little is free, and again if more was in between."""
        least = self.config.train.min_free_gb
        try:
            free = shutil.disk_usage(self.workdir).free / 1e9
        except OSError:  # a save that fails says more
            return
        if free < least and not self._scarce:
            self.progress.say(
                f"only {free:.2f} GB are free where {self.workdir} lies, below "
                f"config.train.min_free_gb={least:g}: make room before a checkpoint cannot be saved"
            )
        self._scarce = free < least

    @functools.cached_property
    def _sample_fn(self) -> drawing.SampleFn:
        return program.sample_fn(self.experiment)

    def _drawn(
        self, state: TrainState, labels: np.ndarray, conditions: dict[str, np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Images of the moving average, batch by batch."""
        return drawing.draw_images(
            self._sample_fn,
            state.ema[FIRST],
            len(labels),
            conditions,
            seed=self.config.seed,
            batch_size=drawing.padded_batch(self.experiment, len(labels)),
            decode=self.experiment.codec.decode,
        )

    @functools.cache  # noqa: B019 - one watch a run
    def _conditions(self, num: int) -> tuple[np.ndarray, dict[str, np.ndarray], int | None]:
        """Labels, conditions and columns of a grid: where it can be, what held-out images show."""
        c, own, classes = self.config, self.experiment.own, conditioning.num_classes(self.config)
        if conditioning.condition_names(c) and self._validation_data is not None:
            labels, conditions = held_out_conditions.shown(
                c,
                self._validation_data,
                num,
                self.experiment.batch_codec,
                self.experiment.encode_texts,
                self.experiment.clip and self.experiment.clip.embed_encoded,
            )
            return labels, conditioning.arrays(c, own, num, labels, conditions), None
        labels = drawing.default_labels(num, classes)
        return labels, conditioning.arrays(c, own, num, labels, {}), figures.class_columns(classes)

    def sample(self, step: int, state: TrainState) -> None:
        """A grid drawn from the moving average: DIR/samples/step_XXXXXX.png and an event."""
        labels, conditions, columns = self._conditions(self.config.sample.grid_size)
        try:
            drawn = np.concatenate(list(self._drawn(state, labels, conditions)))
        except UserError as error:  # samples alone are no reason to lose a run
            self.progress.say(f"step {step:,}: no samples drawn: {error}")
            return
        picture = figures.grid(drawn, columns)
        path = self.workdir / "samples" / f"step_{step:06d}.png"
        with self._picture_not_fatal:
            figures.save_png(path, picture)
            self._save_prompts(path.with_name(PROMPTS), len(labels))
            self.progress.say(f"step {step:,}: samples in {path}")
        self.writer.image(step, "samples", picture)

    def _save_prompts(self, path: Path, num: int) -> None:
        """What a grid's images were told, a line each, in the order of the grid."""
        if not conditioning.reads_text(self.config) or self._validation_data is None:
            return
        told = enumerate(captions_of(self._validation_data, num))
        with files.whole(path) as partial:
            partial.write_text("".join(f"{k}\t{text}\n" for k, text in told), encoding="utf-8")
