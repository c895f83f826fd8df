"""Run a sweep: many runs from one file, and their results with intervals."""

from ddpm_jax import cli
from ddpm_jax.commands.sweep import command

if __name__ == "__main__":
    cli.run_command(command)
