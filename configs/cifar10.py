"""DDPM on CIFAR-10, the experiment of Ho et al. (2020): 35,746,307 parameters, T = 1000.

Paper: Denoising Diffusion Probabilistic Models, appendix B; the settings are those of its code.
Data: TFDS cifar10, prepared once: python scripts/prepare_data.py --dataset=cifar10 --data_dir=DIR
Hardware: the paper's TPU v3-8 ran 21 steps/s, so 10.6 hours for 800,000 steps.
Expected: FID 3.17, Inception score 9.46 on 50,000 samples (the paper's Table 1); not rerun here.
Command: python scripts/train.py --config=configs/cifar10.py --workdir=runs/cifar10 \
  --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()  # its network, optimiser, schedule and sampler are this paper's
    config.data.update(name="cifar10", image_size=(32, 32), channels=3, batch_size=128, flip=True)
    config.model.dropout = 0.1
    return config
