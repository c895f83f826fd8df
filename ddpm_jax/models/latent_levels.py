"""The levels of a U-Net whose residual blocks have transformers behind them, of any depths.

Functions of the module that they are called in, a `latent_trunk.Trunk`; what they add to it has
names of its own.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax

from ddpm_jax.models.levels import conv, enlarged, residual_block
from ddpm_jax.models.remat import recomputed
from ddpm_jax.models.spatial_transformer import SpatialTransformer

# The tokens and their mask, as `SpatialTransformer` takes them.
Read = tuple[jax.Array | None, jax.Array | None]


def down_path(
    module: Any, h: jax.Array, embedding: jax.Array, read: Read, *, train: bool
) -> tuple[list[jax.Array], jax.Array]:
    """The way down and the bottom.

    Args:
      module: a `Trunk`.
      h: [B, H, W, block_channels[0]].
      embedding: [B, E].
      read: by the transformers.
      train: turns dropout on.

    Returns:
      h and what each layer made of it; what the bottom made of the last.
    """
    stage = functools.partial(recomputed, "stage", module.remat)
    skips = [h]
    for level in range(len(module.block_channels)):
        way = functools.partial(_down_level, level=level, train=train)
        skips += stage(way)(module, skips[-1], embedding, read)
    if not module.bottom:
        return skips, skips[-1]
    lowest = functools.partial(_bottom, train=train)
    return skips, stage(lowest)(module, skips[-1], embedding, read)


def up_path(
    module: Any,
    h: jax.Array,
    skips: Sequence[jax.Array],
    embedding: jax.Array,
    read: Read,
    *,
    train: bool,
) -> jax.Array:
    """The way up, [B, h, w, C] -> [B, H, W, block_channels[0]].

    Args:
      module: a `Trunk` with its up_depths.
      h: at the lowest resolution.
      skips: as of `down_path`; a level's last one has the size that the level below is enlarged to.
      embedding, read, train: as of `down_path`.
    """
    for level in reversed(range(len(module.block_channels))):
        count = module.num_blocks[level] + 1
        own, skips = skips[-count:], skips[:-count]
        size = (skips[-1].shape[1], skips[-1].shape[2]) if skips else None
        up = functools.partial(_up_level, level=level, size=size, train=train)
        h = recomputed("stage", module.remat, up)(module, h, own, embedding, read)
    return h


def _down_level(
    module: Any, h: jax.Array, embedding: jax.Array, read: Read, *, level: int, train: bool
) -> list[jax.Array]:
    """What each layer of a level makes of h."""
    width, name = module.block_channels[level], f"down_{level}"
    only, skips = module.only_tokens[level], []
    for i in range(module.num_blocks[level]):
        h = _block(module, train, width=width, name=f"{name}_block_{i}")(h, embedding)
        if depths := module.down_depths[level]:
            behind = _transformer(module, level, depths[i], f"{name}_transformer_{i}", only)
            h = behind(h, *read)
        skips.append(h)
    if level == len(module.block_channels) - 1:
        return skips
    pad = (1, 1) if module.downsample_padding else (0, 1)
    halved = conv(module, width, strides=(2, 2), padding=(pad, pad), name=f"{name}_downsample")
    return [*skips, halved(h)]


def _bottom(
    module: Any, h: jax.Array, embedding: jax.Array, read: Read, *, train: bool
) -> jax.Array:
    """A residual block at the lowest resolution; a transformer and another block behind it."""
    block = functools.partial(_block, module, train, width=module.block_channels[-1])
    h = block(name="mid_block_0")(h, embedding)
    if module.mid_depth is None:
        return h
    h = _transformer(module, -1, module.mid_depth, "mid_transformer")(h, *read)
    return block(name="mid_block_1")(h, embedding)


def _up_level(
    module: Any,
    h: jax.Array,
    skips: Sequence[jax.Array],
    embedding: jax.Array,
    read: Read,
    *,
    level: int,
    size: tuple[int, int] | None,
    train: bool,
) -> jax.Array:
    """A block for each skip of a level, from the last one on; then the size of the next level."""
    width, name = module.block_channels[level], f"up_{level}"
    only = module.only_tokens[level]
    for i, skip in enumerate(reversed(skips)):
        block = _block(module, train, width=width, name=f"{name}_block_{i}")
        h = block(h, embedding, skip)
        if depths := module.up_depths[level]:
            behind = _transformer(module, level, depths[i], f"{name}_transformer_{i}", only)
            h = behind(h, *read)
    if size is None:
        return h
    enlarge = functools.partial(enlarged, width=width, size=size, name=f"{name}_upsample")
    return recomputed("block", module.remat, enlarge)(module, h)


def _transformer(
    module: Any, level: int, depth: int, name: str, only_tokens: bool = False
) -> SpatialTransformer:
    """With the options of a module, and the heads of one of its levels."""
    return SpatialTransformer(
        module.num_heads[level],
        depth,
        only_tokens,
        module.num_groups,
        module.remat,
        module.attention,
        module.dtype,
        name=name,
    )


def _block(module: Any, train: bool, **fields: Any) -> Any:
    """A residual block whose norms are exact: published weights have groups of a large mean."""
    return residual_block(module, train, use_fast_variance=False, **fields)
