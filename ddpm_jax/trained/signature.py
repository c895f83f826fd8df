"""What of a task and of config.sample shapes the compiled program, and what is handed to it.

Two samplings of equal signature run one program: all that differs between them is an argument. A
program is built from its signature and never sees the task, so nothing of the task can be left out.
"""

import dataclasses
import json
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import conditioning, upsampling
from ddpm_jax.config.checks import image_shape
from ddpm_jax.diffusion import guidance
from ddpm_jax.diffusion.condition_dropout import NULL_VALUE
from ddpm_jax.trained import clip_tasks
from ddpm_jax.trained.tasks import Task, Trained

# Of config.sample: numbers that the program is given, and what says how many images it draws.
ARGUMENTS = (
    "guidance_scale",
    "classifier_scale",
    "clip_scale",
    "augmentation",
    "temperature",
    "batch_size",
    "grid_size",
)


class Itself:
    """An object as part of a key: it equals itself alone, and the key keeps it alive."""

    def __init__(self, one: Any):
        self.one = one

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and other.one is self.one

    def __hash__(self) -> int:
        return id(self.one)


def hashable(one: Any) -> Hashable:
    """What stands for an object in a key: the object if it can be compared, else `Itself`."""
    try:
        hash(one)
    except TypeError:
        return Itself(one)
    return one


@dataclasses.dataclass(frozen=True)
class Guide:
    """Another network without its parameters, which are arguments.

    Attributes:
      model: stands for the network in a key.
      fields: of its config, as text.
      noised: whether it was trained on x_t and its time.
      apply: the network's.
      config: its run's.
    """

    model: Hashable
    fields: str
    noised: bool
    apply: Callable[..., Any] = dataclasses.field(compare=False)
    config: ConfigDict = dataclasses.field(compare=False)

    @classmethod
    def of(cls, trained: Trained) -> "Guide":
        """The guide that a trained model is."""
        model, config = trained.experiment.model, trained.experiment.config
        fields = _text(config, "model", "diffusion")
        return cls(hashable(model), fields, sees_noise(config), model.apply, config)


@dataclasses.dataclass(frozen=True)
class Signature:
    """What of a task and its scales shapes the program.

    Scales are arguments, except those at which only one branch of the network counts: 0 and 1 of
    guidance take that branch alone, at its cost and bit for bit.

    Attributes:
      only: the branch that counts alone, as `guidance.only_branch` has it; None for a mixture.
      composed: sets of conditions, each with a weight.
      between_labels: two sets of conditions, with shares.
      weaker: the weaker model.
      classifier, clip: the classifier and the CLIP; None also where its scale is 0.
      init_images: images to begin with.
      steps: of the grid that are run, from images to begin with; None for all.
      inpaint: a part of the image is kept.
      grey: a grey image is observed.
      pooled: how many times smaller an observed image is.
      noisy: either has noise.
      frames: images on the way that are kept.
    """

    only: int | None
    composed: int
    between_labels: bool
    weaker: Guide | None
    classifier: Guide | None
    clip: Guide | None
    init_images: int
    steps: int | None
    inpaint: bool
    grey: bool
    pooled: int | None
    noisy: bool
    frames: int


def of(c: ConfigDict, task: Task, steps: int | None) -> Signature:
    """The signature of config.sample and a task that fits it; steps as in `Signature`."""
    mixes = task.between_labels is not None or within_interval(c)
    classifier = task.classifier if classifier_scale(c) != 0 else None
    clip = task.clip if clip_tasks.scale(c) != 0 else None
    return Signature(
        only=None if mixes else guidance.only_branch(_scales(c, task)),
        composed=len(task.composed),
        between_labels=task.between_labels is not None,
        weaker=None if task.weaker is None else Guide.of(task.weaker),
        classifier=None if classifier is None else Guide.of(classifier),
        clip=None if clip is None else Guide.of(clip),
        init_images=len(task.init_images),
        steps=steps,
        inpaint=task.inpaint is not None,
        grey=task.colourise is not None,
        pooled=None if task.upscale is None else image_shape(c)[0] // task.upscale.shape[0],
        noisy=task.observation_noise > 0,
        frames=task.frames,
    )


def numbers(c: ConfigDict, task: Task) -> dict[str, np.ndarray]:
    """The numbers of config.sample and a task that the program is given, float32."""
    values = {
        "scales": _scales(c, task),
        "classifier_scale": classifier_scale(c),
        "clip_scale": clip_tasks.factor(c, task),
        "observation_noise": task.observation_noise,
    }
    if upsampling.size(c) is not None:
        values["augmentation"] = upsampling.level(c)
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def of_classes(c: ConfigDict, labels: np.ndarray, task: Task) -> np.ndarray:
    """The class that each image is of, int32 [num]: its label, or -1 where that has no part in it.

    So it is where each image is of several classes, and at guidance_scale=0, where the model runs
    without its conditions; unless a classifier or a weaker model goes by the label.
    """
    counts = not task.tells_labels and _label_counts(c, task)
    return labels if counts else np.full_like(labels, NULL_VALUE)


def within_interval(c: ConfigDict) -> bool:
    """Guidance counts at some noise levels alone."""
    return any(c.sample.get(name) is not None for name in ("guidance_low", "guidance_high"))


def classifier_scale(c: ConfigDict) -> float:
    """How often a classifier's gradient counts; once if config.sample does not say."""
    return 1.0 if c.sample.classifier_scale is None else float(c.sample.classifier_scale)


def sees_noise(c: ConfigDict) -> bool:
    """Whether a run of this config is trained on x_t and its time, and so on a path."""
    return "diffusion" in c


def of_sampling(c: ConfigDict) -> str:
    """All fields of a config that shape how it is sampled, as text: all but ARGUMENTS."""
    return _text(c, "data", "model", "diffusion", "sample")


def _label_counts(c: ConfigDict, task: Task) -> bool:
    if task.classifier is not None and classifier_scale(c) != 0:
        return True
    if within_interval(c) or guidance.only_branch(_scales(c, task)) != -1:
        return True
    # At scale 0 the weaker model is left.
    weaker = None if task.weaker is None else task.weaker.experiment.config
    return weaker is not None and "label" in conditioning.dropout(weaker)


def _scales(c: ConfigDict, task: Task) -> list[float]:
    if task.composed:
        return [float(weight) for weight, _ in task.composed]
    return [float(c.sample.guidance_scale)]


def _text(c: ConfigDict, *groups: str) -> str:
    """Groups of a config as text."""
    fields = {group: c[group].to_dict() for group in groups if group in c}
    for name in ARGUMENTS:
        fields.get("sample", {}).pop(name, None)
    return json.dumps(fields, sort_keys=True, default=repr)
