"""config.data.augment: how training images are moved on the device."""

from ml_collections import ConfigDict

from ddpm_jax.config.choose import choose
from ddpm_jax.training.objectives.augmented import Move, augmented, flip, shift
from ddpm_jax.training.objectives.base import Objective

MOVES: dict[str, Move] = {"flip": flip, "shift": shift}


def objective(c: ConfigDict, inner: Objective) -> Objective:
    """The objective of moved images, or the same one. Raises UserError for an unknown name."""
    moves = {name: choose("data.augment", name, MOVES) for name in c.data.get("augment", ())}
    return augmented(inner, moves) if moves else inner
