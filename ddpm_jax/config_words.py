"""--config=FILE and --config.x=V of a command line, before and after ml_collections parses them."""

import ast
import contextlib
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ddpm_jax.errors import UserError, suggest


@contextlib.contextmanager
def as_command_line(argv: Sequence[str]) -> Iterator[None]:
    """ml_collections looks for overrides in sys.argv, whatever it is given."""
    before, sys.argv = sys.argv, list(argv)
    try:
        yield
    finally:
        sys.argv = before


def without_options(
    argv: Sequence[str], moved: Callable[[str], str | None]
) -> tuple[list[str], list[str]]:
    """The command line without --config.GROUP.OPTIONS.NAME=VALUE, and those.

    ml_collections sets no field that is not there yet, and an option is there once it is set. The
    names that options had as fields of earlier versions still set them.
    """
    rest, options, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        name, sign, value = word.lstrip("-").partition("=")
        name = f"config.{moved(name.removeprefix('config.')) or name.removeprefix('config.')}"
        places = name.split(".")
        is_option = len(places) == 4 and places[0] == "config" and places[2].endswith("options")
        if not (word.startswith("-") and is_option):
            rest.append(word)
            continue
        if not sign:  # --name VALUE is --name=VALUE
            value = words.pop(0) if words and not words[0].startswith("--") else "True"
        options.append(f"{name}={value}")
    return rest, options


def set_option(config: Any, word: str) -> None:
    """Set config.GROUP.OPTIONS.NAME=VALUE, the value as Python spells it, or as text."""
    name, _, text = word.partition("=")
    _, group, options, option = name.split(".")
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        value = text
    try:
        config[group][options][option] = value
    except TypeError as error:  # it has a value there, of another type
        usual = config[group][options][option]
        kind = type(usual).__name__
        raise UserError(f"--{name}={text}: need {kind}, as {usual!r} is") from error


def check(argv: list[str], options: Sequence[str] = ()) -> None:
    """Refuse a config file that does not load, and a --config.x that it has no field for.

    ml_collections ends both in a traceback, so this comes before its parser.
    """
    words = argv[1:]
    for i in range(len(words) - 1):
        if words[i] in ("--config", "-config"):  # --config FILE is --config=FILE
            words[i] += f"={words[i + 1]}"
    # --noconfig.x is --config.x=false.
    flags = [w.lstrip("-").removeprefix("no") for w in words if w.startswith("-")]
    files = [a.partition("=")[2] for a in flags if a.startswith("config=")]
    names = [a.partition("=")[0] for a in flags if a.startswith("config.")]
    of_options = [word.partition("=")[0].rpartition(".")[0] for word in options]
    names += of_options
    if not files:
        if names:
            raise UserError(f"--{names[0]} has no config to change: give --config=FILE too")
        return
    fields = [f"config.{name}" for name in _fields(load_config_file(files[-1]))]
    for name in names:
        if name.endswith("options") and name not in of_options:
            raise UserError(f"--{name}: set its entries one by one, --{name}.NAME=VALUE")
        if not any(field == name or field.startswith(f"{name}.") for field in fields):
            raise UserError(f"--{name}: no such config field{suggest(name, fields)}")


def load_config_file(name: str) -> Any:
    """The config of FILE or FILE:ARGUMENT. Raises UserError where it does not load."""
    path, _, argument = name.partition(":")
    # runpy would run a folder's __main__.py, a zip file or bytecode as well: a workdir given by
    # mistake, or its config.json.
    if os.path.exists(path) and not (path.endswith(".py") and os.path.isfile(path)):
        raise UserError(
            f"--config={path}: is no Python file; see configs/. A workdir's config.json is read "
            "with --workdir, never executed"
        )
    try:
        get_config = runpy.run_path(path)["get_config"]
        return get_config(argument) if argument else get_config()
    except Exception as error:  # a config file is the user's code: anything can come out of it
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"--config={path}: cannot load it ({reason}); see configs/") from error


def _fields(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields; a dict of options is one, whatever it holds."""
    for key, value in config.items():
        if hasattr(value, "items") and not key.endswith("options"):
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
