"""config.model.control: images that a branch beside a U-Net reads, and how it begins."""

from collections.abc import Callable, Collection
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.build import coding, conditioning
from ddpm_jax.config.own_code import Own
from ddpm_jax.errors import UserError
from ddpm_jax.models.unet import CONTROL
from ddpm_jax.runtime import leaves

Images = tuple[tuple[str, int], ...]


def images(c: ConfigDict, own: Own) -> tuple[Images, Images]:
    """The conditions that are images, as `seen`, and those of them that a branch of control reads.

    Raises:
      UserError: for a control that is none of them.
    """
    every = seen(c, own)
    for name in c.model.control:
        if name not in every:
            raise UserError(
                f"config.model.control={tuple(c.model.control)}: {name} is no image among "
                f"config.model.conditions={tuple(c.model.conditions)}; name it there too"
            )
    items = [*every.items()]
    return (
        tuple(item for item in items if item[0] not in c.model.control),
        tuple(item for item in items if item[0] in c.model.control),
    )


def seen(c: ConfigDict, own: Own) -> dict[str, int]:
    """The conditions that are images, with their channels as a network sees them.

    Beside latents, each square of pixels that one latent is of is folded into channels.

    Raises:
      UserError: for latents whose sizes are no equal share of the images'.
    """
    every = conditioning.images(c, own)
    squares = coding.shrinks_by(c) ** 2 if every else 1
    return {name: squares * channels for name, channels in every.items()}


def refuse(c: ConfigDict, why: str) -> None:
    """Raises UserError for a network that has no branch of control."""
    if c.model.control:
        raise UserError(
            f"config.model.control={tuple(c.model.control)}: {why}; set (), which shows them "
            "beside the image, or model.name=unet"
        )


def branch_of(like: Any, kinds: Collection[str]) -> Any:
    """The branch that is to begin as a copy of the way down; {} where there is none.

    Args:
      like: of all parameters.
      kinds: the names of the tensors that there are; a branch among them is no copy.
    """
    own = any(name.startswith(f"{CONTROL}/") for name in kinds)
    return {} if own else like.get(CONTROL, {})


def copied(branch: Any, shared: Collection[str], load: Callable[[Any], Any]) -> Any:
    """The branch, of the tensors that have its names in the U-Net; None for what is new in it.

    Args:
      branch: of the branch's parameters, or their shapes.
      shared: the names that it shares with the U-Net's tensors.
      load: a tree with None for what is left out -> the tensors of the same names.
    """
    return load(
        jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if leaves.name_of(path) in shared else None, branch
        )
    )
