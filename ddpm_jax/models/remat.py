"""Rematerialisation: what the backward pass computes again instead of keeping it."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

# What is computed again, by the choice's name.
#   none: nothing; every layer keeps what its gradient needs.
#   block: each residual, attention or transformer block, a resampling convolution and the output
#     layers, from their inputs. One more forward pass.
#   full: also each stage as a whole: a resolution of a U-Net on either way, the blocks at its
#     bottom, a run of about sqrt(depth) transformer blocks. What is kept is what enters a stage,
#     and a U-Net's skip connections; the blocks of one stage at a time keep their inputs. Two more
#     forward passes.
RECOMPUTED: dict[str, tuple[str, ...]] = {
    "none": (),
    "block": ("block",),
    "full": ("block", "stage"),
}


def recomputed(
    part: str, mode: str, target: Callable[..., Any], static_argnums: tuple[int, ...] = ()
) -> Any:
    """A block's class, or a function of a module, that keeps its inputs alone where `mode` says so.

    Paths of parameters, draws and results do not depend on it.

    Args:
      part: "block" or "stage".
      mode: a key of RECOMPUTED.
      target: the class, or (module, *arrays) -> arrays, which may add submodules by name.
      static_argnums: arguments that are no arrays, counted from the module as 0.

    Raises:
      ValueError: for an unknown mode.

    Source: Chen et al. 2016, "Training deep nets with sublinear memory cost".
    """
    if mode not in RECOMPUTED:
        raise ValueError(f"need remat to be one of {', '.join(RECOMPUTED)}, got {mode!r}")
    if part not in RECOMPUTED[mode]:
        return target
    return nn.remat(target, static_argnums=static_argnums)
