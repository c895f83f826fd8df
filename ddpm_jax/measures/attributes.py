"""How often samples show what they were told to show, for `evaluate`."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import data
from ddpm_jax.build import conditioning, datasets
from ddpm_jax.build.datasets import dataset
from ddpm_jax.data.shapes import COLOURS, SHAPES
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import attributes
from ddpm_jax.measures import results
from ddpm_jax.measures.results import Figure
from ddpm_jax.trained.loaded import Drawing, Loaded
from ddpm_jax.trained.tasks import Task

ATTRIBUTES = "attributes"
PAIRS = "held_out_pairs"
COMPOSED = "composed_pairs"
PAIR = ("shape", "colour")
METRICS = (ATTRIBUTES, PAIRS, COMPOSED)


class Prompts(NamedTuple):
    """What samples are told, and real images [N, H, W, C] that show it; the others [N]."""

    images: np.ndarray
    labels: np.ndarray
    wanted: dict[str, np.ndarray]


def check(loaded: Loaded, metrics: Sequence[str]) -> None:
    """Whether each of `metrics`, some of METRICS, can be measured.

    Raises:
      UserError: for data that nothing reads back, a model that is told nothing that could be read,
        or, of PAIRS and COMPOSED, one that is not told shape and colour or was trained on every
        pair.
    """
    c = loaded.experiment.config
    for metric in metrics:
        if dataset(c).describe is None:
            described = [name for name, one in data.DATASETS.items() if one.describe]
            raise UserError(
                f"--metrics={metric}: nothing reads the attributes of {c.data.name} back from "
                f"pixels, only those of {', '.join(described)}"
            )
        needed = () if metric == ATTRIBUTES else PAIR
        told = conditioning.values(c)
        if not told or not {*needed} <= {*told}:
            raise UserError(
                f"--metrics={metric}: this model is told {', '.join(told) or 'no attributes'}; "
                f"train with {' and '.join(needed) or 'some'} among config.model.conditions"
            )
        if metric != ATTRIBUTES and not c.data.options.get("held_out"):
            raise UserError(
                f"--metrics={metric}: this model was trained on every pair; train with "
                "config.data.options.held_out"
            )


def prompts(loaded: Loaded, metric: str, num: int) -> Prompts:
    """What `num` samples are told: the values that held-out images show, the images cycled.

    Of ATTRIBUTES those of the validation split, of the others images of one object that was never
    drawn in training. A condition that is itself an image stays absent.
    """
    c = loaded.experiment.config
    if metric == ATTRIBUTES:
        source = loaded.experiment.source("validation")
    else:
        every = [f"{colour} {shape}" for shape in SHAPES for colour in COLOURS]
        drawn = tuple(pair for pair in every if pair not in c.data.options.get("held_out", ()))
        source = datasets.source(c, "validation", max_objects=1, held_out=drawn)
    examples = [source[k % len(source)] for k in range(num)]
    return Prompts(
        np.stack([example["image"] for example in examples]),
        np.array([example["label"] for example in examples]),
        {name: np.array([e[name] for e in examples]) for name in conditioning.values(c)},
    )


def drawing(
    loaded: Loaded,
    metric: str,
    asked: Prompts,
    seed: int,
    *,
    task: Task,
    guidance_scale: float,
    **options: Any,
) -> Drawing:
    """Samples of what was asked for; options as of `Loaded.drawing`.

    Of COMPOSED no branch is told shape and colour together. With the rest r given to all,
    eps_uncond + w (eps_sr + eps_cr - eps_r - eps_uncond) is guidance by p(s) p(c) p(r), each given
    x_t (Liu et al. 2022).
    """
    classes = loaded.experiment.config.model.num_classes
    told = {name: values.tolist() for name, values in asked.wanted.items()}
    if metric == COMPOSED:
        own = [{name: told.pop(name)} for name in PAIR]
        weights = (guidance_scale, guidance_scale, -guidance_scale)
        task = dataclasses.replace(task, composed=[*zip(weights, [*own, {}], strict=True)])
    else:
        options["guidance_scale"] = guidance_scale
    return loaded.drawing(
        len(asked.labels),
        labels=asked.labels.tolist() if classes else (),
        conditions=told,
        task=task,
        seed=seed,
        **options,
    )


def measure(loaded: Loaded, metric: str, asked: Prompts, images: np.ndarray) -> dict[str, Figure]:
    """Shares in [0, 1]: of images that show all they were told; of ATTRIBUTES each one's too."""
    describe = dataset(loaded.experiment.config).describe
    assert describe is not None  # `check` refuses other data
    together, each = attributes.agreement(images, asked.wanted, describe)
    shares = {metric: together, **(each if metric == ATTRIBUTES else {})}
    return {name: results.share(value, len(images)) for name, value in shares.items()}
