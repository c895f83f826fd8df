"""Prepare a TFDS data set as array_record, for training without TensorFlow and network."""

from ddpm_jax import cli
from ddpm_jax.commands.prepare_data import command

if __name__ == "__main__":
    cli.run_command(command)
