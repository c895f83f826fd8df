"""The table of data sets: all that the rest of the package knows of one by its name.

A data set is a row of `DATASETS` and a file of its own; every other name is a prepared TFDS data
set. One's own enters as a value, `build_source(name, split, own=dataset(build))`: see `Dataset`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ddpm_jax.data.base import Source, check_size, check_split, nearest
from ddpm_jax.data.captioned_folder import build as build_captioned_folder
from ddpm_jax.data.checks import check_conditions, checked
from ddpm_jax.data.digits import NUM_VALUES, digits
from ddpm_jax.data.emoji import ATTRIBUTES as EMOJI
from ddpm_jax.data.emoji import build as build_emoji
from ddpm_jax.data.emoji import prepare as prepare_emoji
from ddpm_jax.data.folder import build as build_folder
from ddpm_jax.data.idx import build as build_idx
from ddpm_jax.data.shapes import ATTRIBUTES, describe, shows
from ddpm_jax.data.shapes import build as build_shapes
from ddpm_jax.data.tfds import tfds_source
from ddpm_jax.data.told_shapes import follows
from ddpm_jax.errors import UserError

# Fields of config.data that have a value in every run: a data set that does not take one goes
# without it. All other options are refused where they are not taken.
COMMON = ("data_dir", "holdout", "labels_file", "on_error", "train_split", "validation_split")
# (prompt, caption) -> (facts that both tell, facts of the prompt)
Follows = Callable[[str, str], tuple[int, int] | None]
_GIVEN = ("image_size", "channels")  # by config.data's own fields, to those that take them


@dataclasses.dataclass(frozen=True)
class Expected:
    """What is counted on before the data are read; a source that differs is refused.

    Attributes:
      num_values: pixel values lie in [0, num_values), as `DataInfo.levels`.
    """

    num_values: int = 256


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, built in or one's own.

    Attributes:
      build: `build(split, *, image_size, channels, **options) -> Source`, split "train" or
        "validation". Its other keywords, annotated with their types, are the options that a config
        may set; image_size (H, W) and channels (1 or 3) are those of the config, and are passed
        only if the signature has them. A source that has no `skipped` gets one: it may raise
        `BrokenImage` on reading, and is dealt with as its on_error says. The images must be of
        the config's size whether or not the function takes it.
      info: what is counted on before the data are read.
      conditions: what a network can take beside a label, by its name in an example: the names
        of a value's choices, or the channels of an image. An example holds the number of the
        choice (-1 for none), or the image, bool, uint8 or float [H, W, channels].
      describe: reads an image's attributes back from its pixels, uint8 [H, W, C], 0 to 255 as
        samples are -> {name: index}, or None for an image that shows none; None where nothing does.
      agrees: whether all that a caption tells is true of an image, (uint8 [H, W, C], str) -> bool;
        None where nothing says so.
      follows: what reads captions back and compares two, (prompt, caption) -> how many of the facts
        that the prompt tells the caption tells too, and how many these are; None for a prompt of
        which nothing can be read. None where nothing does so.
      captions: whether an example has a "caption": str; see `data.captions`.
      extractor: of the features in which samples are compared with these data, where nobody
        chooses another.
      prepare: `prepare(data_dir, styles)` makes ahead what would be made at the first reading, and
        says in one line what it made; None where there is nothing to make.
    """

    build: Callable[..., Source]
    info: Expected = Expected()
    conditions: Mapping[str, tuple[str, ...] | int] = dataclasses.field(default_factory=dict)
    describe: Callable[[np.ndarray], dict[str, int] | None] | None = None
    agrees: Callable[[np.ndarray, str], bool] | None = None
    follows: Follows | None = None
    captions: bool = False
    extractor: str = "inception"
    prepare: Callable[..., str] | None = None

    def options(self) -> dict[str, inspect.Parameter]:
        """What a config may set, by name, with annotation and default."""
        return {
            name: parameter
            for name, parameter in list(inspect.signature(self.build).parameters.items())[1:]
            if name not in _GIVEN and parameter.kind != inspect.Parameter.VAR_KEYWORD
        }


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(digits, Expected(NUM_VALUES), extractor="classifier"),
    "shapes": Dataset(
        build_shapes,
        conditions={**ATTRIBUTES, "silhouette": 1, "outline": 1, "palette": 3},
        describe=describe,
        agrees=shows,
        follows=follows,
        captions=True,
        extractor="classifier",
    ),
    "folder": Dataset(build_folder),
    "captions": Dataset(build_captioned_folder, captions=True),
    "idx": Dataset(build_idx),
    "emoji": Dataset(build_emoji, conditions=EMOJI, captions=True, prepare=prepare_emoji),
}


def dataset(build: Callable[..., Source] | Dataset, **fields: Any) -> Dataset:
    """A data set of one's own from the function that builds its sources.

    Args:
      build: as `Dataset.build`; a `Dataset` is returned with `fields` replaced.
      **fields: of `Dataset`, where they differ from its defaults.

    Raises:
      UserError: for what cannot be called as `build(split)`, or conditions that are none.

    Example:
      def blobs(split: str, *, image_size, channels, width: float = 3.0) -> Source: ...
      own = dataset(blobs, conditions={"colour": ("red", "blue"), "outline": 1})
      source = build_source("blobs", "train", own=own, width=2.0)
    """
    made = build if isinstance(build, Dataset) else Dataset(build)
    made = dataclasses.replace(made, **fields)
    name = getattr(made.build, "__name__", repr(made.build))
    need = f"the data set {name}: need a function build(split, *, image_size, channels, **options)"
    if not callable(made.build):
        raise UserError(f"{need}, got {type(made.build).__name__}")
    try:
        parameters = list(inspect.signature(made.build).parameters.values())
    except (TypeError, ValueError) as error:
        raise UserError(f"{need} with a signature: {error}") from error
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].kind not in kinds:
        raise UserError(f"{need}, and this one takes no split first")
    for one in parameters[1:]:
        required = one.default is one.empty and one.kind in kinds
        if required and (one.name not in _GIVEN or one.kind == one.POSITIONAL_ONLY):
            raise UserError(f"{need}, and its {one.name} is neither a keyword nor has a default")
    check_conditions(name, made.conditions)
    return made


def lookup(name: str, own: Callable[..., Source] | Dataset | None = None) -> Dataset:
    """The data set of a name: a row of the table, or a prepared TFDS data set.

    Args:
      name: as config.data.name.
      own: what the name stands for, where it is of one's own.

    Raises:
      UserError: as `dataset`.
    """
    if own is not None:
        return dataset(own)
    return DATASETS.get(name) or Dataset(functools.partial(_prepared, name))


def build_source(
    name: str,
    split: str,
    *,
    own: Callable[..., Source] | Dataset | None = None,
    image_size: tuple[int, int] = (8, 8),
    channels: int = 1,
    **options: Any,
) -> Source:
    """The source of a name, as a config states it.

    Args:
      name: a row of DATASETS, or a TFDS data set (`NAME`, `NAME/CONFIG` or `NAME:VERSION`).
      split: "train" or "validation".
      own: what the name stands for, where it is of one's own; its first example is then read to
        see that it fits.
      image_size: (H, W).
      channels: 1 or 3.
      **options: those of the data set's `build`; None leaves its default.

    Returns:
      A source of {"image": uint8 [H, W, C], "label": int32}, and "caption": str where the row has
      captions.

    Raises:
      UserError: an unknown name or option, missing or unprepared data, a size that the data cannot
        have, or an own source that does not fit.
    """
    check_split(split)
    shape = check_size(image_size, channels)
    row = lookup(name, own)
    shape_arguments = {"image_size": shape[:2], "channels": channels}
    arguments = _arguments(name, row, shape_arguments, options)
    source = row.build(split, **arguments)
    if own is not None:
        on_error = options.get("on_error") or "stop"
        source = checked(name, source, row.conditions, on_error, captions=row.captions)
    height, width, depth = source.info.image_shape
    if (height, width, depth) != shape:
        raise UserError(
            f"{name} are {height}x{width} with {depth} channel(s), got data.image_size="
            f"{tuple(image_size)} and data.channels={channels}: set them to ({height}, {width}) "
            f"and {depth}"
        )
    if source.info.levels != row.info.num_values:
        raise UserError(
            f"config.data.name={name}: its pixels take {source.info.levels} values, and its "
            f"objective counts on {row.info.num_values}"
        )
    return source


def _arguments(
    name: str, row: Dataset, shape_arguments: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What is passed to the data set's function. Raises UserError for what it does not take."""
    parameters = inspect.signature(row.build).parameters
    takes_any = any(one.kind == one.VAR_KEYWORD for one in parameters.values())
    arguments = {key: value for key, value in shape_arguments.items() if key in parameters}
    own = row.options()
    for option, value in options.items():
        if option in own or (takes_any and option not in COMMON):
            if value is not None:
                arguments[option] = value
        elif option not in COMMON and value not in (None, ()):
            takers = [other for other, one in DATASETS.items() if option in one.options()]
            if takers:
                where = f"applies only to data.name={' or '.join(takers)}, not {name}"
            else:
                where = f"{name} has no such option{nearest(option, own)}"
            raise UserError(f"data.options.{option}={value!r} {where}: leave it unset")
    for option, parameter in own.items():
        missing = parameter.default is parameter.empty and option not in arguments
        if missing and parameter.kind == parameter.KEYWORD_ONLY:
            raise UserError(f"data.options.{option}: the data set {name} needs this option; set it")
    return arguments


def _prepared(
    name: str,
    split: str,
    *,
    image_size: tuple[int, int],
    channels: int,
    data_dir: str | None = None,
    train_split: str = "train",
    validation_split: str = "test",
    on_error: str = "stop",
) -> Source:
    """A prepared TFDS data set, whose splits have names of their own."""
    return tfds_source(
        name,
        train_split if split == "train" else validation_split,
        data_dir,
        image_size,
        channels,
        on_error=on_error,
        otherwise=f" (built in: {', '.join(DATASETS)}{nearest(name, DATASETS)})",
    )
