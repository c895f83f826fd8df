"""config.model: the network."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.config_checks import choose
from ddpm_jax.errors import UserError
from ddpm_jax.models import Gamma, UNet, WithSchedule
from ddpm_jax.parts import processes

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def network(c: ConfigDict) -> UNet | WithSchedule:
    """The U-Net of config.model for the images of config.data, with a learned schedule's own.

    Raises:
      UserError: for a value that is unknown or does not fit the image size.
    """
    m = c.model
    if m.name != "unet":
        raise UserError(f"config.model.name={m.name!r}: need unet")
    heights = [c.data.image_size[0] // 2**level for level in range(len(m.channel_multipliers))]
    for resolution in m.attention_resolutions:
        if resolution not in heights:
            raise UserError(
                f"config.model.attention_resolutions={m.attention_resolutions}: the levels are "
                f"{', '.join(map(str, heights))} pixels high"
            )
    # A learned reverse variance is a second half of the channels.
    halves = 2 if c.diffusion.variance == "learned_range" else 1
    unet = UNet(
        block_channels=tuple(m.channels * k for k in m.channel_multipliers),
        num_blocks=m.num_blocks,
        attention_levels=tuple(heights.index(r) for r in m.attention_resolutions),
        out_channels=halves * c.data.channels,
        num_classes=m.num_classes,
        dropout=m.dropout,
        head_dim=m.head_dim or None,
        num_groups=m.num_groups,
        fourier_features=tuple(m.fourier_features),
        dtype=choose("model.dtype", m.dtype, DTYPES),
    )
    if c.diffusion.schedule != "learned":
        return unet
    return WithSchedule(unet, Gamma(**processes.schedule_options(c)))
