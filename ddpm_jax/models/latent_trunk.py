"""What a U-Net of latent diffusion and its ControlNet have alike: fields, and the embedding."""

from collections.abc import Mapping
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models import condition_embedding, latent_conditions
from ddpm_jax.models.attention import XLA
from ddpm_jax.models.convolution import PLAIN
from ddpm_jax.models.latent_conditions import (
    GUIDANCE,
    LABEL,
    LABELS,
    LINEAR,
    MASK,
    NUMBER,
    POOLED,
    SUMMED,
    TABLE,
    TIME_IDS,
    TOKENS,
    VECTOR,
    Conditions,
    Shape,
)
from ddpm_jax.models.latent_levels import Read
from ddpm_jax.models.layers import initializer, sinusoidal_embedding


class Trunk(nn.Module):
    """The fields of both networks, and their conditions; the defaults are Stable Diffusion 1's.

    Level 0 is the full resolution, and each further level halves it.

    Attributes:
      in_channels: of x_t; those of an image to be completed and its mask count too.
      block_channels: channels of each level; the first is also the width of the time's sinusoids.
      num_blocks: residual blocks of each level on the way down.
      down_depths: of each level the depth of the transformer behind each residual block; () for a
        level without transformers.
      bottom: whether there is a bottom at all.
      mid_depth: of the bottom's transformer, followed by a second residual block; None for a
        bottom of one residual block alone.
      num_heads: of each level's attention; the last is the bottom's too.
      only_tokens: of each level, as of `spatial_transformer.TransformerBlock`; False at the bottom.
      tokens_channels: of the tokens that are read.
      tokens_projected_from: channels of the tokens that are given, which a dense layer brings to
        tokens_channels; 0 for tokens that are read as they are.
      label: what a label is, one of `latent_conditions.LABELS`; None for a network without.
      label_channels: rows of the table, or channels of the vector.
      vector_channels: of the vector of pooled text and sinusoids of `time_ids` that is added to the
        embedding by two dense layers (SDXL); 0 for none.
      time_ids_channels: of the sinusoids of each of these numbers.
      guidance_channels: of a guidance scale's embedding, added to the time's sinusoids; 0 for none.
      embedding_dim: width of the embedding; None for 4 block_channels[0].
      scale_shift_norm: the embedding scales and shifts instead of being added.
      num_groups: of every GroupNorm.
      norm_epsilon: of every GroupNorm but the transformers'.
      dropout: rate inside the residual blocks.
      downsample_padding: 0 pads right and bottom, 1 pads every side.
      freq_shift, flip_sin_to_cos: of the sinusoids.
      linear_projection: in what form the files of diffusers hold a transformer's projections, as
        matrices (Stable Diffusion 2) or convolutions of one pixel; the function is the same.
      remat: what the backward pass computes again, a key of `remat.RECOMPUTED`.
      attention: the implementation of `attention.attend`.
      kernel_gradient: of the convolutions, as in `layers.ResidualBlock`.
      dtype: of the computation.

    Source: Rombach et al. 2022, section 3.3; Podell et al. 2023 (SDXL), sections 2.1 and 2.2.
    """

    in_channels: int = 4
    block_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    num_blocks: tuple[int, ...] = (2, 2, 2, 2)
    down_depths: tuple[tuple[int, ...], ...] = ((1, 1), (1, 1), (1, 1), ())
    bottom: bool = True
    mid_depth: int | None = 1
    num_heads: tuple[int, ...] = (8, 8, 8, 8)
    only_tokens: tuple[bool, ...] = (False, False, False, False)
    tokens_channels: int = 768
    tokens_projected_from: int = 0
    label: str | None = None
    label_channels: int = 0
    vector_channels: int = 0
    time_ids_channels: int = 0
    guidance_channels: int = 0
    embedding_dim: int | None = None
    scale_shift_norm: bool = False
    num_groups: int = 32
    norm_epsilon: float = 1e-5
    dropout: float = 0.0
    downsample_padding: int = 1
    freq_shift: float = 0.0
    flip_sin_to_cos: bool = True
    linear_projection: bool = False
    remat: str = "none"
    attention: str = XLA
    kernel_gradient: str = PLAIN
    dtype: Any = jnp.float32

    # What `levels.residual_block` asks of the network that it is in, and what has one value here.
    residual_scale = 1.0

    def with_attention(self, implementation: str) -> Self:
        """The same network with an implementation of `attention.attend`."""
        return self.clone(attention=implementation)

    def with_kernel_gradient(self, form: str) -> Self:
        """The same network with a form of `convolution.convolution`."""
        return self.clone(kernel_gradient=form)

    @property
    def depths(self) -> tuple[int, ...]:
        """Of every transformer."""
        return (*(depth for level in self.down_depths for depth in level), self.mid_depth or 0)

    @property
    def width(self) -> int:
        """Channels of the embedding."""
        return self.embedding_dim or 4 * self.block_channels[0]

    def complete(
        self,
        conditions: Conditions,
        xt: jax.Array,
        *,
        optional: tuple[str, ...] = (),
        also: Mapping[str, Shape] | None = None,
    ) -> dict[str, Any]:
        """The conditions by name, with what this network needs.

        Args:
          conditions: as of the network's call.
          xt: [B, H, W, in_channels].
          optional: names of conditions that may be given, beside the tokens' mask.
          also: shapes of further ones, as of `latent_conditions.complete`.

        Raises:
          ValueError: for fields, a size of x_t or conditions that do not go together.
        """
        self._check(xt)
        batch = xt.shape[0]
        needs: dict[str, Shape] = dict(also or {})
        if any(self.depths):
            needs[TOKENS] = (batch, "L", self.tokens_projected_from or self.tokens_channels)
            optional = (MASK, *optional)
        if self.label in (TABLE, NUMBER):
            needs[LABEL] = (batch,)
        elif self.label is not None:
            needs[LABEL] = (batch, self.width if self.label == SUMMED else self.label_channels)
        if self.vector_channels:
            needs |= {POOLED: (batch, "P"), TIME_IDS: (batch, "N")}
        if self.guidance_channels:
            needs[GUIDANCE] = (batch, self.guidance_channels)
        whole = latent_conditions.complete(conditions, needs, optional)
        if self.label == TABLE and not jnp.issubdtype(whole[LABEL].dtype, jnp.integer):
            raise ValueError(f"labels must be integers [{batch}], got {whole[LABEL].dtype}")
        if self.vector_channels:
            (_, pooled), (_, count) = whole[POOLED].shape, whole[TIME_IDS].shape
            if pooled + count * self.time_ids_channels != self.vector_channels:
                raise ValueError(
                    f"{POOLED} of {pooled} channels and {count} {TIME_IDS} of "
                    f"{self.time_ids_channels} each are not the {self.vector_channels} channels "
                    "that this network reads together"
                )
        return whole

    @nn.nowrap
    def _check(self, xt: jax.Array) -> None:
        """Raises ValueError for fields that do not go together, and for x_t that do not fit."""
        levels = len(self.block_channels)
        for name in ("num_blocks", "down_depths", "num_heads", "only_tokens"):
            if len(getattr(self, name)) != levels:
                raise ValueError(f"need {name} of {levels} levels, got {getattr(self, name)}")
        for width in self.block_channels:
            if width % self.num_groups:
                raise ValueError(f"{width} channels do not divide into {self.num_groups} groups")
        for depths, count in zip(self.down_depths, self.num_blocks, strict=True):
            if len(depths) not in (0, count):
                raise ValueError(f"need a depth for each of {count} blocks or none, got {depths}")
        if self.label not in (None, *LABELS):
            raise ValueError(f"need label of {', '.join(LABELS)} or None, got {self.label!r}")
        if xt.ndim != 4 or xt.shape[-1] != self.in_channels:
            raise ValueError(f"need latents [B, H, W, {self.in_channels}], got {list(xt.shape)}")
        least = 1 if self.downsample_padding else 2 ** (levels - 1)
        if min(xt.shape[1:3]) < least:
            raise ValueError(f"need latents of at least {least} pixels, got {list(xt.shape)}")

    def embed(self, time: jax.Array, conditions: Mapping[str, jax.Array]) -> jax.Array:
        """The embedding of time, label, pooled text and numbers, [B, width].

        Args:
          time: [B].
          conditions: completed.
        """

        def dense(name: str, width: int = self.width, *, use_bias: bool = True) -> nn.Dense:
            init = initializer()
            return nn.Dense(width, use_bias, dtype=self.dtype, kernel_init=init, name=name)

        def two(name: str, vector: jax.Array) -> jax.Array:
            return dense(f"{name}_dense_1")(nn.swish(dense(f"{name}_dense_0")(vector)))

        waves = self._waves(time, self.block_channels[0])
        if self.guidance_channels:
            own = dense("guidance_projection", self.block_channels[0], use_bias=False)
            waves += own(conditions[GUIDANCE])
        embedding = two("time", waves)
        label: Any = conditions.get(LABEL)
        if self.label == TABLE:
            table = nn.Embed(
                self.label_channels,
                self.width,
                dtype=self.dtype,
                embedding_init=nn.initializers.normal(1.0),
                name="label_embedding",
            )
            embedding += table(condition_embedding.row(label, self.label_channels))
        elif self.label == NUMBER:
            embedding += two("label", self._waves(label, self.block_channels[0]))
        elif self.label == VECTOR:
            embedding += two("label", label)
        elif self.label == LINEAR:
            embedding += dense("label_projection")(label)
        elif self.label == SUMMED:
            embedding += label.astype(embedding.dtype)
        if self.vector_channels:
            ids = self._waves(conditions[TIME_IDS].reshape(-1), self.time_ids_channels)
            vector = [conditions[POOLED].astype(self.dtype), ids.reshape(len(time), -1)]
            embedding += two("vector", jnp.concatenate(vector, axis=-1))
        return embedding

    @nn.nowrap
    def _waves(self, numbers: jax.Array, width: int) -> jax.Array:
        """Sinusoids of numbers, [N] -> [N, width]."""
        waves = sinusoidal_embedding(
            numbers, width, freq_shift=self.freq_shift, flip_sin_to_cos=self.flip_sin_to_cos
        )
        return waves.astype(self.dtype)

    def read(self, conditions: Mapping[str, jax.Array]) -> Read:
        """What the transformers read, of completed conditions."""
        if not any(self.depths):
            return None, None
        tokens = conditions[TOKENS]
        if self.tokens_projected_from:
            init = initializer()
            tokens = nn.Dense(
                self.tokens_channels, dtype=self.dtype, kernel_init=init, name="tokens_projection"
            )(tokens)
        return tokens.astype(self.dtype), conditions.get(MASK)
