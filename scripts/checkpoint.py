"""List, verify or export the checkpoints of a run, or average them anew."""

from ddpm_jax import cli
from ddpm_jax.commands.checkpoint import command

if __name__ == "__main__":
    cli.run_command(command)
