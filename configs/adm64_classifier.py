"""ADM's classifier of noised ImageNet at 64x64, 65 million parameters, for configs/adm64.py.

Paper: Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol 2021), Table 12.
Data: as configs/adm64.py, whose schedule it shares.
Hardware: GPUs or TPUs; the paper's 300,000 steps of 1,024 images. Not trained here.
Expected: FID 2.07, guided at classifier_scale 1.0, 250 steps (the authors' repository); not
  rerun here.
Command: python scripts/train.py --config=configs/adm64_classifier.py \
  --workdir=runs/classifier --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs import adm64, default


def get_config() -> ConfigDict:
    config = default.as_kind("classifier", adm64.get_config())
    config.data.batch_size = 1024
    config.model.update(channels=128, num_blocks=4, dropout=0.0)
    config.optim.update(learning_rate=6e-4, weight_decay=0.2, decay="cosine")
    config.train.num_steps = 300_000
    return config
