"""Class-conditional DDPM on 1,797 real 8x8 digits: the quickstart, nothing to download.

Data: the UCI optical digits that scikit-learn carries, 80% for training.
Hardware: 2 CPU cores, 3 min 26 s as measured.
Expected, from scripts/evaluate.py on 500 samples: an SVM reads 1.000 of them as their label (0.982
  unguided, 0.989 of held-out real digits); docs/results.md has the other figures.
Command: python scripts/train.py --config=configs/digits.py --workdir=runs/digits
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(name="digits", image_size=(8, 8), channels=1, batch_size=64)
    config.model.update(
        channels=32,
        channel_multipliers=(1, 2),
        attention_resolutions=(),
        num_groups=8,
        num_classes=10,
    )
    config.diffusion.update(schedule="cosine", label_dropout=0.1, variance="fixed_small")
    # A constant rate: a run continued to more steps is then the run that was longer from the start.
    config.optim.update(learning_rate=1e-3, warmup_steps=100)
    config.ema.update(decay=0.998, warmup=True)
    config.train.update(
        num_steps=1500,
        log_every=50,
        checkpoint_every=500,
        sample_every=500,
        validate_every=500,
        validate_examples=320,
    )
    config.sample.update(
        sampler="ddim", num_steps=50, guidance_scale=2.0, batch_size=100, grid_size=100
    )
    return config
