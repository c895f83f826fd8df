"""A base model and what enlarges its images, one after another."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddpm_jax.build import class_names, conditioning, upsampling
from ddpm_jax.data.captions import TEXT
from ddpm_jax.diffusion.condition_dropout import NULL_VALUE
from ddpm_jax.errors import UserError
from ddpm_jax.trained import tasks
from ddpm_jax.trained.loaded import Enlarge, Loaded
from ddpm_jax.trained.program import NO_TASK
from ddpm_jax.trained.tasks import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Cascade:
    """Models that draw large images together: `Cascade(load(base), [load(upsampler)]).sample(16)`.

    Attributes:
      base: draws small images.
      upsamplers: each enlarges the images of the one before, as its own config.sample says.

    Raises:
      UserError: for a model that does not enlarge, or enlarges images of another size.

    Source: Ho et al. 2022, "Cascaded diffusion models".
    """

    base: Loaded
    upsamplers: Sequence[Loaded]

    def __post_init__(self) -> None:
        shape = self.base.experiment.image_shape
        for number, one in enumerate(self.upsamplers, 1):
            takes = upsampling.size(one.experiment.config)
            if takes is None:
                raise UserError(
                    f"upsampler {number}: that run enlarges nothing; train one with "
                    f"config.diffusion.low_resolution={shape[0]}"
                )
            if takes != shape:
                raise UserError(
                    f"upsampler {number}: it enlarges images of {takes}, and is given images of "
                    f"{shape} (height, width, channels)"
                )
            shape = one.experiment.image_shape

    def sample(
        self,
        num: int,
        *,
        labels: Sequence[int | str] = (),
        conditions: Mapping[str, conditioning.ConditionValue] | None = None,
        task: Task = NO_TASK,
        seed: int = 0,
        **options: Any,
    ) -> np.ndarray:
        """`num` images of the last upsampler, uint8 [num, H, W, C].

        Args:
          num, task, **options: of the base, as in `Loaded.sample`.
          labels, conditions: of the base; an upsampler takes those that it knows, except images.
          seed: image k depends on (seed, k) alone.

        Raises:
          UserError: as `Loaded.sample`, before anything is drawn.
        """
        passes = self.passes(
            num, labels=labels, conditions=conditions, task=task, seed=seed, **options
        )
        images = self.base.sample(
            num, labels=labels, conditions=conditions, task=task, seed=seed, **options
        )
        if task.frames:
            images = images[:, -1]
        for enlarge in passes:
            images = np.concatenate(list(enlarge(images, 0)))
        return images

    def passes(
        self,
        num: int,
        *,
        labels: Sequence[int | str] = (),
        conditions: Mapping[str, conditioning.ConditionValue] | None = None,
        task: Task = NO_TASK,
        seed: int = 0,
        **options: Any,
    ) -> list[Enlarge]:
        """What follows the base, one function for each upsampler; arguments as in `sample`.

        Raises:
          UserError: for labels or conditions that an upsampler cannot take.
        """
        given = {k: v for k, v in (conditions or {}).items() if k not in _names_composed(task)}
        of_base = self.base.classes(num, labels, task, **options)
        counts = []
        for number, one in enumerate(self.upsamplers, 1):
            c, parts = one.experiment.config, one.experiment.own
            its = [*conditioning.values(c, parts), *[TEXT] * conditioning.reads_text(c)]
            passed = {name: given[name] for name in its if name in given}
            counts.append(
                one.enlarging(
                    num,
                    labels=self._labels(number, one, of_base, task),
                    conditions=passed,
                    seed=seed,
                    one_noise=task.interpolates,
                )
            )
        return counts

    def _labels(self, number: int, one: Loaded, labels: np.ndarray, task: Task) -> np.ndarray:
        """The labels of the base's images, int [num], as far as this upsampler knows labels."""
        c = one.experiment.config
        of_base = tasks.num_classes(self.base.experiment.config, task)
        if of_base and c.model.num_classes not in (0, of_base):
            raise UserError(
                f"upsampler {number}: it has {c.model.num_classes} classes, and the base {of_base}"
            )
        if not c.model.num_classes:
            return np.full_like(labels, NULL_VALUE)
        if of_base:
            of_base_names = tasks.names_of_classes(self.base.experiment.config, task)
            class_names.check_same(f"upsampler {number}", of_base_names, c.data.class_names)
        if (labels == NULL_VALUE).any() and not conditioning.ever_hidden(c, "label"):
            raise UserError(
                f"upsampler {number}: it was never trained without a label, and these images "
                "have none; train it with config.diffusion.label_dropout above 0"
            )
        return labels


def _names_composed(task: Task) -> set[str]:
    """The conditions of which a task gives each image several."""
    return {name for _, conditions in task.composed for name in conditions}
