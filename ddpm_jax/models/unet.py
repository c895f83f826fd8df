"""The U-Net of Ho et al. (2020), appendix B, with its successors' conditions and blocks."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models import condition_embedding, image_embedding
from ddpm_jax.models.attention import XLA, Attention, CrossAttention
from ddpm_jax.models.condition_embedding import Conditions
from ddpm_jax.models.convolution import PLAIN
from ddpm_jax.models.image_embedding import EMBEDDING
from ddpm_jax.models.layers import initializer, sinusoidal_embedding
from ddpm_jax.models.levels import (
    TOKENS,
    Tokens,
    bottom,
    check_sizes,
    conv,
    down_path,
    output,
    up_level,
)
from ddpm_jax.models.remat import recomputed
from ddpm_jax.models.text import CaptionFeatures, Captions, captions

CONTROL = "control"  # the parameters of a branch of control, in a U-Net's
HINT_CHANNELS = (16, 32)  # of the layers that read what controls


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
      controls: of further images, likewise, that a branch of control reads (`Control`).
      tokens_channels: D of a sequence of tokens [B, L, D] that cross-attention reads wherever there
        is self-attention; 0 for none.
      captions: texts that a transformer reads, which is trained with the network: its last token is
        added to the embedding, and all of its tokens are read wherever there is self-attention
        (GLIDE); None for none.
      image_embedding: dimensions of the embedding of an image (unCLIP), which is added to the
        time's and read as 4 tokens beside the text's; 0 for none.
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
      remat: what the backward pass computes again, a key of `remat.RECOMPUTED`.
      attention: of self-attention, the implementation of `attention.attend`.
      kernel_gradient: of the convolutions, as in `layers.ResidualBlock`.
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
    controls: tuple[tuple[str, int], ...] = ()
    tokens_channels: int = 0
    captions: Captions | None = None
    image_embedding: int = 0
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
    remat: str = "none"
    attention: str = XLA
    kernel_gradient: str = PLAIN
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
            (*self.images, *self.controls),
            self.tokens_channels,
            self.captions,
            self.image_embedding,
        )
        self._check_label(conditions)
        text = captions.read(self, filled.get("text"), filled.get("text_states"))
        embedding = self._embedding(jnp.broadcast_to(time, xt.shape[:1]), filled, text)
        tokens = {name: filled[name] for name in TOKENS if self.tokens_channels}
        words = None if text is None else text.tokens
        if (read := image_embedding.beside(self, filled, words)) is not None:
            tokens["text"] = read
        seen = condition_embedding.beside(self._features(xt), filled, self.images)
        seen = seen.astype(self.dtype)
        h = conv(self, self.block_channels[0], name="conv_in")(seen)
        skips = down_path(
            self, h, embedding, tokens, train=train, downsample_padding=self.downsample_padding
        )
        stage = functools.partial(recomputed, "stage", self.remat)
        lowest = functools.partial(bottom, train=train)
        h = stage(lowest)(self, skips[-1], embedding, tokens)
        if self.controls:
            hint = jnp.concatenate([filled[name] for name, _ in self.controls], axis=-1)
            fields = {name: getattr(self, name) for name in UNet.__dataclass_fields__}
            own = {name: fields[name] for name in fields if name not in ("parent", "name")}
            *changes, lowest_change = Control(**own, name=CONTROL)(
                seen, hint, embedding, tokens, train=train
            )
            skips = [skip + change for skip, change in zip(skips, changes, strict=True)]
            h += lowest_change
        count = self.num_blocks + 1
        for level in reversed(range(len(self.block_channels))):
            up = functools.partial(up_level, level=level, train=train)
            h = stage(up)(self, h, skips[level * count :][:count], embedding, tokens)
        h = recomputed("block", self.remat, output)(self, h)
        return h.astype(jnp.promote_types(jnp.float32, xt.dtype))

    def with_attention(self, implementation: str) -> "UNet":
        """The same network with an implementation of `attention.attend`."""
        return self.clone(attention=implementation)

    def with_kernel_gradient(self, form: str) -> "UNet":
        """The same network with a form of `convolution.convolution`."""
        return self.clone(kernel_gradient=form)

    def _features(self, xt: jax.Array) -> jax.Array:
        """x_t and its Fourier features, [B, H, W, C (1 + 2 len(fourier_features))]."""
        # In the data's own precision: half precision does not hold the phase.
        angles = [2.0**n * jnp.pi * xt for n in self.fourier_features]
        waves = [wave(angle) for angle in angles for wave in (jnp.sin, jnp.cos)]
        return jnp.concatenate([xt, *waves], axis=-1)

    def attend(
        self, h: jax.Array, tokens: Tokens, *, name: str, num_groups: int | None = None
    ) -> jax.Array:
        """Self-attention, of a text too, then cross-attention to tokens where there are any.

        Args:
          h: [B, H, W, C].
          tokens: {"tokens": [B, L, D], "tokens_mask": [B, L]}, {"text": [B, L, D]}, both, or {}.
          name: of the self-attention's parameters.
          num_groups: of the GroupNorm before each; None for the network's.
        """
        block = functools.partial(recomputed, "block", self.remat)
        options: dict[str, Any] = {
            "head_dim": self.head_dim or h.shape[-1] // self.num_heads,
            "num_groups": self.num_groups if num_groups is None else num_groups,
            "norm_epsilon": self.norm_epsilon,
            "residual_scale": self.residual_scale,
            "dtype": self.dtype,
        }
        h = block(Attention)(**options, attention=self.attention, name=name)(h, tokens.get("text"))
        if "tokens" not in tokens:
            return h
        cross = block(CrossAttention)(**options, name=f"{name}_to_tokens")
        return cross(h, *(tokens[key] for key in TOKENS))

    def _embedding(
        self, time: jax.Array, conditions: dict[str, jax.Array], text: CaptionFeatures | None
    ) -> jax.Array:
        """The time's embedding plus those of label, attributes and text, [B, embedding_dim]."""
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
        if text is not None:
            embedding += dense(name="text_projection")(text.pooled)
        if self.image_embedding:
            embedding += dense(name="image_embedding_projection")(conditions[EMBEDDING])
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


class Control(UNet):
    """A copy of a U-Net's way down and bottom that sees more, and changes the U-Net's skips.

    Its parameters have the names that they have in the U-Net, so it can begin with those weights.
    What it makes goes through convolutions that begin at zero: a U-Net with a new branch is the
    U-Net. The embedding of time and conditions is the U-Net's own.

    Source: Zhang et al. 2023 (ControlNet), section 3 and figure 3.
    """

    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: jax.Array, hint: jax.Array, embedding: jax.Array, tokens: Tokens, *, train: bool
    ) -> list[jax.Array]:
        """What is added to each skip, and at last to the bottom.

        Args:
          x: what enters the U-Net's first convolution, [B, H, W, C].
          hint: the images that control, [B, H, W, D].
          embedding, tokens, train: as on the U-Net's way down.
        """
        h = conv(self, self.block_channels[0], name="conv_in")(x)
        for k, width in enumerate(HINT_CHANNELS):
            hint = nn.swish(conv(self, width, name=f"hint_{k}")(hint.astype(self.dtype)))
        h += conv(self, self.block_channels[0], scale=0.0, name="hint_out")(hint)
        layers = down_path(
            self, h, embedding, tokens, train=train, downsample_padding=self.downsample_padding
        )
        layers.append(bottom(self, layers[-1], embedding, tokens, train=train))
        zero = nn.initializers.zeros
        return [
            nn.Dense(layer.shape[-1], dtype=self.dtype, kernel_init=zero, name=f"zero_{k}")(layer)
            for k, layer in enumerate(layers)
        ]
