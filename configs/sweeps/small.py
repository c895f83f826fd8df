"""Does a sweep end in the same bits when it is killed again and again?

Three seeds of a transformer of four tokens, each measured once: for `sweep.py prove`.
Hardware: 2 CPU cores, a minute undisturbed. Expected: docs/sweeps.md.
Command: python scripts/sweep.py prove --sweep=configs/sweeps/small.py \
  --workdir=sweeps/proof --kills=20
"""

from ml_collections import ConfigDict

from configs import digits
from ddpm_jax.sweeps import seeds


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.data.batch_size = 8
    config.model.update(
        name="dit", channels=8, num_heads=2, patch_size=4, num_blocks=1, num_groups=4
    )
    config.diffusion.num_steps = 10
    config.train.update(
        num_steps=2000, log_every=50, checkpoint_every=100, sample_every=0, validate_every=0
    )
    config.sample.update(num_steps=5, guidance_scale=1.0)
    config.mesh.data = 1
    return config


def sweep() -> list[dict]:
    return seeds(3)


evaluate = {"metrics": ("label_accuracy",), "num_samples": 200}
slurm = {"time": "01:00:00"}
