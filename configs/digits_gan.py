"""A class-conditional GAN of the digits.

Data: the UCI optical digits that scikit-learn carries, 80% for training.
Hardware: 2 CPU cores; 2 min on one of them.
Expected, from scripts/evaluate.py on 1,000 samples, over three seeds: an SVM reads 0.989 of them as
  their label, and all classes are there; docs/results.md has the other figures.
Command: python scripts/train.py --config=configs/digits_gan.py --workdir=runs/digits_gan
Then: python scripts/evaluate.py --workdir=runs/digits_gan
  --metrics=fid,prdc,label_accuracy,class_histogram --num_samples=1000

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
        num_steps=2000,
        log_every=50,
        checkpoint_every=1000,
        sample_every=1000,
        validate_every=1000,
        validate_examples=320,
    )
    config.sample.update(batch_size=100, grid_size=100)
    return config
