"""How often variations of images show what those show, for `evaluate`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.build import image_embeddings
from ddpm_jax.build.datasets import dataset
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.attributes import agreement
from ddpm_jax.measures import attributes, images_of, results
from ddpm_jax.measures.attributes import PAIR
from ddpm_jax.measures.results import Figure
from ddpm_jax.models.image_embedding import EMBEDDING
from ddpm_jax.trained.drawing import Drawing
from ddpm_jax.trained.loaded import Loaded
from ddpm_jax.trained.tasks import Task


class Varied(NamedTuple):
    """Real images whose variations are drawn, one of each.

    Attributes:
      images: [N, H, W, C], 0 to 255 as samples are.
      wanted: what they show, {attribute: [N]}.
    """

    images: np.ndarray
    wanted: dict[str, np.ndarray]


class VariationsAnswered(NamedTuple):
    """Images uint8 [N, H, W, C] drawn by the embeddings of `prompts`; what reads them."""

    describe: Any
    prompts: Varied
    images: np.ndarray


def check(metric: str, loaded: Loaded, flags: Mapping[str, Any]) -> None:
    """Whether a model is told embeddings, of data that something reads back.

    Args:
      metric: the name of the one that is to be measured, for messages.
      loaded: the model.
      flags: of the command; not read.

    Raises:
      UserError: for a model or data that are not so.
    """
    c, own = loaded.experiment.config, loaded.experiment.own
    if not image_embeddings.told(c):
        raise UserError(
            f"--metrics={metric}: this model is told no image's embedding; train one with "
            f"{EMBEDDING} among config.model.conditions"
        )
    if dataset(c, own).describe is None or attributes.one_object_source(loaded) is None:
        raise UserError(
            f"--metrics={metric}: nothing reads the shape and colour of one object of "
            f"{c.data.name} back from pixels"
        )


def of_held_out_images(loaded: Loaded, num: int) -> Varied:
    """Images of one object of the validation split, cycled."""
    source = attributes.one_object_source(loaded)
    assert source is not None  # `check` refuses other data
    examples = [source[k % len(source)] for k in range(num)]
    return Varied(
        images_of.of_256_levels([example["image"] for example in examples], source.info),
        {name: np.array([example[name] for example in examples]) for name in PAIR},
    )


def drawing(loaded: Loaded, prompts: Varied, seed: int, *, task: Task, **options: Any) -> Drawing:
    """A variation of each image; options as of `Loaded.drawing`."""
    x0 = loaded.experiment.codec.encode(prompts.images)
    embedded = loaded.experiment.clip.embed_encoded(x0)
    conditions = {EMBEDDING: embedded}
    task = dataclasses.replace(task, image_embedding=None)  # a prior has no part in them
    return loaded.drawing(len(embedded), conditions=conditions, task=task, seed=seed, **options)


def measure(answered: VariationsAnswered) -> dict[str, Figure]:
    """The share of variations that keep shape and colour, as "", and each of the two."""
    describe, prompts, images = answered
    together, each = agreement(images, prompts.wanted, describe)
    shares = {"": together} | {f"variation_{name}": value for name, value in each.items()}
    return {name: results.share(value, len(images)) for name, value in shares.items()}
