"""Latent diffusion of the digits: 8x8 images as 4x4 latents of 2 channels, told their class.

Data: configs/digits.py's. The autoencoder is that of configs/digits_autoencoder.py, in
  runs/digits_codec; both have about as many parameters as configs/digits.py's U-Net.
Hardware: 2 CPU cores. Not trained to its end yet: no figure is known.
Command: python scripts/train.py --config=configs/digits_latent.py --workdir=runs/digits_latent
Then: python scripts/evaluate.py --workdir=runs/digits_latent --guidance_scale=1 \
  --metrics=fid,prdc,label_accuracy,cost,model_size --num_samples=1000

Source: Rombach et al. 2022 (LDM).
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.data.update(codec="runs/digits_codec", latent_shape=(4, 4, 2))
    config.model.channels = 24
    config.sample.clip_x0 = False
    return config
