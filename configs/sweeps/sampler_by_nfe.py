"""How many evaluations of the network does each sampler need?

Four samplers on 5 to 50 steps, of the same three trainings.
Hardware: 2 CPU cores, 20 minutes with --jobs=2. Expected: docs/sweeps.md.
Command: python scripts/sweep.py run --sweep=configs/sweeps/sampler_by_nfe.py \
  --workdir=sweeps/samplers
"""

from ml_collections import ConfigDict

from configs import digits
from ddpm_jax.sweeps import grid, seeds

NFE = (5, 10, 20, 50)


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.train.update(num_steps=800, checkpoint_every=400, sample_every=0, validate_every=0)
    config.sample.guidance_scale = 1.0
    return config


def sweep() -> list[dict]:
    samplers = ("ancestral", "ddim", "dpm_solver_pp", "unipc")
    return grid({"sample.sampler": samplers, "sample.num_steps": NFE}, seeds(3))


evaluate = {"metrics": ("fid", "label_accuracy"), "num_samples": 1000}
baseline = {"sample.sampler": "ddim", "sample.num_steps": 50}
