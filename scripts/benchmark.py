"""Measure speed and memory on this machine, quiet or the figures mean nothing."""

from ddpm_jax import cli
from ddpm_jax.commands.benchmark import command

if __name__ == "__main__":
    cli.run_command(command)
