"""Draw images from a trained model."""

from ddpm_jax import cli
from ddpm_jax.commands.sample import command

if __name__ == "__main__":
    cli.run_command(command)
