"""Unconditional DDPM on a folder of your own images, resized and cropped to 64x64.

Data: PNG, JPEG and WebP files under --config.data.data_dir, at any depth; 5% are held out. To train
with labels, put each class into a subfolder, or rows "path,label" into labels.csv, and set
--config.model.num_classes and --config.diffusion.label_dropout=0.1.
Hardware: one GPU. Hours: they depend on your images; --dry_run tells the cost of a step.
Expected: no figure; the network and settings are Ho et al.'s (2020) with one level more.
Command: python scripts/train.py --config=configs/folder.py --workdir=runs/mine \
  --config.data.data_dir=path/to/images
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(name="folder", image_size=(64, 64), channels=3, batch_size=64, flip=True)
    config.model.update(channel_multipliers=(1, 2, 2, 2, 2), attention_resolutions=(16,))
    config.optim.learning_rate = 1e-4
    config.train.num_steps = 200_000
    config.sample.update(sampler="ddim", num_steps=100)
    return config
