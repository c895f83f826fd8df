"""What `train` measures of samples on the way: their distance to the data, for the best step."""

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ddpm_jax.build.datasets import dataset
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import frechet
from ddpm_jax.evaluation.features import Features
from ddpm_jax.measures import distribution_metrics, feature_space
from ddpm_jax.measures.feature_space import Space

# Flags of `evaluate` and the fields of config.train that are the same.
FIELDS = {"extractor": "evaluate_extractor", "inception_weights": "inception_weights"}


class TrainingEvaluation:
    """A space of features of a run's data, and the distance of samples to them."""

    def __init__(self, experiment: Experiment, cache: Path):
        """Features of the data are read or made at once: what is missing is told before training.

        Args:
          experiment: of the run; its config.train says what is measured.
          cache: the folder of the data's features.

        Raises:
          UserError: as `feature_space.space`.
        """
        t = experiment.config.train
        self.metric: str = t.evaluate_metric
        self.num: int = t.evaluate_samples
        try:
            self._space: Space = feature_space.space(
                t.evaluate_extractor,
                {split: experiment.source(split) for split in ("train", "validation")},
                dataset(experiment.config).extractor,
                reference="train",
                num_reference=feature_space.NUM_REFERENCE,
                weights=t.inception_weights or None,
                resize=None,
                cache=cache,
            )
        except UserError as error:
            raise UserError(_by_field(str(error))) from error
        reference, held_out = self._space.reference, self._space.held_out
        assert isinstance(reference, Features)  # of a split
        self._reference: Features = reference
        distribution_metrics.check([self.metric], reference, held_out)
        few = frechet.rank_warning(self.num, held_out.pooled.shape[1])
        if self.metric == "fid" and few:
            print(f"config.train.evaluate_samples: {few}", file=sys.stderr)

    def measure(self, batches: Iterable[np.ndarray]) -> dict[str, float]:
        """The metric's value of images, uint8 [b, H, W, C] batch by batch.

        Raises:
          UserError: for images that have no features.
        """
        extractor = self._space.extractor
        many = [feature_space.of_images(extractor, batch)["pooled"] for batch in batches]
        samples = Features(np.concatenate(many))
        known = self._space.statistics
        try:
            value = distribution_metrics.distance(self.metric, self._reference, samples, known)
        except ValueError as error:
            raise UserError(f"config.train.evaluate_metric={self.metric}: {error}") from error
        return {self.metric: value}


def _by_field(message: str) -> str:
    """A message about flags of `evaluate`, about the fields that stand for them."""
    for flag, field in FIELDS.items():
        message = message.replace(f"--{flag}", f"config.train.{field}")
    return message
