"""config.model.conditions: what the network takes beside x_t, and in which form.

The data set says what a condition is: the names of its values, or the channels of an image; "text"
is the captions of its examples. One of the user's own is among `own`, the parts that were handed
over by "package.module:name".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import image_embeddings, upsampling
from ddpm_jax.build.datasets import dataset
from ddpm_jax.codecs import to_float
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.own_code import Own
from ddpm_jax.data.base import nearest
from ddpm_jax.data.captions import TEXT
from ddpm_jax.data.tokenizers import Tokenizer
from ddpm_jax.diffusion.condition_dropout import NULL_VALUE
from ddpm_jax.errors import UserError
from ddpm_jax.models.image_embedding import EMBEDDING

# A value by its name or number, one for each image, cycled; or an image for all, or one for each; a
# text, one for each image, cycled, or rows of tokens, int [num, L].
# The embedding of an image: [D] for all, or [num, D].
ConditionValue = str | int | Sequence[str | int] | np.ndarray

# What the data are not asked for: it is made of a batch's images and captions.
MADE = (upsampling.NAME, TEXT, EMBEDDING)


def condition_names(c: ConfigDict) -> tuple[str, ...]:
    """config.model.conditions; () of a kind of run that takes nothing beside x_t."""
    return tuple(c.model.get("conditions", ()))


def reads_text(c: ConfigDict) -> bool:
    """Whether the network reads captions."""
    return TEXT in condition_names(c)


def dropout(c: ConfigDict) -> dict[str, float]:
    """Every condition of the network with its probability of being absent in training."""
    label = {"label": _hiding(c).label_dropout} if takes_labels(c) else {}
    rates = _hiding(c).get("condition_dropout") or (0.0,) * len(condition_names(c))
    return label | dict(zip(condition_names(c), rates, strict=True))


def values(c: ConfigDict, own: Own) -> dict[str, tuple[str, ...]]:
    """The names of the values of config.model.conditions, except images."""
    return {
        name: value_names
        for name, value_names in _available(c, own).items()
        if not isinstance(value_names, int)
    }


def images(c: ConfigDict, own: Own) -> dict[str, int]:
    """The channels of those of config.model.conditions that are images."""
    return {
        name: channels for name, channels in _available(c, own).items() if isinstance(channels, int)
    }


def of_data(c: ConfigDict) -> tuple[str, ...]:
    """Those of config.model.conditions that the data are asked for."""
    return tuple(name for name in condition_names(c) if name not in MADE)


def num_classes(c: ConfigDict) -> int:
    """The classes that the network is told; 0 for none."""
    return c.model.get("num_classes", 0)


def takes_labels(c: ConfigDict) -> bool:
    """Whether the network takes the label, as a condition."""
    return bool(num_classes(c)) and "label_dropout" in _hiding(c)


def shown_shapes(c: ConfigDict, own: Own) -> dict[str, tuple[tuple[int, ...], type]]:
    """The shape (of one example) and dtype in which the network sees each condition but labels."""
    height, width, _ = image_shape(c)
    of_values: dict[str, tuple[tuple[int, ...], type]] = dict.fromkeys(
        values(c, own), ((), np.int32)
    )
    of_text: dict[str, tuple[tuple[int, ...], type]] = {}
    if reads_text(c):
        of_text[TEXT] = ((c.data.context,), np.int32)
    of_images = {
        name: ((height, width, channels), np.float32) for name, channels in images(c, own).items()
    }
    return of_values | of_images | of_text | image_embeddings.shapes(c)


def shapes(c: ConfigDict, own: Own) -> dict[str, tuple[tuple[int, ...], type]]:
    """The shape (of one example) and dtype of each of `of_data`."""
    entries: dict[str, tuple[tuple[int, ...], type]] = dict.fromkeys(values(c, own), ((), np.int32))
    of_images = image_shapes(c, own)
    return entries | {
        name: (of_images[name], np.float32) for name in of_images if name in of_data(c)
    }


def image_shapes(c: ConfigDict, own: Own) -> dict[str, tuple[int, int, int]]:
    """The shape in which each condition that is an image is given when sampling."""
    height, width, _ = image_shape(c)
    sizes = {name: (height, width, channels) for name, channels in images(c, own).items()}
    small = upsampling.size(c)
    return sizes if small is None else sizes | {upsampling.NAME: small}


def ever_hidden(c: ConfigDict, name: str) -> bool:
    """Whether this condition, or "label", was ever absent in training."""
    return dropout(c)[name] > 0 or _hiding(c).get("joint_dropout", 0) > 0


def _hiding(c: ConfigDict) -> ConfigDict:
    """The group of fields that say how often conditions are hidden, of this kind of run."""
    return c.get("diffusion", c.model)


def _available(c: ConfigDict, own: Own) -> dict[str, tuple[str, ...] | int]:
    """What is known of each of config.model.conditions but a text and an image's embedding.

    Raises:
      UserError: for an unknown name.
    """
    available = dict(dataset(c, own).conditions) if of_data(c) else {}
    for name in of_data(c):
        if name not in available:
            raise UserError(
                f"config.model.conditions={condition_names(c)}: the data {c.data.name} know no "
                f"{name!r}; they know {', '.join(available) or 'nothing but labels'}"
            )
    # A small image and the level of its noise.
    available = {**available, upsampling.NAME: c.data.channels + 1}
    return {name: available[name] for name in condition_names(c) if name not in (TEXT, EMBEDDING)}


def arrays(
    c: ConfigDict,
    own: Own,
    num: int,
    labels: np.ndarray,
    conditions: Mapping[str, ConditionValue],
    tokenizer: Tokenizer | None = None,
) -> dict[str, np.ndarray]:
    """Every condition of the network for `num` images; what is not given is absent.

    A small image to enlarge is given to the program, which enlarges it (`upsampling.prepare`).

    Args:
      c: the config.
      own: the user's parts.
      num: how many images.
      labels: int [num], for a network with classes.
      conditions: their values, by name.
      tokenizer: of the network's text, if that is given as texts.

    Raises:
      UserError: for a name or value that is unknown, or an image of another size.
    """
    _check_read(c, conditions)
    told = image_embeddings.shapes(c)
    if unknown := sorted(set(conditions) - {*values(c, own), *images(c, own), TEXT, *told}):
        choices = ", ".join(condition_names(c)) or "none but labels"
        hint = nearest(unknown[0], condition_names(c))
        raise UserError(
            f"condition {unknown[0]}: this model has no such condition; it has {choices}{hint}"
        )
    whole = {"label": np.asarray(labels, np.int32)} if num_classes(c) else {}
    for name, names in values(c, own).items():
        selection = conditions.get(name, ())
        selection = [selection] if isinstance(selection, str | int) else list(selection)
        numbers = [_number(name, value, names) for value in selection]
        whole[name] = np.resize(np.asarray(numbers or [-1], np.int32), num)
    for name, shape in image_shapes(c, own).items():
        if name in conditions:
            image = _image(name, conditions[name], shape, num)
        else:
            image = np.zeros(shape, np.float32)
        if name == upsampling.NAME:
            present = np.full((*image.shape[:-1], 1), name in conditions, np.float32)
            image = np.concatenate([image, present], axis=-1)
        whole[name] = np.broadcast_to(image, (num, *image.shape[-3:]))
    if reads_text(c):
        whole[TEXT] = text_rows(c, num, conditions.get(TEXT, ()), tokenizer)
    for name in told:
        whole[name] = image_embeddings.rows(c, num, conditions.get(name))
    return whole


def text_rows(
    c: ConfigDict, num: int, texts: ConditionValue, tokenizer: Tokenizer | None
) -> np.ndarray:
    """Rows of tokens for `num` images, int32 [num, L], cycled; of -1 alone where there is no text.

    The tokenizer says in one line what it cut off.

    Args:
      c: the config.
      num: how many images.
      texts: a text, several, or rows of tokens [n, L].
      tokenizer: of texts.

    Raises:
      UserError: for what is no text, or texts without a tokenizer.
    """
    context = c.data.context
    if isinstance(texts, np.ndarray) and np.issubdtype(texts.dtype, np.integer):
        rows = texts.astype(np.int32)
        if rows.shape[-1:] != (context,):
            raise UserError(
                f"condition {TEXT}: need rows of {context} tokens (config.data.context), got "
                f"{list(rows.shape)}"
            )
    else:
        several: list[Any] = [texts] if isinstance(texts, str | int) else [*texts]
        if several and tokenizer is None:
            raise UserError(
                f"condition {TEXT}: this experiment has no tokenizer yet; load it from its workdir"
            )
        null = np.full((1, context), NULL_VALUE, np.int32)
        rows = tokenizer(several, context) if several and tokenizer else null
    return np.resize(rows, (num, context))


def with_prompts(
    c: ConfigDict, conditions: Mapping[str, ConditionValue] | None, prompts: Sequence[str]
) -> dict[str, ConditionValue]:
    """Conditions with prompts among them. Raises UserError for texts that are there twice."""
    whole = dict(conditions or {})
    if not len(prompts):
        return whole
    if TEXT in whole:
        raise UserError("prompts: conditions have a text already; give one of the two")
    return whole | {TEXT: prompts}


def check_enlarges(c: ConfigDict, conditions: Mapping[str, ConditionValue]) -> None:
    """Raises UserError for a model that always saw a small image, and now is given none."""
    missing = upsampling.NAME in condition_names(c) and upsampling.NAME not in conditions
    if missing and not ever_hidden(c, upsampling.NAME):
        raise UserError(
            f"condition {upsampling.NAME}: this model enlarges images of {upsampling.size(c)} and "
            f"was never trained without one: give it one, --condition={upsampling.NAME}=F.png, or "
            "draw from the smaller model and name this run with --upsampler_workdir"
        )


def _check_read(c: ConfigDict, conditions: Mapping[str, ConditionValue]) -> None:
    """Raises UserError for a text that the network does not read."""
    if TEXT in conditions and not reads_text(c):
        raise UserError(
            "prompts: this model reads no text; leave them out, or train one with "
            f"config.model.conditions=({TEXT!r},), as configs/shapes_text.py does"
            + ", or name a prior with --prior_workdir"
            * image_embeddings.told(c)
        )


def _image(name: str, value: ConditionValue, shape: tuple[int, int, int], num: int) -> np.ndarray:
    """An image for all [H, W, C], or one for each [num, H, W, C], as floats."""
    array = np.asarray(value)
    if array.shape not in (shape, (num, *shape)):
        raise UserError(
            f"condition {name}: need an image of {shape}, got {array.shape}; for each of the {num} "
            f"its own, {(num, *shape)}"
        )
    if array.dtype not in (np.uint8, bool) and not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"condition {name}: need uint8, bool, or floats, got {array.dtype}")
    return to_float(array)


def _number(name: str, value: str | int, names: tuple[str, ...]) -> int:
    """The number of a value that is given by its name, or by its number."""
    text = str(value)
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise UserError(
        f"condition {name}={value}: need one of {', '.join(names)}{nearest(text, names)}"
    )
