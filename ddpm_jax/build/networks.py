"""config.model: the network."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.build import conditioning, paths
from ddpm_jax.config.choose import choose
from ddpm_jax.errors import UserError
from ddpm_jax.models import Classifier, DiT, Gamma, UNet, WithSchedule

Network = UNet | DiT | WithSchedule | Classifier
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def network(c: ConfigDict) -> Network:
    """The network of config.model for the images of config.data, with a learned schedule's own.

    Raises:
      UserError: for a value that is unknown or does not fit the image size.
    """
    plain = choose("model.name", c.model.name, NETWORKS)(c)
    if c.diffusion.schedule != "learned":
        return plain
    return WithSchedule(plain, Gamma(**paths.schedule_options(c)))


def _unet(c: ConfigDict) -> UNet:
    m = c.model
    return UNet(
        **_levels(c),
        out_channels=_out_channels(c),
        attributes=_attributes(c),
        images=tuple(conditioning.images(c).items()),
        fourier_features=tuple(m.fourier_features),
    )


def _classifier(c: ConfigDict) -> Classifier:
    if c.model.num_classes < 2:
        raise UserError(
            f"config.model.num_classes={c.model.num_classes}: a classifier needs at least 2"
        )
    if c.diffusion.schedule == "learned":
        raise UserError(
            "config.diffusion.schedule=learned: a classifier learns no schedule; set that of the "
            "model that it will guide"
        )
    return Classifier(**_levels(c))


def _levels(c: ConfigDict) -> dict[str, Any]:
    """The fields that a U-Net and a classifier share."""
    m = c.model
    heights = [c.data.image_size[0] // 2**level for level in range(len(m.channel_multipliers))]
    for resolution in m.attention_resolutions:
        if resolution not in heights:
            raise UserError(
                f"config.model.attention_resolutions={m.attention_resolutions}: the levels are "
                f"{', '.join(map(str, heights))} pixels high"
            )
    return {
        "block_channels": tuple(m.channels * k for k in m.channel_multipliers),
        "num_blocks": m.num_blocks,
        "attention_levels": tuple(heights.index(r) for r in m.attention_resolutions),
        "num_classes": m.num_classes,
        "dropout": m.dropout,
        "head_dim": m.head_dim or None,
        "num_heads": m.num_heads or 1,
        "num_groups": m.num_groups,
        "scale_shift_norm": m.scale_shift_norm,
        "resample_blocks": m.resample_blocks,
        "residual_scale": m.residual_scale,
        "dtype": choose("model.dtype", m.dtype, DTYPES),
    }


def _dit(c: ConfigDict) -> DiT:
    m = c.model
    given = {} if m.patch_size is None else {"patch_size": m.patch_size}
    if m.head_dim and m.channels % m.head_dim:
        raise UserError(
            f"config.model.head_dim={m.head_dim}: {m.channels} channels do not divide into it"
        )
    return DiT(
        width=m.channels,
        depth=m.num_blocks,
        num_heads=m.num_heads or (m.channels // m.head_dim if m.head_dim else 1),
        out_channels=_out_channels(c),
        num_classes=m.num_classes,
        attributes=_attributes(c),
        images=tuple(conditioning.images(c).items()),
        dropout=m.dropout,
        dtype=choose("model.dtype", m.dtype, DTYPES),
        **given,
    )


def _attributes(c: ConfigDict) -> tuple[tuple[str, int], ...]:
    return tuple((name, len(names)) for name, names in conditioning.values(c).items())


def _out_channels(c: ConfigDict) -> int:
    """A learned reverse variance is a second half of the channels."""
    return (2 if c.diffusion.variance == "learned_range" else 1) * c.data.channels


NETWORKS: dict[str, Callable[[ConfigDict], Any]] = {
    "unet": _unet,
    "dit": _dit,
    "classifier": _classifier,
}
