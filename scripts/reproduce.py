"""Train a run again from its manifest, and say whether it ends in the same bits."""

from ddpm_jax import cli
from ddpm_jax.commands.reproduce import command

if __name__ == "__main__":
    cli.run_command(command)
