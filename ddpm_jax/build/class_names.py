"""Classes by name: config.data.class_names, which a run takes from its data when it begins."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.data.base import nearest
from ddpm_jax.errors import UserError

# Names that a config keeps, in characters: config.json is read up to 1 MiB, with all attempts of a
# run its manifest up to 64. Data with longer ones have numbers alone.
MOST = 2**17
SHOWN = 20


def kept(info: data.DataInfo, num_classes: int) -> tuple[str, ...]:
    """What config.data.class_names is for a network of so many classes on these data."""
    names = info.class_names if num_classes else ()
    return names if sum(len(name) + 4 for name in names) <= MOST else ()


def check(c: ConfigDict, info: data.DataInfo) -> None:
    """Raises UserError for data whose classes have other names than the run's own."""
    names, here = tuple(c.data.class_names), info.class_names
    if names and names != here:
        raise UserError(
            f"config.data.class_names={listed(names)}: the classes of {c.data.name} are "
            f"{listed(here) or 'without names'} here, so that a label would mean another class; "
            "name the data that the run was trained on"
        )


def check_same(what: str, names: Sequence[str], others: Sequence[str]) -> None:
    """Raises UserError if two runs that take the same labels name them differently."""
    if names and others and tuple(names) != tuple(others):
        raise UserError(
            f"{what}: its classes are {listed(others)}, and this model's {listed(names)}, so that "
            "a label would mean another class to each"
        )


def number(names: Sequence[str], label: Any) -> int:
    """The number of a class given by its name or number, which may be out of range.

    A text is a name where there is one; where all names are numbers of another order (1, 2, 10) it
    is nothing else, so that no text means two classes. An int is the number itself.

    Args:
      names: config.data.class_names; () of a run that has none.
      label: an int or a text.

    Raises:
      UserError: for a text that is neither a name nor a number, or another thing.
    """
    if not isinstance(label, str):
        return _whole(label)
    if label in names:
        return [*names].index(label)
    own_order = all(name == str(k) for k, name in enumerate(names))
    numbered = all(name.isdecimal() for name in names) and not own_order
    is_number = label.isascii() and label.removeprefix("-").isdecimal() and len(label) < 19
    if is_number and not numbered:
        return int(label)
    if names:
        raise UserError(f"label {label}: need one of {listed(names)}{nearest(label, names)}")
    raise UserError(f"label {label}: need whole numbers, 0,1,2: this run knows no names of classes")


def _whole(label: Any) -> int:
    try:
        if (value := int(label)) == label:
            return value
    except (TypeError, ValueError):
        pass
    raise UserError(f"label {str(label)[:50]}: need the number of a class, or its name")


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(name[:100] for name in names[:SHOWN]) + more
