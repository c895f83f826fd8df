"""Train a diffusion model, or go on with the run in --workdir."""

from ddpm_jax import cli
from ddpm_jax.commands.train import command

if __name__ == "__main__":
    cli.run_command(command)
