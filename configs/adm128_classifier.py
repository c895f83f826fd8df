"""ADM's classifier of noised ImageNet at 128x128, 43 million parameters, for configs/adm128.py.

Paper: Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol 2021), Table 12.
Data: as configs/adm128.py, whose schedule it shares.
Hardware: GPUs or TPUs; the paper's 300,000 steps of 256 images. Not trained here.
Expected: FID 2.97, guided at classifier_scale 0.5, 250 steps (the authors' repository); not
  rerun here.
Command: python scripts/train.py --config=configs/adm128_classifier.py \
  --workdir=runs/classifier --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs import adm128, default


def get_config() -> ConfigDict:
    config = default.as_kind("classifier", adm128.get_config())
    config.model.update(
        channels=128,
        channel_multipliers=(1, 1, 2, 3, 4),
        num_blocks=2,
        head_dim=64,
        num_heads=0,
    )
    config.optim.update(learning_rate=3e-4, weight_decay=0.05, decay="cosine")
    config.train.num_steps = 300_000
    return config
