"""A pipeline of Stable Diffusion in the place of a run: what is measured of what it draws."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.build import datasets, sampling
from ddpm_jax.config.own_code import Own
from ddpm_jax.data.captions import captions_of
from ddpm_jax.diffusion.condition_dropout import NULL_VALUE
from ddpm_jax.errors import UserError
from ddpm_jax.interop.pipeline import Pipeline
from ddpm_jax.runtime import digests
from ddpm_jax.trained import descriptions
from ddpm_jax.trained.drawing import Drawing
from ddpm_jax.trained.program import NO_TASK
from ddpm_jax.trained.tasks import Task

PART_PIXELS = 2**22  # about, of images that are kept together
# Of config.sample what `Pipeline.sample` takes, beside the scale of guidance.
SETTINGS = ("sampler", "num_steps", "guidance_rescale", "clip_skip")
_CODE = ("codecs", "diffusion", "interop", "models", "samplers")
# Of a scheduler's config what says which noise the network was trained on, not how it is sampled.
_OF_NETWORK = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)


class PipelineKind(NamedTuple):
    """A pipeline as checks of metrics see it; fields as of `build.kinds.Kind`."""

    one: str = "a pipeline of Stable Diffusion"
    measures: tuple[str, ...] = (
        "FEATURES",
        "LOGITS",
        "PIXELS",
        "CAPTIONS",
        "CLIP_SCORED",
        "CAPTIONED",
    )
    trained_on_data: bool = False


KIND = PipelineKind()


@dataclasses.dataclass(frozen=True, eq=False)
class PipelineData:
    """What a pipeline is compared with and how it draws; as of `build.experiment.Experiment`.

    Attributes:
      config: groups "data" and "sample", and of "model" what says that it reads texts.
      own: the data set, if it is of one's own.
      image_shape: (H, W, 3).
      kind: that of all of them.
    """

    config: ConfigDict
    own: Own
    image_shape: tuple[int, int, int]
    kind: PipelineKind = KIND

    def source(self, split: str) -> data.Source:
        """The data of "train" or "validation". Raises UserError as `datasets.source`."""
        return datasets.source(self.config, split, self.own)


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedPipeline:
    """A pipeline that draws by held-out captions, as `trained.loaded.Loaded` draws.

    Attributes:
      pipeline: with all that was merged into its weights.
      experiment: the captioned data, and how it draws.
      negative_prompt: what every image is steered away from.
      step, parameters, reconstruction: as of `Loaded`; a pipeline has none of a run's choices.
    """

    pipeline: Pipeline
    experiment: PipelineData
    negative_prompt: str = ""
    step: int | None = None
    parameters: str = "pipeline"
    reconstruction: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def checkpoint(self) -> str:
        """The digest of its parameters."""
        return self._description["parameters"]

    @functools.cached_property
    def config_sha256(self) -> str:
        """Of all else that its images depend on."""
        others = {name: repr(one) for name, one in self._description.items()}
        return digests.combined({n: one for n, one in others.items() if n != "parameters"})

    @functools.cached_property
    def _description(self) -> dict[str, Any]:
        return self.pipeline.description

    @functools.cached_property
    def _held_out(self) -> data.Source:
        return self.experiment.source("validation")

    def checked(self) -> "LoadedPipeline":
        """Itself, with its scheduler and captions in config.sample; refuses what does not fit.

        Raises:
          UserError: as `Pipeline.check`, and where there are no captions.
        """
        sample = self.experiment.config.sample
        if sample.batch_size < 1:
            raise UserError(f"--batch_size={sample.batch_size}: need at least 1")
        try:
            self.pipeline.check(self.negative_prompt or None, **self._settings)
            scheduler = self.pipeline.scheduler_of(sample.sampler)
        except ValueError as error:
            raise UserError(str(error)) from error
        # JSON has no infinity, which is what leaving a field out means.
        fields = {
            name: value
            for name, value in scheduler.config.items()
            if name not in _OF_NETWORK and value != -math.inf
        }
        sample.scheduler = {"class": scheduler.name, **descriptions.described(fields)}
        sample.captions = data.fingerprint(self._held_out)
        return self

    def drawing(
        self,
        num: int,
        *,
        prompts: Sequence[str] = (),
        task: Task = NO_TASK,
        seed: int = 0,
        **options: Any,
    ) -> Drawing:
        """An image of each prompt; without prompts of held-out captions, evenly spaced.

        Args:
          num: how many.
          prompts: `num` of them, or cycled.
          task: not read: a pipeline has none.
          seed: image k is of (seed, k) and its prompt.
          **options: of `Pipeline.sample`, such as the scale of guidance.
        """
        texts = list(prompts) or captions_of(self._held_out, num)
        listed = [texts[k % len(texts)] for k in range(num)]
        settings = self._settings | options
        return drawing(
            self.pipeline,
            listed,
            [self.negative_prompt] * num if self.negative_prompt else [],
            batch_size=self.experiment.config.sample.batch_size,
            seed=seed,
            **settings,
        )

    def labels(
        self, num: int, requested: Sequence[int | str] = (), task: Task = NO_TASK
    ) -> np.ndarray:
        """int32 [num], -1 each: a pipeline has no classes."""
        return np.full(num, NULL_VALUE, np.int32)

    def nfe(self, *, task: Task = NO_TASK, **options: Any) -> int | None:
        """The network evaluations of an image; guidance makes each larger, not more of them."""
        sample = self.experiment.config.sample
        steps = self.pipeline.scheduler_of(sample.sampler).steps(sample.num_steps)
        return sampling.nfe(steps.sampler, steps.schedule, steps.times)

    @property
    def _settings(self) -> dict[str, Any]:
        """What `Pipeline.sample` takes of config.sample."""
        sample = self.experiment.config.sample.to_dict()
        given = {name: sample[name] for name in SETTINGS if sample.get(name) is not None}
        return {"size": self.experiment.image_shape[:2], **given}


def drawing(
    pipeline: Pipeline,
    prompts: Sequence[str],
    negative_prompts: Sequence[str],
    *,
    batch_size: int,
    seed: int,
    **settings: Any,
) -> Drawing:
    """An image of each prompt, drawn part by part by calls of one program.

    Args:
      pipeline: any.
      prompts: one for each image.
      negative_prompts: likewise, or none.
      batch_size: images of a call; the last one is filled up.
      seed: image k is of (seed, k) and its prompt.
      **settings: others of `Pipeline.sample`.
    """

    def batches(rows: range) -> Iterator[np.ndarray]:
        for start in range(rows.start, rows.stop, batch_size):
            count = min(batch_size, rows.stop - start)
            numbers = [*range(start, start + count), *[start + count - 1] * (batch_size - count)]
            try:
                images = pipeline.sample(
                    [prompts[k] for k in numbers],
                    [negative_prompts[k] for k in numbers] if negative_prompts else None,
                    first=start,
                    seed=seed,
                    **settings,
                )
            except ValueError as error:
                raise UserError(str(error)) from error
            yield images[:count]

    description = {
        "pipeline": pipeline.description,
        "prompts": list(prompts),
        "negative_prompts": list(negative_prompts),
        "settings": descriptions.described(settings),
        "seed": seed,
        "batch_size": batch_size,
        "jax": jax.__version__,
        "code": digests.of_code(*_CODE),
    }
    labels = np.full(len(prompts), NULL_VALUE, np.int32)
    return Drawing(len(prompts), batch_size, description, labels, batches, _part(settings))


def _part(settings: Mapping[str, Any]) -> int:
    """Images that are kept together: a large one takes long to draw, and is not to be lost."""
    height, width = settings["size"] or (PART_PIXELS, 1)
    return max(1, min(256, PART_PIXELS // (height * width)))
