"""An autoencoder of the digits, 8x8 pixels to 4x4 latents of 2 channels, for a diffusion there.

Data: the UCI optical digits that scikit-learn carries, 80% for training.
Hardware: 2 CPU cores. Not trained to its end yet: no figure is known.
Command: python scripts/train.py --config=configs/digits_autoencoder.py \
  --workdir=runs/digits_codec
Then: python scripts/train.py --config=configs/digits_latent.py --workdir=runs/digits_latent

Source: Rombach et al. 2022 (LDM), appendix G.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config("autoencoder")
    config.data.update(name="digits", image_size=(8, 8), channels=1, batch_size=64)
    config.model.update(
        channels=24, channel_multipliers=(1, 2), num_blocks=1, num_groups=8, latent_channels=2
    )
    config.optim.update(learning_rate=1e-3, warmup_steps=100, decay="cosine")
    config.ema.update(decay=0.998, warmup=True)
    config.train.update(
        num_steps=1500,
        log_every=50,
        checkpoint_every=500,
        sample_every=0,
        validate_every=500,
        validate_examples=360,
    )
    return config
