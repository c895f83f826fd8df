"""What the fields of another library's config.json may be, each with what is said of others."""

import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple


class Field(NamedTuple):
    """A field of a config.

    Attributes:
      holds: value -> whether it is supported.
      supported: what is, in words.
    """

    holds: Callable[[Any], bool]
    supported: str


class Known(NamedTuple):
    """A field: what leaving it out means in the other library, and what it may be."""

    default: Any
    field: Field


def is_int(value: Any, least: int = 1) -> bool:
    """Whether it is a whole number, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def one_of(*values: Any) -> Field:
    """A field of a few values."""

    # In Python True == 1, which would let a number be true.
    def holds(value: Any) -> bool:
        return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in values)

    return Field(holds, " or ".join(json.dumps(value) for value in values))


def list_of(holds: Callable[[Any], bool], supported: str) -> Field:
    """A field of a list that is not empty, each member of which holds."""
    return Field(
        lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(holds, value)),
        f"a list of {supported}",
    )


COUNT = Field(is_int, "a whole number from 1")
COUNT_OR_NULL = Field(lambda value: value is None or is_int(value), "null or a whole number")
SWITCH = one_of(False, True)
NUMBER = Field(is_number, "a number")
POSITIVE = Field(lambda value: is_number(value) and value > 0, "a number above 0")
RATE = Field(lambda value: is_number(value) and 0 <= value < 1, "a number in [0, 1)")
# Of an image, which is a hint to pipelines and no property of a network.
SIZE = Field(
    lambda value: (
        value is None
        or is_int(value)
        or (isinstance(value, list | tuple) and len(value) == 2 and all(map(is_int, value)))
    ),
    "null, a whole number or two",
)
# What says nothing about a network of diffusers: its bookkeeping, and what its EMAModel adds when
# it saves the averaged weights.
BOOKKEEPING = {
    "_class_name",
    "_commit_hash",
    "_diffusers_version",
    "_name_or_path",
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
}


def checked(
    fields: Mapping[str, Any], known: Mapping[str, Known], name: str, beside: Collection[str]
) -> dict[str, Any]:
    """Every field that is known: the file's value, or diffusers' default.

    Args:
      fields: of config.json.
      known: the fields of the class.
      name: of the class, for messages.
      beside: fields that say nothing about the network.

    Raises:
      ValueError: for a field or value that is not supported.
    """
    for field in fields:
        if field not in known and field not in beside:
            raise refuse(field, fields[field], f"the fields of {name} in diffusers; not this one")
    config = {field: fields.get(field, one.default) for field, one in known.items()}
    for field, value in config.items():
        if not known[field].field.holds(value):
            raise refuse(field, value, known[field].field.supported)
    return config


def refuse(name: str, value: Any, supported: str, file: str = "config.json") -> ValueError:
    """The error of a field whose value is not supported."""
    return ValueError(f"{file}: {name} is {json.dumps(value)}; supported: {supported}")
