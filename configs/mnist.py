"""Class-conditional DDPM on MNIST, 28x28.

Data: TFDS mnist, prepared once: python scripts/prepare_data.py --dataset=mnist --data_dir=DIR
Hardware: one GPU; on 2 CPU cores a step takes seconds. Hours: not measured.
Expected: nobody has published a figure for this network; it is a starting point, not a reference.
Command: python scripts/train.py --config=configs/mnist.py --workdir=runs/mnist \
  --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(name="mnist", image_size=(28, 28), channels=1)
    config.model.update(
        channels=64, channel_multipliers=(1, 2, 2), attention_resolutions=(7,), num_classes=10
    )
    config.model.dropout = 0.1
    config.diffusion.update(schedule="cosine", label_dropout=0.1, variance="fixed_small")
    config.optim.update(learning_rate=5e-4, warmup_steps=1000, decay="cosine")
    config.ema.update(decay=0.999, warmup=True)
    config.train.update(
        num_steps=20_000, checkpoint_every=2000, sample_every=2000, validate_every=2000
    )
    config.sample.update(sampler="ddim", num_steps=100, guidance_scale=1.5, grid_size=100)
    return config
