"""How much does a training seed move a figure, and how much the draw of the samples?

Eight seeds of a shortened quickstart, and three sets of samples of each: both can be told apart.
Hardware: 2 CPU cores, half an hour with --jobs=2. Expected: docs/sweeps.md.
Command: python scripts/sweep.py run --sweep=configs/sweeps/seeds.py \
  --workdir=sweeps/seeds
"""

from ml_collections import ConfigDict

from configs import digits
from ddpm_jax.sweeps import seeds


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.train.update(num_steps=800, checkpoint_every=400, sample_every=0, validate_every=400)
    config.sample.guidance_scale = 1.0
    return config


def sweep() -> list[dict]:
    return seeds(8)


evaluate = {
    "metrics": ("fid", "kid", "label_accuracy"),
    "num_samples": 1000,
    "repeats": 3,
}
