"""The U-Net of Ho et al. (2020), appendix B, with an optional class embedding."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.layers import (
    Attention,
    GroupNorm,
    ResidualBlock,
    initializer,
    sinusoidal_embedding,
    upsample_nearest,
)

Conditions = dict[str, jax.Array] | jax.Array | None


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
      dropout: rate inside the residual blocks.
      head_dim: channels of an attention head; None for a single head.
      mid_attention: attention between the two blocks of the bottom.
      num_groups, norm_epsilon: of every GroupNorm.
      mid_num_groups: of the bottom attention's GroupNorm; None for num_groups, 0 for no norm there
        (diffusers' networks with resnet_time_scale_shift="scale_shift" have none).
      embedding_dim: width of the embedding; None for 4 block_channels[0].
      scale_shift_norm: the embedding scales and shifts instead of being added (ADM).
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
    dropout: float = 0.0
    head_dim: int | None = None
    mid_attention: bool = True
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    mid_num_groups: int | None = None
    embedding_dim: int | None = None
    scale_shift_norm: bool = False
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
          conditions: {"label": int [B]} or the int array itself, -1 for no class; None for none.
          train: turns dropout on; `apply` then needs rngs={"dropout": key}.

        Raises:
          ValueError: for sizes that do not divide, or conditions that the network does not have.
        """
        self._check(xt)
        label = self._label(conditions, xt.shape[0])
        embedding = self._embedding(jnp.broadcast_to(time, xt.shape[:1]), label)
        norm: dict[str, Any] = {"num_groups": self.num_groups, "norm_epsilon": self.norm_epsilon}
        block = functools.partial(
            ResidualBlock,
            **norm,
            dropout=self.dropout,
            scale_shift_norm=self.scale_shift_norm,
            dtype=self.dtype,
        )
        attention = functools.partial(Attention, **norm, head_dim=self.head_dim, dtype=self.dtype)
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), dtype=self.dtype)
        levels = len(self.block_channels)

        h = conv(features=self.block_channels[0], kernel_init=initializer(), name="conv_in")(
            self._features(xt).astype(self.dtype)
        )
        skips = [h]
        for level, width in enumerate(self.block_channels):
            for i in range(self.num_blocks):
                h = block(width=width, name=f"down_{level}_block_{i}")(h, embedding, train=train)
                if level in self.attention_levels:
                    h = attention(name=f"down_{level}_attention_{i}")(h)
                skips.append(h)
            if level < levels - 1:
                pad = (1, 1) if self.downsample_padding else (0, 1)
                h = conv(
                    features=width,
                    strides=(2, 2),
                    padding=(pad, pad),
                    kernel_init=initializer(),
                    name=f"down_{level}_downsample",
                )(h)
                skips.append(h)

        width = self.block_channels[-1]
        h = block(width=width, name="mid_block_0")(h, embedding, train=train)
        if self.mid_attention:
            groups = self.num_groups if self.mid_num_groups is None else self.mid_num_groups
            h = attention(num_groups=groups, name="mid_attention")(h)
        h = block(width=width, name="mid_block_1")(h, embedding, train=train)

        for level, width in reversed(list(enumerate(self.block_channels))):
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(width=width, name=f"up_{level}_block_{i}")(h, embedding, train=train)
                if level in self.attention_levels:
                    h = attention(name=f"up_{level}_attention_{i}")(h)
            if level > 0:
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

    def _embedding(self, time: jax.Array, label: jax.Array | None) -> jax.Array:
        """The time's embedding plus the label's, [B, embedding_dim]."""
        width = self.embedding_dim or 4 * self.block_channels[0]
        dense = functools.partial(nn.Dense, width, dtype=self.dtype, kernel_init=initializer())
        embedding = sinusoidal_embedding(
            time,
            self.block_channels[0],
            freq_shift=self.freq_shift,
            flip_sin_to_cos=self.flip_sin_to_cos,
        )
        embedding = dense(name="time_dense_0")(embedding)
        embedding = dense(name="time_dense_1")(nn.swish(embedding))
        if label is None:
            return embedding
        table = nn.Embed(
            self.num_classes + int(self.null_class),
            width,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(1.0),
            name="label_embedding",
        )
        # The null class is the table's last row; -1 outside keeps labels free of num_classes.
        return embedding + table(jnp.where(label < 0, self.num_classes, label))

    def _label(self, conditions: Conditions, batch: int) -> jax.Array | None:
        """The labels [B] of a class-conditional network; None for an unconditional one."""
        if conditions is not None and not isinstance(conditions, dict):
            conditions = {"label": conditions}
        conditions = conditions or {}
        known = {"label"} if self.num_classes else set()
        if unknown := sorted(set(conditions) - known):
            raise ValueError(
                f"this network is not conditioned on {', '.join(unknown)}; it knows "
                f"{', '.join(known) or 'no conditions'}"
            )
        if not self.num_classes:
            return None
        if "label" not in conditions:
            if not self.null_class:
                raise ValueError("this network has no null class: give it labels [B]")
            return jnp.full((batch,), -1)
        label = jnp.asarray(conditions["label"])
        if label.shape != (batch,) or not jnp.issubdtype(label.dtype, jnp.integer):
            raise ValueError(f"labels must be integers [{batch}], got {label.dtype}{label.shape}")
        return label

    def _check(self, xt: jax.Array) -> None:
        if xt.ndim != 4:
            raise ValueError(f"need images [B, H, W, C], got shape {xt.shape}")
        if any(n < 1 for n in self.fourier_features):
            raise ValueError(f"need exponents of at least 1, got {self.fourier_features=}")
        last = len(self.block_channels) - 1
        factor = 2**last
        if xt.shape[1] % factor or xt.shape[2] % factor:
            raise ValueError(
                f"image size {xt.shape[1]}x{xt.shape[2]} is not divisible by {factor}, what a "
                f"U-Net of {len(self.block_channels)} levels needs"
            )
        for level, width in enumerate(self.block_channels):
            if width % self.num_groups:
                raise ValueError(f"{width} channels do not divide into {self.num_groups} groups")
            attends = level in self.attention_levels or (self.mid_attention and level == last)
            if attends and self.head_dim and width % self.head_dim:
                raise ValueError(f"{width} channels do not divide into heads of {self.head_dim}")
