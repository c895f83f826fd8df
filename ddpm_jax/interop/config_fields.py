"""What the fields of another library's config.json may be, each with what is said of others."""

import json
import math
from collections.abc import Callable
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


def refuse(name: str, value: Any, supported: str, file: str = "config.json") -> ValueError:
    """The error of a field whose value is not supported."""
    return ValueError(f"{file}: {name} is {json.dumps(value)}; supported: {supported}")
