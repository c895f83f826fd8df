"""From a command line to a function: one line and exit code 2 for a user's mistake."""

# Over 300 lines: what every command does before its work, in the order in which it is done.

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from absl import flags

from ddpm_jax import command_words, config_words
from ddpm_jax.errors import Stuck, UserError, suggest
from ddpm_jax.runtime.user_cache import cache_dir

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
    "cluster tells it (Slurm, Open MPI, Kubernetes, TPU pods)",
)
flags.DEFINE_integer("num_processes", None, "with --coordinator=host:port: how many there are")
flags.DEFINE_integer("process_id", None, "with --coordinator=host:port: which one this is, from 0")
flags.DEFINE_float(
    "join_timeout", 300.0, "with --coordinator: seconds to wait for processes that have not come"
)
flags.DEFINE_multi_string(
    "code_path",
    [],
    "DIR: a folder to import modules of one's own from, before all others, as PYTHONPATH does; "
    "once for each",
)
flags.DEFINE_list(
    "code",
    [],
    "package.module: modules whose parts, package.module:name, a workdir may use; what a workdir "
    "names is never imported without",
)

# gs://bucket/run: taken for a path, it would make a local folder of that name.
_ELSEWHERE = re.compile(r"(?:^|=)[A-Za-z][A-Za-z0-9+.-]*://")
COORDINATOR = "coordinator"


def run_command(command: ModuleType, argv: list[str] | None = None, *, name: str = "") -> NoReturn:
    """Run a command of the package, a module commands/NAME/command.py.

    Args:
      command: its docstring is what --help begins with, `define()` defines its flags, `main` is as
        in `run`; PAIRS, ACTIONS and MOVED, where it has them, as `pairs`, `actions` and `moved`.
      argv: the command line; None for this process's.
      name: of the command, where it was started as `python -m ddpm_jax NAME`, to say so in --help.
    """
    command.define()
    about = command.__doc__ or ""
    run(
        command.main,
        argv,
        about=about.replace(f"scripts/{name}.py", f"-m ddpm_jax {name}") if name else about,
        module=command.__name__,
        pairs=getattr(command, "PAIRS", ()),
        actions=getattr(command, "ACTIONS", None),
        moved=getattr(command, "MOVED", lambda field: None),
    )


def run(
    main: Callable[..., int | None],
    argv: list[str] | None = None,
    *,
    about: str | None = None,
    module: str | None = None,
    pairs: Sequence[str] = (),
    actions: Mapping[str, int] | None = None,
    moved: Callable[[str], str | None] = lambda field: None,
) -> NoReturn:
    """Parse the flags, run `main`, and exit with what it returns (None is 0).

    `--help` prints a text and the flags and exits 0. A `UserError`, a flag that does not exist or a
    value of the wrong type is printed in one line on stderr; the exit code is then 2 (absl's own is
    1).

    Args:
      main: the command.
      argv: the command line; None for this process's.
      about: what --help prints before the flags; None for the main module's docstring.
      module: name of the module that defines the flags; None for the main module.
      pairs: list flags that may be given as two words, --inpaint IMAGE MASK.
      actions: what the script can do, each with the number of files that follow; its first
        argument names one, and main(action, *files) is called. "" is what it does without any.
      moved: where a config field of an earlier version stands now; None for one that never moved.
    """
    argv = sys.argv if argv is None else argv
    # Config files say `from configs import default`: configs/ stands beside the package, and beside
    # scripts/.
    beside = [Path(__file__).parents[1]]
    if (folder := Path(argv[0]).resolve().parent).name == "scripts":
        beside.append(folder.parent)
    sys.path += [str(path) for path in beside if str(path) not in sys.path]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A path with other letters than the terminal's encoding has: the work is done all the
            # same, and is said with escapes.
            stream.reconfigure(errors="backslashreplace")
    if {"--help", "-h", "-help"} & set(argv[1:]):
        about = sys.modules["__main__"].__doc__ if about is None else about
        module = module or argv[0]
        print(f"{about or ''}\n{FLAGS.module_help(module)}".replace(f"\n{module}:", "\nflags:"))
        sys.exit(0)
    try:
        positional = parse(command_words.joined(argv, pairs), actions, module, moved)
        sys.exit(main(*positional))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        if isinstance(error, Stuck):
            # Python's own end would wait for the threads of every pool, and so for what is stuck.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_code)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def parse(
    argv: list[str],
    actions: Mapping[str, int] | None = None,
    module: str | None = None,
    moved: Callable[[str], str | None] = lambda field: None,
) -> list[str]:
    """Parse absl's flags; returns the action and its files, if there are any to choose from.

    Args:
      argv: the command line.
      actions, module, moved: as in `run`.

    Raises:
      UserError: for anything wrong with them.
    """
    options: list[str] = []
    try:
        argv = FLAGS.read_flags_from_files(argv)
    except (flags.Error, OSError) as error:
        raise UserError(f"--flagfile: cannot be read ({error})") from error
    use_code_path(command_words.values(argv, "code_path"))  # now: a config file imports from there
    argv = command_words.last_of_each(argv)
    if "config" in FLAGS:
        argv, options = config_words.without_options(argv, moved)
        config_words.check(argv, options)
    try:
        FLAGS.set_gnu_getopt(True)  # an action may stand before its flags
        with config_words.as_command_line(argv):
            positional = FLAGS(argv)[1:]
        for word in options:
            config_words.set_option(FLAGS["config"].value, word)
    except flags.UnrecognizedFlagError as error:
        own = [f.name for f in FLAGS.get_key_flags_for_module(module or argv[0])] or list(FLAGS)
        raise UserError(
            f"--{error.flagname}: no such flag{suggest(error.flagname, own)}"
        ) from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    for name in FLAGS:
        if FLAGS[name].present and name != COORDINATOR:
            refuse_elsewhere(f"--{name}", FLAGS[name].value)
    actions = actions or {}
    action = positional[0] if positional else ""
    if actions and action not in actions:
        choices = ", ".join(name for name in actions if name)
        first = (
            "flags are written --name=value, and what comes first is"
            if "" in actions
            else ("say what to do first,")
        )
        raise UserError(f"{first} one of {choices}; got {action or 'nothing'}")
    if action in actions and len(positional) < bool(action) + actions[action]:
        raise UserError(f"{action}: need {actions[action]} files after it")
    if len(positional) > bool(action in actions and action) + actions.get(action, 0):
        raise UserError(f"unexpected argument {positional[-1]!r}: flags are written --name=value")
    return positional or ([""] if "" in actions else [])


def require(name: str, remedy: str) -> None:
    """Raises UserError, with what to name, for a flag that was left out or is empty."""
    if not FLAGS[name].value:
        raise UserError(f"--{name} is missing: {remedy}")


def refuse(names: Sequence[str], why: str) -> None:
    """Raises UserError for a flag that was given and that nothing would read."""
    for name in names:
        if FLAGS[name].present:
            raise UserError(f"--{name} {why}: leave it out")


def refuse_elsewhere(name: str, value: Any) -> None:
    """Raises UserError for a value, or one of a list, that is not a path: gs://bucket/run.

    Args:
      name: of the flag or field, for the error.
      value: text, a list of texts; anything else is not looked at.
    """
    for text in value if isinstance(value, list | tuple) else [value]:
        if isinstance(text, str) and _ELSEWHERE.search(text):
            raise UserError(
                f"{name}={text}: files and folders are those of this machine; mount or copy what "
                "lies elsewhere, and name its path here"
            )


def use_code_path(folders: Sequence[str] | None = None) -> None:
    """Put the folders of --code_path in front of what Python imports from, as PYTHONPATH does.

    Args:
      folders: instead of the flag's.

    Raises:
      UserError: for one that is not a folder.
    """
    for folder in reversed(FLAGS.code_path if folders is None else folders):
        if not os.path.isdir(folder):
            raise UserError(
                f"--code_path={folder}: there is no such folder; name the one that holds the "
                "package or module"
            )
        path = os.path.abspath(folder)
        sys.path[:] = [path, *(entry for entry in sys.path if entry != path)]


def start_jax() -> None:
    """What a command that computes begins with: its modules, the compile cache, devices.

    Raises:
      UserError: as `use_code_path` and `use_devices`.
    """
    use_code_path()
    use_compile_cache()
    use_devices()


def use_devices() -> None:
    """Let jax find its devices, and compute in float32.

    Raises:
      UserError: where JAX_PLATFORMS names what is not there, or jax finds nothing.
    """
    jax = _jax()
    if jax.config.jax_enable_x64:
        # With it parameters would be float64, and no checkpoint could be read without it.
        jax.config.update("jax_enable_x64", False)
        print("JAX_ENABLE_X64 is set aside: runs are in float32", file=sys.stderr)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        platforms = jax.config.jax_platforms
        if not platforms:
            raise UserError(f"jax finds no device ({reason})") from error
        raise UserError(
            f"JAX_PLATFORMS={platforms}: jax finds no such device here ({reason}); unset it, or "
            "set JAX_PLATFORMS=cpu"
        ) from error


def _jax() -> ModuleType:
    """jax; imported late, so that a command that never computes does not pay for it.

    Raises:
      UserError: for an environment variable of jax's with a value that it does not take.
    """
    try:
        import jax
    except ValueError as error:
        variables = ", ".join(sorted(n for n in os.environ if n.startswith("JAX_")))
        raise UserError(f"jax refuses its environment ({error}): look at {variables}") from error
    return jax


def use_compile_cache() -> None:
    """Switch jax's persistent compile cache on, as --compile_cache says."""
    jax = _jax()
    cache = FLAGS.compile_cache or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if cache == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", str(cache or cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
