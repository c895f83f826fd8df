"""Run a sweep: every cell of a sweep file as an ordinary run, and their results with intervals."""

from ddpm_jax import cli
from ddpm_jax.commands.sweep import command

if __name__ == "__main__":
    cli.run_command(command)
