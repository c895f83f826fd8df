"""A class-conditional GAN of the digits.

Data: the UCI optical digits that scikit-learn carries, 80% for training.
Hardware: 2 CPU cores. Not trained to its end yet: no figure is known.
Command: python scripts/train.py --config=configs/digits_gan.py --workdir=runs/digits_gan
Then: python scripts/evaluate.py --workdir=runs/digits_gan

Source: Radford et al. 2015 (DCGAN); R1, Mescheder et al. 2018; classes by projection, Miyato &
  Koyama 2018.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config("gan")
    config.data.update(name="digits", image_size=(8, 8), channels=1, batch_size=64)
    config.model.update(channels=32, num_classes=10, latent_size=32)
    config.optim.update(learning_rate=1e-3)
    config.ema.update(decay=0.998, warmup=True)
    config.train.update(
        num_steps=6000,
        log_every=50,
        checkpoint_every=1000,
        sample_every=1000,
        validate_every=1000,
        validate_examples=320,
    )
    config.sample.update(batch_size=100, grid_size=100)
    return config
