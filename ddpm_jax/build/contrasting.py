"""The network and the objective of a CLIP, and of what else learns a representation of images."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import networks, tower_options
from ddpm_jax.build.networks import NetworkModule
from ddpm_jax.build.tower_options import IMAGES, TEXTS, Options
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.choose import choose, defaults_of, keywords
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion import losses
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.models import Clip
from ddpm_jax.models.text import BagOfWords, TextTransformer
from ddpm_jax.models.vision import ModifiedResNet, VisionTransformer
from ddpm_jax.models.vision.heads import HeadedTower, LinearHead, PrototypeHead
from ddpm_jax.models.vision.resnet import BATCH, GROUP
from ddpm_jax.training.objectives.base import Objective
from ddpm_jax.training.objectives.contrast import contrast, triplets
from ddpm_jax.training.objectives.views import rotation, self_distillation

IMAGE_TOWERS: dict[str, Callable[..., Any]] = {"vit": VisionTransformer, "resnet": ModifiedResNet}
TEXT_TOWERS: dict[str, Callable[..., Any]] = {
    "transformer": TextTransformer,
    "bag_of_words": BagOfWords,
}
# What nobody sets: flax's own, and what hangs on a vocabulary that is not there yet.
HIDDEN = ("parent", "name", "eos", "pad", "attention", "timed")


@dataclasses.dataclass(frozen=True)
class Row:
    """A way to learn a representation of images.

    Attributes:
      network: (config, options of the objective) -> the network.
      objective: (config, network, options) -> what is minimised.
      options: their keywords, with the default of each.
      text: whether it reads captions.
    """

    network: Callable[[ConfigDict, Mapping[str, Any]], NetworkModule]
    objective: Callable[[ConfigDict, Any, Mapping[str, Any]], Objective]
    options: Callable[..., dict[str, Any]]
    text: bool = True


def reads_text(c: ConfigDict) -> bool:
    """Whether config.objective reads captions. Raises UserError for an unknown one."""
    return _row(c).text


def network(c: ConfigDict, own: Own = NONE) -> NetworkModule:
    """The network of config.model and config.objective.

    Raises:
      UserError: for a name or an option that is unknown, or a value that does not fit.
      ValueError: as the towers do for sizes that do not fit them, when they are traced.
    """
    choose("model.name", c.model.name, {"clip": None})
    made = _row(c).network(c, options(c))
    jax.eval_shape(lambda key: initial_params(c, own, made, key), jax.random.key(0))
    return made


def initial_params(c: ConfigDict, own: Own, made: Any, key: jax.Array) -> Any:
    """The network's parameters before training."""
    text = (jnp.zeros((1, c.data.context), jnp.int32),) if reads_text(c) else ()
    return made.init(key, jnp.zeros((1, *image_shape(c))), *text)["params"]


def objective(
    c: ConfigDict, made: NetworkModule, schedule: Schedule | None, own: Own = NONE
) -> Objective:
    """What config.objective minimises. Raises UserError, or ValueError for an option's value."""
    return _row(c).objective(c, made, options(c))


def logit_scale(c: ConfigDict, params: Any) -> float:
    """What the cosines of images and texts are multiplied by before the softmax over either.

    Raises:
      UserError: for a run that compares images with no texts.
    """
    if "log_scale" not in params:
        raise UserError("this run compares images with no texts, and has no scale")
    limit = options(c).get("largest_scale", losses.contrastive.LARGEST_SCALE)
    return float(min(np.exp(params["log_scale"]), limit))


def image_tower(c: ConfigDict, projected: bool = True) -> Any:
    """The images' tower of config.model. Raises UserError for an option that does not fit.

    Args:
      c: the config.
      projected: into the space that images and texts share, where a tower can do without.
    """
    tower = choose("model.image", c.model.image, IMAGE_TOWERS)
    provided = {**_provided(c), "image_size": image_shape(c)[:2]}
    if not projected and defaults_of(tower)["embed_dim"] is None:
        provided["embed_dim"] = None
    options = dict(c.model.image_options)
    if tower is ModifiedResNet:
        if options.setdefault("norm", GROUP) == BATCH:
            raise UserError(
                "config.model.image_options.norm='batch': an image's embedding would depend on its "
                "batch, and its statistics would be set by nobody; set group"
            )
        if c.model.remat != "none":
            raise UserError(f"config.model.remat={c.model.remat}: resnet has no such choice")
    return tower(
        **keywords(
            "model.image_options",
            options,
            tower,
            name=f"tower {c.model.image}",
            provided=provided,
            hidden=HIDDEN,
            choices=IMAGE_TOWERS,
        )
    )


def text_tower(c: ConfigDict) -> Any:
    """The texts' tower of config.model. Raises UserError for an option that does not fit."""
    tower = choose("model.text", c.model.text, TEXT_TOWERS)
    if c.model.text_options.get("pooling") == "eos":
        raise UserError(
            "config.model.text_options.pooling='eos': the end is the largest token of a run's "
            "tokenizers; set largest"
        )
    vocabulary = {"vocab_size": c.data.vocabulary, "context_length": c.data.context}
    return tower(
        **keywords(
            "model.text_options",
            c.model.text_options,
            tower,
            name=f"tower {c.model.text}",
            provided=_provided(c) | vocabulary,
            hidden=HIDDEN,
            choices=TEXT_TOWERS,
        )
    )


def towers(c: ConfigDict, made: Any) -> dict[str, Options]:
    """The options of a network's towers, of images and perhaps of texts, by their names."""
    image = tower_options.of_pixels(made.image, made.mean, made.std, c.data.channels)
    text = getattr(made, TEXTS, None)
    return {IMAGES: image} | ({} if text is None else {TEXTS: tower_options.described(text)})


def _provided(c: ConfigDict) -> dict[str, Any]:
    return {
        "embed_dim": c.model.get("embed_dim"),
        "dtype": networks.dtype(c),
        "remat": networks.remat(c),
    }


def pixels(c: ConfigDict) -> dict[str, Any]:
    """How a network normalises pixels, of config.model. Raises UserError for another number."""
    channels = c.data.channels
    for field in ("image_mean", "image_std"):
        if len(value := c.model[field]) not in (1, channels):
            raise UserError(f"config.model.{field}={value}: need one number, or {channels}")
    return {"mean": tuple(c.model.image_mean), "std": tuple(c.model.image_std)}


def _two_towers(c: ConfigDict, options: Mapping[str, Any]) -> Clip:
    text = text_tower(c)
    # A triplet's margin is of the embeddings themselves, which nothing multiplies.
    scale = {"first_scale": options["first_scale"]} if "first_scale" in options else {}
    causal = getattr(text, "causal", False)
    return Clip(image_tower(c), text, masked=not causal, **pixels(c), **scale)


def _embedded(made: Any) -> Callable[..., Any]:
    """The rows of a batch as a CLIP embeds them."""

    def rows(params: Any, batch: Any, key: jax.Array, train: bool) -> dict[str, jax.Array]:
        embeds = made.apply({"params": params}, batch["x0"], batch["text"])
        return {"image": embeds.image_embeds, "text": embeds.text_embeds}

    return rows


def _clip_options(
    *,
    first_scale: float = 1 / 0.07,
    largest_scale: float = losses.contrastive.LARGEST_SCALE,
) -> dict[str, Any]:
    if not 0 < first_scale <= largest_scale:
        raise ValueError(f"need 0 < first_scale <= largest_scale, got {first_scale}")
    return {"first_scale": first_scale, "largest_scale": largest_scale}


def _triplet_options(*, margin: float = 0.2) -> dict[str, Any]:
    if margin < 0:
        raise ValueError(f"need margin >= 0, got {margin}")
    return {"margin": margin}


def _clip(c: ConfigDict, made: Any, options: Mapping[str, Any]) -> Objective:
    return contrast(
        _embedded(made),
        lambda params: jnp.exp(params["log_scale"]),
        largest_scale=options["largest_scale"],
    )


def _triplet(c: ConfigDict, made: Any, options: Mapping[str, Any]) -> Objective:
    return triplets(_embedded(made), margin=options["margin"])


def _headed(c: ConfigDict, head: Any) -> HeadedTower:
    return HeadedTower(image_tower(c, projected=False), head, **pixels(c))


def _turns(c: ConfigDict, options: Mapping[str, Any]) -> HeadedTower:
    height, width, _ = image_shape(c)
    if height != width:
        raise UserError(
            f"config.data.image_size={(height, width)}: images are turned by quarters, and must be "
            "square"
        )
    return _headed(c, LinearHead(4))


def _scores(made: Any) -> Callable[[Any, jax.Array], jax.Array]:
    return lambda params, images: made.apply({"params": params}, images)


def _no_options() -> dict[str, Any]:
    return {}


def _dino_options(
    *,
    prototypes: int = 256,
    smallest_crop: float = 0.4,
    jitter: float = 0.2,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    momentum: float = 0.9,
) -> dict[str, Any]:
    if prototypes < 2:
        raise ValueError(f"need prototypes >= 2, got {prototypes}")
    return dict(locals())


def _dino(c: ConfigDict, made: Any, options: Mapping[str, Any]) -> Objective:
    own = {name: value for name, value in options.items() if name != "prototypes"}
    return self_distillation(_scores(made), options["prototypes"], **own)


OBJECTIVES: dict[str, Row] = {
    "clip": Row(_two_towers, _clip, _clip_options),
    "triplet": Row(_two_towers, _triplet, _triplet_options),
    "rotation": Row(
        _turns, lambda c, made, options: rotation(_scores(made)), _no_options, text=False
    ),
    "dino": Row(
        lambda c, options: _headed(c, PrototypeHead(options["prototypes"])),
        _dino,
        _dino_options,
        text=False,
    ),
}


def _row(c: ConfigDict) -> Row:
    return choose("objective.name", c.objective.name, OBJECTIVES)


def options(c: ConfigDict) -> dict[str, Any]:
    """config.objective.options with the defaults of config.objective.name. Raises UserError."""
    row = _row(c)
    try:
        return row.options(
            **keywords(
                "objective.options",
                c.objective.options,
                row.options,
                name=f"objective {c.objective.name}",
                choices={name: one.options for name, one in OBJECTIVES.items()},
            )
        )
    except ValueError as error:
        raise UserError(f"config.objective.options: {error}") from error
