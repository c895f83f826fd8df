"""What `train` measures of samples on the way: their distance to the data, for the best step."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ddpm_jax.commands import distribution_metrics, feature_space
from ddpm_jax.commands.feature_space import Space
from ddpm_jax.evaluation.features import Features
from ddpm_jax.experiment import Experiment


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
        self._seed: int = experiment.config.seed
        self._space: Space = feature_space.space(
            t.evaluate_extractor,
            {split: experiment.source(split) for split in ("train", "validation")},
            experiment.config.data.name,
            reference="train",
            num_reference=feature_space.NUM_REFERENCE,
            weights=t.inception_weights or None,
            resize=None,
            cache=cache,
        )
        distribution_metrics.check([self.metric], self._space.reference, self._space.held_out)

    def measure(self, batches: Iterable[np.ndarray]) -> dict[str, float]:
        """The metric's figures of images, uint8 [b, H, W, C] batch by batch.

        Raises:
          UserError: as `distribution_metrics.measure`.
        """
        many = [feature_space.of_images(self._space.extractor, batch) for batch in batches]
        samples = Features(
            **{name: np.concatenate([one[name] for one in many]) for name in many[0]}
        )
        found = distribution_metrics.measure(
            [self.metric], self._space.reference, samples, seed=self._seed
        )
        return {name: figure.value for name, figure in found.items()}
