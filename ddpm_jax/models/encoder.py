"""Transformer encoders with the norm first, for text and for patches; they may read a sequence."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import XLA, attend
from ddpm_jax.models.computed_once import computed_once
from ddpm_jax.models.remat import recomputed

# x sigmoid(1.702 x) is what CLIP was trained with; "gelu" has the error function, not tanh.
QUICK = "quick_gelu"
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    QUICK: lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


class Memory(NamedTuple):
    """What a block keeps of the tokens that it saw, one after the other.

    Attributes:
      keys, values: [B, N, heads, D], those of places not seen yet are of no effect.
      seen: int32, how many places were seen.
    """

    keys: jax.Array
    values: jax.Array
    seen: jax.Array

    def then(self, key: jax.Array, value: jax.Array) -> "Memory":
        """With the next token's, each [B, 1, heads, D]."""
        put = jax.lax.dynamic_update_slice_in_dim
        return Memory(
            put(self.keys, key, self.seen, axis=1),
            put(self.values, value, self.seen, axis=1),
            self.seen + 1,
        )

    @property
    def mask(self) -> jax.Array:
        """The places that were seen, bool [B, N]."""
        places = jnp.arange(self.keys.shape[1])[None, :] < self.seen
        return jnp.broadcast_to(places, self.keys.shape[:2])


class Read(NamedTuple):
    """Keys and values of a sequence that a block reads.

    Attributes:
      keys, values: [B, M, heads, D].
    """

    keys: jax.Array
    values: jax.Array


class Reading(nn.Module):
    """Keys and values of what a block reads, brought to the block's width, whatever theirs is.

    Attributes:
      width: of the block.
      num_heads: of the block.
      dtype: of the computation.

    Source: Vaswani et al. 2017, section 3.2.3: W_K and W_V of the attention between encoder and
      decoder.
    """

    width: int
    num_heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> Read:  # [B, M, any width]
        """The keys and values of features [B, M, F]."""
        b, m, own = features.shape
        init = nn.initializers.normal(own**-0.5)
        keys, values = (
            nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name=name)(features)
            for name in ("key", "value")
        )
        heads = (b, m, self.num_heads, self.width // self.num_heads)
        return Read(keys.reshape(heads), values.reshape(heads))


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and with a residual connection.

    With something to read, its tokens attend to that between the two (cross-attention).

    Attributes:
      num_heads: dividing the width.
      mlp_width: of the hidden layer.
      activation: a key of ACTIVATIONS.
      causal: whether a token sees itself and those before it alone.
      norm_epsilon: of both LayerNorms.
      depth: of the encoder that it stands in, for the initial weights.
      dropout: of what either adds to the sum; wherever `apply` is given a key of that name.
      attention: the implementation of `attention.attend`.
      dtype: of the computation; norms and softmax run in float32.
    """

    num_heads: int
    mlp_width: int
    activation: str = "gelu"
    causal: bool = False
    norm_epsilon: float = 1e-5
    depth: int = 1
    dropout: float = 0.0
    attention: str = XLA
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        memory: Memory | None = None,
        read: Read | None = None,
    ) -> tuple[jax.Array, Memory | None]:  # [B, N, width], bool [B, N] or None -> [B, N, width]
        """The block's sum; with a memory, of the next token [B, 1, width], and the memory then."""
        x = computed_once(x)
        width = x.shape[-1]
        dropped = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))

        def dense(name: str, features: int, std: float) -> nn.Dense:
            init = nn.initializers.normal(std)
            return nn.Dense(features, dtype=self.dtype, kernel_init=init, name=name)

        into_sum = (2 * self.depth * width) ** -0.5
        heads = (*x.shape[:2], self.num_heads, width // self.num_heads)
        y = layer_norm("norm_0", self.norm_epsilon, self.dtype)(x)
        query, key, value = (
            dense(name, width, width**-0.5)(y).reshape(heads) for name in ("query", "key", "value")
        )
        if memory is None:
            y = attend(query, key, value, self.attention, causal=self.causal, mask=mask)
        else:
            memory = memory.then(key, value)
            y = attend(query, memory.keys, memory.values, mask=memory.mask)
        x = x + dropped(dense("out", width, into_sum)(y.reshape(x.shape)))
        if read is not None:
            y = layer_norm("norm_cross", self.norm_epsilon, self.dtype)(x)
            query = dense("cross_query", width, width**-0.5)(y).reshape(heads)
            y = attend(query, read.keys, read.values, self.attention)
            x = x + dropped(dense("cross_out", width, into_sum)(y.reshape(x.shape)))
        y = layer_norm("norm_1", self.norm_epsilon, self.dtype)(x)
        y = ACTIVATIONS[self.activation](dense("mlp_0", self.mlp_width, (2 * width) ** -0.5)(y))
        return x + dropped(dense("mlp_1", width, into_sum)(y)), memory


class Encoder(nn.Module):
    """Blocks one after the other: what enters the first, and what each one gives.

    Attributes:
      depth: number of blocks.
      num_heads, mlp_width, activation, causal, norm_epsilon, dropout, attention, dtype: of each
        `Block`.
      remat: a key of `remat.RECOMPUTED`; "full" is as "block" here.
      reads: the width of its tokens, where every block also reads a sequence; 0 where none does.

    Raises:
      ValueError: for an unknown activation or remat, a width that the heads do not divide, and
        where what is to be read is missing or is not asked for.

    Source: Radford et al. 2021 (CLIP), section 2.4, with their code's initial weights.
    """

    depth: int
    num_heads: int
    mlp_width: int
    activation: str = "gelu"
    causal: bool = False
    norm_epsilon: float = 1e-5
    dropout: float = 0.0
    attention: str = XLA
    remat: str = "none"
    dtype: Any = jnp.float32
    reads: int = 0

    def setup(self) -> None:
        """The blocks, block_0 first, and what makes keys and values for each."""
        block = recomputed("block", self.remat, Block)
        self.block = [
            block(
                num_heads=self.num_heads,
                mlp_width=self.mlp_width,
                activation=self.activation,
                causal=self.causal,
                norm_epsilon=self.norm_epsilon,
                depth=self.depth,
                dropout=self.dropout,
                attention=self.attention,
                dtype=self.dtype,
            )
            for _ in range(self.depth)
        ]
        self.reading = [
            Reading(self.reads, self.num_heads, self.dtype)
            for _ in range(self.depth if self.reads else 0)
        ]

    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, features: jax.Array | None = None
    ) -> tuple[
        jax.Array, ...
    ]:  # [B, N, width], bool [B, N] or None -> depth + 1 times [B, N, width]
        """The states of tokens [B, N, width]; those outside of a mask are seen by none.

        Args:
          x: the tokens.
          mask: bool [B, N]; None for all.
          features: [B, M, any width], what every block reads; None where none reads.
        """
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"need an activation of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )
        if x.shape[-1] % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide a width of {x.shape[-1]}")
        states = [x]
        for block, read in zip(self.block, self.read(features), strict=True):
            states.append(block(states[-1], mask, None, read)[0])
        return tuple(states)

    def read(self, features: jax.Array | None) -> tuple[Read | None, ...]:
        """Keys and values of features [B, M, any width] for each block; None where none reads."""
        if (features is None) != (not self.reads):
            raise ValueError(
                f"need {'no features' if not self.reads else 'features'} to read, got "
                f"{None if features is None else features.shape}"
            )
        if features is None:
            return (None,) * self.depth
        return tuple(reading(features) for reading in self.reading)

    def memories(self, num: int, places: int, width: int) -> tuple[Memory, ...]:
        """Those of `num` sequences of at most `places` tokens, before the first one."""
        shape = (num, places, self.num_heads, width // self.num_heads)
        empty = jnp.zeros(shape, self.dtype)
        return (Memory(empty, empty, jnp.zeros((), jnp.int32)),) * self.depth

    def step(
        self,
        x: jax.Array,
        memories: tuple[Memory, ...],
        reads: tuple[Read | None, ...] | None = None,
    ) -> tuple[jax.Array, tuple[Memory, ...]]:  # [B, 1, width]
        """What a causal encoder makes of the next token, from what it kept of those before.

        It is the last state of `__call__` at that token's place, at the cost of one token. `reads`
        is what `read` gave, where blocks read.
        """
        kept = []
        every = zip(self.block, memories, reads or self.read(None), strict=True)
        for block, memory, read in every:
            x, after = block(x, None, memory, read)
            kept.append(after)
        return x, tuple(kept)


def layer_norm(name: str | None, epsilon: float, dtype: Any) -> nn.LayerNorm:
    """LayerNorm with statistics in float32: the variance as the mean square around the mean."""
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


def projection(features: int, width: int, dtype: Any) -> nn.Dense:
    """From a tower's width to the space that images and texts share; without a bias."""
    init = nn.initializers.normal(width**-0.5)
    return nn.Dense(features, use_bias=False, dtype=dtype, kernel_init=init, name="projection")
