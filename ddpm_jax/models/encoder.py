"""Transformer encoders with the norm first, for text and for patches."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import XLA, attend
from ddpm_jax.models.remat import recomputed

# x sigmoid(1.702 x) is what CLIP was trained with; "gelu" has the error function, not tanh.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and with a residual connection.

    Attributes:
      num_heads: dividing the width.
      mlp_width: of the hidden layer.
      activation: a key of ACTIVATIONS.
      causal: whether a token sees itself and those before it alone.
      norm_epsilon: of both LayerNorms.
      depth: of the encoder that it stands in, for the initial weights.
      attention: the implementation of `attention.attend`.
      dtype: of the computation; norms and softmax run in float32.
    """

    num_heads: int
    mlp_width: int
    activation: str = "gelu"
    causal: bool = False
    norm_epsilon: float = 1e-5
    depth: int = 1
    attention: str = XLA
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None
    ) -> jax.Array:  # [B, N, width], bool [B, N] or None -> [B, N, width]
        width = x.shape[-1]

        def dense(name: str, features: int, std: float) -> nn.Dense:
            init = nn.initializers.normal(std)
            return nn.Dense(features, dtype=self.dtype, kernel_init=init, name=name)

        into_sum = (2 * self.depth * width) ** -0.5
        heads = (*x.shape[:2], self.num_heads, width // self.num_heads)
        y = layer_norm("norm_0", self.norm_epsilon, self.dtype)(x)
        query, key, value = (
            dense(name, width, width**-0.5)(y).reshape(heads) for name in ("query", "key", "value")
        )
        y = attend(query, key, value, self.attention, causal=self.causal, mask=mask)
        x = x + dense("out", width, into_sum)(y.reshape(x.shape))
        y = layer_norm("norm_1", self.norm_epsilon, self.dtype)(x)
        y = ACTIVATIONS[self.activation](dense("mlp_0", self.mlp_width, (2 * width) ** -0.5)(y))
        return x + dense("mlp_1", width, into_sum)(y)


class Encoder(nn.Module):
    """Blocks one after the other: what enters the first, and what each one gives.

    Attributes:
      depth: number of blocks.
      num_heads, mlp_width, activation, causal, norm_epsilon, attention, dtype: of each `Block`.
      remat: a key of `remat.RECOMPUTED`; "full" is as "block" here.

    Raises:
      ValueError: for an unknown activation or remat, or a width that the heads do not divide.

    Source: Radford et al. 2021 (CLIP), section 2.4, with their code's initial weights.
    """

    depth: int
    num_heads: int
    mlp_width: int
    activation: str = "gelu"
    causal: bool = False
    norm_epsilon: float = 1e-5
    attention: str = XLA
    remat: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None
    ) -> tuple[
        jax.Array, ...
    ]:  # [B, N, width], bool [B, N] or None -> depth + 1 times [B, N, width]
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"need an activation of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )
        if x.shape[-1] % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide a width of {x.shape[-1]}")
        block = recomputed("block", self.remat, Block)
        states = [x]
        for k in range(self.depth):
            states.append(
                block(
                    num_heads=self.num_heads,
                    mlp_width=self.mlp_width,
                    activation=self.activation,
                    causal=self.causal,
                    norm_epsilon=self.norm_epsilon,
                    depth=self.depth,
                    attention=self.attention,
                    dtype=self.dtype,
                    name=f"block_{k}",
                )(states[-1], mask)
            )
        return tuple(states)


def layer_norm(name: str, epsilon: float, dtype: Any) -> nn.LayerNorm:
    """LayerNorm with statistics in float32: the variance as the mean square around the mean."""
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


def projection(features: int, width: int, dtype: Any) -> nn.Dense:
    """From a tower's width to the space that images and texts share; without a bias."""
    init = nn.initializers.normal(width**-0.5)
    return nn.Dense(features, use_bias=False, dtype=dtype, kernel_init=init, name="projection")
