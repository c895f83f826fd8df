"""A choice by name, and the options that only some of the choices take."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.errors import UserError


def choose(field: str, name: str, choices: dict[str, Any]) -> Any:
    """The choice of that name. Raises UserError listing the choices where there is none."""
    if name not in choices:
        raise UserError(f"config.{field}={name!r}: need one of {', '.join(choices)}")
    return choices[name]


def keywords(
    group: str,
    config: ConfigDict,
    fields: Mapping[str, str],
    choice: Callable[..., Any],
    choices: Mapping[str, Callable[..., Any]],
    kind: str,
) -> dict[str, Any]:
    """The keyword arguments of `choice` that the config sets.

    Args:
      group: name of the config's group, for errors.
      config: the group.
      fields: {config field: keyword} of every option that some choice takes.
      choice: the function that was chosen, one of `choices`.
      choices: all of them by name.
      kind: what they are, in one word.

    Raises:
      UserError: for an option that the choice does not take, or a value of another type.
    """
    given = {field: config[field] for field in fields if config[field] is not None}
    for field, value in given.items():
        if not _takes(choice, fields[field]):
            takers = [name for name, one in choices.items() if _takes(one, fields[field])]
            chosen = next(name for name, one in choices.items() if one is choice)
            raise UserError(
                f"config.{group}.{field}={value!r}: the {kind} {chosen} has no such option "
                f"({', '.join(takers)} has); leave it at None"
            )
        kinds = _kinds(choice, fields[field])
        if type(value) not in kinds:
            need = " or ".join(sorted(one.__name__ for one in kinds))
            raise UserError(f"config.{group}.{field}={value!r}: need {need}")
    return {fields[field]: value for field, value in given.items()}


def _takes(choice: Callable[..., Any], keyword: str) -> bool:
    return keyword in inspect.signature(choice).parameters


def _kinds(choice: Callable[..., Any], keyword: str) -> set[type]:
    """The types that the keyword is annotated with; a whole number is a float too."""
    annotation = inspect.signature(choice).parameters[keyword].annotation
    kinds = set(typing.get_args(annotation) or (annotation,)) - {type(None)}
    return kinds | {int} if float in kinds else kinds
