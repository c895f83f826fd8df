"""The U-Net of latent diffusion that reads a text: Stable Diffusion's."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.latent_conditions import DOWN, MID, Conditions
from ddpm_jax.models.latent_levels import down_path, up_path
from ddpm_jax.models.latent_trunk import Trunk
from ddpm_jax.models.levels import conv, output
from ddpm_jax.models.remat import recomputed


class UNet2DCondition(Trunk):
    """A U-Net of latents with a transformer behind its residual blocks.

    The defaults are Stable Diffusion 1's, 859,520,964 parameters. Latents of any size are taken:
    where one does not halve, the way up takes the size that the way down had.

    Attributes:
      up_depths: as down_depths, on the way up: level 0 first, of each level the blocks in the order
        in which they are gone through, one more than on the way down.
      out_channels: of the output.
      in_window, out_window: pixels along either axis of the first and the last convolution, odd.
      centred: x_t lies in [0, 1] and is brought to [-1, 1].

    Source: Rombach et al. 2022, section 3.3 and appendix E.2; Podell et al. 2023 (SDXL).
    """

    up_depths: tuple[tuple[int, ...], ...] = ((1, 1, 1), (1, 1, 1), (1, 1, 1), ())
    out_channels: int = 4
    in_window: int = 3
    out_window: int = 3
    centred: bool = False

    @property
    def depths(self) -> tuple[int, ...]:
        """Of every transformer."""
        return (*super().depths, *(depth for level in self.up_depths for depth in level))

    @nn.compact
    def __call__(
        self, xt: jax.Array, time: jax.Array, conditions: Conditions = None, *, train: bool = False
    ) -> jax.Array:  # [B, H, W, in_channels], [B] or a scalar -> [B, H, W, out_channels]
        """The network's output at x_t.

        Args:
          xt: [B, H, W, in_channels], of any size; channels beside the latents come last.
          time: [B] or a scalar, in steps.
          conditions: by the names of `latent_conditions`: "tokens" [B, L, D] and, optional,
            "tokens_mask" bool [B, L], a row without any of which is read whole; "label" [B] or
            [B, D], "pooled" [B, P] and "time_ids" [B, N], "guidance_embedding" [B, W], where the
            network has them. Of a ControlNet "down_residuals", an array [B, h, w, C] for each skip,
            and "mid_residual".
          train: turns dropout on; `apply` then needs rngs={"dropout": key}.

        Raises:
          ValueError: for conditions that are missing, of another shape or not this network's.
        """
        whole = self.complete(conditions, xt, optional=(DOWN, MID))
        for depths, count in zip(self.up_depths, self.num_blocks, strict=True):
            if len(depths) not in (0, count + 1):
                raise ValueError(f"need {count + 1} depths of a level's way up, got {depths}")
        embedding = self.embed(jnp.broadcast_to(time, xt.shape[:1]), whole)
        read = self.read(whole)
        seen = (2 * xt - 1 if self.centred else xt).astype(self.dtype)
        h = conv(self, self.block_channels[0], window=self.in_window, name="conv_in")(seen)
        skips, h = down_path(self, h, embedding, read, train=train)
        if DOWN in whole or MID in whole:
            skips, h = _controlled(skips, h, whole.get(DOWN), whole.get(MID))
        h = up_path(self, h, skips, embedding, read, train=train)
        last = functools.partial(output, window=self.out_window, use_fast_variance=False)
        h = recomputed("block", self.remat, last)(self, h)
        return h.astype(jnp.promote_types(jnp.float32, xt.dtype))


def _controlled(
    skips: list[jax.Array], h: jax.Array, down: Any, mid: Any
) -> tuple[list[jax.Array], jax.Array]:
    """Skips and bottom with a ControlNet's residuals; one pixel of those stands for all."""
    if down is None or mid is None:
        raise ValueError(f"a ControlNet adds {DOWN} and {MID}: give both, or neither")
    changes = [*down, mid]
    if len(changes) != len(skips) + 1:
        raise ValueError(f"need {len(skips)} {DOWN}, got {len(down)}")
    for k, (own, change) in enumerate(zip([*skips, h], changes, strict=True)):
        pooled = (own.shape[0], 1, 1, own.shape[-1])
        if change.shape not in (own.shape, pooled):
            name = f"{DOWN}[{k}]" if k < len(skips) else MID
            raise ValueError(f"{name} must be {list(own.shape)}, got {list(change.shape)}")
    *added, lowest = (
        own + change.astype(own.dtype) for own, change in zip([*skips, h], changes, strict=True)
    )
    return added, lowest
