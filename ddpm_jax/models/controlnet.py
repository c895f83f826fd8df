"""ControlNet: a copy of a U-Net's way down that reads an image and changes the U-Net's skips."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.models.latent_conditions import CONTROL, Conditions, Shape
from ddpm_jax.models.latent_levels import down_path
from ddpm_jax.models.latent_trunk import Trunk
from ddpm_jax.models.levels import conv


class ControlResiduals(NamedTuple):
    """What a ControlNet adds to a U-Net: `{**conditions, **residuals._asdict()}`.

    Attributes:
      down_residuals: an array for each skip.
      mid_residual: of the bottom.
    """

    down_residuals: tuple[jax.Array, ...]
    mid_residual: jax.Array


class ControlNet(Trunk):
    """The published network beside Stable Diffusion's U-Net, 361,279,120 parameters by default.

    A new one begins at residuals of zero: its convolutions of one pixel, and the last one of the
    image, are zero.

    Attributes:
      control_channels: of the image.
      hint_channels: of the convolutions that read it; every further one halves it.
      reversed_channels: the image's channels come the other way round (BGR).
      pooled_globally: the residuals are means over the pixels.

    Source: Zhang et al. 2023 (ControlNet), section 3 and figure 3.
    """

    control_channels: int = 3
    hint_channels: tuple[int, ...] = (16, 32, 96, 256)
    reversed_channels: bool = False
    pooled_globally: bool = False

    @nn.compact
    def __call__(
        self,
        xt: jax.Array,
        time: jax.Array,
        conditions: Conditions = None,
        conditioning_scale: jax.Array | float = 1.0,
        *,
        guess_mode: bool = False,
        train: bool = False,
    ) -> ControlResiduals:
        """The residuals of the U-Net that reads the same x_t, time and conditions.

        Args:
          xt: [B, H, W, in_channels].
          time: [B] or a scalar, in steps.
          conditions: the U-Net's, and "control" [B, 8H, 8W, control_channels], in [0, 1].
          conditioning_scale: of all residuals; a number, or one of each example [B].
          guess_mode: scale them from a tenth at the first skip to the whole at the bottom.
          train: as of the U-Net.

        Raises:
          ValueError: for conditions that are missing, of another shape or not this network's.
        """
        batch = xt.shape[0]
        image: Shape = (batch, "H", "W", self.control_channels)
        whole = self.complete(conditions, xt, also={CONTROL: image})
        scale = jnp.asarray(conditioning_scale, self.dtype)
        if scale.shape not in ((), (batch,)):
            raise ValueError(f"need a conditioning_scale or {batch} of them, got {scale.shape}")
        embedding = self.embed(jnp.broadcast_to(time, xt.shape[:1]), whole)
        read = self.read(whole)
        h = conv(self, self.block_channels[0], name="conv_in")(xt.astype(self.dtype))
        hint = self._hint(whole[CONTROL])
        if hint.shape != h.shape:
            raise ValueError(
                f"{CONTROL} {list(whole[CONTROL].shape)} becomes {list(hint.shape[1:3])} pixels; "
                f"the latents have {list(xt.shape[1:3])}"
            )
        skips, lowest = down_path(self, h + hint, embedding, read, train=train)
        factors = [1.0] * (len(skips) + 1)
        if guess_mode and not self.pooled_globally:
            factors = np.logspace(-1, 0, len(factors)).tolist()
        residuals = []
        for k, layer in enumerate([*skips, lowest]):
            name = f"zero_{k}" if k < len(skips) else "zero_mid"
            zero = nn.initializers.zeros
            y = nn.Dense(layer.shape[-1], dtype=self.dtype, kernel_init=zero, name=name)(layer)
            if self.pooled_globally:
                y = y.mean(axis=(1, 2), keepdims=True)
            residuals.append(y * scale.reshape(-1, 1, 1, 1) * factors[k])
        return ControlResiduals(tuple(residuals[:-1]), residuals[-1])

    def _hint(self, control: jax.Array) -> jax.Array:
        """What is read of the image, [B, H, W, C] -> [B, h, w, block_channels[0]]."""
        if self.reversed_channels:
            control = control[..., ::-1]
        y = control.astype(self.dtype)
        y = nn.swish(conv(self, self.hint_channels[0], name="hint_in")(y))
        for k, (narrow, wide) in enumerate(
            zip(self.hint_channels[:-1], self.hint_channels[1:], strict=True)
        ):
            pad: Any = ((1, 1), (1, 1))
            y = nn.swish(conv(self, narrow, name=f"hint_{2 * k}")(y))
            halved = conv(self, wide, strides=(2, 2), padding=pad, name=f"hint_{2 * k + 1}")
            y = nn.swish(halved(y))
        return nn.Conv(
            self.block_channels[0],
            (3, 3),
            dtype=self.dtype,
            kernel_init=nn.initializers.zeros,
            name="hint_out",
        )(y)
