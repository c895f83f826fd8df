"""Latent diffusion of drawn shapes at 64x64, on 16x16 latents of configs/shapes64_autoencoder.py.

Data: `ddpm_jax.data.shapes` at 64x64, drawn without end; three pairs of colour and shape never are.
Hardware: one GPU. Not trained yet: neither hours nor a figure are known; --dry_run tells the cost.
Command: python scripts/train.py --config=configs/shapes64_latent.py --workdir=runs/shapes64_latent

Source: Rombach et al. 2022 (LDM); the network is DiT-S/2 (Peebles & Xie 2023).
"""

from ml_collections import ConfigDict

from configs import shapes32


def get_config() -> ConfigDict:
    config = shapes32.get_config()
    config.data.update(image_size=(64, 64), codec="runs/codec64", latent_shape=(16, 16, 4))
    config.sample.update(clip_x0=False)
    return config
