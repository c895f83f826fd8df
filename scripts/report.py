"""Write a report of a run, or of several side by side, as one HTML file that loads nothing else."""

from ddpm_jax import cli
from ddpm_jax.commands.report import command

if __name__ == "__main__":
    cli.run_command(command)
