"""Latent diffusion of drawn shapes: 32x32 images as 8x8 latents of 4 channels, told attributes.

Data: `ddpm_jax.data.shapes` at 32x32, drawn without end; three pairs of colour and shape never are.
  The autoencoder is that of configs/shapes_autoencoder.py, in runs/codec.
Hardware: 2 CPU cores. Not trained to its end yet: no figure is known.
Command: python scripts/train.py --config=configs/shapes_latent.py --workdir=runs/shapes_latent
Then: python scripts/evaluate.py --workdir=runs/shapes_latent

Source: Rombach et al. 2022 (LDM); the network is Peebles & Xie's (2023).
"""

from ml_collections import ConfigDict

from configs import shapes


def get_config() -> ConfigDict:
    config = shapes.get_config()
    config.data.update(image_size=(32, 32), codec="runs/codec", latent_shape=(8, 8, 4))
    config.model.update(patch_size=2)
    config.sample.update(clip_x0=False)
    return config
