"""Trees of parameters that a run keeps beside its checkpoints: safetensors in its workdir."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files, leaves, weight_files


def write(folder: Path, trees: Mapping[str, Any], what: str) -> None:
    """Write trees by their names, each whole or not at all.

    Args:
      folder: the workdir.
      trees: on the host.
      what: they are, for a message: "the CLIP".

    Raises:
      UserError: where they cannot be written.
    """
    try:
        for name, tree in trees.items():
            tensors = {n: np.array(leaf, order="C") for n, leaf in leaves.named(tree).items()}
            with files.whole(path(folder, name)) as partial:
                safetensors.numpy.save_file(tensors, partial)
    except OSError as error:
        raise UserError(f"{folder}: cannot keep {what} there ({error.strerror})") from error


def read(folder: Path, name: str) -> dict[str, Any]:
    """A tree that was written. Raises OSError, ValueError or UserError for a broken file."""
    tree: dict[str, Any] = {}
    for named, tensor in weight_files.read_tensors(path(folder, name), "train the run again"):
        *groups, leaf = named.split("/")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[leaf] = np.array(tensor)
    return tree


def other(folder: Path, name: str) -> UserError:
    """What is said of a file that holds another tree than was written."""
    return UserError(f"{path(folder, name)} is not what the run kept there: put it back")


def path(folder: Path, name: str) -> Path:
    """Where a tree lies."""
    return folder / f"{name}.safetensors"
