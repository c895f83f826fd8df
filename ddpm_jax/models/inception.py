"""InceptionV3 as FID means it: the network of TensorFlow's archive of 2015-12-05.

It differs from the published network, and from torchvision's, in its average pools, which leave out
the padding, in a maximum pool within its last block, and in its 1008 classes.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

SIZE = 299  # height and width
SPATIAL_CHANNELS = 7
# Branches: convolutions (suffix of the name, width, height and width of the kernel) in a row.
_Row = tuple[tuple[str, int, tuple[int, int]], ...]


class Activations(NamedTuple):
    """What the network says of B images.

    Attributes:
      pool_192, pool_768: [B, 192] and [B, 768], means of the maps of 35x35 and 17x17.
      pooled: [B, 2048], "pool3": what FID compares.
      spatial: [B, 2023], the first 7 channels of a map of 17x17, rows first: what sFID compares.
      logits: [B, 1008].
      unbiased_logits: [B, 1008], without the last layer's bias: what the inception score is made
        of in the code that it was published with.
    """

    pool_192: jax.Array
    pool_768: jax.Array
    pooled: jax.Array
    spatial: jax.Array
    logits: jax.Array
    unbiased_logits: jax.Array


class InceptionV3(nn.Module):
    """The network, for inference: batch norms are part of the convolutions' weights and biases.

    Source: Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision";
      Heusel et al. 2017 for FID, Nash et al. 2021 for sFID with the layer "mixed_6/conv" (after its
      activation) as in Dhariwal and Nichol's evaluator.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> Activations:  # [B, 299, 299, 3] in [-1, 1]
        """Raises ValueError for images of another shape."""
        if x.shape[1:] != (SIZE, SIZE, 3):
            raise ValueError(f"need images [B, {SIZE}, {SIZE}, 3], got {x.shape}")
        x = self._conv("Conv2d_1a_3x3", x, 32, (3, 3), stride=2)
        x = self._conv("Conv2d_2a_3x3", x, 32, (3, 3), padding="VALID")
        x = self._conv("Conv2d_2b_3x3", x, 64, (3, 3))
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = self._conv("Conv2d_3b_1x1", x, 80, (1, 1))
        x = self._conv("Conv2d_4a_3x3", x, 192, (3, 3), padding="VALID")
        x = nn.max_pool(x, (3, 3), (2, 2))
        pool_192 = x.mean(axis=(1, 2))
        for name, width in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = self._block_35(name, x, width)
        x = self._shrink_to_17("Mixed_6a", x)
        for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160)):
            x = self._block_17(name, x, inner)
        # The first branch is the layer itself, so its first channels are the block's.
        spatial = x[..., :SPATIAL_CHANNELS].reshape(len(x), -1)
        x = self._block_17("Mixed_6e", x, 192)
        pool_768 = x.mean(axis=(1, 2))
        x = self._shrink_to_8("Mixed_7a", x)
        x = self._block_8("Mixed_7b", x, _average)
        # In the published network this too is an average: the archive's alone has a maximum.
        x = self._block_8("Mixed_7c", x, _maximum)
        pooled = x.mean(axis=(1, 2))
        unbiased = nn.Dense(1008, use_bias=False, precision=_HIGHEST, name="fc")(pooled)
        bias = self.param("fc_bias", nn.initializers.zeros, (1008,))
        return Activations(pool_192, pool_768, pooled, spatial, unbiased + bias[None], unbiased)

    def _conv(
        self,
        name: str,
        x: jax.Array,
        width: int,
        kernel: tuple[int, int],
        stride: int = 1,
        padding: str = "SAME",
    ) -> jax.Array:
        conv = nn.Conv(
            width,
            kernel,
            strides=stride,
            padding="VALID" if stride == 2 else padding,
            precision=_HIGHEST,
            name=name,
        )
        return nn.relu(conv(x))

    def _row(self, block: str, x: jax.Array, row: _Row, stride: int = 1) -> jax.Array:
        """Convolutions in a row, the last of them with the stride."""
        for k, (name, width, kernel) in enumerate(row, start=1):
            x = self._conv(f"{block}.{name}", x, width, kernel, stride if k == len(row) else 1)
        return x

    def _block_35(self, name: str, x: jax.Array, pooled: int) -> jax.Array:
        row = functools.partial(self._row, name)
        return _joined(
            row(x, (("branch1x1", 64, (1, 1)),)),
            row(x, (("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5)))),
            row(
                x,
                (
                    ("branch3x3dbl_1", 64, (1, 1)),
                    ("branch3x3dbl_2", 96, (3, 3)),
                    ("branch3x3dbl_3", 96, (3, 3)),
                ),
            ),
            row(_average(x), (("branch_pool", pooled, (1, 1)),)),
        )

    def _shrink_to_17(self, name: str, x: jax.Array) -> jax.Array:
        row = functools.partial(self._row, name, x, stride=2)
        return _joined(
            row((("branch3x3", 384, (3, 3)),)),
            row(
                (
                    ("branch3x3dbl_1", 64, (1, 1)),
                    ("branch3x3dbl_2", 96, (3, 3)),
                    ("branch3x3dbl_3", 96, (3, 3)),
                )
            ),
            nn.max_pool(x, (3, 3), (2, 2)),
        )

    def _block_17(self, name: str, x: jax.Array, inner: int) -> jax.Array:
        row = functools.partial(self._row, name)
        across, down = (1, 7), (7, 1)
        return _joined(
            row(x, (("branch1x1", 192, (1, 1)),)),
            row(
                x,
                (
                    ("branch7x7_1", inner, (1, 1)),
                    ("branch7x7_2", inner, across),
                    ("branch7x7_3", 192, down),
                ),
            ),
            row(
                x,
                (
                    ("branch7x7dbl_1", inner, (1, 1)),
                    ("branch7x7dbl_2", inner, down),
                    ("branch7x7dbl_3", inner, across),
                    ("branch7x7dbl_4", inner, down),
                    ("branch7x7dbl_5", 192, across),
                ),
            ),
            row(_average(x), (("branch_pool", 192, (1, 1)),)),
        )

    def _shrink_to_8(self, name: str, x: jax.Array) -> jax.Array:
        row = functools.partial(self._row, name, x, stride=2)
        return _joined(
            row((("branch3x3_1", 192, (1, 1)), ("branch3x3_2", 320, (3, 3)))),
            row(
                (
                    ("branch7x7x3_1", 192, (1, 1)),
                    ("branch7x7x3_2", 192, (1, 7)),
                    ("branch7x7x3_3", 192, (7, 1)),
                    ("branch7x7x3_4", 192, (3, 3)),
                )
            ),
            nn.max_pool(x, (3, 3), (2, 2)),
        )

    def _block_8(
        self, name: str, x: jax.Array, pool: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        row = functools.partial(self._row, name)

        def forked(h: jax.Array, branch: str) -> list[jax.Array]:
            return [
                row(h, ((f"{branch}a", 384, (1, 3)),)),
                row(h, ((f"{branch}b", 384, (3, 1)),)),
            ]

        double = (("branch3x3dbl_1", 448, (1, 1)), ("branch3x3dbl_2", 384, (3, 3)))
        return _joined(
            row(x, (("branch1x1", 320, (1, 1)),)),
            *forked(row(x, (("branch3x3_1", 384, (1, 1)),)), "branch3x3_2"),
            *forked(row(x, double), "branch3x3dbl_3"),
            row(pool(x), (("branch_pool", 192, (1, 1)),)),
        )


# Accelerators round to fewer bits by default, which moves features by more than other programs' do.
_HIGHEST = jax.lax.Precision.HIGHEST
_average = functools.partial(
    nn.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False
)
_maximum = functools.partial(nn.max_pool, window_shape=(3, 3), padding="SAME")


def _joined(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)
