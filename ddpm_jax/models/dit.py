"""The diffusion transformer of Peebles & Xie (2023), with adaLN-Zero."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.models import condition_embedding, image_embedding
from ddpm_jax.models.attention import XLA, attend
from ddpm_jax.models.computed_once import computed_once
from ddpm_jax.models.condition_embedding import Conditions
from ddpm_jax.models.image_embedding import EMBEDDING
from ddpm_jax.models.layers import sinusoidal_embedding
from ddpm_jax.models.remat import recomputed
from ddpm_jax.models.text import CaptionFeatures, Captions, captions

# depth, width, heads: Table 1 of the paper.
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
FREQUENCIES = 256  # channels of the sinusoidal embedding, at every size

_xavier = nn.initializers.xavier_uniform()
_small = nn.initializers.normal(0.02)


class DiT(nn.Module):
    """A transformer over the patches of an image; time and conditions modulate every block.

    The defaults are DiT-XL/2 for ImageNet, 675 million parameters. The fixed positions and the
    absence of any padding leave the image size free, as far as patches divide it.

    Attributes:
      patch_size: height and width of a patch.
      width: of a token; divisible by 4 and by num_heads.
      depth: blocks.
      num_heads: of the attention.
      mlp_ratio: hidden width of a block's MLP over `width`.
      out_channels: channels of the output.
      num_classes: classes to condition on; 0 for none.
      attributes: further named conditions, each with the number of its values.
      images: named images [B, H, W, channels] beside the input, each with its channels.
      captions: texts that a transformer reads, which is trained with the network: its last token is
        added to the embedding, which modulates every block, and each block attends to all of its
        tokens; None for none.
      image_embedding: dimensions of the embedding of an image (unCLIP), which is added to the
        time's and read as 4 tokens beside the text's; 0 for none.
      dropout: rate on what a block's attention and MLP add.
      norm_epsilon: of every LayerNorm.
      freq_shift: of the time embedding; diffusers has 1.
      remat: what the backward pass computes again, a key of `remat.RECOMPUTED`.
      attention: the implementation of `attention.attend`.
      dtype: of the computation; parameters and output are float32.
    """

    patch_size: int = 2
    width: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    out_channels: int = 8
    num_classes: int = 0
    attributes: tuple[tuple[str, int], ...] = ()
    images: tuple[tuple[str, int], ...] = ()
    captions: Captions | None = None
    image_embedding: int = 0
    dropout: float = 0.0
    norm_epsilon: float = 1e-6
    freq_shift: float = 0.0
    remat: str = "none"
    attention: str = XLA
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, xt: jax.Array, time: jax.Array, conditions: Conditions = None, *, train: bool = False
    ) -> jax.Array:  # [B, H, W, C], [B] or a scalar, {"label": [B]} -> [B, H, W, out_channels]
        """The network's output at x_t.

        Args:
          xt: [B, H, W, C]; H and W divisible by patch_size.
          time: [B] or a scalar, in the units of `Schedule.network_time`.
          conditions: as `conditioning.complete` takes them.
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
            tokens_channels=0,
            captions=self.captions,
            image_embedding=self.image_embedding,
        )
        text = captions.read(self, filled.get("text"), filled.get("text_states"))
        embedding = self._embedding(jnp.broadcast_to(time, xt.shape[:1]), filled, text)
        words = None if text is None else text.tokens
        words = image_embedding.beside(self, filled, words)
        tokens = self._tokens(
            condition_embedding.beside(xt, filled, self.images).astype(self.dtype)
        )
        length = math.ceil(math.sqrt(self.depth))
        for first in range(0, self.depth, length):
            numbers = range(first, min(first + length, self.depth))
            stage = functools.partial(_stage, numbers=numbers, train=train)
            tokens = recomputed("stage", self.remat, stage)(self, tokens, embedding, words)
        shift, scale = _modulation(2, self.width, self.dtype, "modulation_out")(embedding)
        tokens = _layer_norm(self.norm_epsilon, self.dtype)(tokens) * (1 + scale) + shift
        patch = nn.Dense(
            self.patch_size**2 * self.out_channels,
            dtype=self.dtype,
            kernel_init=nn.initializers.zeros,
            name="out",
        )(tokens)
        image = _unpatched(patch, (xt.shape[1], xt.shape[2]), self.patch_size)
        return image.astype(jnp.promote_types(jnp.float32, xt.dtype))

    def with_attention(self, implementation: str) -> "DiT":
        """The same network with an implementation of `attention.attend`."""
        return self.clone(attention=implementation)

    def _tokens(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, H W / patch², width]
        patches = nn.Dense(
            self.width, dtype=self.dtype, kernel_init=_xavier, name="patch_embedding"
        )(_patched(x, self.patch_size))
        rows, columns = (n // self.patch_size for n in x.shape[1:3])
        return patches + jnp.asarray(positions(rows, columns, self.width), self.dtype)[None]

    def _embedding(
        self, time: jax.Array, conditions: dict[str, jax.Array], text: CaptionFeatures | None
    ) -> jax.Array:
        """Time's, the conditions' and a text's embedding, [B, width]."""
        dense = functools.partial(nn.Dense, self.width, dtype=self.dtype, kernel_init=_small)
        waves = sinusoidal_embedding(
            time, FREQUENCIES, freq_shift=self.freq_shift, flip_sin_to_cos=True
        )
        embedding = dense(name="time_dense_1")(nn.swish(dense(name="time_dense_0")(waves)))
        for name, count in condition_embedding.values(self.num_classes, self.attributes).items():
            table = nn.Embed(
                count + 1,
                self.width,
                dtype=self.dtype,
                embedding_init=_small,
                name=f"{name}_embedding",
            )
            embedding += table(condition_embedding.row(conditions[name], count))
        if text is not None:
            embedding += dense(name="text_projection")(text.pooled)
        if self.image_embedding:
            embedding += dense(name="image_embedding_projection")(conditions[EMBEDDING])
        return embedding

    def _check(self, xt: jax.Array) -> None:
        if xt.ndim != 4:
            raise ValueError(f"need images [B, H, W, C], got shape {xt.shape}")
        if self.width % 4 or self.width % self.num_heads:
            raise ValueError(
                f"width={self.width} must be divisible by 4 and by num_heads={self.num_heads}"
            )
        if xt.shape[1] % self.patch_size or xt.shape[2] % self.patch_size:
            raise ValueError(
                f"image size {xt.shape[1]}x{xt.shape[2]} is not divisible by "
                f"patch_size={self.patch_size}"
            )


class Block(nn.Module):
    """Attention and an MLP, each scaled, shifted and gated by the embedding; at first, identity.

    Where there is a text, attention to its tokens stands between them, as in PixArt-alpha (Chen et
    al. 2023): its output's kernel is 0 at first, and nothing modulates it.

    Attributes:
      num_heads, mlp_ratio, dropout, norm_epsilon, attention, dtype: as in `DiT`.
    """

    num_heads: int
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    norm_epsilon: float = 1e-6
    attention: str = XLA
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        embedding: jax.Array,
        train: bool = False,
        text: jax.Array | None = None,
    ) -> jax.Array:  # [B, N, width], [B, width], [B, L, D] or None -> [B, N, width]
        x = computed_once(x)
        width = x.shape[-1]
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_xavier)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        norm = _layer_norm(self.norm_epsilon, self.dtype)
        shift_0, scale_0, gate_0, shift_1, scale_1, gate_1 = _modulation(
            6, width, self.dtype, "modulation"
        )(embedding)

        y = norm(x) * (1 + scale_0) + shift_0
        heads = (*x.shape[:2], self.num_heads, width // self.num_heads)
        query, key, value = (
            dense(width, name=name)(y).reshape(heads) for name in ("query", "key", "value")
        )
        y = attend(query, key, value, self.attention).reshape(x.shape)
        x = x + gate_0 * drop(dense(width, name="attention_out")(y))

        if text is not None:
            query, key, value = (
                dense(width, name=f"text_{name}")(of).reshape(len(x), -1, *heads[2:])
                for name, of in (("query", norm(x)), ("key", text), ("value", text))
            )
            y = attend(query, key, value, self.attention).reshape(x.shape)
            out = dense(width, kernel_init=nn.initializers.zeros, name="text_out")
            x = x + drop(out(y))

        y = norm(x) * (1 + scale_1) + shift_1
        y = nn.gelu(dense(int(width * self.mlp_ratio), name="mlp_0")(y), approximate=True)
        return x + gate_1 * drop(dense(width, name="mlp_1")(y))


def _stage(
    module: DiT,
    tokens: jax.Array,
    embedding: jax.Array,
    words: jax.Array | None,
    *,
    numbers: range,
    train: bool,
) -> jax.Array:
    """The blocks of these numbers, one after the other."""
    block = recomputed("block", module.remat, Block, static_argnums=(3,))
    for k in numbers:
        tokens = block(
            module.num_heads,
            module.mlp_ratio,
            module.dropout,
            module.norm_epsilon,
            module.attention,
            module.dtype,
            name=f"block_{k}",
        )(tokens, embedding, train, words)
    return tokens


def positions(rows: int, columns: int, width: int) -> np.ndarray:
    """The fixed sine and cosine of each patch's column, then of its row, [rows columns, width].

    Source: the paper's code, get_2d_sincos_pos_embed (after MAE), which has the column first.
    """
    frequencies = 1e4 ** -(np.arange(width // 4) / (width // 4))

    def along(count: int) -> np.ndarray:
        angles = np.arange(count)[:, None] * frequencies[None]
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    by_column = np.broadcast_to(along(columns)[None], (rows, columns, width // 2))
    by_row = np.broadcast_to(along(rows)[:, None], (rows, columns, width // 2))
    return np.concatenate([by_column, by_row], axis=-1).reshape(-1, width)


def _layer_norm(epsilon: float, dtype: Any) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon, dtype=dtype, use_scale=False, use_bias=False)


def _modulation(count: int, width: int, dtype: Any, name: str) -> Any:
    """embedding [B, width] -> `count` arrays [B, 1, width], all 0 at first (adaLN-Zero)."""
    dense = nn.Dense(
        count * width,
        dtype=dtype,
        kernel_init=nn.initializers.zeros,
        name=name,
    )
    return lambda embedding: jnp.split(dense(nn.swish(embedding))[:, None], count, axis=-1)


def _patched(x: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> [B, H W / size², size² C], patches in reading order."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, -1, size * size * c)


def _unpatched(x: jax.Array, shape: tuple[int, int], size: int) -> jax.Array:
    """`_patched` undone: [B, N, size² C] -> [B, H, W, C]."""
    b, (h, w) = x.shape[0], shape
    x = x.reshape(b, h // size, w // size, size, size, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h, w, -1)
