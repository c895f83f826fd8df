"""The U-Net of Ho et al. (2020), appendix B, with its successors' conditions and blocks."""

# Over 300 lines: one network, whose way down and way up are read side by side.

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models import condition_embedding
from ddpm_jax.models.condition_embedding import Conditions
from ddpm_jax.models.layers import (
    Attention,
    CrossAttention,
    GroupNorm,
    ResidualBlock,
    initializer,
    sinusoidal_embedding,
    upsample_nearest,
)


def residual_block(module: Any, train: bool, **fields: Any) -> Any:
    """(h [B, H, W, C], embedding [B, E]) -> [B, H', W', width], with the options of a module.

    Args:
      module: a `UNet`, or another with its num_groups, norm_epsilon, dropout, scale_shift_norm,
        residual_scale and dtype.
      train: as in its call.
      **fields: the block's width, resample and name.
    """
    block = ResidualBlock(
        num_groups=module.num_groups,
        norm_epsilon=module.norm_epsilon,
        dropout=module.dropout,
        scale_shift_norm=module.scale_shift_norm,
        residual_scale=module.residual_scale,
        dtype=module.dtype,
        **fields,
    )
    return functools.partial(block, train=train)


def down_path(
    h: jax.Array,
    embedding: jax.Array,
    *,
    block_channels: Sequence[int],
    num_blocks: int,
    attention_levels: Sequence[int],
    resample_blocks: bool,
    downsample_padding: int,
    block: Any,
    attention: Any,
    conv: Any,
) -> list[jax.Array]:
    """The way down of a U-Net and of a classifier, inside the module that calls it.

    Args:
      h: [B, H, W, C], at the full resolution.
      embedding: [B, E].
      block_channels, num_blocks, attention_levels, resample_blocks, downsample_padding: as in
        `UNet`.
      block, attention, conv: constructors of the layers, except for width and name.

    Returns:
      h, and what each layer made of it; the last is the way's end.
    """
    skips = [h]
    for level, width in enumerate(block_channels):
        for i in range(num_blocks):
            h = block(width=width, name=f"down_{level}_block_{i}")(h, embedding)
            if level in attention_levels:
                h = attention(h, name=f"down_{level}_attention_{i}")
            skips.append(h)
        if level == len(block_channels) - 1:
            continue
        name = f"down_{level}_downsample"
        if resample_blocks:
            h = block(width=width, resample="down", name=name)(h, embedding)
        else:
            pad = (1, 1) if downsample_padding else (0, 1)
            h = conv(
                features=width,
                strides=(2, 2),
                padding=(pad, pad),
                kernel_init=initializer(),
                name=name,
            )(h)
        skips.append(h)
    return skips


class UNet(nn.Module):
    """A U-Net of residual blocks, with self-attention at chosen levels.

    Level 0 is the full resolution, and each further level halves it. The defaults are Ho et al.'s
    CIFAR-10 network, 35,746,307 parameters.

    Attributes:
      block_channels: channels of each level; the first is also the width of the time embedding.
      num_blocks: residual blocks of a level on the way down (one more on the way up).
      attention_levels: levels whose blocks are followed by self-attention.
      out_channels: channels of the output.
      num_classes: classes to condition on; 0 for none.
      null_class: keep one more embedding for "no class", label -1; needed for guidance.
      attributes: further named conditions, each with the number of its values; an embedding table
        of each is added to the time's embedding, as the label's.
      images: named images [B, H, W, channels] beside the input, each with its channels.
      tokens_channels: D of a sequence of tokens [B, L, D] that cross-attention reads wherever there
        is self-attention; 0 for none.
      dropout: rate inside the residual blocks.
      head_dim: channels of an attention head; None for `num_heads`.
      num_heads: of every attention, where head_dim is None.
      mid_attention: attention between the two blocks of the bottom.
      num_groups, norm_epsilon: of every GroupNorm.
      mid_num_groups: of the bottom attention's GroupNorm; None for num_groups, 0 for no norm there
        (diffusers' networks with resnet_time_scale_shift="scale_shift" have none).
      embedding_dim: width of the embedding; None for 4 block_channels[0].
      scale_shift_norm: the embedding scales and shifts instead of being added (ADM).
      resample_blocks: a residual block halves and doubles the resolution (BigGAN, ADM), instead of
        a strided convolution and one after upsampling.
      residual_scale: of the sum of each residual connection; sqrt(1/2) in Song et al. 2021.
      downsample_padding: 0 pads right and bottom (Ho et al.), 1 pads every side.
      freq_shift, flip_sin_to_cos: of the time embedding.
      fourier_features: exponents n >= 1 of sin and cos of 2^n pi x, shown beside the data x: they
        resolve the cells of pixels, which a likelihood needs (Kingma et al. 2021, appendix C).
      dtype: of the computation; parameters and output are float32.
    """

    block_channels: tuple[int, ...] = (128, 256, 256, 256)
    num_blocks: int = 2
    attention_levels: tuple[int, ...] = (1,)
    out_channels: int = 3
    num_classes: int = 0
    null_class: bool = True
    attributes: tuple[tuple[str, int], ...] = ()
    images: tuple[tuple[str, int], ...] = ()
    tokens_channels: int = 0
    dropout: float = 0.0
    head_dim: int | None = None
    num_heads: int = 1
    mid_attention: bool = True
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    mid_num_groups: int | None = None
    embedding_dim: int | None = None
    scale_shift_norm: bool = False
    resample_blocks: bool = False
    residual_scale: float = 1.0
    downsample_padding: int = 0
    freq_shift: float = 1.0
    flip_sin_to_cos: bool = False
    fourier_features: tuple[int, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, xt: jax.Array, time: jax.Array, conditions: Conditions = None, *, train: bool = False
    ) -> jax.Array:  # [B, H, W, C], [B] or a scalar, {"label": [B]} -> [B, H, W, out_channels]
        """The network's output at x_t.

        Args:
          xt: [B, H, W, C]; H and W divisible by 2^(levels - 1).
          time: [B] or a scalar, in the units of `Schedule.network_time`.
          conditions: named arrays as in `diffusion.conditions`, a bare int array for
            {"label": array}, or None. What is left out is absent.
          train: turns dropout on; `apply` then needs rngs={"dropout": key}.

        Raises:
          ValueError: for sizes that do not divide, or conditions that the network does not have.
        """
        self._check(xt)
        values = condition_embedding.values(self.num_classes, self.attributes)
        filled = condition_embedding.complete(
            conditions,
            xt.shape,
            values,
            self.images,
            self.tokens_channels,
        )
        self._check_label(conditions)
        embedding = self._embedding(jnp.broadcast_to(time, xt.shape[:1]), filled)
        norm: dict[str, Any] = {"num_groups": self.num_groups, "norm_epsilon": self.norm_epsilon}
        block = functools.partial(residual_block, self, train)
        attention: Any = functools.partial(self._attention, conditions=filled, **norm)
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), dtype=self.dtype)

        h = conv(features=self.block_channels[0], kernel_init=initializer(), name="conv_in")(
            condition_embedding.beside(self._features(xt), filled, self.images).astype(self.dtype)
        )
        skips = down_path(
            h,
            embedding,
            block_channels=self.block_channels,
            num_blocks=self.num_blocks,
            attention_levels=self.attention_levels,
            resample_blocks=self.resample_blocks,
            downsample_padding=self.downsample_padding,
            block=block,
            attention=attention,
            conv=conv,
        )
        h = skips[-1]

        width = self.block_channels[-1]
        h = block(width=width, name="mid_block_0")(h, embedding)
        if self.mid_attention:
            groups = self.num_groups if self.mid_num_groups is None else self.mid_num_groups
            h = attention(h, num_groups=groups, name="mid_attention")
        h = block(width=width, name="mid_block_1")(h, embedding)

        for level, width in reversed(list(enumerate(self.block_channels))):
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(width=width, name=f"up_{level}_block_{i}")(h, embedding)
                if level in self.attention_levels:
                    h = attention(h, name=f"up_{level}_attention_{i}")
            if level > 0 and self.resample_blocks:
                resample = block(width=width, resample="up", name=f"up_{level}_upsample")
                h = resample(h, embedding)
            elif level > 0:
                h = conv(features=width, kernel_init=initializer(), name=f"up_{level}_upsample")(
                    upsample_nearest(h)
                )

        h = GroupNorm(self.num_groups, self.norm_epsilon, self.dtype, name="norm_out")(h)
        h = conv(features=self.out_channels, kernel_init=initializer(0.0), name="conv_out")(
            nn.swish(h)
        )
        return h.astype(jnp.promote_types(jnp.float32, xt.dtype))

    def _features(self, xt: jax.Array) -> jax.Array:
        """x_t and its Fourier features, [B, H, W, C (1 + 2 len(fourier_features))]."""
        # In the data's own precision: half precision does not hold the phase.
        angles = [2.0**n * jnp.pi * xt for n in self.fourier_features]
        waves = [wave(angle) for angle in angles for wave in (jnp.sin, jnp.cos)]
        return jnp.concatenate([xt, *waves], axis=-1)

    def _attention(
        self, h: jax.Array, conditions: dict[str, jax.Array], *, name: str, **norm: Any
    ) -> jax.Array:
        """Self-attention, then cross-attention to the tokens where the network has them."""
        head_dim = self.head_dim or h.shape[-1] // self.num_heads
        options = {**norm, "head_dim": head_dim, "dtype": self.dtype}
        options["residual_scale"] = self.residual_scale
        h = Attention(**options, name=name)(h)
        if not self.tokens_channels:
            return h
        cross = CrossAttention(**options, name=f"{name}_to_tokens")
        return cross(h, conditions["tokens"], conditions["tokens_mask"])

    def _embedding(self, time: jax.Array, conditions: dict[str, jax.Array]) -> jax.Array:
        """The time's embedding plus those of the label and the attributes, [B, embedding_dim]."""
        width = self.embedding_dim or 4 * self.block_channels[0]
        dense = functools.partial(nn.Dense, width, dtype=self.dtype, kernel_init=initializer())
        waves = sinusoidal_embedding(
            time,
            self.block_channels[0],
            freq_shift=self.freq_shift,
            flip_sin_to_cos=self.flip_sin_to_cos,
        )
        embedding = dense(name="time_dense_1")(nn.swish(dense(name="time_dense_0")(waves)))
        for name, count in condition_embedding.values(self.num_classes, self.attributes).items():
            absent = int(self.null_class or name != "label")
            table = nn.Embed(
                count + absent,
                width,
                dtype=self.dtype,
                embedding_init=nn.initializers.normal(1.0),
                name=f"{name}_embedding",
            )
            embedding += table(condition_embedding.row(conditions[name], count))
        return embedding

    def _check_label(self, conditions: Conditions) -> None:
        if self.null_class or not self.num_classes:
            return
        if conditions is None or (isinstance(conditions, Mapping) and "label" not in conditions):
            raise ValueError("this network has no null class: give it labels [B]")

    def _check(self, xt: jax.Array) -> None:
        if xt.ndim != 4:
            raise ValueError(f"need images [B, H, W, C], got shape {xt.shape}")
        if any(n < 1 for n in self.fourier_features):
            raise ValueError(f"need exponents of at least 1, got {self.fourier_features=}")
        attending = set(self.attention_levels)
        if self.mid_attention:
            attending.add(len(self.block_channels) - 1)
        check_sizes(self, xt.shape, attending)


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
