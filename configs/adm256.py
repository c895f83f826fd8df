"""ADM on ImageNet 256x256, the experiment of Dhariwal & Nichol (2021): 554 million parameters.

Paper: Diffusion Models Beat GANs on Image Synthesis, Tables 11 and 12.
Data: TFDS imagenet2012, prepared once from files that you download by hand (TFDS says which):
  python scripts/prepare_data.py --dataset=imagenet2012 --data_dir=DIR
Hardware: many GPUs or TPUs; the paper's 1,980,000 steps of 256 images. --dry_run tells the cost.
Expected: FID 4.59, guided, 250 steps; 10.94 unguided (the authors' repository); not rerun here.
Command: python scripts/train.py --config=configs/adm256.py --workdir=runs/adm256 \
  --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs import adm128


def get_config() -> ConfigDict:
    config = adm128.get_config()
    config.data.image_size = (256, 256)
    config.model.update(channel_multipliers=(1, 1, 2, 2, 4, 4), head_dim=64, num_heads=0)
    config.train.num_steps = 1_980_000
    return config
