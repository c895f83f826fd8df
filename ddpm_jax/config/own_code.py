"""Code that a user names as `package.module:name`: imported where it is named, at launch alone.

A config file and the command line are the user's own words, so what they name is imported. A
workdir is data: what its config.json names is never imported, but looked up among the parts that
the user hands over, by `--code=package.module` or `experiment.load(dir, own={...})`.
"""

import hashlib
import importlib
import inspect
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError, suggest

# Parts that users wrote, by "package.module:name".
Own = Mapping[str, Any]
NONE: Own = types.MappingProxyType({})

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_own(name: str) -> bool:
    """Whether a choice is spelled as a user's own part, "package.module:name".

    A TFDS data set may have a colon too, `mnist:3.0.1`; what follows it is no Python name.
    """
    return _NAME.fullmatch(name) is not None


def imported(field: str, name: str) -> Any:
    """The object that "package.module:name" names; imports the module.

    Args:
      field: the config field or flag that names it, for errors.
      name: as `is_own` has it.

    Raises:
      UserError: for a module that cannot be imported (with the reason), or a name that it lacks.
    """
    module_name, _, attribute = name.partition(":")
    module = module_of(field, module_name)
    if not hasattr(module, attribute):
        public = [word for word in vars(module) if not word.startswith("_")]
        raise UserError(
            f"{field}={name}: {module_name} has no {attribute}{suggest(attribute, public)}"
        )
    return getattr(module, attribute)


def module_of(field: str, module_name: str) -> Any:
    """The module of that name, imported. Raises UserError, with the reason, where it cannot be."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        remedy = "set PYTHONPATH or --code_path to the folder that holds it, or install it"
        raise UserError(f"{field}={module_name}: no module named {missing}; {remedy}") from error
    except Exception as error:  # a user's module: anything can come out of it
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{field}={module_name}: cannot be imported ({reason})") from error


def imported_all(names: Mapping[str, str]) -> dict[str, Any]:
    """{"package.module:name": part} of what a config's fields name, imported.

    Args:
      names: {field: name}, as `config_files.own_names` gives them, of a config that the user wrote.

    Raises:
      UserError: as `imported`.
    """
    return {name: imported(f"config.{field}", name) for field, name in names.items()}


def from_modules(modules: Sequence[str], names: Iterable[str]) -> dict[str, Any]:
    """{name: part} of those of `names` that lie in `modules`, as --code names them.

    Args:
      modules: "package.module", which are imported.
      names: "package.module:name" that a config.json holds; their text imports nothing.

    Raises:
      UserError: for a module that cannot be imported, or lacks a name.
    """
    for module_name in modules:
        module_of("--code", module_name)
    return {name: imported("--code", name) for name in names if name.partition(":")[0] in modules}


def checked(field: str, name: str, own: Own) -> Any:
    """The part of that name among those that were handed over.

    Raises:
      UserError: if it was not: the run can only be read with its code.
    """
    if name not in own:
        module_name = name.partition(":")[0]
        raise UserError(
            f"{field}={name}: this is a part of the user's own, and nothing that a workdir names "
            f"is imported; name its module with --code={module_name}, or hand it over: "
            f'own={{"{name}": ...}}'
        )
    return own[name]


def sources(own: Own) -> dict[str, str]:
    """{name: sha256 of the source file} of own parts; "unknown" where they have no file.

    A part that is neither a function nor a class, such as a record, is of the module in its name.
    """
    digests = {}
    for name, part in own.items():
        try:
            path = inspect.getfile(inspect.unwrap(part))
        except TypeError:  # neither a function nor a class
            path = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None) or ""
        try:
            text = Path(path).read_bytes()
        except OSError:
            digests[name] = "unknown"
        else:
            digests[name] = hashlib.sha256(text).hexdigest()
    return digests
