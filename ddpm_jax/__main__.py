"""`python -m ddpm_jax COMMAND ...`: every command, from wherever the package is installed.

Python puts the current folder in front of what it imports from; it is taken out again here, before
anything is imported: what lies where a command is started, a workdir say, is not code.
"""

import sys

# Of each command what --help says of it; its module is ddpm_jax.commands.NAME.command.
COMMANDS = {
    "train": "train a model, or go on with a run",
    "sample": "draw images from a trained model",
    "evaluate": "measure a trained model, or compare two results",
    "report": "write a report of runs as one HTML file",
    "sweep": "run a sweep of many runs, and report them with intervals",
    "reproduce": "train a run again from its manifest, and compare the bits",
    "checkpoint": "list, verify or export the checkpoints of a run",
    "benchmark": "measure speed and memory on this machine",
    "prepare_data": "prepare a TFDS data set for training without TensorFlow",
}


def main() -> None:
    """Run the command that the first word names; without one, list them."""
    import importlib

    from ddpm_jax import cli
    from ddpm_jax.errors import suggest

    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "-help", "help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
        print("usage: python -m ddpm_jax COMMAND --flag=value ...\n\n" + "\n".join(lines))
        print("\nThe flags of one: python -m ddpm_jax COMMAND --help")
        return
    if name.startswith("-"):
        print(f"error: name a command before {name}: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    if name not in COMMANDS:
        hint = suggest(name, list(COMMANDS))
        print(f"error: {name}: no such command{hint}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    module = importlib.import_module(f"ddpm_jax.commands.{name}.command")
    cli.run_command(module, name=name)


def _leave_current_folder() -> None:
    """Import nothing from the current folder, but where PYTHONPATH names it."""
    if not sys.flags.safe_path:
        del sys.path[0]  # which `python -m` has put there; PYTHONPATH's own entries stay


if __name__ == "__main__":
    _leave_current_folder()
    main()
