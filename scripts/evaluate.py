"""Measure a trained model: its samples against its data, or its likelihood of held-out images."""

from ddpm_jax import cli
from ddpm_jax.commands.evaluate import command

if __name__ == "__main__":
    cli.run_command(command)
