"""How often samples show what their prompt tells, for `evaluate`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.build import conditioning, datasets, image_embeddings
from ddpm_jax.build.datasets import dataset
from ddpm_jax.config.own_code import Own
from ddpm_jax.data import Source
from ddpm_jax.data.captions import CAPTION
from ddpm_jax.data.shape_captions import NONE
from ddpm_jax.errors import UserError
from ddpm_jax.measures import attributes, images_of, results
from ddpm_jax.measures.drawer import Drawer
from ddpm_jax.measures.results import Figure
from ddpm_jax.trained.drawing import Drawing
from ddpm_jax.trained.tasks import Task

# Of drawn shapes: what an image of one object has as its second one's.
SECOND = "shape_2"


class CaptionPrompts(NamedTuple):
    """Captions to draw by, and the real images that have them.

    Attributes:
      images: [N, H, W, C], 0 to 255 as samples are.
      captions: [N].
      single: bool [N], which of them are of one object; None where the data do not say.
    """

    images: np.ndarray
    captions: list[str]
    single: np.ndarray | None


def applies(config: ConfigDict, own: Own) -> bool:
    """Whether a model reads text, and something says whether a caption is true of an image."""
    return conditioning.reads_text(config) and dataset(config, own).agrees is not None


def check(metric: str, loaded: Drawer, flags: Mapping[str, Any]) -> None:
    """Whether samples of this model follow captions that can be compared with them.

    Args:
      metric: the name of the one that is to be measured, for messages.
      loaded: the model.
      flags: of the command; with a prior_workdir a model of unCLIP can draw by text.

    Raises:
      UserError: for a model that reads no text, or data whose captions nothing compares.
    """
    c, own = loaded.experiment.config, loaded.experiment.own
    if not conditioning.reads_text(c) and not flags.get("prior_workdir"):
        raise UserError(
            f"--metrics={metric}: this model reads no text; train one with text among "
            "config.model.conditions"
            + ", or name a prior with --prior_workdir"
            * image_embeddings.told(c)
        )
    if dataset(c, own).agrees is None:
        compared = [name for name, one in data.DATASETS.items() if one.agrees]
        raise UserError(
            f"--metrics={metric}: nothing says whether a caption of {c.data.name} is true of an "
            f"image, only of {', '.join(compared)}"
        )


def check_held_out(metric: str, loaded: Drawer, flags: Mapping[str, Any]) -> None:
    """As `check`, and whether some pairs were held out."""
    check(metric, loaded, flags)
    attributes.check_held_out(metric, loaded)


def of_held_out_images(loaded: Drawer, num: int) -> CaptionPrompts:
    """The captions of the validation split, cycled: of templates that were trained on."""
    return _cycled(loaded.experiment.source("validation"), num)


def of_unseen_templates(loaded: Drawer, num: int) -> CaptionPrompts:
    """The same images, told by templates that no caption in training is of."""
    c, own = loaded.experiment.config, loaded.experiment.own
    return _cycled(datasets.source(c, "validation", own, captions="unseen"), num)


def of_held_out_pairs(loaded: Drawer, num: int) -> CaptionPrompts:
    """Captions of one object whose pair of shape and colour no image in training shows."""
    return _cycled(attributes.held_out_source(loaded), num)


def drawing(
    loaded: Drawer, prompts: CaptionPrompts, seed: int, *, task: Task, **options: Any
) -> Drawing:
    """Samples of the captions; options as of `Loaded.drawing`."""
    return loaded.drawing(
        len(prompts.captions), prompts=prompts.captions, task=task, seed=seed, **options
    )


class CaptionsAnswered(NamedTuple):
    """Images uint8 [N, H, W, C] of `prompts`; whether an image shows what a caption tells."""

    agrees: Any
    prompts: CaptionPrompts
    images: np.ndarray


def measure(answered: CaptionsAnswered) -> Figure:
    """The share of images that show all that their caption tells."""
    right = _right(answered)
    return results.share(float(right.mean()), len(right))


def measure_apart(answered: CaptionsAnswered) -> tuple[Figure | None, ...]:
    """The same of all, of captions of one object and of two, and by another image's caption.

    The last is the control: it falls to what real images have of it, which is chance.
    """
    right, single = _right(answered), answered.prompts.single
    one, two = (None, None) if single is None else (right[single], right[~single])
    shuffled = _right(answered, shift=1)
    return tuple(_share(part) for part in (right, one, two, shuffled))


def _right(answered: CaptionsAnswered, shift: int = 0) -> np.ndarray:
    """Whether image k shows what caption k + shift tells, bool [N]."""
    agrees, prompts, images = answered
    captions = prompts.captions[shift:] + prompts.captions[:shift]
    return np.array([agrees(image, text) for image, text in zip(images, captions, strict=True)])


def _share(right: np.ndarray | None) -> Figure | None:
    if right is None or not len(right):
        return None
    return results.share(float(right.mean()), len(right))


def _cycled(source: Source, num: int) -> CaptionPrompts:
    return of_rows(source, [k % len(source) for k in range(num)])


def of_rows(source: Source, rows: Sequence[int]) -> CaptionPrompts:
    """The captions and images of these rows of a source."""
    examples = [source[k] for k in rows]
    names = source.info.attributes.get(SECOND)
    single = None
    if names is not None:
        single = np.array([names[example[SECOND]] == NONE for example in examples])
    return CaptionPrompts(
        images_of.of_256_levels([example["image"] for example in examples], source.info),
        [example[CAPTION] for example in examples],
        single,
    )
