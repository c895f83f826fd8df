"""A loss of one's own, by a config: the pseudo-Huber distance of eps (Song & Dhariwal 2023)."""

import tempfile

import jax.numpy as jnp

from ddpm_jax import experiment
from ddpm_jax.default_config import get_config
from ddpm_jax.diffusion import process


def pseudo_huber(network, schedule, x0, t, eps, *, c: float = 0.1):
    """sqrt(|eps-hat - eps|^2 + c^2) - c of each example, [B]: less is made of outliers."""
    xt = process.add_noise(schedule, x0, t, eps)
    error = network(xt, schedule.network_time(t)) - eps
    return jnp.sqrt((error**2).mean(axis=(1, 2, 3)) + c**2) - c


config = get_config()
config.data.update(name="digits", image_size=(8, 8), channels=1, batch_size=32)
config.model.update(name="dit", channels=32, num_blocks=2, num_heads=2, patch_size=2)
config.diffusion.update(loss="own_loss:pseudo_huber", loss_options={"c": 0.03})
config.optim.warmup_steps = 0
config.sample.update(sampler="ddim", num_steps=10)
config.train.update(num_steps=30, sample_every=0, validate_every=0, checkpoint_every=30)
own = {"own_loss:pseudo_huber": pseudo_huber}  # train.py imports what such a name says
with tempfile.TemporaryDirectory() as workdir:
    assert experiment.train(experiment.build(config, own=own), workdir) == 0
    print("drawn:", experiment.load(workdir, own=own).sample(4).shape)
