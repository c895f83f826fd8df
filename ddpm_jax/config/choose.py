"""A choice by name, of a literal dict or of the user's own, and its options."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddpm_jax.config import own_code
from ddpm_jax.config.own_code import Own
from ddpm_jax.errors import UserError, suggest

# Types that JSON and the command line can spell; an option of any other annotation is the user's.
SPELLED = (bool, int, float, str)
_SEQUENCES = (tuple, list, collections.abc.Sequence)


def choose(field: str, name: str, choices: Mapping[str, Any], own: Own | None = None) -> Any:
    """The choice of that name.

    Args:
      field: of the config, dotted, for errors.
      name: a key of `choices`, or "package.module:name" of the user's own.
      choices: all by name.
      own: the user's parts by such names; None for a choice that is not open to them.

    Raises:
      UserError: listing the choices where there is none of that name, or for a part that was not
        handed over.
    """
    if name in choices:
        return choices[name]
    if own is not None and own_code.is_own(name):
        return own_code.checked(f"config.{field}", name, own)
    near = suggest(name, list(choices)) if isinstance(name, str) else ""
    hint = near if near.startswith("; did") else ""
    more = "" if own is None else ", or package.module:name"
    raise UserError(f"config.{field}={name!r}: need one of {', '.join(choices)}{more}{hint}")


def keywords(
    field: str,
    options: Mapping[str, Any],
    choice: Callable[..., Any],
    *,
    name: str,
    positional: Sequence[str] = (),
    provided: Mapping[str, Any] = types.MappingProxyType({}),
    hidden: Sequence[str] = (),
    choices: Mapping[str, Callable[..., Any]] = types.MappingProxyType({}),
) -> dict[str, Any]:
    """The keyword arguments that a choice is called with: its options, and what it is provided.

    Args:
      field: the config's dict of options, dotted, for errors.
      options: what that dict holds.
      choice: the function or class that was chosen.
      name: what it is called, for errors: "sampler ddim".
      positional: the names of what it is passed by position.
      provided: what it is passed by keyword, if its signature takes it; no option.
      hidden: parameters that are nobody's to set.
      choices: all of the built-in choices, to tell which one has an option that this one lacks.

    Raises:
      UserError: for an option that the choice does not take (with the nearest name), a value of
        another type, or an argument that it needs and is not given, or cannot be given.
    """
    takes = parameters(choice)
    _check_positional(field, name, takes, positional)
    by_position = [one.name for one in _places(takes)][: len(positional)]
    any_name = any(one.kind is one.VAR_KEYWORD for one in takes.values())
    own = {
        one.name: one
        for one in takes.values()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        and one.name not in (*by_position, *hidden)
    }
    for option, value in options.items():
        if option in provided or option in by_position:
            raise UserError(
                f"config.{field}.{option}={value!r}: the {name} is given this by the rest of the "
                "config; leave it out"
            )
        if option not in own and not any_name:
            hint = _elsewhere(option, choices) + _near(
                option, [k for k in own if k not in provided]
            )
            raise UserError(
                f"config.{field}.{option}={value!r}: the {name} has no such option{hint}; "
                "leave it out"
            )
    values = {
        option: _typed(f"config.{field}.{option}", value, _annotation(choice, option))
        for option, value in options.items()
    }
    values |= {key: value for key, value in provided.items() if key in own}
    for key, parameter in own.items():
        if parameter.default is inspect.Parameter.empty and key not in values:
            raise UserError(
                f"config.{field}: the {name} needs {key}, and nothing gives it: set "
                f"{field}.{key}, or give it a default"
            )
    return values


def defaults_of(choice: Callable[..., Any]) -> dict[str, Any]:
    """The keywords of a function or class that have a default, with it."""
    every = parameters(choice).values()
    return {one.name: one.default for one in every if one.default is not one.empty}


def parameters(choice: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function or class by name. Raises UserError for what cannot be called."""
    try:
        return inspect.signature(choice).parameters
    except (TypeError, ValueError) as error:
        raise UserError(f"{choice!r} is nothing that can be called: {error}") from error


def _places(takes: Mapping[str, inspect.Parameter]) -> list[inspect.Parameter]:
    """The parameters that can be passed by position."""
    return [p for p in takes.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _check_positional(
    field: str, name: str, takes: Mapping[str, inspect.Parameter], positional: Sequence[str]
) -> None:
    """It can be called with so many arguments by position, or one UserError names the first not."""
    if any(one.kind is one.VAR_POSITIONAL for one in takes.values()):
        return
    places = _places(takes)
    if len(places) < len(positional):
        wanted = ", ".join(positional)
        raise UserError(
            f"config.{field}: the {name} takes no {positional[len(places)]}: it is called with "
            f"({wanted}), and has ({', '.join(takes)})"
        )


def _elsewhere(option: str, choices: Mapping[str, Callable[..., Any]]) -> str:
    takers = [name for name, one in choices.items() if option in parameters(one)]
    return f" ({', '.join(takers)} has)" if takers else ""


def _near(option: str, names: Sequence[str]) -> str:
    return suggest(option, list(names)) if names else "; it has none"


def _annotation(choice: Callable[..., Any], option: str) -> Any:
    """What the keyword is annotated with; the empty annotation where nobody can tell."""
    called = choice.__init__ if inspect.isclass(choice) else choice
    try:
        hints = typing.get_type_hints(called)
    except Exception:  # names that are only there for a type checker
        hints = {}
    parameter = parameters(choice).get(option)
    return hints.get(option, parameter.annotation if parameter else inspect.Parameter.empty)


def _typed(field: str, value: Any, annotation: Any) -> Any:
    """The value in the annotation's type. Raises UserError for one of another type."""
    value = value.to_dict() if hasattr(value, "to_dict") else value
    allowed = _alternatives(annotation)
    if typing.Literal in [typing.get_origin(one) for one in allowed]:
        values = [v for one in allowed for v in typing.get_args(one) or (None,)]
        if value not in values:
            raise UserError(f"{field}={value!r}: need one of {', '.join(map(repr, values))}")
        return value
    spelled = [one for one in allowed if one in SPELLED]
    sequences = [one for one in allowed if (typing.get_origin(one) or one) in _SEQUENCES]
    nothing = type(None) in allowed
    if not allowed or len(spelled) + len(sequences) + nothing < len(allowed):
        return value  # of a type that is the user's own affair
    if isinstance(value, tuple | list) and sequences:
        return list(value) if (typing.get_origin(sequences[0]) or sequences[0]) is list else value
    kinds = {*spelled, *([int] if float in spelled else []), *([type(None)] if nothing else [])}
    if type(value) not in kinds:
        need = {kind.__name__ for kind in kinds if kind is not type(None)}
        need |= {"tuple"} if sequences else set()
        raise UserError(f"{field}={value!r}: need {' or '.join(sorted(need))}")
    return value


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types that an annotation allows; none where it says nothing."""
    if annotation in (inspect.Parameter.empty, Any):
        return ()
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)
