"""ADM on ImageNet 128x128, the experiment of Dhariwal & Nichol (2021): 422 million parameters.

Paper: Diffusion Models Beat GANs on Image Synthesis, Tables 11 and 12.
Data: TFDS imagenet2012, prepared once from files that you download by hand (TFDS says which):
  python scripts/prepare_data.py --dataset=imagenet2012 --data_dir=DIR
Hardware: many GPUs or TPUs; the paper's 4,360,000 steps of 256 images. --dry_run tells the cost.
Expected: FID 2.97, guided, 250 steps (the authors' repository); not rerun here.
Command: python scripts/train.py --config=configs/adm128.py --workdir=runs/adm128 \
  --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs import adm64


def get_config() -> ConfigDict:
    config = adm64.get_config()
    config.data.update(name="imagenet2012", image_size=(128, 128), batch_size=256)
    config.model.update(
        channels=256,
        channel_multipliers=(1, 1, 2, 3, 4),
        num_blocks=2,
        head_dim=0,
        num_heads=4,
        dropout=0.0,
    )
    config.diffusion.schedule = "linear"
    config.optim.learning_rate = 1e-4
    config.train.update(num_steps=4_360_000, validate_examples=512)
    config.sample.update(batch_size=16, grid_size=16)
    return config
