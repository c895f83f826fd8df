"""ADM's classifier of noised ImageNet at 256x256, 54 million parameters, for configs/adm256.py.

Paper: Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol 2021), Table 12.
Data: as configs/adm256.py, whose schedule it shares.
Hardware: GPUs or TPUs; the paper's 500,000 steps of 256 images. Not trained here.
Expected: FID 4.59, guided at classifier_scale 1.0, 250 steps (the authors' repository); not
  rerun here.
Command: python scripts/train.py --config=configs/adm256_classifier.py \
  --workdir=runs/classifier --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs import adm256, default


def get_config() -> ConfigDict:
    config = default.as_kind("classifier", adm256.get_config())
    config.model.update(channels=128, dropout=0.0)
    config.optim.update(learning_rate=3e-4, weight_decay=0.05, decay="cosine")
    config.train.num_steps = 500_000
    return config
