"""Digests of code: whether a part that was written in Python is still the same part."""

import dataclasses
import functools
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from blake3 import blake3

from ddpm_jax.runtime import digests

# Listed by name alone: the manifest has the versions of these.
LIBRARIES = {"ddpm_jax", "builtins", "chex", "flax", "functools", "jax", "jaxlib", "numpy", "optax"}

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def digest_of(part: Any) -> str:
    """BLAKE3 of what a part does: source text, and the values that it was made with.

    A function is its text, its defaults, what it closes over, and the functions, classes and plain
    values of its own module that it names; a record is its fields; an array its bytes. What comes
    from this package or the libraries below it counts by its name. So a comment elsewhere in the
    file changes nothing, and another constant does.
    """
    total = blake3()
    for line in _lines(part, set()):
        total.update(f"{line}\n".encode())
    return total.hexdigest()


def _lines(value: Any, seen: set[int]) -> Iterator[str]:
    """What a value is, line by line; a value that comes again is not listed again."""
    if isinstance(value, _PLAIN):
        yield f"{type(value).__name__} {value!r}"
        return
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array: Any = value
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        yield digests.sum_of(np.asarray(array))
        return
    if id(value) in seen:
        yield "again"
        return
    seen.add(id(value))
    for part in _parts(value):
        if isinstance(part, str):
            yield part
        else:
            yield from _lines(part.value, seen)


@dataclasses.dataclass(frozen=True)
class _Within:
    """A value within another one, which is listed after it."""

    value: Any


def _parts(value: Any) -> Iterator[str | _Within]:
    """The text of one value, and the values within it."""
    if isinstance(value, types.ModuleType):
        yield f"module {value.__name__}"
    elif isinstance(value, type):
        yield from _text(value)
    elif isinstance(value, functools.partial):
        yield "partial"
        yield from map(_Within, (value.func, value.args, value.keywords))
    elif isinstance(value, types.MethodType):
        yield from map(_Within, (value.__func__, value.__self__))
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif callable(inner := getattr(value, "__wrapped__", None)):  # by jax.jit, functools.wraps
        yield f"wrapped by {type(value).__name__}"
        yield _Within(inner)
    elif isinstance(value, Mapping) or hasattr(value, "to_dict"):
        yield type(value).__name__
        content = value if isinstance(value, Mapping) else value.to_dict()
        for name in sorted(content, key=str):
            yield str(name)
            yield _Within(content[name])
    elif isinstance(value, tuple | list):
        yield f"{type(value).__name__} {len(value)}"
        yield from map(_Within, value)
    elif isinstance(value, Set):
        yield f"{type(value).__name__} {sorted(map(repr, value))}"
    else:
        yield from _text(type(value))
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                yield field.name
                yield _Within(getattr(value, field.name, None))
        elif not _is_of_library(type(value)):
            yield _Within(dict(getattr(value, "__dict__", {})))


def _of_function(function: types.FunctionType) -> Iterator[str | _Within]:
    yield from _text(function)
    yield from map(_Within, (function.__defaults__, function.__kwdefaults__))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name
        try:
            yield _Within(cell.cell_contents)
        except ValueError:  # not assigned yet
            yield "empty"
    if _is_of_library(function):
        return
    for name in sorted(_names(function.__code__) & function.__globals__.keys()):
        yield name
        yield _Within(function.__globals__[name])


def _names(code: types.CodeType) -> set[str]:
    """The global names that a function's code, and the functions in it, speak of."""
    inner = [_names(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    return set(code.co_names).union(*inner)


def _text(thing: Any) -> Iterator[str]:
    """The name of a function or class and, if it is the user's, its source."""
    yield (
        f"{thing.__module__}.{thing.__qualname__}" if _is_of_library(thing) else thing.__qualname__
    )
    if _is_of_library(thing):
        return
    try:
        yield textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):  # typed in, so that nobody has the text
        code = getattr(thing, "__code__", None)
        yield code.co_code.hex() if code else "no source"
        plain = [c for c in code.co_consts if isinstance(c, _PLAIN)] if code else []
        yield repr(plain)


def _is_of_library(thing: Any) -> bool:
    return (getattr(thing, "__module__", None) or "builtins").partition(".")[0] in LIBRARIES
