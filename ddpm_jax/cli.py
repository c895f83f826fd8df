"""What every script's last line calls: flags in, one line and exit code 2 for a user's mistake."""

import ast
import difflib
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

from ddpm_jax.errors import Stuck, UserError

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "compile_cache",
    None,
    "where compiled programs are kept between starts, or 'off'; by default "
    "JAX_COMPILATION_CACHE_DIR if set, else ddpm_jax/xla in the user's cache directory",
)

flags.DEFINE_string(
    "coordinator",
    None,
    "of a run in several processes: host:port of the first one, the same in all; 'auto' where the "
    "cluster tells it (TPU pods, Slurm)",
)
flags.DEFINE_integer("num_processes", None, "with --coordinator=host:port: how many there are")
flags.DEFINE_integer("process_id", None, "with --coordinator=host:port: which one this is, from 0")


def run(
    main: Callable[..., int | None],
    argv: list[str] | None = None,
    *,
    pairs: Sequence[str] = (),
    actions: Mapping[str, int] | None = None,
) -> NoReturn:
    """Parse the flags, run `main`, and exit with what it returns (None is 0).

    `--help` prints the calling module's docstring and flags and exits 0. A `UserError`, a flag that
    does not exist or a value of the wrong type is printed in one line on stderr; the exit code is
    then 2 (absl's own is 1).

    Args:
      main: the script.
      argv: the command line; None for this process's.
      pairs: list flags that may be given as two words, --inpaint IMAGE MASK.
      actions: what the script can do, each with the number of files that follow; its first
        argument names one, and main(action, *files) is called. "" is what it does without any.
    """
    argv = sys.argv if argv is None else argv
    # Config files say `from configs import default`, and configs/ stands beside scripts/.
    sys.path.append(str(Path(argv[0]).resolve().parents[1]))
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(f"{sys.modules['__main__'].__doc__ or ''}\n{FLAGS.main_module_help()}")
        sys.exit(0)
    try:
        positional = parse(joined(argv, pairs), actions)
        sys.exit(main(*positional))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        if isinstance(error, Stuck):
            # Python's own end would wait for the threads of every pool, and so for what is stuck.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(2)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def joined(argv: Sequence[str], pairs: Sequence[str]) -> list[str]:
    """The command line with --flag A B, of the flags named, as --flag=A,B, which absl reads."""
    words, whole = list(argv), []
    while words:
        word = words.pop(0)
        if word.lstrip("-") in pairs and word.startswith("-"):
            values: list[str] = []
            while words and not words[0].startswith("-") and len(values) < 2:
                values.append(words.pop(0))
            word = f"{word}={','.join(values)}"
        whole.append(word)
    return whole


def parse(argv: list[str], actions: Mapping[str, int] | None = None) -> list[str]:
    """Parse absl's flags; returns the action and its files, if there are any to choose from.

    Raises:
      UserError: for anything wrong with them.
    """
    options: list[str] = []
    if "config" in FLAGS:
        argv, options = _without_options(argv)
        _check_config(argv, options)
    try:
        FLAGS.set_gnu_getopt(True)  # an action may stand before its flags
        positional = FLAGS(argv)[1:]
        for word in options:
            _set_option(FLAGS["config"].value, word)
    except flags.UnrecognizedFlagError as error:
        own = [f.name for f in FLAGS.get_key_flags_for_module(argv[0])] or list(FLAGS)
        raise UserError(
            f"--{error.flagname}: no such flag{suggest(error.flagname, own)}"
        ) from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    actions = actions or {}
    action = positional[0] if positional else ""
    if actions and action not in actions:
        known = ", ".join(name for name in actions if name)
        first = (
            "flags are written --name=value, and what comes first is"
            if "" in actions
            else ("say what to do first,")
        )
        raise UserError(f"{first} one of {known}; got {action or 'nothing'}")
    if action in actions and len(positional) < bool(action) + actions[action]:
        raise UserError(f"{action}: need {actions[action]} files after it")
    if len(positional) > bool(action in actions and action) + actions.get(action, 0):
        raise UserError(f"unexpected argument {positional[-1]!r}: flags are written --name=value")
    return positional or ([""] if "" in actions else [])


def refuse(names: Sequence[str], why: str) -> None:
    """Raises UserError for a flag that was given and that nothing would read."""
    for name in names:
        if FLAGS[name].present:
            raise UserError(f"--{name} {why}: leave it out")


def overrides(argv: Sequence[str]) -> list[str]:
    """Those words of the command line that set fields of the config: --config.seed=1."""
    words, found = list(argv[1:]), []
    for word, following in zip(words, [*words[1:], "-"], strict=True):
        if not word.startswith("-") or not word.lstrip("-").removeprefix("no").startswith(
            "config."
        ):
            continue
        # --config.seed 1 is --config.seed=1; a flag without a value is a bool's.
        two = "=" not in word and (not following.startswith("-") or following[1:2].isdigit())
        found.append(f"{word}={following}" if two else word)
    return found


def use_compile_cache() -> None:
    """Switch jax's persistent compile cache on, as --compile_cache says."""
    import jax  # here, so that scripts that never compile do not pay for it

    chosen = FLAGS.compile_cache or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", str(chosen or cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def cache_dir() -> Path:
    """The package's folder in the user's cache directory."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "ddpm_jax"


def join_processes() -> None:
    """Join the other processes of the run, where --coordinator says that there are some.

    Raises:
      UserError: if the flags do not fit, or the others cannot be reached.
    """
    where, count, number = FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id
    if where is None:
        if count is not None or number is not None:
            raise UserError("--num_processes and --process_id need --coordinator=host:port")
        return
    if where != "auto" and (count is None or number is None or not 0 <= number < count):
        raise UserError(
            f"--coordinator={where}: give --num_processes, and --process_id from 0 to one less; "
            f"got {count} and {number}"
        )
    import jax

    try:
        if where == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(where, count, number)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--coordinator={where}: cannot join the others ({reason})") from error


def _without_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without --config.GROUP.OPTIONS.NAME=VALUE, and those.

    ml_collections sets no field that is not there yet, and an option is there once it is set.
    """
    rest, options, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        name, sign, value = word.lstrip("-").partition("=")
        places = name.split(".")
        is_option = len(places) == 4 and places[0] == "config" and places[2].endswith("options")
        if not (word.startswith("-") and is_option):
            rest.append(word)
            continue
        if not sign:  # --name VALUE is --name=VALUE
            value = words.pop(0) if words and not words[0].startswith("--") else "True"
        options.append(f"{name}={value}")
    return rest, options


def _set_option(config: Any, word: str) -> None:
    """Set config.GROUP.OPTIONS.NAME=VALUE, the value as Python spells it, or as text."""
    name, _, text = word.partition("=")
    _, group, options, option = name.split(".")
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        value = text
    config[group][options][option] = value


def _check_config(argv: list[str], options: Sequence[str] = ()) -> None:
    """Refuse a config file that does not load, and a --config.x that it has no field for.

    ml_collections ends both in a traceback, so this comes before its parser.
    """
    words = argv[1:]
    for i in range(len(words) - 1):
        if words[i] in ("--config", "-config"):  # --config FILE is --config=FILE
            words[i] += f"={words[i + 1]}"
    # --noconfig.x is --config.x=false.
    given = [w.lstrip("-").removeprefix("no") for w in words if w.startswith("-")]
    files = [a.partition("=")[2] for a in given if a.startswith("config=")]
    names = [a.partition("=")[0] for a in given if a.startswith("config.")]
    names += [word.partition("=")[0].rpartition(".")[0] for word in options]
    if not files:
        if names:
            raise UserError(f"--{names[0]} has no config to change: give --config=FILE too")
        return
    fields = [f"config.{name}" for name in _fields(load_config_file(files[-1]))]
    for name in names:
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


def suggest(name: str, known: list[str]) -> str:
    """'; did you mean X?' for the nearest known name, or '' when none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    if not near:  # the right field in the wrong group is still worth naming
        last = name.rsplit(".", 1)[-1]
        near = [k for k in known if k.rsplit(".", 1)[-1] == last][:1]
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


def _fields(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields; a dict of options is one, whatever it holds."""
    for key, value in config.items():
        if hasattr(value, "items") and not key.endswith("options"):
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
