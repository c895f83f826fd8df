"""How often samples show what they were told to show, for `evaluate`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.build import conditioning, datasets
from ddpm_jax.build.datasets import dataset
from ddpm_jax.config.own_code import Own
from ddpm_jax.data import Source
from ddpm_jax.data.shapes import COLOURS, SHAPES
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import attributes
from ddpm_jax.measures import images_of, results
from ddpm_jax.measures.drawer import Drawer
from ddpm_jax.measures.results import Figure
from ddpm_jax.trained.drawing import Drawing
from ddpm_jax.trained.loaded import Loaded
from ddpm_jax.trained.tasks import Task

PAIR = ("shape", "colour")


class Prompts(NamedTuple):
    """What samples are conditioned on, and real images that show it.

    Attributes:
      images, labels: [N, H, W, C], 0 to 255 as samples are, and [N].
      wanted: the values that they show, {condition: [N]}.
      composed: no branch is conditioned on both of PAIR.
      each: how often each condition is shown counts too.
      given: the conditions that samples are drawn by, where these are not `wanted`.
    """

    images: np.ndarray
    labels: np.ndarray
    wanted: dict[str, np.ndarray]
    composed: bool = False
    each: bool = False
    given: dict[str, Any] | None = None


class Answered(NamedTuple):
    """Images uint8 [N, H, W, C] drawn as `prompts` tell; what `describe` reads back from one."""

    describe: Callable[[np.ndarray], dict[str, int] | None]
    prompts: Prompts
    images: np.ndarray


def applies(config: ConfigDict, own: Own) -> bool:
    """Whether something reads back from its samples what a model is conditioned on."""
    return bool(conditioning.values(config, own)) and dataset(config, own).describe is not None


def check(
    metric: str, loaded: Loaded, flags: Mapping[str, Any], needed: Sequence[str] = ()
) -> None:
    """Whether samples of this model show what can be read back.

    Args:
      metric: the name of the one that is to be measured, for messages.
      loaded: the model.
      flags: of the command; not read.
      needed: conditions that it must take; none for any.

    Raises:
      UserError: for data that nothing reads back, or a model that does not take those.
    """
    c, own = loaded.experiment.config, loaded.experiment.own
    if dataset(c, own).describe is None:
        described = [name for name, one in data.DATASETS.items() if one.describe]
        raise UserError(
            f"--metrics={metric}: nothing reads the attributes of {c.data.name} back from "
            f"pixels, only those of {', '.join(described)}"
        )
    names = conditioning.values(c, own)
    if not names or not {*needed} <= {*names}:
        raise UserError(
            f"--metrics={metric}: this model is conditioned on "
            f"{', '.join(names) or 'no attributes'}; train with "
            f"{' and '.join(needed) or 'some'} among config.model.conditions"
        )


def check_controlled(metric: str, loaded: Loaded, flags: Mapping[str, Any]) -> None:
    """Raises UserError for a model without a branch of control, or data that nothing reads back."""
    c, own = loaded.experiment.config, loaded.experiment.own
    if not c.model.control:
        raise UserError(
            f"--metrics={metric}: this model has no branch of control; train one with "
            "config.model.control"
        )
    if dataset(c, own).describe is None:
        raise UserError(
            f"--metrics={metric}: nothing reads the attributes of {c.data.name} back from pixels"
        )


def check_pairs(metric: str, loaded: Loaded, flags: Mapping[str, Any]) -> None:
    """As `check`, of PAIR, and whether some pairs were held out."""
    check(metric, loaded, flags, PAIR)
    check_held_out(metric, loaded)


def check_held_out(metric: str, loaded: Drawer) -> None:
    """Raises UserError for a model that was trained on every pair."""
    if not held_out(loaded):
        raise UserError(
            f"--metrics={metric}: this model was trained on every pair; train with "
            "config.data.options.held_out"
        )


def held_out(loaded: Drawer) -> tuple[str, ...]:
    """The pairs of colour and shape that no image in training shows."""
    return tuple(loaded.experiment.config.data.options.get("held_out") or ())


def held_out_images(loaded: Loaded, num: int) -> Prompts:
    """Conditions of `num` samples: the values that images of the validation split show, cycled."""
    source = loaded.experiment.source("validation")
    return _prompts(loaded, source, num)._replace(each=True)


def controlled_images(loaded: Loaded, num: int) -> Prompts:
    """Conditions of `num` samples: the images that control them, of held-out images, cycled.

    Nothing else is told, and the samples are to show all that the held-out images show.
    """
    c, own = loaded.experiment.config, loaded.experiment.own
    source = loaded.experiment.source("validation")
    every = [source[k % len(source)] for k in range(num)]
    known = [name for name, values in dataset(c, own).conditions.items() if type(values) is tuple]
    return _prompts(loaded, source, num)._replace(
        wanted={name: np.array([example[name] for example in every]) for name in known},
        each=True,
        given={name: np.stack([example[name] for example in every]) for name in c.model.control},
    )


def held_out_pairs(loaded: Loaded, num: int, composed: bool = False) -> Prompts:
    """Conditions of `num` samples: what images show of one object that no image in training shows.

    Args:
      loaded: the model.
      num: how many.
      composed: tell both of PAIR apart.
    """
    return _prompts(loaded, held_out_source(loaded), num)._replace(composed=composed)


def one_object_source(loaded: Loaded) -> Source | None:
    """Images of one object, of pairs that images in training show; None of data without objects."""
    c, own = loaded.experiment.config, loaded.experiment.own
    if "max_objects" not in dataset(c, own).options():
        return None
    return datasets.source(c, "validation", own, max_objects=1)


def held_out_source(loaded: Drawer) -> Source:
    """Images of one object, of the pairs that no image in training shows."""
    c, own = loaded.experiment.config, loaded.experiment.own
    every = [f"{colour} {shape}" for shape in SHAPES for colour in COLOURS]
    drawn = tuple(pair for pair in every if pair not in held_out(loaded))
    return datasets.source(c, "validation", own, max_objects=1, held_out=drawn)


def _prompts(loaded: Loaded, source: Source, num: int) -> Prompts:
    """A condition that is itself an image stays absent."""
    examples = [source[k % len(source)] for k in range(num)]
    return Prompts(
        images_of.of_256_levels([example["image"] for example in examples], source.info),
        np.array([example["label"] for example in examples]),
        {
            name: np.array([example[name] for example in examples])
            for name in conditioning.values(loaded.experiment.config, loaded.experiment.own)
        },
    )


def drawing(
    loaded: Loaded,
    prompts: Prompts,
    seed: int,
    *,
    task: Task,
    guidance_scale: float,
    **options: Any,
) -> Drawing:
    """Samples of what was asked for; options as of `Loaded.drawing`.

    Composed, no branch takes shape and colour together. With the rest r given to all,
    eps_uncond + w (eps_sr + eps_cr - eps_r - eps_uncond) is guidance by p(s) p(c) p(r), each given
    x_t (Liu et al. 2022).
    """
    classes = loaded.experiment.config.model.num_classes
    conditions: dict[str, Any] = {name: one.tolist() for name, one in prompts.wanted.items()}
    if prompts.given is not None:
        conditions = prompts.given
    if prompts.composed:
        own = [{name: conditions.pop(name)} for name in PAIR]
        weights = (guidance_scale, guidance_scale, -guidance_scale)
        task = dataclasses.replace(task, composed=[*zip(weights, [*own, {}], strict=True)])
    else:
        options["guidance_scale"] = guidance_scale
    return loaded.drawing(
        len(prompts.labels),
        labels=prompts.labels.tolist() if classes else (),
        conditions=conditions,
        task=task,
        seed=seed,
        **options,
    )


def measure(answered: Answered) -> dict[str, Figure]:
    """Shares in [0, 1]: of images that show all they were told, as ""; of each where prompted."""
    describe, prompts, images = answered
    together, each = attributes.agreement(images, prompts.wanted, describe)
    shares = {"": together, **(each if prompts.each else {})}
    return {name: results.share(value, len(images)) for name, value in shares.items()}
