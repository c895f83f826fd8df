"""What `train` measures of samples on the way: their distance to the data, for the best step."""

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build.datasets import dataset
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import frechet
from ddpm_jax.evaluation.features import Features
from ddpm_jax.measures import (
    distribution_metrics,
    extractors,
    feature_space,
    metric_table,
    real_data,
)
from ddpm_jax.measures.feature_space import Space

# Flags of `evaluate` and the fields of config.train that are the same.
FIELDS = {"extractor": "evaluate_extractor", "inception_weights": "inception_weights"}


def check(config: ConfigDict) -> None:
    """Whether samples can be measured as config.train names it; nothing is read.

    Raises:
      UserError: for a metric or an extractor of another name.
    """
    t = config.train
    choices = {
        "evaluate_metric": [metric.name for metric in metric_table.distances()],
        "evaluate_extractor": [extractors.AUTO, *extractors.EXTRACTORS],
    }
    for field, names in choices.items():
        if field in t and t[field] not in names:
            raise UserError(f"config.train.{field}={t[field]!r}: need one of {', '.join(names)}")


class TrainingEvaluation:
    """A space of features of a run's data, and the distance of samples to them."""

    def __init__(self, experiment: Experiment, cache: Path):
        """Read or make features of the data at once: what is missing is reported before training.

        Args:
          experiment: of the run; its config.train says what is measured.
          cache: the folder of the data's features.

        Raises:
          UserError: as `check` and `feature_space.space`.
        """
        t = experiment.config.train
        check(experiment.config)
        self.metric: str = t.evaluate_metric
        self.num: int = t.evaluate_samples
        metric = metric_table.METRICS[self.metric]
        assert metric.distance is not None  # `check` sees to it
        self._distance = metric.distance
        try:
            self._space: Space = feature_space.space(
                t.evaluate_extractor,
                {split: real_data.split(experiment, split) for split in real_data.SPLITS},
                dataset(experiment.config, experiment.own).extractor,
                reference="train",
                num_reference=feature_space.NUM_REFERENCE,
                weights=t.inception_weights or None,
                resize=None,
                cache=cache,
            )
        except UserError as error:
            raise UserError(_by_field(str(error))) from error
        data = self._space.data
        distribution_metrics.check([metric], self._space.reference, data)
        few = frechet.rank_warning(self.num, data.pooled.shape[1])
        if metric.fits is distribution_metrics.warn_of_few and few:
            print(f"config.train.evaluate_samples: {few}", file=sys.stderr)

    def measure(self, batches: Iterable[np.ndarray]) -> dict[str, float]:
        """The metric's value of images, uint8 [b, H, W, C] batch by batch.

        Raises:
          UserError: for images that have no features.
        """
        extractor = self._space.extractor
        many = [feature_space.of_images(extractor, batch)["pooled"] for batch in batches]
        samples = Features(np.concatenate(many))
        sets = distribution_metrics.Sets(self._space.reference, samples, self._space.statistics)
        try:
            value = self._distance(sets)
        except ValueError as error:
            raise UserError(f"config.train.evaluate_metric={self.metric}: {error}") from error
        return {self.metric: value}


def _by_field(message: str) -> str:
    """A message about flags of `evaluate`, about the fields that stand for them."""
    for flag, field in FIELDS.items():
        message = message.replace(f"--{flag}", f"config.train.{field}")
    return message
