"""Which schedule and which prediction suit digits, as far as three seeds can tell?

Linear and cosine by eps, v and x_0, each with three seeds, trained for 600 steps.
Hardware: 2 CPU cores, half an hour with --jobs=2. Expected: docs/sweeps.md.
Command: python scripts/sweep.py run --sweep=configs/sweeps/schedule_by_prediction.py \
  --workdir=sweeps/schedules
"""

from ml_collections import ConfigDict

from configs import digits
from ddpm_jax.sweeps import grid, seeds


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.train.update(num_steps=600, checkpoint_every=300, sample_every=0, validate_every=0)
    config.sample.guidance_scale = 1.0
    return config


def sweep() -> list[dict]:
    fields = {
        "diffusion.schedule": ("cosine", "linear"),
        "diffusion.prediction": ("eps", "v", "x0"),
    }
    return grid(fields, seeds(3))


evaluate = {"metrics": ("fid", "kid", "label_accuracy"), "num_samples": 1000}
baseline = {"diffusion.schedule": "cosine", "diffusion.prediction": "eps"}
