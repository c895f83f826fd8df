"""The levels of a U-Net: what stands at each resolution, on the way down and on the way up.

Functions of the module that they are called in, a `UNet` or another with its fields of the same
names and its `attend`; what they add to it has names of its own.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from ddpm_jax.models.convolution import PLAIN, convolution, enlarging
from ddpm_jax.models.layers import (
    GroupNorm,
    ResidualBlock,
    initializer,
    resize_nearest,
    upsample_nearest,
)
from ddpm_jax.models.remat import recomputed

# Of a sequence of tokens, as conditions name them; {} for a network that reads none.
TOKENS = ("tokens", "tokens_mask")
Tokens = Mapping[str, jax.Array]


def residual_block(module: Any, train: bool, **fields: Any) -> Any:
    """(h [B, H, W, C], embedding [B, E], skip) -> [B, H', W', width], with a module's options.

    Args:
      module: a `UNet`, or another with its num_groups, norm_epsilon, dropout, scale_shift_norm,
        residual_scale, kernel_gradient, remat and dtype.
      train: as in its call.
      **fields: the block's width, resample, use_fast_variance and name.
    """
    block = recomputed("block", module.remat, ResidualBlock, static_argnums=(3,))(
        num_groups=module.num_groups,
        norm_epsilon=module.norm_epsilon,
        dropout=module.dropout,
        scale_shift_norm=module.scale_shift_norm,
        residual_scale=module.residual_scale,
        kernel_gradient=module.kernel_gradient,
        dtype=module.dtype,
        **fields,
    )
    return lambda h, embedding, *skip: block(h, embedding, train, *skip)


def down_path(
    module: Any,
    h: jax.Array,
    embedding: jax.Array | None,
    tokens: Tokens,
    *,
    train: bool,
    downsample_padding: int = 0,
) -> list[jax.Array]:
    """The way down of a U-Net and of a classifier, called inside of it.

    Args:
      module: a `UNet`, or another with its fields of the same names and its `attend`.
      h: [B, H, W, C], at the full resolution.
      embedding: [B, E]; None where the blocks have none.
      tokens: as of `UNet.attend`.
      train: as in its call.
      downsample_padding: as in `UNet`.

    Returns:
      h, and what each layer made of it; the last is the way's end.
    """
    skips = [h]
    for level in range(len(module.block_channels)):
        stage = functools.partial(
            _down_level, level=level, train=train, downsample_padding=downsample_padding
        )
        skips += recomputed("stage", module.remat, stage)(module, skips[-1], embedding, tokens)
    return skips


def _down_level(
    module: Any,
    h: jax.Array,
    embedding: jax.Array | None,
    tokens: Tokens,
    *,
    level: int,
    train: bool,
    downsample_padding: int,
) -> list[jax.Array]:
    """What each layer of a level makes of h, on the way down."""
    width, name = module.block_channels[level], f"down_{level}"
    block = functools.partial(residual_block, module, train, width=width)
    skips = []
    for i in range(module.num_blocks):
        h = block(name=f"{name}_block_{i}")(h, embedding)
        if level in module.attention_levels:
            h = module.attend(h, tokens, name=f"{name}_attention_{i}")
        skips.append(h)
    if level == len(module.block_channels) - 1:
        return skips
    if module.resample_blocks:
        h = block(resample="down", name=f"{name}_downsample")(h, embedding)
    else:
        pad = (1, 1) if downsample_padding else (0, 1)
        h = conv(module, width, strides=(2, 2), padding=(pad, pad), name=f"{name}_downsample")(h)
    return [*skips, h]


def up_level(
    module: Any,
    h: jax.Array,
    skips: Sequence[jax.Array | None],
    embedding: jax.Array | None,
    tokens: Tokens,
    *,
    level: int,
    train: bool,
) -> jax.Array:
    """A level on the way up: a block for each skip, which reads it, from the last one on.

    A skip of None is a block that reads none.
    """
    width, name = module.block_channels[level], f"up_{level}"
    block = functools.partial(residual_block, module, train, width=width)
    for i, skip in enumerate(reversed(skips)):
        h = block(name=f"{name}_block_{i}")(h, embedding, skip)
        if level in module.attention_levels:
            h = module.attend(h, tokens, name=f"{name}_attention_{i}")
    if level == 0:
        return h
    if module.resample_blocks:
        return block(resample="up", name=f"{name}_upsample")(h, embedding)
    enlarge = functools.partial(enlarged, width=width, name=f"{name}_upsample")
    return recomputed("block", module.remat, enlarge)(module, h)


def bottom(
    module: Any, h: jax.Array, embedding: jax.Array | None, tokens: Tokens, *, train: bool
) -> jax.Array:
    """Two blocks at the lowest resolution, and attention between them."""
    block = functools.partial(residual_block, module, train, width=module.block_channels[-1])
    h = block(name="mid_block_0")(h, embedding)
    if module.mid_attention:
        groups = module.num_groups if module.mid_num_groups is None else module.mid_num_groups
        h = module.attend(h, tokens, num_groups=groups, name="mid_attention")
    return block(name="mid_block_1")(h, embedding)


def enlarged(
    module: Any, h: jax.Array, *, width: int, name: str, size: tuple[int, int] | None = None
) -> jax.Array:
    """A convolution of twice the pixels, [B, H, W, C] -> [B, 2H, 2W, width].

    Args:
      module: with its dtype and kernel_gradient.
      h: what enters.
      width: channels of the result.
      name: of the convolution.
      size: height and width of the result; None for twice those of h.
    """
    if size not in (None, (2 * h.shape[1], 2 * h.shape[2])):
        return conv(module, width, name=name)(resize_nearest(h, size))
    if module.kernel_gradient == PLAIN:
        return conv(module, width, name=name)(upsample_nearest(h))
    return conv(module, width, name=name, form=enlarging)(h)


def output(
    module: Any,
    h: jax.Array,
    scale: float = 0.0,
    window: int = 3,
    use_fast_variance: bool = True,
) -> jax.Array:
    """The last norm and convolution, [B, H, W, C] -> [B, H, W, out_channels].

    Args:
      module: as of `down_path`, with its out_channels.
      h: what enters.
      scale: of the convolution's initial weights.
      window: the convolution's pixels along either axis.
      use_fast_variance: as of `layers.GroupNorm`.
    """
    h = GroupNorm(
        module.num_groups,
        module.norm_epsilon,
        module.dtype,
        use_fast_variance=use_fast_variance,
        name="norm_out",
    )(h)
    last = conv(module, module.out_channels, scale=scale, window=window, name="conv_out")
    return last(nn.swish(h))


def conv(
    module: Any,
    width: int,
    *,
    name: str,
    scale: float = 1.0,
    window: int = 3,
    form: Callable[[str], Any] = convolution,
    **options: Any,
) -> nn.Conv:
    """A convolution of window x window pixels with the module's dtype and kernel_gradient."""
    return nn.Conv(
        width,
        (window, window),
        dtype=module.dtype,
        kernel_init=initializer(scale),
        conv_general_dilated_cls=lambda: form(module.kernel_gradient),
        name=name,
        **options,
    )


def check_sizes(module: Any, shape: Sequence[int], attending: Collection[int]) -> None:
    """Images, levels, groups and heads divide as a module with `down_path` needs.

    Args:
      module: a `UNet`, or another with its block_channels, num_groups, head_dim and num_heads.
      shape: [B, H, W, C].
      attending: the levels with attention.

    Raises:
      ValueError: for what does not divide.
    """
    factor = 2 ** (len(module.block_channels) - 1)
    if shape[1] % factor or shape[2] % factor:
        raise ValueError(
            f"image size {shape[1]}x{shape[2]} is not divisible by {factor}, what a "
            f"U-Net of {len(module.block_channels)} levels needs"
        )
    for level, width in enumerate(module.block_channels):
        if width % module.num_groups:
            raise ValueError(f"{width} channels do not divide into {module.num_groups} groups")
        if level not in attending:
            continue
        if module.head_dim and width % module.head_dim:
            raise ValueError(f"{width} channels do not divide into heads of {module.head_dim}")
        if width % module.num_heads:
            raise ValueError(f"{width} channels do not divide into {module.num_heads} heads")
