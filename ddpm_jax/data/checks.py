"""Whether a source that somebody else wrote fits what reads it, said in one line."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax.data.base import DataInfo, Source, Tolerant
from ddpm_jax.errors import UserError

# What a batch or a network calls otherwise; "low_resolution" is made from the images themselves.
_TAKEN = ("image", "x0", "label", "mask", "task", "tokens", "low_resolution", "caption", "text")


def check_conditions(name: str, conditions: Mapping[str, Any]) -> None:
    """What a data set says of its conditions can be used.

    Args:
      name: of the data set, for errors.
      conditions: as `Dataset.conditions`.

    Raises:
      UserError: for a name that means something else, or what is neither choices nor channels.
    """
    for condition, choices in conditions.items():
        what = f"the data set {name}: conditions[{condition!r}]"
        if not isinstance(condition, str) or condition in _TAKEN or condition.endswith("_mask"):
            raise UserError(f"{what}: this name has another meaning; choose another")
        texts = isinstance(choices, tuple) and all(isinstance(one, str) for one in choices)
        named = texts and len(set(choices)) == len(choices) > 0
        if not named and not (_is_whole(choices) and choices > 0):
            raise UserError(
                f"{what}={choices!r}: need a tuple of the different names of its values, or the "
                "number of channels of an image"
            )


def checked(
    name: str,
    source: Any,
    conditions: Mapping[str, tuple[str, ...] | int],
    on_error: str = "stop",
    *,
    captions: bool = False,
) -> Source:
    """An own source that fits: its info, its length and its first example, which is read.

    Args:
      name: of the data set, for errors.
      source: what its function returned; one without `skipped` is wrapped in `Tolerant`.
      conditions: what its examples hold besides, as `Dataset.conditions`.
      on_error: "stop" or "skip" at a broken image, where it is wrapped.
      captions: whether they have a caption too.

    Raises:
      UserError: naming the data set and what does not fit.
    """

    def need(fits: bool, what: str) -> None:
        if not fits:
            raise UserError(f"the data set {name}: {what}")

    kind = type(source).__name__
    for method in ("__len__", "__getitem__"):
        need(hasattr(source, method), f"its function returned {kind}, which has no {method}")
    info: Any = getattr(source, "info", None)
    need(isinstance(info, DataInfo), f"its source's info is {type(info).__name__}, not a DataInfo")
    _check_info(info, need)
    size = len(source)
    need(size > 0, "its source is empty")
    source = source if hasattr(source, "skipped") else Tolerant(source, on_error)
    try:
        example = source[0]
    except UserError:
        raise
    except Exception as error:  # what one's own code raises is anything
        reason = " ".join(str(error).split())[:200]
        what = f"its first example cannot be read ({type(error).__name__}: {reason})"
        raise UserError(f"the data set {name}: {what}") from error
    _check_example(example, info, conditions, need)
    if captions:
        text = example.get("caption")
        need(isinstance(text, str), f"its first caption is {_shown(text)}: need a text")
    return source


def _check_info(info: DataInfo, need: Any) -> None:
    shape, names = info.image_shape, info.class_names
    fits = isinstance(shape, tuple) and len(shape) == 3 and all(_is_whole(n) for n in shape)
    need(fits, f"info.image_shape={shape!r}: need (H, W, C)")
    need(
        min(shape) > 0 and shape[2] in (1, 3),
        f"info.image_shape={shape}: need positive H and W, C 1 or 3",
    )
    fits = _is_whole(info.levels) and 2 <= info.levels <= 256
    need(fits, f"info.levels={info.levels!r}: need the number of pixel values, 2 to 256")
    fits = _is_whole(info.num_classes) and info.num_classes >= 0
    need(fits, f"info.num_classes={info.num_classes!r}: need a whole number, at least 0")
    fits = isinstance(names, tuple) and all(isinstance(one, str) for one in names)
    need(fits, f"info.class_names={str(names)[:100]}: need a tuple of texts")
    need(
        len(names) in (0, info.num_classes) and len(set(names)) == len(names),
        f"info.class_names has {len(set(names))} different names, for {info.num_classes} classes: "
        "need one for each, or none",
    )


def _check_example(
    example: Any, info: DataInfo, conditions: Mapping[str, tuple[str, ...] | int], need: Any
) -> None:
    is_dict = isinstance(example, dict)
    need(is_dict, f"its examples are {type(example).__name__}, not dicts of image and label")
    for name in ("image", "label", *conditions):
        need(name in example, f"its first example has no {name!r} (it has {', '.join(example)})")
    image = example["image"]
    got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    need(
        isinstance(image, np.ndarray) and image.dtype == np.uint8,
        f"its images are {got}: need uint8 [H, W, C]",
    )
    need(
        image.shape == info.image_shape,
        f"its first image has the shape {image.shape}, and info.image_shape is {info.image_shape}",
    )
    top = int(image.max())
    need(top < info.levels, f"its first image has the value {top}, and info.levels={info.levels}")
    label = example["label"]
    need(_is_whole(label), f"its first label is {_shown(label)}: need a whole number (int32)")
    need(
        -1 <= label < info.num_classes,
        f"its first label is {label}, and info.num_classes={info.num_classes}: need 0 to below "
        "that, or -1 for none",
    )
    for name, choices in conditions.items():
        value = example[name]
        if isinstance(choices, int):
            shape = (*info.image_shape[:2], choices)
            got = np.shape(value)
            need(got == shape, f"the condition {name} has the shape {got}: need {shape}")
            dtype = np.asarray(value).dtype
            scaled = dtype in (np.uint8, bool) or np.issubdtype(dtype, np.floating)
            need(scaled, f"the condition {name} is {dtype}: need bool, uint8 or floats")
        else:
            need(
                _is_whole(value) and -1 <= value < len(choices),
                f"the condition {name} is {_shown(value)}: need the number of one of "
                f"{', '.join(choices)}",
            )


def _is_whole(value: Any) -> bool:
    scalar = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return isinstance(scalar, int | np.integer) and not isinstance(scalar, bool | np.bool_)


def _shown(value: Any) -> str:
    return f"{str(value)[:50]!r} ({type(value).__name__})"
