"""Networks, the only importers of flax.linen: apply(variables, xt, time, conditions)."""

from ddpm_jax.models.unet import UNet

__all__ = ["UNet"]
