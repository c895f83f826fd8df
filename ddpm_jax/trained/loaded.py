"""From a workdir to a trained model."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ddpm_jax.build import class_names, conditioning, networks, sampling, upsampling
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.diffusion.condition_dropout import NULL_VALUE
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import digests
from ddpm_jax.trained import (
    clip_tasks,
    descriptions,
    drawing,
    judges,
    latent_tasks,
    program,
    signature,
    tasks,
    unclip,
)
from ddpm_jax.trained.drawing import Drawing
from ddpm_jax.trained.program import NO_TASK
from ddpm_jax.trained.tasks import Task

# The code that draws: what other code drew is drawn again.
DRAWS = ("build", "codecs", "config", "diffusion", "models", "samplers", "trained")
# (images uint8 [n, h, w, C], the number of the first one) -> [b, H, W, C] by batches
Enlarge = Callable[[np.ndarray, int], Iterator[np.ndarray]]


def _other_parts(experiment: Experiment) -> dict[str, str]:
    """Digests of what images depend on beside a run's config and parameters."""
    return {} if experiment.latents is None else {"codec": experiment.latents.digest}


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A trained model, ready to use in a notebook: `load(workdir).sample(16)`.

    Attributes:
      experiment: what its config describes.
      params: the parameters, the moving average unless raw ones were asked for.
      step: of the checkpoint.
      checkpoint: its digest, the run's state_sha256 at that step.
      config_sha256: of the run's config.
      parameters: which they are: "ema" for the first moving average, "0.999" or "std:0.05" for
        another one, or "raw".
      reconstruction: of an average that was made of the run's snapshots, what of and how well, as
        of `build.reconstruction.Made`; else {}.
    """

    experiment: Experiment
    params: Any
    step: int
    checkpoint: str = ""
    config_sha256: str = ""
    parameters: str = "ema"
    reconstruction: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def model(self) -> networks.NetworkModule:
        """The network: model.apply({"params": params}, xt, time, labels)."""
        return self.experiment.model

    def sample(
        self,
        num: int,
        *,
        labels: Sequence[int | str] = (),
        prompts: Sequence[str] = (),
        negative_prompts: Sequence[str] = (),
        conditions: Mapping[str, conditioning.ConditionValue] | None = None,
        task: Task = NO_TASK,
        seed: int = 0,
        **options: Any,
    ) -> np.ndarray:
        """`num` images, uint8 [num, H, W, C]; [num, frames, H, W, C] if the task keeps frames.

        Args:
          num: how many.
          labels: classes, cycled: their numbers, or names in config.data.class_names; without
            them, image k is of class k mod num_classes.
          prompts: texts of what to draw, cycled, for a model that reads text and a CLIP that
            guides; "" for no text.
          negative_prompts: what to steer away from, cycled: guidance then leads from there.
          conditions: what config.model.conditions names: a value by its name or number, or one for
            each image, cycled; an image [H, W, C] for all, or [num, H, W, C]. What is not given is
            absent. "low_resolution" is the smaller image of a model that enlarges.
          task: what guides besides, and an image to begin with or to keep.
          seed: image k depends on (seed, k) alone.
          **options: fields of config.sample that differ: sampler, num_steps, guidance_scale, ...

        Raises:
          UserError: for labels or conditions out of range, or a task or options that do not fit.
        """
        drawing = self.drawing(
            num,
            labels=labels,
            prompts=prompts,
            negative_prompts=negative_prompts,
            conditions=conditions,
            task=task,
            seed=seed,
            **options,
        )
        return np.concatenate(list(drawing.batches(range(num))))

    def drawing(
        self,
        num: int,
        *,
        labels: Sequence[int | str] = (),
        prompts: Sequence[str] = (),
        negative_prompts: Sequence[str] = (),
        conditions: Mapping[str, conditioning.ConditionValue] | None = None,
        task: Task = NO_TASK,
        seed: int = 0,
        **options: Any,
    ) -> Drawing:
        """What `sample` draws, checked and ready to be drawn part by part."""
        program.check_draws(self.experiment)
        experiment = self._with(options, task)
        config = experiment.config
        task, conditions = clip_tasks.with_prompts(config, task, conditions, prompts)
        if len(negative_prompts):
            task = dataclasses.replace(task, negative_prompts=negative_prompts)
        numbers = self.labels(num, labels, task)
        conditioning.check_enlarges(config, conditions)
        judges.check(config, task)
        sample_fn = program.sample_fn(experiment, task)  # which refuses a task that does not fit
        conditions = unclip.told(experiment, num, conditions, task.image_embedding, seed)
        inputs = {
            **conditioning.arrays(
                config, experiment.own, num, numbers, conditions, experiment.tokenizer
            ),
            drawing.TASK: tasks.arrays(experiment, num, numbers, conditions, task)
            | clip_tasks.arrays(experiment, num, task, conditions),
        }
        batch_size = drawing.padded_batch(experiment, num)

        def batches(rows: range) -> Iterator[np.ndarray]:
            return drawing.draw_images(
                sample_fn,
                self.params,
                len(rows),
                jax.tree.map(lambda array: array[rows.start : rows.stop], inputs),
                seed=seed,
                batch_size=batch_size,
                first=rows.start,
                one_noise=task.interpolates,
                decode=latent_tasks.decoded(experiment.codec, task),
            )

        description = {
            "model": descriptions.described(self) | _other_parts(experiment),
            "sampling": descriptions.described(config.sample.to_dict()),
            # Nothing else depends on how many there are: a larger set goes on from a smaller one.
            "num": num if task.interpolates else None,
            "labels": self.class_numbers(labels, task),
            "conditions": descriptions.described(conditions),
            "task": descriptions.described(task),
            "seed": seed,
            "batch_size": batch_size,
            "jax": jax.__version__,
            "code": digests.of_code(*DRAWS),
        }
        classes = signature.of_classes(config, numbers, task)
        return Drawing(num, batch_size, description, classes, batches)

    def enlarging(
        self,
        num: int,
        *,
        labels: np.ndarray | None = None,
        conditions: Mapping[str, conditioning.ConditionValue] | None = None,
        seed: int = 0,
        one_noise: bool = False,
    ) -> Enlarge:
        """What enlarges `num` images by a model that does so, part by part.

        As `sample` with the condition "low_resolution", except for the labels.

        Args:
          num: of all images.
          labels: int [num], -1 for none; None for no labels at all.
          conditions: the others.
          seed: image k depends on (seed, k) and the small image alone.
          one_noise: give every image the noise of image 0.

        Returns:
          (images uint8 [n, h, w, C] of the size that the model enlarges, the number k of the first
          of them) -> [b, H, W, C] by batches; it raises UserError for images of another size.

        Raises:
          UserError: for a model that enlarges nothing, or conditions that do not fit.
        """
        config, own = self.experiment.config, self.experiment.own
        if upsampling.size(config) is None:
            raise UserError("this run enlarges nothing: train one with diffusion.low_resolution")
        if labels is None:
            labels = np.full(num, NULL_VALUE, np.int32)
        tokenizer = self.experiment.tokenizer
        inputs = conditioning.arrays(config, own, num, labels, conditions or {}, tokenizer)
        sample_fn = program.sample_fn(self.experiment)

        def enlarge(images: np.ndarray, first: int) -> Iterator[np.ndarray]:
            rows = slice(first, first + len(images))
            small = conditioning.arrays(
                config, own, len(images), labels[rows], {upsampling.NAME: images}
            )
            return drawing.draw_images(
                sample_fn,
                self.params,
                len(images),
                {name: value[rows] for name, value in inputs.items()}
                | {upsampling.NAME: small[upsampling.NAME]},
                seed=seed,
                batch_size=drawing.padded_batch(self.experiment, num),
                first=first,
                one_noise=one_noise,
                decode=self.experiment.codec.decode,
            )

        return enlarge

    def sampling_with(self, **options: Any) -> "Loaded":
        """The same model, with other fields of config.sample. Raises UserError as `sample`."""
        experiment = self._with(options, NO_TASK)
        if options:
            program.sample_fn(experiment)  # refuses a sample group that does not fit
        return dataclasses.replace(self, experiment=experiment)

    def nfe(self, *, task: Task = NO_TASK, **options: Any) -> int | None:
        """The network evaluations of an image, as `sample` would draw it; None if they vary."""
        return program.nfe(self._with(options, task), self.params, task)

    def _with(self, options: dict[str, Any], task: Task) -> Experiment:
        """The experiment with other fields of config.sample."""
        if task.composed and "guidance_scale" in options:
            raise UserError(
                f"guidance_scale={options['guidance_scale']}: the weights of what is composed take "
                "its place; leave it out"
            )
        if not options:
            return self.experiment
        options = sampling.changed(options, self.experiment.config, self.experiment.own)
        return program.sampled_with(self.experiment, options)

    def classes(
        self, num: int, labels: Sequence[int | str] = (), task: Task = NO_TASK, **options: Any
    ) -> np.ndarray:
        """The classes of the images that `sample` would draw, as `Drawing.labels`."""
        config = self._with(options, task).config
        return signature.of_classes(config, self.labels(num, labels, task), task)

    def labels(
        self, num: int, requested: Sequence[int | str] = (), task: Task = NO_TASK
    ) -> np.ndarray:
        """The labels that `sample` gives `num` images, int32 [num]; -1 without classes."""
        num_classes = tasks.num_classes(self.experiment.config, task)
        requested = self.class_numbers(requested, task)
        if num < 1:
            raise UserError(f"the number of samples must be at least 1, got {num}")
        if requested and not num_classes:
            raise UserError(
                f"labels={','.join(map(str, requested))}, but this model is unconditional: leave "
                "them out, or train with config.model.num_classes set"
            )
        if bad := [label for label in requested if not 0 <= label < num_classes]:
            raise UserError(f"label {bad[0]} is outside 0..{num_classes - 1}")
        return drawing.default_labels(num, num_classes, requested)

    def class_numbers(self, labels: Sequence[int | str], task: Task = NO_TASK) -> list[int]:
        """Labels as numbers, those of the task's classifier where the model has none.

        Args:
          labels: numbers of classes, or names, as config.data.class_names has them.
          task: that samples are drawn for.

        Raises:
          UserError: for a name that there is not.
        """
        names = tasks.names_of_classes(self.experiment.config, task)
        return [class_names.number(names, label) for label in labels]
