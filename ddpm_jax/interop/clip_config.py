"""config.json of transformers' CLIP models: each field honoured, refused, or of no meaning here."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ddpm_jax.interop.pretrained_config import PRETRAINED
from ddpm_jax.models import Clip
from ddpm_jax.models.text import TextTransformer
from ddpm_jax.models.vision import VisionTransformer

CLIP_TYPE, TEXT_TYPE = "clip", "clip_text_model"
# What transformers' names of activations are here.
ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
# Before its release 4.31 transformers wrote 2 here whatever the end of text was, and it still takes
# a text's token of the largest number then.
EOS_UNKNOWN = 2


class _Field(NamedTuple):
    default: Any  # of transformers 5.24
    holds: Callable[[Any], bool]
    supported: str


def _whole(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(default: int) -> _Field:
    return _Field(default, _whole, "a whole number from 1")


_SHARED = {
    "hidden_act": _Field(
        "quick_gelu",
        lambda value: isinstance(value, str) and value in ACTIVATIONS,
        " or ".join(map(json.dumps, ACTIVATIONS)),
    ),
    "layer_norm_eps": _Field(1e-5, lambda v: _number(v) and v > 0, "a number above 0"),
    "attention_dropout": _Field(0.0, lambda v: _number(v) and v == 0, "0"),
    "dropout": _Field(0.0, lambda v: _number(v) and v == 0, "0"),
}
_TEXT = {
    "vocab_size": _count(49408),
    "hidden_size": _count(512),
    "intermediate_size": _count(2048),
    "num_hidden_layers": _count(12),
    "num_attention_heads": _count(8),
    "max_position_embeddings": _count(77),
    "eos_token_id": _Field(49407, lambda v: _whole(v, 0), "a whole number"),
    **_SHARED,
}
_VISION = {
    "hidden_size": _count(768),
    "intermediate_size": _count(3072),
    "num_hidden_layers": _count(12),
    "num_attention_heads": _count(12),
    "num_channels": _count(3),
    "image_size": _count(224),
    "patch_size": _count(32),
    **_SHARED,
}
# These change the network where they hold anything.
_EMPTY = {"pruned_heads"}
# Of initial weights; a tower's projection is that of the whole.
_NO_MEANING = {"initializer_factor", "initializer_range", "logit_scale_init_value"}
_NO_MEANING |= {"projection_dim", *PRETRAINED}
_TOGETHER = {"text_config", "vision_config", "text_config_dict", "vision_config_dict"}


def clip_of(config: Mapping[str, Any]) -> tuple[Clip, int]:
    """The network that config.json of a `CLIPModel` describes, and the channels of its images.

    Raises:
      ValueError: for a field, or a value of one, that is not supported, naming it.
    """
    _check_type(config, CLIP_TYPE, "text_encoder_from_transformers reads a text encoder alone")
    _check_known(config, {}, _TOGETHER, "")
    embed_dim = _value("projection_dim", config.get("projection_dim", 512), _count(512), "")
    vision = _fields(_of_part(config, "vision_config", _VISION), _VISION, "vision_config.")
    text = text_of(_of_part(config, "text_config", _TEXT), embed_dim, "text_config.")
    image = VisionTransformer(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        embed_dim=embed_dim,
        **_tower(vision, "vision_config."),
    )
    return Clip(image, text), vision["num_channels"]


def text_of(config: Mapping[str, Any], embed_dim: int | None, where: str = "") -> TextTransformer:
    """The text tower that these fields describe; `embed_dim` of its projection, None for none.

    Raises:
      ValueError: as `clip_of`; `where` stands before the field's name.
    """
    text = _fields(config, _TEXT, where)
    eos = text["eos_token_id"]
    return TextTransformer(
        vocab_size=text["vocab_size"],
        context_length=text["max_position_embeddings"],
        pooling="largest" if eos == EOS_UNKNOWN else "eos",
        eos=eos,
        embed_dim=embed_dim,
        **_tower(text, where),
    )


def check_text(config: Mapping[str, Any]) -> None:
    """Raises ValueError unless this is config.json of a text encoder."""
    _check_type(config, TEXT_TYPE, "clip_from_transformers reads a whole CLIPModel")


def projection_dim(config: Mapping[str, Any]) -> int:
    """Of a text encoder that has a projection. Raises ValueError for no such number."""
    return _value("projection_dim", config.get("projection_dim", 512), _count(512), "")


def of_clip(clip: Clip) -> dict[str, Any]:
    """config.json of the `CLIPModel` that is this network, but for the channels of its images.

    Raises:
      ValueError: for a network that transformers cannot express.
    """
    image = clip.image
    if not isinstance(image, VisionTransformer):
        raise ValueError(f"transformers' CLIPModel has no image tower of {type(image).__name__}")
    if image.timed:
        raise ValueError("transformers' CLIPModel is shown no time, which this tower is")
    size = image.image_size if isinstance(image.image_size, int) else set(image.image_size)
    if isinstance(size, set):
        if len(size) != 1:
            raise ValueError(f"image_size={image.image_size}: transformers' images are square")
        (size,) = size
    text = of_text(clip.text)
    embed_dim = text["projection_dim"]
    if embed_dim is None or image.embed_dim != embed_dim:
        raise ValueError(
            f"embed_dim is {image.embed_dim} of images and {embed_dim} of texts; need one number"
        )
    vision = {
        "model_type": "clip_vision_model",
        **_of_tower(image, f"{type(image).__name__}."),
        "image_size": size,
        "patch_size": image.patch_size,
        "projection_dim": embed_dim,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": CLIP_TYPE,
        "projection_dim": embed_dim,
        "text_config": {k: v for k, v in text.items() if k != "architectures"},
        "vision_config": vision,
    }


def of_text(text: Any) -> dict[str, Any]:
    """config.json of the text encoder that is this network. Raises ValueError as `of_clip`."""
    if not isinstance(text, TextTransformer):
        raise ValueError(f"transformers' CLIP has no text tower of {type(text).__name__}")
    if not text.causal:
        raise ValueError("causal=False: transformers' CLIP reads texts causally")
    if text.pooling not in ("largest", "eos"):
        raise ValueError(f"pooling={text.pooling!r}: transformers' CLIP pools by the end of text")
    if text.pooling == "eos" and text.eos == EOS_UNKNOWN:
        raise ValueError(f"eos={text.eos} means the largest number to transformers' CLIP")
    has = "CLIPTextModelWithProjection" if text.embed_dim else "CLIPTextModel"
    return {
        "architectures": [has],
        "model_type": TEXT_TYPE,
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        "eos_token_id": EOS_UNKNOWN if text.pooling == "largest" else text.eos,
        "projection_dim": text.embed_dim,
        **_of_tower(text, f"{type(text).__name__}."),
    }


def _tower(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields that both towers share."""
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    if width % heads:
        raise _refuse(f"{where}num_attention_heads", heads, f"divisors of hidden_size {width}")
    return {
        "width": width,
        "depth": fields["num_hidden_layers"],
        "num_heads": heads,
        "mlp_width": fields["intermediate_size"],
        "activation": ACTIVATIONS[fields["hidden_act"]],
        "norm_epsilon": float(fields["layer_norm_eps"]),
    }


def _of_tower(tower: Any, where: str) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if tower.activation not in names:
        raise ValueError(f"{where}activation={tower.activation!r} has no name in transformers")
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width or 4 * tower.width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.num_heads,
        "hidden_act": names[tower.activation],
        "layer_norm_eps": tower.norm_epsilon,
    }


def _of_part(
    config: Mapping[str, Any], name: str, known: Mapping[str, _Field]
) -> Mapping[str, Any]:
    """The fields of a tower. Where an old file has both, transformers takes NAME_dict's."""
    part, older = config.get(name), config.get(f"{name}_dict")
    for value, said in ((part, name), (older, f"{name}_dict")):
        if value is not None and not isinstance(value, Mapping):
            raise _refuse(said, value, "an object")
    if older is not None:
        return {**(part or {}), **{key: field.default for key, field in known.items()}, **older}
    return part or {}


def _fields(config: Mapping[str, Any], known: Mapping[str, _Field], where: str) -> dict[str, Any]:
    _check_known(config, known, set(), where)
    return {
        name: _value(name, config.get(name, field.default), field, where)
        for name, field in known.items()
    }


def _value(name: str, value: Any, field: _Field, where: str) -> Any:
    if not field.holds(value):
        raise _refuse(where + name, value, field.supported)
    return value


def _check_known(
    config: Mapping[str, Any], known: Mapping[str, _Field], also: set[str], where: str
) -> None:
    for name, value in config.items():
        if name in _EMPTY and not value:
            continue
        if name not in known and name not in _NO_MEANING and name not in also:
            raise _refuse(where + name, value, "the fields of CLIP in transformers; not this one")


def _check_type(config: Mapping[str, Any], need: str, otherwise: str) -> None:
    if config.get("model_type") != need:
        raise _refuse("model_type", config.get("model_type"), f'"{need}" ({otherwise})')


def _refuse(name: str, value: Any, supported: str) -> ValueError:
    return ValueError(f"config.json: {name} is {json.dumps(value)}; supported: {supported}")
