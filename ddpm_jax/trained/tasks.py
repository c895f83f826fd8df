"""What samples are drawn for besides their conditions: guides, images to begin with or to keep."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import class_names, conditioning
from ddpm_jax.build.conditioning import ConditionValue
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.codecs import to_float
from ddpm_jax.config.checks import check_guidable, image_shape
from ddpm_jax.errors import UserError
from ddpm_jax.trained.unclip import EmbeddingOf

DEFAULT_STRENGTH = 0.8
NEGATIVE = "negative_text"  # of a task's arrays


class Trained(Protocol):
    """What `experiment.load` returns, as far as a guide is concerned."""

    @property
    def experiment(self) -> Any:
        """What its config describes."""

    @property
    def params(self) -> Any:
        """Its parameters."""


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What is asked of samples; by default nothing, they come from noise by the model alone.

    Images are uint8 of the model's own shape [H, W, C].

    Attributes:
      classifier: a classifier trained on the same schedule; its gradient counts
        sample.classifier_scale times (1 if that is None).
      weaker: a weaker model of the same schedule to guide away from, in place of the model without
        its conditions (autoguidance); sample.guidance_scale is then its scale.
      composed: (weight, conditions): what is added of each set of conditions, in place of
        sample.guidance_scale; a negative weight steers away.
      between_labels: two classes; image k of n is guided by both, in shares 1 - k / (n - 1)
        and k / (n - 1), from one noise.
      init_images: one image to begin with, noised (SDEdit), or two to begin between, image k of
        n at k / (n - 1), from one noise.
      strength: in (0, 1], how far init_images are noised: the share of the steps that is run.
      inpaint: an image and a mask, bool [H, W, 1], True where it is to be painted.
      colourise: a grey image, uint8 [H, W, 1], to be coloured by posterior sampling.
      upscale: a smaller image, uint8 [h, w, C], whose pixels are means of whole blocks.
      observation_noise: standard deviation of the noise of the latter two, in units of [-1, 1].
      clip: a CLIP; its gradient counts sample.clip_scale times (1 if that is None), towards the
        text of each image. One of noised images, trained on the same schedule, judges x_t; an
        ordinary one what the model takes x_t to have been.
      clip_prompts: what it is told, cycled; () for the prompts that the samples are drawn by. An
        image whose text is empty it leaves alone.
      negative_prompts: texts to steer away from, cycled, in place of no text at all.
      frames: keep that many of the images on the way, evenly from the first to the last; 0 keeps
        the last alone.
      image_embedding: what the embedding is of that a model of unCLIP is told.
    """

    classifier: Trained | None = None
    weaker: Trained | None = None
    composed: Sequence[tuple[float, Mapping[str, ConditionValue]]] = ()
    between_labels: tuple[int, int] | None = None
    init_images: Sequence[np.ndarray] = ()
    strength: float | None = None
    inpaint: tuple[np.ndarray, np.ndarray] | None = None
    colourise: np.ndarray | None = None
    upscale: np.ndarray | None = None
    observation_noise: float = 0.0
    clip: Trained | None = None
    clip_prompts: Sequence[str] = ()
    negative_prompts: Sequence[str] = ()
    frames: int = 0
    image_embedding: EmbeddingOf | None = None

    @property
    def helpers(self) -> dict[str, Any]:
        """The parameters of the other networks."""
        return {name: one.params for name, one in self.guides.items()}

    @property
    def guides(self) -> dict[str, Trained]:
        """The other networks, by their place."""
        models = {"classifier": self.classifier, "weaker": self.weaker, "clip": self.clip}
        return {name: one for name, one in models.items() if one is not None}

    @property
    def interpolates(self) -> bool:
        """The images lead from one thing to another, and share their noise."""
        leads = self.image_embedding is not None and self.image_embedding.leads
        return self.between_labels is not None or len(self.init_images) == 2 or leads

    @property
    def tells_labels(self) -> bool:
        """It says of which classes the images are, each of several."""
        return self.between_labels is not None or any(
            "label" in conditions for _, conditions in self.composed
        )

    @property
    def observed(self) -> np.ndarray | None:
        """The image that is given in part: grey, or small."""
        return self.colourise if self.colourise is not None else self.upscale


def check(c: ConfigDict, task: Task) -> None:
    """A task fits its config and is one thing. Raises UserError naming what does not."""
    ways = {
        "weaker": task.weaker is not None,
        "composed": bool(task.composed),
        "between_labels": task.between_labels is not None,
    }
    _one_of(ways)
    if task.composed or task.between_labels:
        way = "composed" if task.composed else "between_labels"
        if not conditioning.dropout(c):
            raise UserError(f"{way}: this model has no conditions to compose")
        check_guidable(c, way)
    elif task.weaker is None and c.sample.guidance_scale != 1:
        check_guidable(c, f"config.sample.guidance_scale={c.sample.guidance_scale!r}")
    if len(task.negative_prompts):
        _check_negative(c, task)
    goals = {
        "inpaint": task.inpaint is not None,
        "colourise": task.colourise is not None,
        "upscale": task.upscale is not None,
    }
    _one_of(goals)
    if c.sample.classifier_scale is not None and task.classifier is None:
        raise UserError(
            f"config.sample.classifier_scale={c.sample.classifier_scale}: no classifier to "
            "scale; name its run too, or leave it unset"
        )
    if task.strength is not None and not len(task.init_images):
        raise UserError(f"strength={task.strength}: no image to begin with; give init_image too")
    if task.strength is not None and not 0 < task.strength <= 1:
        raise UserError(f"strength={task.strength}: need above 0, at most 1")
    if task.frames == 1 or task.frames < 0:
        raise UserError(f"frames={task.frames}: need at least 2, or 0 for the last image alone")
    if len(task.init_images) > 2:
        raise UserError(f"init_image: need one image, or two, got {len(task.init_images)}")
    if task.observation_noise < 0 or not np.isfinite(task.observation_noise):
        raise UserError(f"observation_noise={task.observation_noise}: need at least 0")
    if task.observation_noise and task.observed is None:
        raise UserError("observation_noise: nothing is observed; colourise or upscale an image")
    check_images(c, task)


def arrays(
    experiment: Experiment,
    num: int,
    labels: np.ndarray,
    shared: Mapping[str, ConditionValue],
    task: Task,
) -> dict[str, Any]:
    """The arrays [num, ...] that a task needs in the program beside the conditions.

    Raises:
      UserError: for labels or conditions that the model does not know.
    """
    encode = experiment.codec.encode
    result: dict[str, Any] = {}
    if task.classifier is not None:
        result["label"] = np.asarray(labels, np.int32)
    for k, (_, conditions) in enumerate(task.composed):
        result[f"branch_{k}"] = _branch(experiment, num, labels, shared, conditions)
    if task.between_labels is not None:
        for k, label in enumerate(task.between_labels):
            result[f"branch_{k}"] = _branch(experiment, num, labels, shared, {"label": label})
    if conditioning.reads_text(experiment.config):
        # Also of no negative prompt: one program serves both.
        result[NEGATIVE] = conditioning.text_rows(
            experiment.config, num, task.negative_prompts, experiment.tokenizer
        )
    if task.interpolates:
        result["share"] = np.linspace(0, 1, num, dtype=np.float32)
    # Images to begin with or to keep are x_0; a mask and what is seen of an image are not.
    parts = {f"init_{k}": encode(image) for k, image in enumerate(task.init_images)}
    if task.inpaint is not None:
        kept, mask = task.inpaint
        below = experiment.codec.mask or (lambda pixels: pixels)
        parts |= {"known": encode(kept), "mask": below(to_float(mask))}
    if task.observed is not None:
        parts["observed"] = to_float(task.observed)
    broadcast = {name: np.broadcast_to(one, (num, *one.shape)) for name, one in parts.items()}
    return result | broadcast


def strength(task: Task) -> float:
    """How far init_images are noised; DEFAULT_STRENGTH if the task does not say."""
    return DEFAULT_STRENGTH if task.strength is None else task.strength


def num_classes(c: ConfigDict, task: Task) -> int:
    """The classes that samples may be asked for: the model's, or those of its classifier.

    Raises:
      UserError: if both have classes, of different numbers.
    """
    own = conditioning.num_classes(c)
    if task.classifier is None:
        return own
    its = task.classifier.experiment.config.model.num_classes
    if own and own != its:
        raise UserError(f"classifier: it has {its} classes, and this model {own}")
    if own:
        names = task.classifier.experiment.config.data.class_names
        class_names.check_same("classifier", c.data.class_names, names)
    return its


def names_of_classes(c: ConfigDict, task: Task) -> tuple[str, ...]:
    """The names of those classes; () where there are none."""
    if c.model.get("num_classes", 0) or task.classifier is None:
        return tuple(c.data.class_names)
    return tuple(task.classifier.experiment.config.data.class_names)


def _branch(
    experiment: Experiment,
    num: int,
    labels: np.ndarray,
    shared: Mapping[str, ConditionValue],
    conditions: Mapping[str, ConditionValue],
) -> dict[str, np.ndarray]:
    """All conditions of one branch: what is given for all, and its own."""
    c, of_branch = experiment.config, dict(conditions)
    if "label" in of_branch:
        classes = c.model.num_classes
        label = class_names.number(c.data.class_names, of_branch.pop("label"))
        if not 0 <= label < classes:
            reason = (
                f"is outside 0..{classes - 1}"
                if classes
                else "applies only to a model with classes"
            )
            raise UserError(f"label {label} {reason}; this one has {classes} of them")
        labels = np.full(num, int(str(label)), np.int32)
    whole = {**shared, **of_branch}
    return conditioning.arrays(c, experiment.own, num, labels, whole, experiment.tokenizer)


def _check_negative(c: ConfigDict, task: Task) -> None:
    """Raises UserError for negative prompts that would change nothing."""
    named = f"negative_prompts={', '.join(map(repr, task.negative_prompts))[:80]}"
    if not conditioning.reads_text(c):
        raise UserError(f"{named}: this model reads no text; leave them out")
    if task.weaker is not None:
        raise UserError(
            f"{named}: a weaker model takes the place of what they steer away from; leave one out"
        )
    scale = c.sample.guidance_scale
    if scale in (0, 1) and not task.composed and task.between_labels is None:
        raise UserError(
            f"{named}: without guidance (guidance_scale={scale:g}) nothing steers away from them; "
            "set a guidance_scale above 1, or leave them out"
        )


def _one_of(ways: Mapping[str, bool]) -> None:
    if len(active := [name for name, is_set in ways.items() if is_set]) > 1:
        raise UserError(f"{' and '.join(active)} do not go together: choose one")


def check_images(c: ConfigDict, task: Task) -> None:
    """Raises UserError for an image or mask of another size or kind."""
    height, width, channels = image_shape(c)
    encoded = [("init_image", image) for image in task.init_images]
    if task.inpaint is not None:
        encoded.append(("inpaint", task.inpaint[0]))
    wanted = [(name, image, (height, width, channels)) for name, image in encoded]
    if task.inpaint is not None:
        wanted.append(("inpaint's mask", task.inpaint[1], (height, width, 1)))
    if task.colourise is not None:
        if channels != 3:
            raise UserError("colourise: this model draws grey images; there is nothing to colour")
        wanted.append(("colourise", task.colourise, (height, width, 1)))
    for name, image, shape in wanted:
        if image.shape != shape:
            raise UserError(f"{name}: need {shape} (height, width, channels), got {image.shape}")
    for name, image in encoded:
        if image.dtype != np.uint8:
            raise UserError(f"{name}: need uint8, 0 to 255, got {image.dtype}")
    if task.upscale is not None:
        small = task.upscale.shape
        fits = small[2:] == (channels,) and height % small[0] == 0 == width % small[1]
        if not fits or height // small[0] != width // small[1] or small[0] == height:
            raise UserError(
                f"upscale: need ({height} / k, {width} / k, {channels}) for a whole k > 1, got "
                f"{small}"
            )
